package sim

import (
	"slices"
	"testing"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Each planted bug is found by the judge that is named for it: the two that
// need several things to go wrong at once in a story, the others by seeds.
func TestMutantsAreCaught(t *testing.T) {
	if *oneSeed != 0 {
		t.Skip("a child")
	}
	for name, tell := range mutantStories {
		t.Run("not "+name, func(t *testing.T) {
			if f := tell(t, ""); f != nil {
				t.Fatalf("without the bug: %s: %s", f.Promise, f.Text)
			}
		})
	}
	for _, m := range Mutants {
		t.Run(m.Name, func(t *testing.T) {
			var f *Failure
			var simulated time.Duration
			if tell := mutantStories[m.Name]; tell != nil {
				f = tell(t, m.Name)
			}
			for seed := uint64(1); f == nil && mutantStories[m.Name] == nil && seed <= 150; seed++ {
				cfg := Swarm(seed)
				cfg.Mutant = m.Name
				r := Run(cfg)
				f, simulated = r.Failure, simulated+r.Simulated
			}
			if f == nil {
				t.Fatalf("nobody saw that %s", m.What)
			}
			if !slices.Contains(m.Caught, f.Promise) {
				t.Fatalf("%s was caught by %q, not by one of %q: %s", m.Name, f.Promise, m.Caught, f.Text)
			}
			t.Logf("caught by %q after %v", f.Promise, simulated.Round(time.Second))
		})
	}
}

var mutantStories = map[string]func(*testing.T, string) *Failure{
	// A frozen machine outlives its lease.
	"NoTimer": func(t *testing.T, mutant string) *Failure {
		s := tell(t, Config{Mutant: mutant})
		s.do(Create, "a", replaceVM())
		_, host := s.runs("a")
		s.Strike(Freeze{N(host.Index), 2 * time.Minute})
		return s.broken(2 * time.Minute)
	},
	// A host cannot be heard, and what was said to it long ago comes late.
	"LateGrant": func(t *testing.T, mutant string) *Failure {
		s := tell(t, Config{Mutant: mutant, Settings: &blixardv1.Settings{RenewMs: 1000, DriftPpm: 1000}})
		s.do(Create, "a", replaceVM())
		s.do(Create, "b", replaceVM())
		s.do(Create, "c", replaceVM())
		s.runs("c")
		leader := s.Leader()
		host := s.another(leader)
		for _, m := range s.machines {
			if m != host {
				s.Strike(Clog{N(m.Index), N(host.Index), 13 * time.Second})
			}
		}
		s.RunFor(1200 * time.Millisecond)
		for _, m := range s.machines {
			if m != host {
				s.Strike(OneWay{N(host.Index), N(m.Index), 2 * time.Minute})
			}
		}
		return s.broken(2 * time.Minute)
	},
}

// broken lets time pass until some promise is broken, and takes that over.
func (s *story) broken(d time.Duration) *Failure {
	s.RunFor(d)
	f := s.failure
	s.failure = nil
	return f
}
