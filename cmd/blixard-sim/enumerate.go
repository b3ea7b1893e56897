package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/blixard/blixard/sim"
)

// enumerate lets a process crash at every crash point of small stories.
func enumerate(args []string) int {
	f := flag.NewFlagSet("enumerate", flag.ContinueOnError)
	jobs := f.Int("jobs", runtime.NumCPU(), "processes")
	mutant := f.String("mutant", "", "plant a bug, by its name")
	seed := f.Uint64("seed", 1, "of the small delays")
	if f.Parse(args) != nil {
		return 2
	}
	stories := f.Args()
	if len(stories) == 0 {
		stories = slices.Sorted(maps.Keys(sim.Small))
	}
	code := 0
	for _, name := range stories {
		if sim.Small[name] == nil {
			return fail(fmt.Errorf("there is no story %q: %s are", name, strings.Join(slices.Sorted(maps.Keys(sim.Small)), ", ")))
		}
		start := time.Now()
		points, r := sim.CrashPoints(sim.Config{Seed: *seed, Mutant: *mutant}, sim.Small[name])
		if r.Failure != nil {
			fmt.Printf("%s: without any crash:\n", name)
			r.Report(os.Stdout, commit())
			return 1
		}
		ran, broken := 0, 0
		p := pool{which: which{mutant: *mutant}, seeds: uint64(len(points)), jobs: *jobs, flags: []string{fmt.Sprintf("-story=%s/%d", name, *seed)}}
		err := p.each(func(r sim.Result) bool {
			if ran++; r.Failure != nil {
				broken++
				fmt.Printf("BROKEN: %s: %s\n  %s\n", r.Failure.Promise, strings.Join(r.Struck, ", "), r.Failure.Text)
			}
			return true
		})
		if err != nil {
			return fail(err)
		}
		fmt.Printf("%s: %d of %d crash points, %d broken, in %v\n", name, ran, len(points), broken, time.Since(start).Round(time.Second))
		if broken > 0 || ran != len(points) {
			code = 1
		}
	}
	return code
}

// crashes runs a part of an enumeration: which.seed, and every step-th until last,
// are numbers of crash points.
func crashes(story string, w which, step, last uint64, out *json.Encoder) int {
	var seed uint64
	name, n, _ := strings.Cut(story, "/")
	if _, err := fmt.Sscan(n, &seed); err != nil {
		return fail(err)
	}
	cfg := sim.Config{Seed: seed, Mutant: w.mutant}
	points, _ := sim.CrashPoints(cfg, sim.Small[name])
	for i := w.seed; i <= last && i < uint64(len(points)); i += step {
		if err := out.Encode(sim.TellWithCrash(cfg, points[i], sim.Small[name])); err != nil {
			return fail(err)
		}
	}
	return 0
}
