package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// What Nix built goes to another host while it runs: the closure first, which that host
// has never seen, then its disk and its memory. It misses no count. The source lets go of
// its roots; one that cannot be told to wait stays, and that is said.
func TestFlakeVMMovesLive(t *testing.T) {
	t.Parallel()
	boot := booting(t)
	i := slices.IndexFunc(boot, func(line string) bool { return strings.HasPrefix(line, "append=") })
	boot[i] = strings.TrimSuffix(boot[i], "'") + " " + roamWords + "'"
	c := upNix(t, 2, ownStores(t))
	c.Must("--timeout", "180s", "vm", "create", "roamer", "--memory", "192", "--flake", c.flake("one", append(boot, "disk=64")...))
	r, one := follow(c.Cluster), c.runner("roamer")
	from, to := c.HostOf("roamer"), c.Named(r.another())
	if v, _ := c.VM("roamer"); !v.GetRunner().GetMovable() {
		t.Fatalf("its runner: %v", v.GetRunner())
	}
	if exists(c.on(to, one)) {
		t.Fatal("the target has what was built before the move")
	}
	c.calls(to)
	m := r.move(to.Name)
	if m.GetState() != blixardv1.MigrationState_MIGRATION_STATE_DONE {
		t.Fatalf("the move: %v", m)
	}
	r.grows(to.Name)
	t.Logf("moved; no guest for %d ms; counted to %d", m.GetDowntimeMs(), r.counted())
	r.keptAll()
	if calls := c.calls(to); evaluating(calls) || !slices.Contains(calls, "nix-store --import") || !exists(c.on(to, one)) {
		t.Errorf("the target has run %q", calls)
	}
	roots := func(n *Node) []os.DirEntry {
		left, _ := os.ReadDir(filepath.Join(n.Data, "nix", "runners"))
		return left
	}
	if left := roots(from); len(left) != 0 || len(roots(to)) != 1 {
		t.Errorf("the source holds %v, and the target %v", left, roots(to))
	}
	// It is stopped by its runner there, as anywhere.
	c.Must("vm", "stop", "roamer")
	if said := r.said(); !strings.Contains(said, "power button, shutting down") {
		t.Errorf("it was not asked to power off\n%s", tailOf(said, 500))
	}
	if v, _ := c.VM("roamer"); v.GetStatus().GetFailures() != 0 {
		t.Errorf("it has failures: %v", v.GetStatus())
	}
	c.Must("--timeout", "60s", "vm", "delete", "-y", "roamer")
	c.Eventually(30*time.Second, "nothing is held", func() error {
		if left := roots(to); len(left) > 0 {
			return fmt.Errorf("%v", left)
		}
		return nil
	})
	// One that cannot be told to wait stays.
	c.Must("--timeout", "120s", "vm", "create", "old", "--no-wait", "--memory", "64", "--flake", c.flake("two", sleeping...))
	c.Await("old", 60*time.Second, "runs", ranWith(1))
	c.Fails(exitConflict, []string{"what was built for it cannot be told to wait for a guest", "--offline"}, "vm", "migrate", "old")
}
