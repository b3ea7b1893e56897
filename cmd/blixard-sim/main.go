// Command blixard-sim runs simulated clusters: one seed, or many in parallel
// processes, until one breaks a promise. `blixard sim` executes it.
//
//	blixard-sim run -seed N [-words] [-mutant NAME]
//	blixard-sim soak -seeds K [-first N] [-jobs J] [-mutant NAME]
//	blixard-sim mutants [-few] [-seeds K] [-jobs J] [NAME...]
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"github.com/blixard/blixard/sim"
)

func main() { os.Exit(command(os.Args[1:])) }

func command(args []string) int {
	if len(args) == 0 {
		return usage()
	}
	switch args[0] {
	case "run":
		return run(args[1:])
	case "soak":
		return soak(args[1:])
	case "mutants":
		return searchMutants(args[1:])
	case "mutant":
		return oneMutant(args[1:])
	case "worker":
		return worker(args[1:])
	}
	return usage()
}

func usage() int {
	fmt.Fprint(os.Stderr, `usage:
  blixard-sim run -seed N [-words] [-mutant NAME]      one seed
  blixard-sim soak -seeds K [-first N] [-jobs J]       many, a process per core
  blixard-sim mutants [-few] [NAME...]                 plants known bugs and looks who finds them
`)
	return 2
}

func run(args []string) int {
	f := flag.NewFlagSet("run", flag.ContinueOnError)
	seed := f.Uint64("seed", 1, "the seed")
	words := f.Bool("words", false, "print every line of what happens")
	mutant := f.String("mutant", "", "plant a bug, by its name")
	if f.Parse(args) != nil {
		return 2
	}
	cfg := sim.Swarm(*seed)
	cfg.Mutant = *mutant
	if *words {
		cfg.Log = os.Stdout
	}
	start := time.Now()
	r := sim.Run(cfg)
	fmt.Printf("seed %d: %v simulated in %v, %d events, %d steps\n", r.Seed, r.Simulated, time.Since(start).Round(time.Millisecond), r.Events, r.Steps)
	fmt.Printf("faults: %v\njudged: %v\ntrace hash: %016x\n", r.Faults, r.Judged, r.Hash)
	if r.Failure != nil {
		r.Report(os.Stdout, commit())
		return 1
	}
	return 0
}

// worker runs seeds and prints a Result a line: what a soak starts, once a core.
func worker(args []string) int {
	f := flag.NewFlagSet("worker", flag.ContinueOnError)
	first := f.Uint64("first", 1, "the first seed")
	step := f.Uint64("step", 1, "the distance to the next")
	last := f.Uint64("last", 1, "the last seed")
	mutant := f.String("mutant", "", "plant a bug, by its name")
	if f.Parse(args) != nil {
		return 2
	}
	out := json.NewEncoder(os.Stdout)
	for seed := *first; seed <= *last; seed += *step {
		cfg := sim.Swarm(seed)
		cfg.Mutant = *mutant
		if out.Encode(sim.Run(cfg)) != nil {
			return 1
		}
	}
	return 0
}

func commit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return ""
}
