package main

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A paused VM stands still, over a restart of its daemon too, and goes on as the
// same one.
func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	c := up(t, 1)
	n := c.Node(1)
	c.Must(create("web")...)
	vm, _ := c.VM("web")
	pid := n.PID(vm)
	length := func() int { return len(c.Must("vm", "logs", "web")) }

	if out := c.Must("vm", "pause", "web"); !strings.Contains(out, "Paused by its user (blixard vm resume web)") {
		t.Errorf("pause says:\n%s", out)
	}
	c.Must("vm", "pause", "web") // which it is
	for _, verb := range [][]string{{"exec", "web", "--", "true"}, {"copy", "web:/x", filepath.Join(t.TempDir(), "x")}} {
		c.Fails(exitConflict, []string{"the VM web is paused", "blixard vm resume web"}, append([]string{"vm"}, verb...)...)
	}
	if out := c.Must("vm", "explain", "web"); !strings.Contains(out, "paused, until 'blixard vm resume web'") {
		t.Errorf("explain: %s", out)
	}
	said := length()
	n.Kill()
	n.Start()
	c.Await("web", 30*time.Second, "is paused", phaseIs(blixardv1.Phase_PHASE_PAUSED))
	time.Sleep(300 * time.Millisecond)
	if now := length(); now != said {
		t.Errorf("paused, it said %d bytes", now-said)
	}
	if out := c.Must("vm", "resume", "web"); !strings.Contains(out, "Running") {
		t.Errorf("resume says:\n%s", out)
	}
	if vm, _ := c.VM("web"); n.PID(vm) != pid || vm.GetStatus().GetAttempt() != 1 {
		t.Errorf("another one goes on: %v", vm)
	}
	for end := time.Now().Add(20 * time.Second); length() == said; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not go on")
		}
	}

	// A restart ends the pause, and so does a stop; what is stopped cannot be paused.
	c.Must("vm", "pause", "web")
	c.Must("vm", "restart", "web")
	c.Must("vm", "pause", "web")
	c.Must("vm", "stop", "web")
	if _, ok := n.Running()[vm.GetUid()]; ok {
		t.Error("stop returned while the VM runs")
	}
	c.Fails(exitConflict, []string{"web", "is stopped", "vm start web"}, "vm", "pause", "web")
	c.Fails(exitConflict, []string{"web", "is stopped", "nothing to resume", "vm start web"}, "vm", "resume", "web")
	for _, kind := range []string{"VMPauseOrdered", "VMResumeOrdered", "VMRestartOrdered", "VMStopOrdered"} {
		if out := c.Must("events", "--vm", "web"); !strings.Contains(out, kind) {
			t.Errorf("no %s among the events:\n%s", kind, out)
		}
	}
	c.Fails(exitNotFound, []string{"none"}, "vm", "pause", "none")
	if vm, _ := c.VM("web"); vm.GetPaused() {
		t.Error("a stopped VM is paused")
	}
}
