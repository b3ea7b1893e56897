package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/blixard/blixard/sim"
)

// total is what a soak has seen.
type total struct {
	runs      int
	simulated time.Duration
	events    uint64
	faults    map[string]int
	judged    map[string]int
}

func (t *total) add(r sim.Result) {
	t.runs++
	t.simulated += r.Simulated
	t.events += r.Events
	for k, n := range r.Faults {
		t.faults[k] += n
	}
	for k, n := range r.Judged {
		t.judged[k] += n
	}
}

func soak(args []string) int {
	f := flag.NewFlagSet("soak", flag.ContinueOnError)
	seeds := f.Uint64("seeds", 100, "how many seeds")
	which := worldFlags(f)
	f.Uint64Var(&which.seed, "first", 1, "the first")
	jobs := f.Int("jobs", runtime.NumCPU(), "processes")
	out := f.String("out", "", "on a failure, shrink it, and write its transcript and its page into this directory")
	if f.Parse(args) != nil {
		return 2
	}
	start := time.Now()
	t := total{faults: map[string]int{}, judged: map[string]int{}}
	var failed *sim.Result
	shown := start
	err := each(*which, *seeds, *jobs, func(r sim.Result) bool {
		t.add(r)
		if time.Since(shown) > 10*time.Second {
			shown = time.Now()
			fmt.Printf("%d of %d seeds, %v simulated in %v\n", t.runs, *seeds, t.simulated.Round(time.Second), time.Since(start).Round(time.Second))
		}
		if r.Failure != nil {
			failed = &r
		}
		return failed == nil
	})
	fmt.Printf("%d seeds, %v simulated, %d events in %v\n", t.runs, t.simulated.Round(time.Second), t.events, time.Since(start).Round(time.Second))
	for _, k := range slices.Sorted(maps.Keys(t.faults)) {
		fmt.Printf("  %-14s %d\n", k, t.faults[k])
	}
	fmt.Printf("judged: %v\n", t.judged)
	switch {
	case failed != nil:
		failed.Report(os.Stdout, commit())
		if *out != "" {
			which.seed = failed.Seed
			if err := keep(which, *out, *jobs); err != nil {
				fmt.Fprintln(os.Stderr, "blixard-sim:", err)
			}
		}
		return 1
	case err != nil:
		fmt.Fprintln(os.Stderr, "blixard-sim:", err)
		return 1
	}
	return idle(t)
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

// idle is 1 when some fault never fired or some judge had nothing to judge: such
// a soak has proved less than it says.
func idle(t total) int {
	var missing []string
	for _, name := range sim.FaultNames() {
		if t.faults[name] == 0 {
			missing = append(missing, "the fault "+name+" never fired")
		}
	}
	for _, name := range sim.JudgeNames {
		if t.judged[name] == 0 {
			missing = append(missing, "the judge of "+name+" had nothing to judge")
		}
	}
	if len(missing) == 0 {
		return 0
	}
	fmt.Println("INCOMPLETE: " + strings.Join(missing, "; ") + ". Run more seeds.")
	return 1
}

// each runs seeds in worker processes and hands over their results until seen
// says enough.
func each(w which, seeds uint64, jobs int, seen func(sim.Result) bool) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	results, ends := make(chan sim.Result), make(chan error)
	stop := make(chan struct{})
	var workers []*exec.Cmd
	for j := range uint64(jobs) {
		mine := w
		mine.seed += j
		args := append([]string{"worker", fmt.Sprintf("-step=%d", jobs), fmt.Sprintf("-last=%d", w.seed+seeds-1)}, mine.flags()...)
		cmd := exec.Command(self, args...)
		cmd.Stderr = os.Stderr
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		workers = append(workers, cmd)
		go func() {
			in := json.NewDecoder(pipe)
			for {
				var r sim.Result
				if in.Decode(&r) != nil {
					break
				}
				select {
				case results <- r:
				case <-stop:
				}
			}
			ends <- cmd.Wait()
		}()
	}
	enough, open := false, len(workers)
	for open > 0 {
		select {
		case r := <-results:
			if !enough && !seen(r) {
				enough = true
				close(stop)
				for _, w := range workers {
					w.Process.Kill()
				}
			}
		case e := <-ends:
			open--
			if e != nil && !enough && err == nil {
				err = fmt.Errorf("a worker ended: %w", e)
			}
		}
	}
	return err
}
