package main

import (
	"fmt"
	"time"

	"github.com/blixard/blixard/sim"
	"github.com/blixard/blixard/sim/mutants"
)

const (
	// A failure is small when a person can hold it in mind.
	smallFaults = 5
	// shrinkTime is what each has on a machine that does nothing else: a minute of
	// every core.
	shrinkTime = time.Minute
)

// shrinkMutants shrinks the failures that give planted bugs away. A story is as
// small as whoever wrote it made it; it is counted, too.
func shrinkMutants(list []mutants.Mutant, jobs int, flags []string) int {
	start, small := time.Now(), 0
	fmt.Printf("%-22s %-38s %7s %6s %6s %6s %9s %7s\n", "MUTANT", "CAUGHT BY", "FROM", "FAULTS", "LINES", "TRIES", "CORE TIME", "WALL")
	for _, m := range list {
		f := search(m.Name, flags)
		if !f.OK {
			fmt.Printf("%-22s MISSED %s\n", m.Name, f.By)
			continue
		}
		if m.Story != nil {
			n := 0
			for _, line := range m.Tell(true).Struck {
				if t, err := sim.ParseTranscript(line); err == nil {
					n += t.Faults()
				}
			}
			if n <= smallFaults {
				small++
			}
			fmt.Printf("%-22s %-38s %7s %6d\n", m.Name, f.By, "a story", n)
			continue
		}
		t, failed, err := record(&which{seed: f.Seed, mutant: m.Name}, nil)
		if err != nil || failed.Failure == nil {
			fmt.Printf("%-22s %-38s seed %d is not repeated when it is recorded: %v\n", m.Name, f.By, f.Seed, err)
			continue
		}
		s := &shrinking{jobs: jobs, quiet: true, patience: 20 * time.Second, most: shrinkTime * time.Duration(jobs)}
		t, _ = s.shrink(t, failed, 5*shrinkTime)
		if t.Faults() <= smallFaults {
			small++
		}
		fmt.Printf("%-22s %-38s %7d %6d %6d %6d %8.0fs %6.0fs\n", m.Name, failed.Failure.Promise, s.first, t.Faults(), len(t.Config.Script), s.tried, s.used.Seconds(), time.Since(s.start).Seconds())
	}
	fmt.Printf("%d of %d have at most %d faults; %.0f s\n", small, len(list), smallFaults, time.Since(start).Seconds())
	if small*10 < len(list)*8 {
		return 1
	}
	return 0
}
