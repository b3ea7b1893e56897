package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/blixard/blixard/sim"
	"github.com/blixard/blixard/sim/mutants"
)

// which world is meant: a seed of some kind, or a transcript.
type which struct {
	seed    uint64
	profile string
	mutant  string
	until   string
}

func worldFlags(f *flag.FlagSet) *which {
	w := &which{}
	f.Uint64Var(&w.seed, "seed", 1, "the seed")
	f.StringVar(&w.profile, "profile", "", "the kind of world: swarm, base, calm, large, moving, or one with some faults only, as base:Isolate,Drop; empty: base for each fourth seed, swarm for the others")
	f.StringVar(&w.mutant, "mutant", "", "plant a bug, by its name")
	f.StringVar(&w.until, "until", "", "stop after so many events (1234) or at a simulated time (12.5s), unjudged")
	return w
}

// flags are w as another process is told.
func (w which) flags() []string {
	return []string{"-seed=" + fmt.Sprint(w.seed), "-profile=" + w.profile, "-mutant=" + w.mutant, "-until=" + w.until}
}

func (w which) config(args []string) (cfg sim.Config, err error) {
	switch {
	case len(args) > 1:
		return cfg, fmt.Errorf("one world at a time, not %d: want flags, or the file of a transcript", len(args))
	case len(args) == 1:
		t, err := readTranscript(args[0])
		if err != nil {
			return cfg, err
		}
		cfg = t.Config
	default:
		if cfg, err = w.drawn(); err != nil {
			return cfg, err
		}
	}
	if w.until == "" {
		return cfg, nil
	}
	if cfg.UntilEvent, err = strconv.ParseUint(w.until, 10, 64); err != nil {
		cfg.Until, err = time.ParseDuration(w.until)
	}
	return cfg, err
}

// drawn is the world of a seed.
func (w which) drawn() (sim.Config, error) {
	profile := w.profile
	if profile == "" {
		profile = "swarm"
		if w.seed%4 == 0 && w.mutant == "" {
			profile = "base"
		}
	}
	cfg, err := sim.Profile(profile, w.seed)
	if err != nil || w.mutant == "" {
		return cfg, err
	}
	m, ok := mutants.Lookup(w.mutant)
	switch {
	case !ok:
		return cfg, fmt.Errorf("there is no mutant %q: sim/mutants/table.go has the names", w.mutant)
	case w.profile == "":
		return m.World(w.seed, true), nil
	}
	cfg.Mutant = w.mutant
	return cfg, nil
}

// readTranscript reads a file; - is the standard input.
func readTranscript(path string) (sim.Transcript, error) {
	b, err := os.ReadFile(path)
	if path == "-" {
		b, err = io.ReadAll(os.Stdin)
	}
	if err != nil {
		return sim.Transcript{}, err
	}
	t, err := sim.ParseTranscript(string(b))
	if err != nil {
		return t, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}
