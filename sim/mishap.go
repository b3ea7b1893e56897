package sim

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Mishap is a fault that is a chance in each event of its kind: a message is
// lost, a build fails, a guest hangs at boot. Where seeds draw, swarm.go says how
// likely it is; each one that happened is a value like any other fault, so that
// it can be kept and left out. As a value it befalls the first thing of its kind
// and place that comes by at its time or later, once.
type Mishap struct {
	Name string
	At   place
	For  time.Duration // how long or how late; 0 for those that have no length
	// Skip lets so many others of the same instant pass: a node that sends three
	// messages to a peer at once may lose the second.
	Skip int
}

// place is where a mishap happens: a machine, or the way from one to another.
type place struct{ From, To N }

func (m *Machine) place() place { return place{From: N(m.Index)} }

func (p place) String() string {
	if p.To == 0 {
		return fmt.Sprintf("n%d", p.From)
	}
	return fmt.Sprintf("n%d>n%d", p.From, p.To)
}

// mishapNames are all of them.
var mishapNames = []string{
	"Drop", "Duplicate", "Late", "ShimSlow", "ForkFails", "Deaf", "BootHangs", "BootSlow", "EarlyExit", "LateExit",
	"SlowKill", "Zombie", "Orphan", "Disconnect", "BuildFails", "BuildSlow", "NixKilled", "NixFull", "NixHangs", "PauseFails", "NixCollects", "ApiHangs", "ReplyLost", "VolumeFull", "StreamSlow", "StreamBreaks", "LastPieceLost", "MirrorFull", "SnapshotFails", "RestoreFails", "LoadFails", "DownloadBreaks", "UploadFull", "UploadBreaks", "AnswerLost", "Greedy", "ShareFails", "ShareLost", "BootDamaged", "BootRefused", "WarmCrash",
}

func (f Mishap) String() string {
	s := "(" + f.Name + " " + f.At.String()
	if f.For != 0 || f.Skip != 0 {
		s += " " + f.For.String()
	}
	if f.Skip != 0 {
		s += fmt.Sprintf(" +%d", f.Skip)
	}
	return s + ")"
}

func parseMishap(words []string) (Fault, error) {
	f := Mishap{Name: words[0]}
	words = words[1:]
	if len(words) < 1 || len(words) > 3 {
		return nil, fmt.Errorf("want a place, and perhaps how long and how many to skip")
	}
	for i, to := range []*N{&f.At.From, &f.At.To} {
		ends := strings.Split(words[0], ">")
		if i >= len(ends) {
			break
		}
		n, err := strconv.Atoi(strings.TrimPrefix(ends[i], "n"))
		if err != nil || len(ends) > 2 {
			return nil, fmt.Errorf("place %q: want n1, or n1>n2", words[0])
		}
		*to = N(n)
	}
	var err error
	if len(words) > 1 {
		if f.For, err = time.ParseDuration(words[1]); err != nil {
			return nil, err
		}
	}
	if len(words) > 2 {
		f.Skip, err = strconv.Atoi(strings.TrimPrefix(words[2], "+"))
	}
	return f, err
}

// strike of a Mishap that comes late, by hand: it befalls what comes next.
func (f Mishap) strike(w *World) bool {
	w.mishaps.arm(w.now, f)
	return true
}

// mishaps is what is going to befall whom, and how many have passed each place
// at this instant.
type mishaps struct {
	armed map[mishapKey][]armed
	seen  map[mishapKey]*instant
}

type mishapKey struct {
	name string
	at   place
}

type armed struct {
	at    int64
	fault Mishap
}

type instant struct {
	at int64
	n  int
}

func (s *mishaps) arm(at int64, f Mishap) {
	if s.armed == nil {
		s.armed = map[mishapKey][]armed{}
	}
	k := mishapKey{f.Name, f.At}
	s.armed[k] = append(s.armed[k], armed{at, f})
	slices.SortStableFunc(s.armed[k], func(a, b armed) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.fault.Skip, b.fault.Skip))
	})
}

// passes is how many of this kind have passed here at this instant before.
func (s *mishaps) passes(k mishapKey, now int64) int {
	if s.seen == nil {
		s.seen = map[mishapKey]*instant{}
	}
	i := s.seen[k]
	if i == nil {
		i = &instant{}
		s.seen[k] = i
	}
	if i.at != now {
		*i = instant{at: now}
	}
	i.n++
	return i.n - 1
}

// mishap says whether what happens now at a place meets the mishap of that name,
// whose chance is p, and for how long, from lo to hi. In a world that is healed
// nothing does.
func (w *World) mishap(name string, at place, p float64, lo, hi time.Duration) (time.Duration, bool) {
	if w.phase == healed || p <= 0 && len(w.mishaps.armed) == 0 {
		return 0, false
	}
	k, passed := mishapKey{name, at}, 0
	if w.record || len(w.mishaps.armed) > 0 {
		passed = w.mishaps.passes(k, w.now)
		if f, ok := w.mishaps.next(k, w.now, passed); ok {
			w.fired(name)
			w.decided(f)
			return f.For, true
		}
	}
	if w.cfg.Script != nil || !maybe(w.luck, p) || w.mix.Only != nil && !slices.Contains(w.mix.Only, name) {
		return 0, false
	}
	if !slices.Contains(mishapNames, name) {
		panic("sim: " + name + " is not among mishapNames: it would print and not parse")
	}
	w.fired(name)
	d := time.Duration(between(w.luck, lo, hi))
	w.decided(Mishap{name, at, d, passed})
	return d, true
}

// next takes the oldest that is armed for what passes now.
func (s *mishaps) next(k mishapKey, now int64, passed int) (Mishap, bool) {
	queue := s.armed[k]
	if len(queue) == 0 || queue[0].at > now || queue[0].at == now && queue[0].fault.Skip > passed {
		return Mishap{}, false
	}
	s.armed[k] = queue[1:]
	return queue[0].fault, true
}

// decided keeps a decision, if anybody wants them.
func (w *World) decided(f Fault) {
	if w.record {
		w.struck = append(w.struck, Strike{time.Duration(w.now), f})
	}
}
