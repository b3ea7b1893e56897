package sim

import (
	"strings"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// An enumeration takes a small story and lets a process crash at a crash point
// that it passes: at each of them, in a run of its own, not at a sample. What
// the story waits for must come all the same, and the healed world must rest.

// passes are the crash points that a story passes while it wants them known.
type passes struct {
	on   bool
	seen mishaps
	list []Strike
	last Strike
}

// passed notes that a machine passes a point. A point before an effect is none
// when the one after the effect before it was just passed: nothing happened in
// between.
func (p *passes) passed(w *World, m *Machine, name string) {
	if p == nil {
		return
	}
	f := Mishap{Name: name, At: m.place(), For: 2 * time.Second}
	f.Skip = p.seen.passes(mishapKey{f.Name, f.At}, w.now)
	if !p.on {
		return
	}
	now := Strike{time.Duration(w.now), f}
	before, _ := p.last.Fault.(Mishap)
	same := p.last.At == now.At && before.At == f.At && sameProcess(before.Name, name)
	if p.last = now; same && strings.Contains(before.Name, "After") && strings.Contains(name, "Before") {
		return
	}
	p.list = append(p.list, now)
}

func sameProcess(a, b string) bool {
	return strings.HasPrefix(a, "Shim") == strings.HasPrefix(b, "Shim")
}

// Enumerate has the crash points from here on enumerated, or no more.
func (s *Story) Enumerate(on bool) {
	if s.points != nil {
		s.points.on = on
	}
}

// CrashPoints tells a story in which nothing goes wrong, and lists the crash
// points that it passes while it has them enumerated.
func CrashPoints(cfg Config, tell func(*Story)) (list []Strike, r Result) {
	cfg.Seed = max(cfg.Seed, 1)
	w := New(cfg)
	w.points = &passes{}
	r = w.tell(tell)
	return w.points.list, r
}

// TellWithCrash tells a story in which a process crashes at a point.
func TellWithCrash(cfg Config, at Strike, tell func(*Story)) Result {
	cfg.Script = []Strike{at}
	return Tell(cfg, tell)
}

// Small are the stories that are small enough to be enumerated.
var Small = map[string]func(*Story){
	// A VM is created, and runs.
	"create": func(s *Story) {
		s.Enumerate(true)
		s.Order(Create, "a", ReplaceVM())
		s.Runs("a")
		s.Enumerate(false)
		s.atRest()
	},
	// The leader is cut off, another is elected and acknowledges a write; then the
	// old one is back.
	"leader": func(s *Story) {
		s.Order(Create, "a", ReplaceVM())
		s.Runs("a")
		s.Enumerate(true)
		s.Strike(Isolate{s.Leader().N(), 3 * time.Second})
		s.Order(Stop, "a", nil)
		s.Pass(3 * time.Second)
		s.Enumerate(false)
		s.atRest()
	},
	// A host is cut off, its epoch is fenced, and its VM runs elsewhere.
	"fence": func(s *Story) {
		s.Order(Create, "a", ReplaceVM())
		_, host := s.Runs("a")
		s.Strike(Isolate{host.N(), time.Minute})
		s.Pass(10 * time.Second)
		s.Enumerate(true)
		s.Until("a runs elsewhere", 2*time.Minute, func() bool {
			_, other := s.Running("a")
			return other != nil && other != host
		})
		s.Enumerate(false)
		s.atRest()
	},
	// A VM goes live to another host, or stays, and runs.
	"migration": func(s *Story) { s.migration(ImageVM()) },
	// And one with a volume, which is where it runs, and nowhere else.
	"volume": func(s *Story) {
		s.AVolume()
		s.migration(VolumeVM())
	},
	// The second last server leaves in good order: the last one decides alone.
	"leave": func(s *Story) {
		gone := s.Another(s.Leader())
		s.leaves(gone)
		s.Enumerate(true)
		s.leaves(s.Another(s.Leader(), gone))
		s.Pass(time.Second)
		s.Enumerate(false)
		s.atRest()
	},
}

func (s *Story) migration(spec *blixardv1.VMSpec) {
	s.Uploaded()
	s.Order(Create, "a", spec)
	s.Runs("a")
	if len(spec.Volumes) > 0 {
		s.HasVolume()
	}
	s.Enumerate(true)
	from := s.Moves("a")
	s.Until("the move has ended", 3*time.Minute, func() bool {
		v := s.View()
		if v == nil {
			return false
		}
		state := v.VM("a").GetMigration().GetState()
		return state == blixardv1.MigrationState_MIGRATION_STATE_DONE || state == blixardv1.MigrationState_MIGRATION_STATE_FAILED
	})
	_, to := s.Runs("a")
	s.Enumerate(false)
	if moved := s.View().VM("a").Migration.State == blixardv1.MigrationState_MIGRATION_STATE_DONE; moved != (to != from) {
		s.Fail("a story goes on", "it moved: %t, and runs on %s, and before on %s", moved, to.Name, from.Name)
	}
	s.atRest()
}

// leaves has a server removed, and its disk wiped as soon as anybody can see that
// it is gone.
func (s *Story) leaves(m *Machine) {
	s.Ask(RemoveMember, m.called, nil)
	s.Until(m.Name+" has left", 2*time.Minute, func() bool { return s.gone(m.called) })
	m.wipe()
}

// atRest is how a small story ends.
func (s *Story) atRest() {
	s.Heal()
	s.Rest()
	s.goOn()
}
