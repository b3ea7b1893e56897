// Command blixard-sim runs simulated clusters: one seed, or many in parallel
// processes, until one breaks a promise; it then shrinks what happened to a few
// lines. `blixard sim` executes it.
//
//	blixard-sim run    WORLD [-words] [-until STEP]
//	blixard-sim soak   -seeds K [-first N] [-jobs J] [-out DIR]
//	blixard-sim soak   -hours H [-report FILE]
//	blixard-sim double -seeds K [-against PROGRAM]
//	blixard-sim shrink WORLD [-within 1m] [-o FILE]
//	blixard-sim show   WORLD [-o FILE]
//	blixard-sim enumerate [create|leader|fence|migration|volume|leave]
//	blixard-sim mutants [-few] [NAME...]
//
// where WORLD is -seed N [-profile P] [-mutant NAME], or the file of a transcript.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"time"

	"github.com/blixard/blixard/sim"
)

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400) // a World is small, and makes much garbage
	}
	os.Exit(command(os.Args[1:]))
}

func command(args []string) int {
	if len(args) == 0 {
		return usage()
	}
	switch args[0] {
	case "run":
		return run(args[1:])
	case "soak":
		return soak(args[1:])
	case "shrink":
		return shrink(args[1:])
	case "show":
		return show(args[1:])
	case "enumerate":
		return enumerate(args[1:])
	case "mutants":
		return searchMutants(args[1:])
	case "mutant":
		return oneMutant(args[1:])
	case "double":
		return double(args[1:])
	case "marks":
		return marks(args[1:])
	case "worker":
		return worker(args[1:])
	}
	return usage()
}

func usage() int {
	fmt.Fprint(os.Stderr, `usage:
  blixard-sim run WORLD [-words] [-until STEP]        one world
  blixard-sim soak -seeds K [-first N] [-jobs J]      many, a process per core, until one fails
  blixard-sim soak -hours H [-report FILE]            as many as there is time for
  blixard-sim double -seeds K [-against PROGRAM]      every seed in two processes, of two builds
  blixard-sim shrink WORLD [-within 1m] [-o FILE]     leaves out what a failure does not need
  blixard-sim show WORLD [-o FILE]                    a page of what happened, for a browser
  blixard-sim enumerate [create|leader|fence|migration|volume|leave]   a crash at every point, one in each run
  blixard-sim mutants [-few] [NAME...]                plants known bugs and looks who finds them
WORLD is -seed N [-profile P] [-mutant NAME], or the FILE of a transcript.
`)
	return 2
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, "blixard-sim:", err)
	return 2
}

func run(args []string) int {
	f := flag.NewFlagSet("run", flag.ContinueOnError)
	which := worldFlags(f)
	words := f.Bool("words", false, "print every line of what happens")
	patience := f.Duration("patience", 0, "how long the healed world may take to come to rest; 0: as long as is promised")
	asJSON := f.Bool("json", false, "print the result as JSON")
	if f.Parse(args) != nil {
		return 2
	}
	cfg, err := which.config(f.Args())
	if err != nil {
		return fail(err)
	}
	if *words {
		cfg.Log = os.Stdout
	}
	cfg.Patience = *patience
	start := time.Now()
	r := sim.Run(cfg)
	if *asJSON {
		if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
			return fail(err)
		}
		return 0
	}
	fmt.Printf("seed %d: %v simulated in %v, %d events, %d steps\n", r.Seed, r.Simulated, time.Since(start).Round(time.Millisecond), r.Events, r.Steps)
	fmt.Printf("faults: %v\njudged: %v\ntrace hash: %016x\n", r.Faults, r.Judged, r.Hash)
	if r.Failure != nil {
		r.Report(os.Stdout, commit())
		return 1
	}
	return 0
}

// commit of this program, or of the directory that it runs in.
func commit() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	out, err := exec.Command("git", "describe", "--always", "--abbrev=12", "--dirty=*", "--exclude=*").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
