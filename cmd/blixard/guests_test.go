package main

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// pushGuest brings a real kernel and our guest to the cluster.
func pushGuest(c *Cluster) (create func(name string, more ...string) []string) {
	kernel, initrd := guestFiles(c.t)
	c.Must("image", "push", kernel, "kernel")
	c.Must("image", "push", initrd, "guest")
	return func(name string, more ...string) []string {
		return append([]string{"--timeout", "120s", "vm", "create", name, "--memory", "192", "--kernel", "kernel", "--initrd", "guest"}, more...)
	}
}

// awaitTick waits until a guest has ticked so often since it was created.
func (c *Cluster) awaitTick(name string, n int) {
	c.t.Helper()
	c.Eventually(90*time.Second, fmt.Sprintf("tick %d of %s", n, name), func() error {
		r := c.Run("vm", "logs", name)
		if got := strings.Count(r.out, "blixard-guest: tick"); got < n {
			return fmt.Errorf("%d ticks: %s", got, tailOf(r.String(), 300))
		}
		return nil
	})
}

func (c *Cluster) ticks(name string) int {
	return strings.Count(c.Run("vm", "logs", name).out, "blixard-guest: tick")
}

func tailOf(s string, n int) string { return s[max(0, len(s)-n):] }

// A real microVM through restart, the death and return of its daemon, its own
// death, and the stop of its shim.
func TestKillRealVM(t *testing.T) {
	guestFiles(t)
	t.Parallel()
	c := up(t, 3)
	create := pushGuest(c)
	host := c.Node(c.other(c.Leader()))
	for _, n := range c.nodes {
		if n != host {
			c.Must("node", "cordon", n.Name)
		}
	}
	c.Must(create("web")...)
	c.awaitTick("web", 1)
	vm, _ := c.VM("web")
	first := host.PID(vm)

	begin := time.Now()
	c.Must("--timeout", "120s", "vm", "restart", "web")
	second := host.PID(vm)
	t.Logf("restarted in %s", time.Since(begin))
	if second == first {
		t.Error("restart returned before it was another process")
	}
	c.awaitTick("web", c.ticks("web")+1)

	host.Kill()
	host.Start().Await()
	c.AwaitReady()
	c.samePID(host, vm, second, 2*shortL)
	c.awaitTick("web", c.ticks("web")+2)

	if err := syscall.Kill(second, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	begin = time.Now()
	c.Await("web", 60*time.Second, "runs again", func(v *blixardv1.VM, _ string) bool {
		return v.GetStatus().GetAttempt() == 3 && isRunning(v, "")
	})
	t.Logf("it runs again %s after its kill", time.Since(begin))
	c.awaitTick("web", c.ticks("web")+1)

	for _, n := range c.nodes {
		c.Must("node", "uncordon", n.Name)
	}
	state := host.Running()[vm.GetUid()]
	if err := syscall.Kill(state.Shim.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	host.Kill()
	killed := sinceBoot()
	c.Eventually(shortL+late, "the end of QEMU", func() error {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", state.VM.PID)); err == nil {
			return fmt.Errorf("process %d is there", state.VM.PID)
		}
		return nil
	})
	t.Logf("QEMU ended %s after the kill of the daemon", sinceBoot()-killed)
	c.Await("web", 90*time.Second, "runs elsewhere", runsOff(host))
	c.awaitTick("web", 1)
	host.Start().Await()
	c.AwaitReady()
	c.Must("vm", "delete", "-y", "web")
	for _, n := range c.nodes {
		c.Eventually(10*time.Second, "nothing is left on "+n.Name, func() error { return noneOf(n) })
	}
}

// Guests that are no good: what is wrong with them is said.
func TestBadGuests(t *testing.T) {
	guestFiles(t)
	t.Parallel()
	c := up(t, 1)
	create := pushGuest(c)
	junk := filepath.Join(t.TempDir(), "junk")
	noise := make([]byte, 1<<20)
	rand.Read(noise)
	if err := os.WriteFile(junk, noise, 0o600); err != nil {
		t.Fatal(err)
	}
	says := func(name string, phase blixardv1.Phase, words ...string) {
		t.Helper()
		c.Eventually(90*time.Second, fmt.Sprintf("%s is %s and says %q", name, phase, words), func() error {
			v, _ := c.VM(name)
			get := c.Run("vm", "get", name)
			if v.GetStatus().GetPhase() != phase {
				return fmt.Errorf("it is:\n%s\n%s", get.out, tailOf(c.Run("vm", "logs", name).out, 500))
			}
			for _, w := range words {
				if !strings.Contains(get.out, w) {
					return fmt.Errorf("it says:\n%s", get.out)
				}
			}
			return nil
		})
	}
	c.Fails(exitUsage, []string{"--kernel", "is no Linux kernel"}, "vm", "create", "junk", "--kernel", junk)
	spec := filepath.Join(t.TempDir(), "junk.yaml")
	if err := os.WriteFile(spec, []byte("name: junk\nimage:\n  kernel: "+junk+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Fails(exitUsage, []string{"junk.yaml:3", "is no Linux kernel"}, "vm", "create", "-f", spec)
	// What the cluster has is looked at where it is to be booted.
	c.Must("image", "push", junk, "junk")
	r := c.Run("--timeout", "20s", "vm", "create", "junk", "--kernel", "junk")
	if r.code == 0 || !strings.Contains(r.err, "is no Linux kernel") {
		t.Errorf("create with what is no kernel: %v", r)
	}
	says("junk", blixardv1.Phase_PHASE_FAILED, "BuildFailed", "is no Linux kernel")
	if v, _ := c.VM("junk"); v.GetStatus().GetFailures() > 6 {
		t.Errorf("it was tried %d times", v.GetStatus().GetFailures())
	}
	if out := c.Must("vm", "explain", "junk"); !strings.Contains(out, "is no Linux kernel") {
		t.Errorf("explain says\n%s", out)
	}
	c.Must("vm", "delete", "-y", "junk")

	bad := []string{"hang", "deaf", "exit", "exit=3", "panic"}
	for _, b := range bad {
		c.Must(create(strings.ReplaceAll(b, "=", "-"), "--cmdline", "blixard.behave="+b, "--restart", "on-failure", "--stop-grace", "2s", "--no-wait")...)
	}
	says("exit", blixardv1.Phase_PHASE_STOPPED, "Exited")
	says("exit-3", blixardv1.Phase_PHASE_FAILED, "exit code 3")
	says("panic", blixardv1.Phase_PHASE_FAILED, "kernel panicked")
	c.awaitTick("deaf", 1)
	for _, name := range []string{"deaf", "hang"} {
		says(name, blixardv1.Phase_PHASE_RUNNING)
		begin := time.Now()
		c.Must("vm", "stop", name)
		if took := time.Since(begin); took < 2*time.Second || took > 25*time.Second {
			t.Errorf("the stop of %s took %s, and its grace is 2 s", name, took)
		}
		says(name, blixardv1.Phase_PHASE_STOPPED, "did not power off in its grace time")
	}
	c.Must(append([]string{"vm", "delete", "-y"}, "hang", "deaf", "exit", "exit-3", "panic")...)
	if err := noneOf(c.Node(1)); err != nil {
		t.Error(err)
	}
}
