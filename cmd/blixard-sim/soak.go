package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/blixard/blixard/sim"
)

// mostFailures end a soak that goes on after a failure.
const mostFailures = 20

func soak(args []string) int {
	f := flag.NewFlagSet("soak", flag.ContinueOnError)
	seeds := f.Uint64("seeds", 100, "how many seeds")
	hours := f.Float64("hours", 0, "as many seeds as there is time for, and go on after a failure")
	which := worldFlags(f)
	f.Uint64Var(&which.seed, "first", 1, "the first")
	jobs := f.Int("jobs", runtime.NumCPU(), "processes")
	twice := f.Uint64("twice", 20, "run every so many-th seed twice, and compare; 0: none")
	out := f.String("out", "", "on a failure, shrink it, and write its transcript and its page into this directory")
	report := f.String("report", "", "write what was seen into this file")
	if f.Parse(args) != nil {
		return 2
	}
	start, shown := time.Now(), time.Now()
	p := pool{which: *which, seeds: *seeds, jobs: *jobs, flags: []string{fmt.Sprintf("-twice=%d", *twice)}}
	most := 1
	if *hours > 0 {
		p.seeds, most = 1<<40, mostFailures
		p.flags = append(p.flags, "-within="+time.Duration(*hours*float64(time.Hour)).String())
	}
	t := newTotal()
	t.profile = which.profile
	err := p.each(func(r sim.Result) bool {
		t.add(r)
		if *twice > 0 && r.Seed%*twice == 0 {
			t.twice++
		}
		if r.Failure != nil {
			fmt.Printf("BROKEN: seed %d, profile %s: %s\n", r.Seed, r.Profile, r.Failure.Promise)
		}
		if time.Since(shown) > 10*time.Second {
			shown = time.Now()
			fmt.Printf("%d seeds, %v simulated in %v, %d failures\n", t.runs, t.simulated.Round(time.Second), time.Since(start).Round(time.Second), len(t.failed))
		}
		return len(t.failed) < most
	})
	fmt.Printf("%d seeds, %v simulated, %d events in %v; %d of them twice\n", t.runs, t.simulated.Round(time.Second), t.events, time.Since(start).Round(time.Second), t.twice)
	t.print(os.Stdout)
	if *report != "" {
		if err := writeReport(*report, &t, time.Since(start)); err != nil {
			return fail(err)
		}
		fmt.Println("report:", *report)
	}
	switch {
	case len(t.failed) > 0:
		t.failed[0].Report(os.Stdout, commit())
		if *out != "" {
			which.seed = t.failed[0].Seed
			if err := keep(which, *out, *jobs); err != nil {
				fmt.Fprintln(os.Stderr, "blixard-sim:", err)
			}
		}
		return 1
	case err != nil:
		fmt.Fprintln(os.Stderr, "blixard-sim:", err)
		return 1
	}
	if missing := t.idle(); len(missing) > 0 {
		fmt.Println("INCOMPLETE: " + strings.Join(missing, "; ") + ". Run more seeds.")
		return 1
	}
	return 0
}

func writeReport(path string, t *total, wall time.Duration) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	t.report(f, commit(), wall)
	return f.Close()
}

// keep shrinks what failed, writes it down, and shows it.
func keep(w *which, dir string, jobs int) error {
	t, failed, err := record(w, nil)
	if err != nil || failed.Failure == nil {
		return fmt.Errorf("the failure of seed %d is not repeated: %w", w.seed, err)
	}
	s := &shrinking{jobs: jobs, patience: 20 * time.Second}
	t, _ = s.shrink(t, failed, time.Minute)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	path := filepath.Join(dir, fmt.Sprintf("seed-%d", w.seed))
	if err := os.WriteFile(path+".txt", []byte(t.String()), 0o644); err != nil {
		return err
	}
	film := sim.Shoot(t.Config)
	film.Command = "blixard-sim run " + path + ".txt"
	fmt.Printf("shrunk to %s.txt, shown in %s.html\n\n%s", path, path, t)
	return writePage(path+".html", film)
}
