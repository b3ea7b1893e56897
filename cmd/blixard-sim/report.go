package main

import (
	"cmp"
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
	profile     string
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
		t.faultsRuns[k] += min(n, 1)
	}
	for k, n := range r.Judged {
		t.judged[k] += n
		t.judgedIn[k] += min(n, 1)
	}
	if r.Failure != nil {
		t.failed = append(t.failed, r)
	}
}

// enough seeds tell whether something is active in one of a hundred.
const enough = 500

// idle names what was never active, or, when there were enough seeds to tell, in
// less than one of a hundred: a soak with such has proved less than it says.
//
// A soak of moves has proved nothing unless each part of them was met.
func (t *total) idle() (missing []string) {
	if t.profile == "moving" {
		for _, name := range sim.MoveProbes {
			if t.faultsRuns[name] == 0 {
				missing = append(missing, name+" was never met")
			}
		}
		for _, name := range moveJudges {
			if t.judgedIn[name] == 0 {
				missing = append(missing, "the judge of "+name+" was never active")
			}
		}
		return missing
	}
	look := func(what string, names []string, runs map[string]int) {
		for _, name := range names {
			switch n := runs[name]; {
			case n == 0:
				missing = append(missing, "the "+what+" "+name+" was never active")
			case t.runs >= enough && 100*n < t.runs:
				missing = append(missing, fmt.Sprintf("the %s %s was active in %s of the seeds, and should be in 1%%", what, name, t.share(n)))
			}
		}
	}
	look("fault", sim.FaultNames(), t.faultsRuns)
	look("judge of", sim.JudgeNames, t.judgedIn)
	return missing
}

// moveJudges are those without whom a soak of moves proves nothing.
var moveJudges = []string{"migrations", "copies", "placed", "capacity", "states", "witness", "volumes", "addresses"}

func (t *total) share(runs int) string {
	return fmt.Sprintf("%.1f%%", 100*float64(runs)/float64(max(t.runs, 1)))
}

// print says how often each fault struck and each judge judged, and in which
// share of the seeds; the rarest first.
func (t *total) print(out io.Writer) {
	list := func(title string, names []string, count, runs map[string]int) {
		fmt.Fprintf(out, "%-20s %9s %8s\n", title, "times", "in seeds")
		slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(runs[a], runs[b]), cmp.Compare(a, b)) })
		for _, name := range names {
			fmt.Fprintf(out, "  %-18s %9d %8s\n", name, count[name], t.share(runs[name]))
		}
	}
	list("fault", sim.FaultNames(), t.faults, t.faultsRuns)
	list("probe", t.probes(), t.faults, t.faultsRuns)
	list("judge", slices.Clone(sim.JudgeNames), t.judged, t.judgedIn)
}

// probes are rare places that were reached, and no faults.
func (t *total) probes() (names []string) {
	for _, name := range slices.Sorted(maps.Keys(t.faults)) {
		if !slices.Contains(sim.FaultNames(), name) {
			names = append(names, name)
		}
	}
	return names
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
	t.table(out, "Faults", sim.FaultNames(), t.faults, t.faultsRuns)
	t.table(out, "Probes: rare places that were reached", t.probes(), t.faults, t.faultsRuns)
	t.table(out, "Judges: what each had before it", sim.JudgeNames, t.judged, t.judgedIn)
}

func (t *total) table(out io.Writer, title string, names []string, count, runs map[string]int) {
	fmt.Fprintf(out, "\n## %s\n\n| | times | in seeds |\n|---|---|---|\n", title)
	for _, name := range slices.Sorted(slices.Values(names)) {
		fmt.Fprintf(out, "| %s | %d | %s |\n", name, count[name], t.share(runs[name]))
	}
}
