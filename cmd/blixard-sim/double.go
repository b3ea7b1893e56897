package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/blixard/blixard/sim"
)

// other is the second process of a double run: it differs in everything that
// must not matter.
var other = []string{"GOMAXPROCS=3", "GOGC=30"}

// double runs every seed in two processes, of two builds if another program is
// given, and compares the hashes of all that happened. A promise that both break
// is a failure as in any soak.
func double(args []string) int {
	f := flag.NewFlagSet("double", flag.ContinueOnError)
	seeds := f.Uint64("seeds", 100, "how many seeds")
	which := worldFlags(f)
	f.Uint64Var(&which.seed, "first", 1, "the first")
	program := f.String("against", "", "the second process is of this program: another build of this one")
	quiet := f.Bool("q", false, "show no progress")
	report := f.String("report", "", "write what was seen into this file")
	if f.Parse(args) != nil {
		return 2
	}
	start, shown := time.Now(), time.Now()
	results, ends, stop := make(chan sim.Result), make(chan error, 2), make(chan struct{})
	for _, p := range []pool{
		{which: *which, seeds: *seeds, jobs: 1, env: []string{"GOMAXPROCS=1"}},
		{which: *which, seeds: *seeds, jobs: 1, env: other, program: *program},
	} {
		go func() {
			ends <- p.each(func(r sim.Result) bool {
				select {
				case results <- r:
					return true
				case <-stop:
					return false
				}
			})
		}()
	}
	waiting := map[uint64]sim.Result{}
	t := newTotal()
	var parted *sim.Result
	var failed error
	stopped := false
	for open := 2; open > 0; {
		select {
		case err := <-ends:
			open--
			if failed == nil {
				failed = err
			}
		case r := <-results:
			was, both := waiting[r.Seed]
			if !both {
				waiting[r.Seed] = r
				continue
			}
			delete(waiting, r.Seed)
			t.add(r)
			t.twice++
			if r.Failure != nil {
				fmt.Printf("BROKEN: seed %d, profile %s: %s\n", r.Seed, r.Profile, r.Failure.Promise)
			}
			if (was.Hash != r.Hash || (was.Failure == nil) != (r.Failure == nil)) && parted == nil {
				parted = &r
			}
			if !stopped && (parted != nil || len(t.failed) >= mostFailures) {
				stopped = true
				close(stop)
			}
			if !*quiet && time.Since(shown) > 10*time.Second {
				shown = time.Now()
				fmt.Printf("%d of %d double runs, %v simulated twice, in %v, %d failures\n",
					t.runs, *seeds, t.simulated.Round(time.Second), time.Since(start).Round(time.Second), len(t.failed))
			}
		}
	}
	if *report != "" {
		if err := writeReport(*report, &t, time.Since(start)); err != nil {
			return fail(err)
		}
		fmt.Println("report:", *report)
	}
	switch {
	case parted != nil:
		fmt.Printf("BROKEN: seed %d is two runs\n\n%s\n", parted.Seed, whereTheyPart(*which, *parted, *program))
		return 1
	case failed != nil:
		return fail(failed)
	}
	fmt.Printf("%d double runs, %v simulated twice, in %v: the same hash in both, always; %d failures\n",
		t.runs, t.simulated.Round(time.Second), time.Since(start).Round(time.Second), len(t.failed))
	if len(t.failed) > 0 {
		t.failed[0].Report(os.Stdout, commit())
		return 1
	}
	return 0
}

// whereTheyPart runs a seed in both ways again, and compares event by event.
func whereTheyPart(w which, r sim.Result, program string) string {
	self, err := os.Executable()
	if err != nil {
		return err.Error()
	}
	w.seed = r.Seed
	type way struct {
		program string
		env     []string
	}
	ways := []way{{self, []string{"GOMAXPROCS=1"}}, {cmp.Or(program, self), other}}
	run := func(y way, args ...string) []byte {
		cmd := exec.Command(y.program, append(args, w.flags()...)...)
		cmd.Env = append(os.Environ(), y.env...)
		out, _ := cmd.Output() // a world that fails ends with 1
		return out
	}
	var marks [2][]sim.Mark
	for i, y := range ways {
		if marks[i], err = sim.ReadMarks(bytes.NewReader(run(y, "marks"))); err != nil {
			return err.Error()
		}
	}
	event, text := sim.Part(marks[0], marks[1])
	if event == 0 {
		return "run again, it is one run: what makes the difference is chance; sim.Twice may meet it"
	}
	// In words, up to that event and no further.
	w.until = fmt.Sprint(event + 1)
	for i, y := range ways {
		lines := bytes.Split(bytes.TrimSpace(run(y, "run", "-words")), []byte("\n"))
		text += fmt.Sprintf("\n\nrun %d, in words:\n%s", i+1, bytes.Join(lines[max(0, len(lines)-12):], []byte("\n")))
	}
	return text
}

// marks prints the marks of a world, for another process to compare.
func marks(args []string) int {
	f := flag.NewFlagSet("marks", flag.ContinueOnError)
	which := worldFlags(f)
	if f.Parse(args) != nil {
		return 2
	}
	cfg, err := which.config(f.Args())
	if err != nil {
		return fail(err)
	}
	_, list := sim.Marks(cfg)
	if err := sim.WriteMarks(os.Stdout, list); err != nil {
		return fail(err)
	}
	return 0
}

// worker runs seeds and prints a Result a line: what a pool starts.
func worker(args []string) int {
	f := flag.NewFlagSet("worker", flag.ContinueOnError)
	which := worldFlags(f)
	step := f.Uint64("step", 1, "the distance to the next")
	last := f.Uint64("last", 1, "the last seed")
	twice := f.Uint64("twice", 0, "run every so many-th seed twice; 0: none")
	within := f.Duration("within", 0, "begin no seed after this time; 0: at any time")
	story := f.String("story", "", "NAME/SEED: enumerate the crash points of this story; -seed is the number of one, from 0")
	if f.Parse(args) != nil {
		return 2
	}
	start := time.Now()
	out := json.NewEncoder(os.Stdout)
	if *story != "" {
		return crashes(*story, *which, *step, *last, out)
	}
	for ; which.seed <= *last && (*within == 0 || time.Since(start) < *within); which.seed += *step {
		cfg, err := which.config(nil)
		if err != nil {
			return fail(err)
		}
		run := sim.Run
		if *twice > 0 && which.seed%*twice == 0 {
			run = sim.Twice
		}
		if out.Encode(run(cfg)) != nil {
			return 1
		}
	}
	return 0
}
