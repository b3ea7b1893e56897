package sim

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// A process may crash at any point of a create: before and after each effect of
// each process, of all machines.
func TestCrashAtEveryPointOfACreate(t *testing.T) {
	if *oneSeed != 0 {
		t.Skip("a child")
	}
	crashEverywhere(t, "create")
}

// And of one migration of leadership.
func TestCrashAtEveryPointOfAnElection(t *testing.T) {
	if *oneSeed != 0 {
		t.Skip("a child")
	}
	crashEverywhere(t, "leader")
}

// And of one fence, with the removal and the start elsewhere that follow.
func TestCrashAtEveryPointOfAFence(t *testing.T) {
	if *oneSeed != 0 || testing.Short() {
		t.Skip("long")
	}
	crashEverywhere(t, "fence")
}

// And while the last server but one leaves.
func TestCrashAtEveryPointOfALeave(t *testing.T) {
	if *oneSeed != 0 {
		t.Skip("a child")
	}
	crashEverywhere(t, "leave")
}

// And of one live migration, whoever it is that dies: the VM has moved, or it has
// not, and it runs.
func TestCrashAtEveryPointOfAMigration(t *testing.T) {
	if *oneSeed != 0 || testing.Short() {
		t.Skip("long")
	}
	crashEverywhere(t, "migration")
}

// And of one with a volume. It is the longest: scripts/soak moving has all of it.
func TestCrashAtEveryPointOfAMigrationWithAVolume(t *testing.T) {
	if *oneSeed != 0 || os.Getenv("BLIXARD_ENUMERATE") == "" {
		t.Skip("long: BLIXARD_ENUMERATE=all")
	}
	crashEverywhere(t, "volume")
}

func crashEverywhere(t *testing.T, name string) {
	cfg := Config{Seed: 1}
	points, r := CrashPoints(cfg, Small[name])
	if r.Failure != nil {
		t.Fatalf("without any crash: %s: %s", r.Failure.Promise, r.Failure.Text)
	}
	t.Logf("%d crash points", len(points))
	passed := map[string]bool{}
	for _, at := range points {
		passed[at.Fault.(Mishap).Name] = true
		r := TellWithCrash(cfg, at, Small[name])
		if !slices.Contains(r.Struck, at.String()) {
			t.Errorf("%s: it did not happen: %v", at, r.Struck)
		}
		if f := r.Failure; f != nil {
			t.Errorf("%s: %s: %s\n  %s", at, f.Promise, f.Text, strings.Join(f.Last, "\n  "))
		}
	}
	wanted := []string{"CrashBeforeWrite", "CrashAfterDurable", "CrashAfterSend"}
	if name != "leave" { // there, no VM runs
		wanted = append(wanted, "CrashAfterOrder", "CrashAfterExtend")
	}
	for _, point := range wanted {
		if !passed[point] {
			t.Errorf("no point %s was passed: %v", point, points)
		}
	}
}

// What is enumerated are different moments.
func TestCrashPointsAreDifferent(t *testing.T) {
	if *oneSeed != 0 {
		t.Skip("a child")
	}
	points, _ := CrashPoints(Config{Seed: 1}, Small["create"])
	if len(points) < 50 {
		t.Errorf("only %d", len(points))
	}
	if n := len(slices.Compact(slices.Clone(points))); n != len(points) {
		t.Errorf("%d of %d", n, len(points))
	}
}
