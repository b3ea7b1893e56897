package sim

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
)

// Shrinking leaves out of a transcript whatever its failure does not need: first
// whole kinds of faults, VMs and clients, then lines, halving until single ones
// are left (delta debugging), then machines and settings; at last it makes what
// is left shorter and rounder. A candidate that breaks the same promise takes the
// place of what it was made from.
//
// What is left out changes what comes after it: delays are drawn in another
// order. So a candidate from which much was left out is tried with other seeds
// for them, too.

// Trial runs candidates, several at a time if it can. It returns the index of
// one that broke the same promise, with what became of it; -1: none did, or it
// is time to stop.
type Trial func([]Transcript) (int, Result)

// Shrink makes a transcript smaller as long as its failure stays. failed is what
// became of it; width is how many candidates are worth trying at a time. patience
// is Config.Patience of the candidates: with less than what is promised, what
// comes of it must be run again in the time that is promised.
func Shrink(t Transcript, failed Result, width int, patience time.Duration, try Trial) (Transcript, Result) {
	s := &shrinker{now: t, failed: failed, width: max(width, 1), patience: patience, try: try}
	s.shrink()
	return s.now, s.failed
}

func (s *shrinker) shrink() {
	s.cut()
	s.leaveOut(func(f Fault) string { return cmp.Or(mishapName(f), strikeName(f)) })
	for changed := true; changed; {
		changed = s.leaveOut(askedVM)
		changed = s.lines() || changed
		changed = s.edit(worlds) || changed
		changed = s.edit(steps) || changed
		changed = s.edit(s.sooner) || changed
	}
	s.edit(rounder)
	s.cut()
}

// Faults counts what goes wrong in a transcript.
func (t Transcript) Faults() (n int) {
	for _, s := range t.Config.Script {
		if _, ask := s.Fault.(Ask); !ask {
			n++
		}
	}
	return n
}

// Same says that a failure is the same as another, as far as can be seen.
func (f *Failure) Same(o *Failure) bool {
	if f == nil || o == nil || f.Promise != o.Promise {
		return false
	}
	return f.Promise != panicked || firstLine(f.Text) == firstLine(o.Text)
}

// firstLine of a panic, without the numbers in it.
func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, s)
}

// The names by which steps are left out together.

func mishapName(f Fault) string {
	m, _ := f.(Mishap)
	return m.Name
}

func strikeName(f Fault) string {
	switch f.(type) {
	case Mishap, Ask:
		return ""
	}
	return faultName(f)
}

func askedVM(f Fault) string {
	a, _ := f.(Ask)
	return a.Name
}

type shrinker struct {
	now    Transcript
	failed Result
	width  int
	try    Trial

	patience time.Duration
}

// attempt tries some candidates, and takes over the one that fails.
func (s *shrinker) attempt(list []Transcript) int {
	for i := range list {
		s.limit(&list[i])
	}
	i, r := s.try(list)
	if i >= 0 {
		s.now, s.failed = list[i], r
	}
	return i
}

// limit ends a run some time after the moment at which it should have failed.
func (s *shrinker) limit(t *Transcript) {
	t.Config.Until, t.Config.Patience = 0, s.patience
	if f := s.failed.Failure; f.Phase != healed.String() {
		t.Config.Until = f.At + f.At/4 + 20*time.Second
	}
}

// cut drops what came after the failure, without a trial: it cannot matter.
func (s *shrinker) cut() {
	f := s.failed.Failure
	s.now.Config.Until, s.now.Config.Patience = 0, 0
	s.now = s.now.without(func(i int) bool { return s.now.Config.Script[i].At > f.At })
	if f.Phase != healed.String() {
		mix := *s.now.Config.Mix
		mix.Safety = min(mix.Safety, (f.At + time.Second).Truncate(time.Second))
		s.now.Config.Mix = &mix
	}
}

// without is the transcript but for some steps.
func (t Transcript) without(leaveOut func(i int) bool) Transcript {
	script := []Strike{}
	for i, s := range t.Config.Script {
		if !leaveOut(i) {
			script = append(script, s)
		}
	}
	t.Config.Script = script
	return t
}

// leaveOut leaves out groups of steps: those with one name. Steps without a name
// stay.
func (s *shrinker) leaveOut(name func(Fault) string) bool {
	var names []string
	for _, step := range s.now.Config.Script {
		if n := name(step.Fault); n != "" && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return s.halve(len(names), func(from, to int) (Transcript, func()) {
		out := names[from:to]
		t := s.now.without(func(i int) bool { return slices.Contains(out, name(s.now.Config.Script[i].Fault)) })
		return t, func() { names = slices.Delete(names, from, to) }
	})
}

// lines leaves out single steps.
func (s *shrinker) lines() bool {
	return s.halve(len(s.now.Config.Script), func(from, to int) (Transcript, func()) {
		return s.now.without(func(i int) bool { return i >= from && i < to }), func() {}
	})
}

// halve leaves out pieces of n things: all of them, halves, quarters, down to
// single ones. without makes the transcript without a piece, and what must be
// done when that is taken over.
func (s *shrinker) halve(n int, without func(from, to int) (Transcript, func())) (changed bool) {
	for size := n; size > 0; size = min(size/2, n) {
		for at := 0; at < n; {
			var list []Transcript
			var pieces [][2]int
			var taken []func()
			for from := at; from < n && len(pieces) < s.width; from += size {
				to := min(from+size, n)
				t, take := without(from, to)
				for _, v := range t.seeds(n / size) {
					list, pieces, taken = append(list, v), append(pieces, [2]int{from, to}), append(taken, take)
				}
			}
			i := s.attempt(list)
			if i < 0 {
				at = pieces[len(pieces)-1][1]
				continue
			}
			changed = true
			taken[i]()
			at = pieces[i][0]
			n -= pieces[i][1] - pieces[i][0]
		}
	}
	return changed
}

// seeds are t with other small delays, too: the more that was left out of it (a
// whole, a half, a quarter, ...), and the smaller it is, the more of them are
// worth a trial.
func (t Transcript) seeds(part int) []Transcript {
	more := uint64(0)
	switch {
	case part <= 1:
		more = 7
	case part <= 4 || len(t.Config.Script) <= 12:
		more = 2
	}
	list := []Transcript{t}
	for i := range more {
		v := t
		v.Config.Seed = mix(t.Config.Seed+i+1) % 10_000
		list = append(list, v)
	}
	return list
}

// edit changes the transcript in the ways that are listed, as long as one of
// them succeeds.
func (s *shrinker) edit(ways func(Transcript) []Transcript) (changed bool) {
	for again := true; again; {
		again = false
		list := ways(s.now)
		for len(list) > 0 && !again {
			n := min(s.width, len(list))
			again = s.attempt(list[:n]) >= 0
			list = list[n:]
		}
		changed = changed || again
	}
	return changed
}

// worlds are simpler worlds than t's.
func worlds(t Transcript) (list []Transcript) {
	add := func(change func(*Config, *Mix)) {
		v, m := t, *t.Config.Mix
		v.Config.Mix = &m
		v.Config.Settings = proto.CloneOf(t.Config.Settings)
		change(&v.Config, &m)
		if v.String() != t.String() {
			list = append(list, v)
		}
	}
	plain := calm()
	add(func(c *Config, _ *Mix) { c.Hosts = 0 })
	add(func(c *Config, _ *Mix) { c.Hosts = max(0, c.Hosts-1) })
	add(func(c *Config, _ *Mix) { c.Servers = min(c.Servers, 3) })
	add(func(c *Config, _ *Mix) { c.Servers = 1 })
	add(func(c *Config, _ *Mix) { c.Settings = standardSettings() })
	add(func(_ *Config, m *Mix) { m.Clients, m.Names = t.asks() })
	add(func(c *Config, m *Mix) {
		was := *m
		*m = plain
		m.Safety, m.Clients, m.Names, m.Quorum = was.Safety, was.Clients, was.Names, was.Quorum
	})
	add(func(_ *Config, m *Mix) { m.Latency = plain.Latency })
	add(func(_ *Config, m *Mix) { m.Small = false })
	add(func(_ *Config, m *Mix) { m.Quorum = 0 })
	add(func(_ *Config, m *Mix) { m.Safety = (m.Safety / 2).Truncate(time.Second) })
	add(func(_ *Config, m *Mix) { m.Safety = (m.Safety * 9 / 10).Truncate(time.Second) })
	return list
}

// asks is how many clients ask for anything, and for how many names.
func (t Transcript) asks() (clients, names int) {
	for _, s := range t.Config.Script {
		if a, ok := s.Fault.(Ask); ok {
			clients = max(clients, a.Client)
			if n, err := strconv.Atoi(strings.TrimPrefix(a.Name, "vm")); err == nil {
				names = max(names, n+1)
			}
		}
	}
	return clients, names
}

// steps are transcripts with a step that is simpler than t's.
func steps(t Transcript) (list []Transcript) {
	for i, s := range t.Config.Script {
		for _, f := range simpler(s.Fault) {
			v := t
			v.Config.Script = slices.Clone(t.Config.Script)
			v.Config.Script[i].Fault = f
			list = append(list, v)
		}
	}
	return list
}

// simpler faults than f: a wish for a VM of which less is said, what lasts half
// as long.
func simpler(f Fault) (list []Fault) {
	if a, ok := f.(Ask); ok {
		return a.simpler()
	}
	v := reflect.New(reflect.TypeOf(f)).Elem()
	v.Set(reflect.ValueOf(f))
	for i := range v.NumField() {
		d, ok := v.Field(i).Interface().(time.Duration)
		if half := (d / 2).Truncate(time.Second); ok && half >= time.Second {
			v.Field(i).SetInt(int64(half))
			list = append(list, v.Interface().(Fault))
			v.Field(i).SetInt(int64(d))
		}
	}
	return list
}

// sooner are transcripts in which one wait is shorter than in t.
func (s *shrinker) sooner(t Transcript) (list []Transcript) {
	const wait = time.Second
	before := s.failed.Founded
	for i, step := range t.Config.Script {
		gap := step.At - before
		before = max(before, step.At)
		for _, less := range []time.Duration{gap - wait, gap / 2} {
			if less < wait {
				break
			}
			v := t
			v.Config.Script = slices.Clone(t.Config.Script)
			for k := i; k < len(v.Config.Script); k++ {
				v.Config.Script[k].At -= less
			}
			list = append(list, v)
		}
	}
	return list
}

// rounder are transcripts whose times are easier to read than t's: all of them,
// or else one.
func rounder(t Transcript) (list []Transcript) {
	units := []time.Duration{time.Second, 100 * time.Millisecond, time.Millisecond}
	round := func(from, to int) {
		for _, unit := range units {
			v := t
			v.Config.Script = slices.Clone(t.Config.Script)
			for i := from; i < to; i++ {
				s := v.Config.Script[i]
				v.Config.Script[i] = Strike{s.At.Round(unit), rounded(s.Fault, unit)}
			}
			slices.SortStableFunc(v.Config.Script, func(a, b Strike) int { return cmp.Compare(a.At, b.At) })
			if fmt.Sprint(v.Config.Script) == fmt.Sprint(t.Config.Script) {
				return // it is as round as that already
			}
			list = append(list, v)
		}
	}
	round(0, len(t.Config.Script))
	for i := range t.Config.Script {
		round(i, i+1)
	}
	return list
}

// rounded is f with lengths of whole units.
func rounded(f Fault, unit time.Duration) Fault {
	v := reflect.New(reflect.TypeOf(f)).Elem()
	v.Set(reflect.ValueOf(f))
	for i := range v.NumField() {
		if d, ok := v.Field(i).Interface().(time.Duration); ok && d.Round(unit) != 0 {
			v.Field(i).SetInt(int64(d.Round(unit)))
		}
	}
	return v.Interface().(Fault)
}
