package sim

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/blixard/blixard/vmm/shim"
)

// A Fault is something that happens in the world and that nobody ordered. It is
// a value: it prints as (Isolate n2 40s), and ParseFault reads that back.
type Fault interface {
	// strike makes it happen; false when there was nothing to strike at.
	strike(w *World) bool
}

// N is a machine by its number; it prints as n2.
type N int

// drawable is a fault that seeds draw.
type drawable interface {
	Fault
	// draw is the fault's swarm range.
	draw(d dice) Fault
}

// faultKinds by name, and faultNames in the order in which they are drawn from.
var (
	faultKinds = map[string]drawable{}
	faultNames []string
)

func register(kinds ...drawable) {
	for _, k := range kinds {
		faultKinds[faultName(k)] = k
		faultNames = append(faultNames, faultName(k))
	}
}

func init() {
	register(Isolate{}, Split{}, Bridge{}, Partial{}, OneWay{}, Clog{}, Capacity{}, Crash{}, Pause{}, Freeze{}, PowerLoss{}, ShimKill{}, ShimPause{}, GuestCrash{}, GuestSick{},
		DiskSlow{}, DiskStall{}, DiskError{}, DiskFull{}, WallJump{})
}

// FaultString prints a fault.
func FaultString(f Fault) string {
	if s, ok := f.(fmt.Stringer); ok {
		return s.String()
	}
	v := reflect.ValueOf(f)
	words := []string{v.Type().Name()}
	for i := range v.NumField() {
		switch x := v.Field(i).Interface().(type) {
		case N:
			words = append(words, fmt.Sprintf("n%d", x))
		default:
			words = append(words, fmt.Sprint(x))
		}
	}
	return "(" + strings.Join(words, " ") + ")"
}

// ParseFault reads what FaultString prints.
func ParseFault(s string) (Fault, error) {
	words := strings.Fields(strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(s), "("), ")"))
	if len(words) == 0 {
		return nil, fmt.Errorf("fault %q: want (Name field ...)", s)
	}
	var parse func([]string) (Fault, error)
	switch {
	case slices.Contains(mishapNames, words[0]):
		parse = parseMishap
	case words[0] == "Ask":
		parse = parseAsk
	}
	if parse != nil {
		f, err := parse(words)
		if err != nil {
			return nil, fmt.Errorf("fault %q: %w", s, err)
		}
		return f, nil
	}
	k, ok := faultKinds[words[0]]
	if !ok {
		return nil, fmt.Errorf("fault %q: there is no %s", s, words[0])
	}
	t := reflect.TypeOf(k)
	if len(words)-1 != t.NumField() {
		return nil, fmt.Errorf("fault %q: %s has %d fields", s, words[0], t.NumField())
	}
	v := reflect.New(t).Elem()
	for i, word := range words[1:] {
		if err := parseField(v.Field(i), word); err != nil {
			return nil, fmt.Errorf("fault %q: field %s: %w", s, t.Field(i).Name, err)
		}
	}
	return v.Interface().(Fault), nil
}

func parseField(v reflect.Value, word string) error {
	switch v.Interface().(type) {
	case N:
		n, err := strconv.Atoi(strings.TrimPrefix(word, "n"))
		v.SetInt(int64(n))
		return err
	case time.Duration:
		d, err := time.ParseDuration(word)
		v.SetInt(int64(d))
		return err
	case int:
		n, err := strconv.Atoi(word)
		v.SetInt(int64(n))
		return err
	}
	v.SetString(word)
	return nil
}

// ended is what happens when a fault is over.
type ended struct {
	fault Fault
	undo  func()
}

// until undoes a fault after a while, or when the world is healed.
func (w *World) until(f Fault, after time.Duration, undo func()) {
	e := &ended{f, undo}
	w.broken[e] = w.seqNow()
	w.push(event{at: w.now + int64(after), kind: evEnd, ref: e})
}

func (w *World) end(e *ended) {
	if _, ok := w.broken[e]; !ok {
		return
	}
	delete(w.broken, e)
	w.say(nil, FaultString(e.fault)+" ends")
	e.undo()
}

// Isolate cuts one machine off from all others.
type Isolate struct {
	Node N
	For  time.Duration
}

func (Isolate) draw(d dice) Fault { return Isolate{d.node(), d.time()} }

func (f Isolate) strike(w *World) bool {
	var links []link
	for _, m := range w.machines {
		if m.Index != int(f.Node) {
			links = append(links, link{m.Index, int(f.Node)}, link{int(f.Node), m.Index})
		}
	}
	return w.cutLinks(f, f.For, links)
}

// Split cuts the network in two; the bits of Side say who is on the one side.
type Split struct {
	Side int
	For  time.Duration
}

func (Split) draw(d dice) Fault { return Split{d.side(), d.time()} }

func (f Split) strike(w *World) bool {
	var links []link
	for _, a := range w.machines {
		for _, b := range w.machines {
			if on(f.Side, a) != on(f.Side, b) {
				links = append(links, link{a.Index, b.Index})
			}
		}
	}
	return w.cutLinks(f, f.For, links)
}

// Bridge cuts the network in two but for one machine, which both sides reach.
type Bridge struct {
	Node N
	Side int
	For  time.Duration
}

func (Bridge) draw(d dice) Fault { return Bridge{d.node(), d.side(), d.time()} }

func (f Bridge) strike(w *World) bool {
	var links []link
	for _, a := range w.machines {
		for _, b := range w.machines {
			if a.N() != f.Node && b.N() != f.Node && on(f.Side, a) != on(f.Side, b) {
				links = append(links, link{a.Index, b.Index})
			}
		}
	}
	return w.cutLinks(f, f.For, links)
}

// Partial cuts a share of the links, each way by itself; Draw says which.
type Partial struct {
	Draw, Percent int
	For           time.Duration
}

func (Partial) draw(d dice) Fault { return Partial{d.IntN(1000), 10 + d.IntN(60), d.time()} }

func (f Partial) strike(w *World) bool {
	r := chance{uint64(f.Draw)}.stream("partial")
	var links []link
	for _, a := range w.machines {
		for _, b := range w.machines {
			if a != b && r.IntN(100) < f.Percent {
				links = append(links, link{a.Index, b.Index})
			}
		}
	}
	return w.cutLinks(f, f.For, links)
}

// OneWay loses everything that goes from one machine to another.
type OneWay struct {
	From, To N
	For      time.Duration
}

func (OneWay) draw(d dice) Fault { return OneWay{d.node(), d.node(), d.time()} }

func (f OneWay) strike(w *World) bool {
	return w.cutLinks(f, f.For, []link{{int(f.From), int(f.To)}})
}

func (w *World) cutLinks(f Fault, d time.Duration, links []link) bool {
	for _, l := range links {
		w.net.cut[l]++
	}
	w.until(f, d, func() {
		for _, l := range links {
			w.net.cut[l]--
		}
	})
	return len(links) > 0
}

// Clog holds up everything that goes from one machine to another.
type Clog struct {
	From, To N
	For      time.Duration
}

func (Clog) draw(d dice) Fault { return Clog{d.node(), d.node(), d.time()} }

func (f Clog) strike(w *World) bool {
	w.net.clog[link{int(f.From), int(f.To)}] = w.now + int64(f.For)
	return f.From != f.To
}

// Capacity lets so much of what a machine says pass in a second, and the rest
// waits behind it.
type Capacity struct {
	Node N
	KiB  int
	For  time.Duration
}

func (Capacity) draw(d dice) Fault { return Capacity{d.node(), 1 << d.IntN(8), d.time()} }

func (f Capacity) strike(w *World) bool {
	if w.node(f.Node) == nil || w.net.narrow[int(f.Node)] != nil {
		return false
	}
	w.net.narrow[int(f.Node)] = &pipe{perSecond: int64(f.KiB) << 10}
	w.until(f, f.For, func() { delete(w.net.narrow, int(f.Node)) })
	return true
}

// Crash kills a daemon; it is started again After.
type Crash struct {
	Node  N
	After time.Duration
}

func (Crash) draw(d dice) Fault { return Crash{d.node(), d.time() / 5} }

func (f Crash) strike(w *World) bool {
	m := w.node(f.Node)
	if m == nil || m.daemon == nil {
		return false
	}
	m.stopDaemon(true)
	m.restartDaemon(int64(f.After))
	return true
}

// Pause stops a daemon (SIGSTOP) for a while.
type Pause struct {
	Node N
	For  time.Duration
}

func (Pause) draw(d dice) Fault { return Pause{d.node(), d.time()} }

func (f Pause) strike(w *World) bool {
	m := w.node(f.Node)
	if m == nil || m.daemon == nil || m.daemon.paused {
		return false
	}
	d := m.daemon
	d.pause()
	w.until(f, f.For, func() {
		w.stoppedUntil(m, w.now)
		if m.daemon == d {
			d.resume()
		}
	})
	return true
}

// Freeze stops everything of ours on a machine, daemon and shims; the guests
// run on, which is the worst that a starved machine can do.
type Freeze struct {
	Node N
	For  time.Duration
}

func (Freeze) draw(d dice) Fault { return Freeze{d.node(), d.time()} }

func (f Freeze) strike(w *World) bool {
	m := w.node(f.Node)
	if m == nil || !m.on || !Pause(f).strike(w) {
		return false
	}
	m.dirs.Scan(func(_ string, d *vmDir) bool {
		if s := d.shim; s != nil && !s.paused {
			s.paused = true
			w.until(f, f.For, s.resume)
		}
		return true
	})
	return true
}

// PowerLoss takes the power from a machine, and gives it back.
type PowerLoss struct {
	Node N
	For  time.Duration
}

func (PowerLoss) draw(d dice) Fault { return PowerLoss{d.node(), d.time()} }

func (f PowerLoss) strike(w *World) bool {
	m := w.node(f.Node)
	if m == nil || !m.on {
		return false
	}
	m.powerOff()
	w.until(f, f.For, m.boot)
	return true
}

// ShimKill kills the shim of some VM of a machine.
type ShimKill struct{ Node, VM N }

func (ShimKill) draw(d dice) Fault { return ShimKill{d.node(), N(d.IntN(20))} }

func (f ShimKill) strike(w *World) bool {
	s := w.someShim(f.Node, f.VM)
	if s == nil {
		return false
	}
	s.kill()
	return true
}

// ShimPause stops the shim of some VM of a machine (SIGSTOP).
type ShimPause struct {
	Node, VM N
	For      time.Duration
}

func (ShimPause) draw(d dice) Fault { return ShimPause{d.node(), N(d.IntN(20)), d.time()} }

func (f ShimPause) strike(w *World) bool {
	s := w.someShim(f.Node, f.VM)
	if s == nil || s.paused {
		return false
	}
	s.paused = true
	w.until(f, f.For, s.resume)
	return true
}

// GuestCrash ends some VM of a machine.
type GuestCrash struct{ Node, VM N }

func (GuestCrash) draw(d dice) Fault { return GuestCrash{d.node(), N(d.IntN(20))} }

func (f GuestCrash) strike(w *World) bool {
	s := w.someShim(f.Node, f.VM)
	if s == nil || s.dir.guest == nil {
		return false
	}
	s.dir.guest.gone(shim.Status{Signal: 11})
	return true
}

// GuestSick has some VM of a machine answer no probe of its health any more.
type GuestSick struct{ Node, VM N }

func (GuestSick) draw(d dice) Fault { return GuestSick{d.node(), N(d.IntN(20))} }

func (f GuestSick) strike(w *World) bool {
	s := w.someShim(f.Node, f.VM)
	if s == nil || s.dir.guest == nil || s.dir.guest.sick {
		return false
	}
	s.dir.guest.sick, s.dir.sick = true, true
	return true
}

// DiskSlow makes a disk Times slower.
type DiskSlow struct {
	Node  N
	Times int
	For   time.Duration
}

func (DiskSlow) draw(d dice) Fault { return DiskSlow{d.node(), 2 + d.IntN(100), d.time()} }

func (f DiskSlow) strike(w *World) bool {
	d := w.node(f.Node).disk
	d.slow = float64(f.Times)
	w.until(f, f.For, func() { d.slow = 0 })
	return true
}

// DiskStall makes nothing durable for a while.
type DiskStall struct {
	Node N
	For  time.Duration
}

func (DiskStall) draw(d dice) Fault { return DiskStall{d.node(), d.time() / 2} }

func (f DiskStall) strike(w *World) bool {
	d := w.node(f.Node).disk
	d.stalled = w.now + int64(f.For)
	return true
}

// DiskError fails the next write.
type DiskError struct{ Node N }

func (DiskError) draw(d dice) Fault { return DiskError{d.node()} }

func (f DiskError) strike(w *World) bool {
	m := w.node(f.Node)
	if m == nil || m.daemon == nil {
		return false
	}
	m.disk.broken = true
	return true
}

// DiskFull fails every write for a while.
type DiskFull struct {
	Node N
	For  time.Duration
}

func (DiskFull) draw(d dice) Fault { return DiskFull{d.node(), d.time() / 2} }

func (f DiskFull) strike(w *World) bool {
	m := w.node(f.Node)
	if m == nil || m.disk.full {
		return false
	}
	d := m.disk
	d.full = true
	w.until(f, f.For, func() { d.full = false })
	return true
}

// WallJump moves a wall clock.
type WallJump struct {
	Node N
	By   time.Duration
}

func (WallJump) draw(d dice) Fault {
	return WallJump{d.node(), time.Duration(between(d.Rand, -1000*time.Hour, 1000*time.Hour)).Truncate(time.Second)}
}

func (f WallJump) strike(w *World) bool {
	w.node(f.Node).clock.wall += int64(f.By)
	return true
}

func (w *World) node(n N) *Machine {
	if n < 1 || int(n) > len(w.machines) {
		return nil
	}
	return w.machines[n-1]
}

// someShim is the n-th live shim of a machine, counted round and round.
func (w *World) someShim(node, n N) *shimProc {
	m := w.node(node)
	if m == nil {
		return nil
	}
	var live []*shimProc
	m.dirs.Scan(func(_ string, d *vmDir) bool {
		if d.shim != nil {
			live = append(live, d.shim)
		}
		return true
	})
	if len(live) == 0 {
		return nil
	}
	return live[int(n)%len(live)]
}

// FaultNames are all faults that a soak must have seen: those that strike, and
// those that are a chance in each event.
func FaultNames() []string {
	return slices.Concat(mishapNames, []string{"Behind", "Lapse", "QuorumOnly", "WriteError"}, oldWords, faultNames)
}
