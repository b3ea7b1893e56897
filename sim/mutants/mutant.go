package mutants

import (
	"slices"
	"time"

	"github.com/blixard/blixard/sim"
)

// Mutant is one planted bug.
type Mutant struct {
	Name string
	// What is wrong, in one clause: "the kernel's timer does not ring".
	What string
	// Caught names the promises that may catch it, the best first: what a
	// failure says after BROKEN.
	Caught []string
	// Story finds it; nil: seeds do.
	Story func(*sim.Story)
	// Config of the story's world.
	Config sim.Config
	// Harder changes a seed's world so that what the bug needs happens often.
	Harder func(*sim.Config)
	// Twice: seeds are run two times, since one run alone shows nothing.
	Twice bool
	// Few: it is among the few that every CI run plants.
	Few bool
}

// Find is what became of the search for one.
type Find struct {
	Name string
	// By is the promise that was broken; empty: none was.
	By   string
	Text string
	// OK: By is one of those that the table names.
	OK        bool
	Seeds     int    // that it took; 0: a story
	Seed      uint64 // the last of them
	Simulated time.Duration
	Wall      time.Duration
}

// Lookup returns a mutant by its name.
func Lookup(name string) (Mutant, bool) {
	i := slices.IndexFunc(All, func(m Mutant) bool { return m.Name == name })
	if i < 0 {
		return Mutant{}, false
	}
	return All[i], true
}

// Seeds is the same bug, looked for as a soak does: in seeds alone.
func (m Mutant) Seeds() Mutant {
	m.Story, m.Config, m.Harder = nil, sim.Config{}, nil
	return m
}

// World is the seed in which a bug is looked for, with it or without.
func (m Mutant) World(seed uint64, planted bool) sim.Config {
	cfg := sim.Swarm(seed)
	if m.Harder != nil {
		m.Harder(&cfg)
	}
	if planted {
		cfg.Mutant, cfg.UntilEvent = m.Name, mostEvents
	}
	return cfg
}

// Tell tells the story, with the bug or without.
func (m Mutant) Tell(planted bool) sim.Result {
	cfg := m.Config
	if planted {
		cfg.Mutant = m.Name
	}
	return sim.Tell(cfg, m.Story)
}

// mostEvents ends a seed in which a bug has made a storm of messages that no judge
// sees: several times what the longest seed has without it.
const mostEvents = 1_000_000

// Search looks for a bug in its story, or in at most so many seeds from first on.
func (m Mutant) Search(first uint64, seeds int) Find {
	start := time.Now()
	f := Find{Name: m.Name}
	take := func(r sim.Result) bool {
		f.Simulated += r.Simulated
		if r.Failure == nil {
			return false
		}
		f.By, f.Text = r.Failure.Promise, r.Failure.Text
		f.OK = slices.Contains(m.Caught, f.By)
		return f.OK // what another judge saw may be of the bug, too: go on
	}
	if m.Story != nil {
		take(m.Tell(true))
	}
	for n := 1; m.Story == nil && n <= seeds; n++ {
		f.Seeds, f.Seed = n, first+uint64(n)-1
		run := sim.Run
		if m.Twice {
			run = sim.Twice
		}
		if take(run(m.World(f.Seed, true))) {
			break
		}
	}
	f.Wall = time.Since(start)
	return f
}
