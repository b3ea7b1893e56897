package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// What Nix has no part in is updated the same way.
func TestUpdateOfAProgram(t *testing.T) {
	t.Parallel()
	c := up(t, 1)
	said := func(want string) {
		t.Helper()
		c.Eventually(20*time.Second, "it says "+want, func() error {
			if out := c.Must("vm", "logs", "web"); !strings.HasSuffix(out, want+"\n") {
				return usagef("it said %q", out)
			}
			return nil
		})
	}
	sh := func(word string) []string {
		return []string{"--process", "--", "/bin/sh", "-c", "echo " + word + "; exec sleep 1000"}
	}
	c.Must(append([]string{"vm", "create", "web", "--memory", "64"}, sh("one")...)...)
	said("one")
	if out := c.Must(append([]string{"vm", "update", "web"}, sh("two")...)...); !strings.Contains(out, "counts from its next start") {
		t.Errorf("update: %s", out)
	}
	said("one")
	c.Must("vm", "restart", "web")
	said("two")
	c.Must(append([]string{"vm", "update", "web", "--restart"}, sh("three")...)...)
	said("three")
	if out := c.Must("vm", "rollback", "web", "--restart", "-o", "json"); !strings.Contains(out, `"spec_generation": 4`) {
		t.Errorf("rollback: %s", out)
	}
	said("two")
	if out := c.Must("vm", "history", "web", "-o", "name"); out != "4\n3\n1\n" {
		t.Errorf("history: %q", out)
	}

	// Refusals say what, and what to do.
	c.Fails(exitConflict, []string{"cannot take the new spec", "make the spec smaller"}, "vm", "update", "web", "--memory", "1000000")
	c.Fails(exitUsage, []string{"another kind of VM"}, "vm", "update", "web", "--flake", "github:me/infra")
	c.Fails(exitUsage, []string{"spec.prebuild"}, "vm", "update", "web", "--prebuild", "17")
	c.Fails(exitNotFound, []string{`no VM named "nope"`}, "vm", "update", "nope", "--memory", "64")
	c.Fails(exitConflict, []string{"not one that Nix builds"}, "vm", "build", "web")
	c.Fails(exitConflict, []string{"nothing is built for the VM web"}, "vm", "logs", "--build", "web")

	// A file has the whole spec.
	file := filepath.Join(t.TempDir(), "web.yaml")
	if err := os.WriteFile(file, []byte("name: web\nmemory_mib: 96\non_update: restart\nprocess: {argv: [/bin/sh, -c, 'echo four; exec sleep 1000']}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Fails(exitUsage, []string{"describes web, not other alone"}, "vm", "update", "other", "-f", file)
	before, _ := c.VM("web")
	if out := c.Must("vm", "update", "-f", file, "--validate-only", "-o", "json"); !strings.Contains(out, `"memory_mib": "96"`) {
		t.Errorf("--validate-only: %s", out)
	}
	if v, _ := c.VM("web"); v.GetSpecGeneration() != before.GetSpecGeneration() {
		t.Errorf("--validate-only made generation %d of %d", v.GetSpecGeneration(), before.GetSpecGeneration())
	}
	c.Must("vm", "update", "-f", file) // which says itself that it restarts
	said("four")

	// What is stopped has its new spec when it is started.
	c.Must("vm", "stop", "web")
	c.Must(append([]string{"vm", "update", "web"}, sh("five")...)...)
	if v, _ := c.VM("web"); v.GetStatus().GetPhase() != blixardv1.Phase_PHASE_STOPPED {
		t.Errorf("an update made it %s", phaseText(v))
	}
	c.Must("vm", "start", "web")
	said("five")
}
