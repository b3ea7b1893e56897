package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"time"

	"github.com/blixard/blixard/core/mutant"
	"github.com/blixard/blixard/sim/mutants"
)

// searchMutants plants every known bug, or those that are named, each in a
// process of its own, and says who found it and how soon.
func searchMutants(args []string) int {
	f := flag.NewFlagSet("mutants", flag.ContinueOnError)
	seeds := f.Int("seeds", 500, "the most seeds for one bug")
	first := f.Uint64("first", 1, "the first of them")
	jobs := f.Int("jobs", runtime.NumCPU(), "processes")
	plain := f.Bool("plain", false, "only seeds as a soak has them: no stories, no worlds made for a bug")
	few := f.Bool("few", false, "only the few that every CI run plants")
	shrinks := f.Bool("shrink", false, "shrink what finds each, and say how far that goes within a minute")
	verbose := f.Bool("v", false, "print what each failure says")
	if f.Parse(args) != nil {
		return 2
	}
	if !mutant.Built {
		fmt.Fprintln(os.Stderr, "blixard-sim: this build carries no planted bugs; scripts/mutants makes one that does (-tags mutants)")
		return 2
	}
	var list []mutants.Mutant
	for _, m := range mutants.All {
		if f.NArg() == 0 && (m.Few || !*few) || slices.Contains(f.Args(), m.Name) {
			list = append(list, m)
		}
	}
	if len(list) < f.NArg() || len(list) == 0 {
		fmt.Fprintln(os.Stderr, "blixard-sim: there is no such mutant; sim/mutants/table.go has the names")
		return 2
	}
	flags := []string{fmt.Sprint("-seeds=", *seeds), fmt.Sprint("-first=", *first), fmt.Sprint("-plain=", *plain)}
	if *shrinks {
		return shrinkMutants(list, *jobs, flags)
	}
	start := time.Now()
	fmt.Printf("%-22s %-38s %8s %11s %7s\n", "MUTANT", "CAUGHT BY", "IN", "SIMULATED", "WALL")
	caught, soon := 0, 0
	for r := range inOrder(list, *jobs, flags) {
		by := r.By
		if !r.OK {
			by = "MISSED " + by
		} else {
			caught++
		}
		if r.OK && r.Simulated <= 1000*time.Second {
			soon++
		}
		in := "a story"
		if r.Seeds > 0 {
			in = fmt.Sprintf("%d seeds", r.Seeds)
		}
		fmt.Printf("%-22s %-38s %8s %10.0fs %6.1fs\n", r.Name, by, in, r.Simulated.Seconds(), r.Wall.Seconds())
		if *verbose || !r.OK && r.Text != "" {
			fmt.Println(r.Text)
		}
	}
	fmt.Printf("%d caught, %d missed; %d within 1,000 simulated seconds; %.0f s\n", caught, len(list)-caught, soon, time.Since(start).Seconds())
	if !*plain && len(list) >= enoughMutants && 10*soon < 9*len(list) {
		fmt.Println("TOO SLOW: nine of ten should be found within 1,000 simulated seconds")
		return 1
	}
	return min(len(list)-caught, 1)
}

// enoughMutants are so many that the share that is found soon says something.
const enoughMutants = 50

// inOrder searches for several at a time, and gives what was found in the order
// of the list.
func inOrder(list []mutants.Mutant, jobs int, flags []string) func(yield func(mutants.Find) bool) {
	found := make([]chan mutants.Find, len(list))
	turn := make(chan struct{}, jobs)
	for i := range found {
		found[i] = make(chan mutants.Find, 1)
	}
	go func() {
		for i, m := range list {
			turn <- struct{}{}
			go func() {
				found[i] <- search(m.Name, flags)
				<-turn
			}()
		}
	}()
	return func(yield func(mutants.Find) bool) {
		for _, c := range found {
			if !yield(<-c) {
				return
			}
		}
	}
}

// search looks for one in a process of its own: a World has all of a process,
// and a bug may end it.
func search(name string, flags []string) mutants.Find {
	r := mutants.Find{Name: name}
	self, err := os.Executable()
	if err == nil {
		var out []byte
		cmd := exec.Command(self, slices.Concat([]string{"mutant"}, flags, []string{name})...)
		cmd.Stderr = os.Stderr
		if out, err = cmd.Output(); err == nil {
			err = json.Unmarshal(out, &r)
		}
	}
	if err != nil {
		r.By, r.Text = "its process ended", err.Error()
	}
	return r
}

// oneMutant looks for one and prints a Find: what searchMutants starts.
func oneMutant(args []string) int {
	f := flag.NewFlagSet("mutant", flag.ContinueOnError)
	seeds := f.Int("seeds", 500, "the most seeds")
	first := f.Uint64("first", 1, "the first of them")
	plain := f.Bool("plain", false, "only seeds as a soak has them")
	if f.Parse(args) != nil || f.NArg() != 1 {
		return 2
	}
	m, ok := mutants.Lookup(f.Arg(0))
	if !ok {
		return 2
	}
	if *plain {
		m = m.Seeds()
	}
	if json.NewEncoder(os.Stdout).Encode(m.Search(*first, *seeds)) != nil {
		return 1
	}
	return 0
}
