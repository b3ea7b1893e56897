package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/blixard/blixard/sim"
)

// total is what a soak has seen.
type total struct {
	runs, twice int
	simulated   time.Duration
	events      uint64
	// By name: how often, and in how many runs.
	faults, judged       map[string]int
	faultsRuns, judgedIn map[string]int
	failed               []sim.Result
}

func newTotal() total {
	return total{faults: map[string]int{}, judged: map[string]int{}, faultsRuns: map[string]int{}, judgedIn: map[string]int{}}
}

func (t *total) add(r sim.Result) {
	t.runs++
	t.simulated += r.Simulated
	t.events += r.Events
	for k, n := range r.Faults {
		t.faults[k] += n
		t.faultsRuns[k]++
	}
	for k, n := range r.Judged {
		t.judged[k] += n
		t.judgedIn[k]++
	}
	if r.Failure != nil {
		t.failed = append(t.failed, r)
	}
}

// idle names what was never active: a soak with such has proved less than it says.
func (t *total) idle() (missing []string) {
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
	return missing
}

// report writes what a soak has seen, for people who were not there.
func (t *total) report(out io.Writer, commit string, wall time.Duration) {
	fmt.Fprintf(out, "# Soak of the simulator\n\n")
	fmt.Fprintf(out, "Commit %s; %d seeds, %.1f hours simulated, %d events, in %v. %d of the seeds were run twice.\n",
		commit, t.runs, t.simulated.Hours(), t.events, wall.Round(time.Second), t.twice)
	fmt.Fprintf(out, "\n## Failures: %d\n\n", len(t.failed))
	for _, r := range t.failed {
		fmt.Fprintf(out, "- seed %d, profile %s: %s, at %v\n  `%s`\n", r.Seed, r.Profile, r.Failure.Promise, r.Failure.At.Round(time.Millisecond), r.Command())
	}
	if missing := t.idle(); len(missing) > 0 {
		fmt.Fprintf(out, "\nINCOMPLETE: %s.\n", strings.Join(missing, "; "))
	}
	probes := map[string]int{}
	for name, n := range t.faults {
		if !slices.Contains(sim.FaultNames(), name) {
			probes[name] = n
		}
	}
	t.table(out, "Faults", sim.FaultNames(), t.faults, t.faultsRuns)
	t.table(out, "Probes: rare places that were reached", slices.Sorted(maps.Keys(probes)), t.faults, t.faultsRuns)
	t.table(out, "Judges: what each had before it", sim.JudgeNames, t.judged, t.judgedIn)
}

func (t *total) table(out io.Writer, title string, names []string, count, runs map[string]int) {
	fmt.Fprintf(out, "\n## %s\n\n| | times | in seeds |\n|---|---|---|\n", title)
	for _, name := range slices.Sorted(slices.Values(names)) {
		fmt.Fprintf(out, "| %s | %d | %.1f%% |\n", name, count[name], 100*float64(runs[name])/float64(max(t.runs, 1)))
	}
}
