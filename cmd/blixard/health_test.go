package main

import (
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func healthIs(h blixardv1.HealthState) func(*blixardv1.VM, string) bool {
	return func(v *blixardv1.VM, _ string) bool { return v.GetStatus().GetHealth() == h }
}

// A port is open and closed, and what is said of the VM and done about it follows.
func TestHealthOfAPort(t *testing.T) {
	t.Parallel()
	c := up(t, 1, longLease)
	l, err := net.Listen("tcp", "127.0.0.2:0") // not where others look for free ports
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	spec := func(restart string) string {
		return fmt.Sprintf(`name: web
restart: %s
stop_grace_ms: 1000
process: {argv: [/bin/sleep, "1000"]}
health:
  tcp: {host: 127.0.0.2, port: %d}
  start_period_ms: 1
  interval_ms: 1000
  timeout_ms: 500
  unhealthy_threshold: 2
`, restart, l.Addr().(*net.TCPAddr).Port)
	}
	if r := c.RunInput(spec("always"), "vm", "create", "-f", "-"); r.code != 0 {
		t.Fatal(r)
	}
	c.Await("web", 20*time.Second, "is well", healthIs(blixardv1.HealthState_HEALTH_STATE_HEALTHY))
	if out := c.Must("vm", "list"); !strings.Contains(out, "HEALTH") || !strings.Contains(out, "Healthy") {
		t.Errorf("vm list:\n%s", out)
	}
	// The daemon stands still for longer than a probe may take.
	c.Node(1).Signal(syscall.SIGSTOP)
	time.Sleep(3 * time.Second)
	c.Node(1).Signal(syscall.SIGCONT)
	time.Sleep(2 * time.Second)
	if vm, _ := c.VM("web"); vm.GetStatus().GetAttempt() != 1 {
		t.Errorf("restarted, because its host stood still: %v", vm.GetStatus())
	}

	l.Close()
	c.Await("web", 60*time.Second, "is in a crash loop", func(v *blixardv1.VM, _ string) bool { return crashLoops(v) })
	if out := c.Must("vm", "get", "web"); !strings.Contains(out, "CrashLoop") || !strings.Contains(out, "vm logs web") {
		t.Errorf("vm get:\n%s", out)
	}
	if out := c.Must("vm", "explain", "web"); !strings.Contains(out, "crash loop") {
		t.Errorf("vm explain:\n%s", out)
	}
	if out := c.Must("events", "--vm", "web"); !strings.Contains(out, "VMUnhealthy") || !strings.Contains(out, "connection refused") ||
		!strings.Contains(out, "VMFailed") || !strings.Contains(out, "attempt 1: Unhealthy: its health check failed 2 times in a row") || strings.Count(out, "VMCrashLoop") != 1 {
		t.Errorf("events:\n%s", out)
	}
	// While it runs again, why it had to be restarted is still said.
	c.Await("web", 60*time.Second, "runs again", phaseIs(blixardv1.Phase_PHASE_RUNNING))
	if out := c.Must("vm", "get", "web"); !strings.Contains(out, "Restarted ") || !strings.Contains(out, "Unhealthy: its health check failed") {
		t.Errorf("vm get:\n%s", out)
	}

	// Under the policy never it is shown, and let alone.
	if r := c.RunInput(spec("never"), "vm", "update", "-f", "-", "--no-wait"); r.code != 0 {
		t.Fatal(r)
	}
	c.Must("vm", "restart", "web")
	c.Await("web", 30*time.Second, "is not well", healthIs(blixardv1.HealthState_HEALTH_STATE_UNHEALTHY))
	vm, _ := c.VM("web")
	time.Sleep(3 * time.Second)
	if now, _ := c.VM("web"); now.GetStatus().GetAttempt() != vm.GetStatus().GetAttempt() || now.GetStatus().GetPhase() != blixardv1.Phase_PHASE_RUNNING {
		t.Errorf("it was ended: %v", now.GetStatus())
	}
	c.Fails(exitUsage, []string{"spec.health.tcp.host"}, create("x", "--health", "tcp://web:80")...)
	c.Fails(exitUsage, []string{"want agent, tcp://"}, create("x", "--health", "ftp://127.0.0.1")...)
	c.Fails(exitUsage, []string{"spec.health.agent", "process runs a program, which has no agent"}, create("x", "--health", "agent")...)
}

// The agent in a real guest is asked; a guest that hangs is restarted.
func TestHealthOfARealGuest(t *testing.T) {
	guestFiles(t)
	t.Parallel()
	c := up(t, 1)
	pushGuest(c)
	r := c.RunInput(`name: web
memory_mib: 192
hypervisor: qemu
stop_grace_ms: 2000
image: {kernel: kernel, initrd: guest}
health:
  agent: {}
  start_period_ms: 60000
  interval_ms: 2000
  timeout_ms: 2000
  unhealthy_threshold: 2
`, "--timeout", "120s", "vm", "create", "-f", "-")
	if r.code != 0 {
		t.Fatal(r)
	}
	c.Await("web", 90*time.Second, "is well", healthIs(blixardv1.HealthState_HEALTH_STATE_HEALTHY))
	vm, _ := c.VM("web")
	attempt, pid := vm.GetStatus().GetAttempt(), c.Node(1).PID(vm)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	c.Await("web", 90*time.Second, "was restarted", func(v *blixardv1.VM, _ string) bool { return v.GetStatus().GetAttempt() > attempt })
	c.Await("web", 120*time.Second, "is well again", healthIs(blixardv1.HealthState_HEALTH_STATE_HEALTHY))
	if out := c.Must("events", "--vm", "web"); !strings.Contains(out, "VMUnhealthy") || !strings.Contains(out, "no answer within 2s") {
		t.Errorf("events:\n%s", out)
	}
}
