package sim

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// needs is a failure that needs some of a transcript's lines.
func needs(needed []string) Trial {
	return func(list []Transcript) (int, Result) {
		for i, t := range list {
			text := t.String()
			if !slices.ContainsFunc(needed, func(line string) bool { return !strings.Contains(text, line) }) {
				return i, Result{Failure: &Failure{Promise: "p", Phase: "healed", At: time.Hour}}
			}
		}
		return -1, Result{}
	}
}

// What is needed stays, and nothing else does, however it is spread, in far
// fewer trials than there are lines.
func TestShrinkKeepsWhatIsNeeded(t *testing.T) {
	story, _ := Record(func() Config {
		cfg := Swarm(2)
		cfg.Until = 40 * time.Second
		return cfg
	}())
	all := story.Config.Script
	if len(all) < 100 {
		t.Fatalf("only %d lines to shrink", len(all))
	}
	rapid.Check(t, func(t *rapid.T) {
		var needed []string
		for range rapid.IntRange(0, 4).Draw(t, "n") {
			f := all[rapid.IntRange(0, len(all)-1).Draw(t, "line")].Fault
			words := strings.Fields(FaultString(f))
			needed = append(needed, strings.Join(words[:min(len(words), 3)], " "))
		}
		slices.Sort(needed)
		needed = slices.Compact(needed)
		trials := 0
		try := needs(needed)
		small, r := Shrink(story, Result{Failure: &Failure{Promise: "p", Phase: "healed", At: time.Hour}}, 2, 0, func(list []Transcript) (int, Result) {
			trials += len(list)
			return try(list)
		})
		if i, _ := try([]Transcript{small}); i < 0 || r.Failure == nil {
			t.Fatalf("what was needed is gone: %q\n%s", needed, small)
		}
		if n := len(small.Config.Script); n > len(needed) {
			t.Fatalf("%d lines are left of which %q are needed:\n%s", n, needed, small)
		}
		if trials > 500 {
			t.Errorf("%d trials", trials)
		}
		if _, err := ParseTranscript(small.String()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestShrinkStopsWhenItIsTime(t *testing.T) {
	story := Transcript{Config: Config{Script: []Strike{{time.Second, Crash{1, time.Second}}, {time.Second, Crash{2, time.Second}}}}}
	story.Config.complete()
	small, _ := Shrink(story, Result{Failure: &Failure{At: time.Minute}}, 1, 0, func([]Transcript) (int, Result) { return -1, Result{} })
	if fmt.Sprint(small.Config.Script) != fmt.Sprint(story.Config.Script) {
		t.Errorf("something was left out that nobody tried:\n%s", small)
	}
}

func TestSameFailure(t *testing.T) {
	one := &Failure{Promise: panicked, Text: "tick of n1: index 5 out of range [3]\nstack"}
	for _, c := range []struct {
		other *Failure
		same  bool
	}{
		{&Failure{Promise: panicked, Text: "tick of n2: index 7 out of range [7]\nanother stack"}, true},
		{&Failure{Promise: panicked, Text: "tick of n2: nil map\nstack"}, false},
		{&Failure{Promise: "one leader a term", Text: one.Text}, false},
		{nil, false},
	} {
		if one.Same(c.other) != c.same {
			t.Errorf("%v: not %t", c.other, c.same)
		}
	}
}

// What makes a spec unlike all others is not left out of an Update: that would
// change nothing then, and break promises of its own.
func TestSimplerUpdates(t *testing.T) {
	f, err := ParseFault("(Ask c1 Update vm1 vcpus=2 memory_mib=512 labels.a=1 labels.revision=11672267640140938562)")
	if err != nil {
		t.Fatal(err)
	}
	for {
		list := simpler(f)
		for _, s := range list {
			if len(FaultString(s)) >= len(FaultString(f)) {
				t.Fatalf("%s is not simpler than %s", FaultString(s), FaultString(f))
			}
		}
		if len(list) == 0 {
			break
		}
		f = list[len(list)-1]
	}
	if got, want := FaultString(f), "(Ask c1 Update vm1 labels.revision=562)"; got != want {
		t.Errorf("the simplest is %s, want %s", got, want)
	}
}
