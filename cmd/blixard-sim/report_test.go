package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/blixard/blixard/sim"
)

// A soak names what was never active and, once it has seen enough seeds, what was
// active in less than one of a hundred.
func TestIdle(t *testing.T) {
	full := sim.Result{Faults: map[string]int{}, Judged: map[string]int{}}
	for _, name := range sim.FaultNames() {
		full.Faults[name] = 3
	}
	for _, name := range sim.JudgeNames {
		full.Judged[name] = 3
	}
	without := func(fault, judge string) sim.Result {
		r := sim.Result{Faults: map[string]int{}, Judged: map[string]int{}}
		for name, n := range full.Faults {
			if name != fault {
				r.Faults[name] = n
			}
		}
		for name, n := range full.Judged {
			if name != judge {
				r.Judged[name] = n
			}
		}
		r.Judged[judge] = 0 // named, and nothing
		return r
	}
	soak := func(runs, complete int) (missing []string) {
		t := newTotal()
		for i := range runs {
			if i < complete {
				t.add(full)
			} else {
				t.add(without("Echo", "policy"))
			}
		}
		return t.idle()
	}
	for _, c := range []struct{ runs, complete, missing int }{
		{100, 100, 0}, {100, 0, 2}, {100, 1, 0}, {enough, 4, 2}, {enough, 5, 0}, {enough, 0, 2},
	} {
		missing := soak(c.runs, c.complete)
		named := func(name string) bool {
			return slices.ContainsFunc(missing, func(s string) bool { return strings.Contains(s, name) })
		}
		if len(missing) != c.missing || c.missing > 0 && !(named("Echo") && named("policy")) {
			t.Errorf("%d of %d seeds are complete: %q is missing, want %d", c.complete, c.runs, missing, c.missing)
		}
	}

	moving := newTotal()
	moving.profile = "moving"
	for _, name := range sim.MoveProbes {
		full.Faults[name] = 1
	}
	moving.add(without(sim.MoveProbes[0], "volumes"))
	if missing := moving.idle(); len(missing) != 2 {
		t.Errorf("a soak of moves lacks %q, want a probe and a judge", missing)
	}
	moving.add(full)
	if missing := moving.idle(); len(missing) != 0 {
		t.Errorf("a soak of moves lacks %q", missing)
	}
}
