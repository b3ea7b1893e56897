package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// The kill tests: whatever is killed, stopped or lost, a VM never runs twice, and
// runs again. Their VMs run the witness, see there.

const (
	shortL = 3 * time.Second // of shortLease
	// window of shortLease: (L/(1-r) + K)(1+r).
	shortWindow = 9167 * time.Millisecond
	// late is how long after its deadline a VM may still be seen on a machine
	// that is busy: kills 4.4 s late were measured.
	late = 10 * time.Second
)

var isRunning = phaseIs(blixardv1.Phase_PHASE_RUNNING)

func runsOff(lost *Node) func(*blixardv1.VM, string) bool {
	return func(v *blixardv1.VM, node string) bool { return node != lost.Name && isRunning(v, node) }
}

// pinned creates a VM on the i-th node, and waits until it beats.
func (c *Cluster) pinned(i int, name string, more ...string) *blixardv1.VM {
	c.t.Helper()
	for _, n := range c.nodes {
		if n != c.Node(i) {
			c.Must("node", "cordon", n.Name)
		}
	}
	c.Must(c.watched(name, more...)...)
	for _, n := range c.nodes {
		c.Must("node", "uncordon", n.Name)
	}
	vm, node := c.VM(name)
	if node != c.Node(i).Name {
		c.t.Fatalf("%s is on %s", name, node)
	}
	c.awaitBeat(vm.GetUid(), 1)
	return vm
}

// awaitBeat waits for the n-th life of a VM.
func (c *Cluster) awaitBeat(uid string, n int) {
	c.t.Helper()
	c.Eventually(30*time.Second, fmt.Sprintf("life %d of %s", n, uid), func() error {
		if all := c.lives(uid); len(all) < n {
			return fmt.Errorf("there are %d", len(all))
		}
		return nil
	})
}

// stays watches for a while that a VM is the same process, and beats.
func (c *Cluster) stays(n *Node, vm *blixardv1.VM, pid int, d time.Duration) {
	c.t.Helper()
	c.samePID(n, vm, pid, d)
	if !c.beats(vm.GetUid()) {
		c.t.Errorf("%s shows no sign of life", vm.GetName())
	}
}

func (c *Cluster) samePID(n *Node, vm *blixardv1.VM, pid int, d time.Duration) {
	c.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		if now := n.PID(vm); now != pid {
			c.t.Fatalf("%s was process %d and is %d", vm.GetName(), pid, now)
		}
	}
}

// other is some node of the cluster that is not n.
func (c *Cluster) other(n *Node) int {
	return slices.IndexFunc(c.nodes, func(o *Node) bool { return o != n }) + 1
}

func (c *Cluster) index(n *Node) int { return slices.Index(c.nodes, n) + 1 }

// The daemon of a VM's host is killed and started again: the VM is undisturbed,
// is adopted, and its lease is renewed before it ends.
func TestKillHostDaemon(t *testing.T) {
	t.Parallel()
	c := up(t, 3)
	for _, host := range []*Node{c.Node(c.other(c.Leader())), c.Leader()} {
		name := "on-" + host.Name
		vm := c.pinned(c.index(host), name)
		pid := host.PID(vm)
		host.Kill()
		begin := time.Now()
		host.Start().Await()
		t.Logf("the daemon answers %s after its start", time.Since(begin))
		c.stays(host, vm, pid, 2*shortL)
		c.Await(name, 10*time.Second, "runs", isRunning)
		if v, _ := c.VM(name); v.GetStatus().GetAttempt() != 1 || len(c.lives(vm.GetUid())) != 1 {
			t.Errorf("it was started anew: %v", v.GetStatus())
		}
	}
}

// A VM dies with its shim and comes back by its policy, on the same host.
func TestKillShim(t *testing.T) {
	t.Parallel()
	c := up(t, 3)
	vm := c.pinned(1, "web")
	n := c.Node(1)
	pid := n.PID(vm)
	killed := sinceBoot()
	if err := syscall.Kill(n.Running()[vm.GetUid()].Shim.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	c.awaitBeat(vm.GetUid(), 2)
	all := c.lives(vm.GetUid())
	t.Logf("the VM's last sign of life came %s after the kill of its shim, the next %s later", all[0].last-killed, all[1].first-all[0].last)
	if all[0].last-killed > 2*time.Second {
		t.Error("that is late")
	}
	c.Await("web", 20*time.Second, "runs", isRunning)
	v, node := c.VM("web")
	if node != "n1" || v.GetStatus().GetAttempt() != 2 || n.PID(v) == pid {
		t.Errorf("it is on %s: %v", node, v.GetStatus())
	}
}

// A VM that is killed comes back by its policy, each time later.
func TestKillVM(t *testing.T) {
	t.Parallel()
	c := up(t, 3)
	vm := c.pinned(1, "web")
	never := c.pinned(1, "never", "--restart", "never")
	n := c.Node(1)
	kill := func(vm *blixardv1.VM) {
		t.Helper()
		if err := syscall.Kill(n.PID(vm), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	kill(never)
	for i := range 3 {
		kill(vm)
		c.awaitBeat(vm.GetUid(), i+2)
	}
	all := c.lives(vm.GetUid())
	for i := range 3 {
		gap := all[i+1].first - all[i].last
		want := time.Second << i
		t.Logf("failure %d: back after %s", i+1, gap)
		if gap < want*9/10 || gap > want*11/10+3*time.Second {
			t.Errorf("failure %d: the backoff was %s, want %s", i+1, gap, want)
		}
	}
	c.Await("web", 20*time.Second, "runs", isRunning)
	v, node := c.VM("web")
	if node != "n1" || v.GetStatus().GetAttempt() != 4 || v.GetStatus().GetFailures() != 3 {
		t.Errorf("it is on %s: %v", node, v.GetStatus())
	}
	c.Await("never", 10*time.Second, "has failed", phaseIs(blixardv1.Phase_PHASE_FAILED))
	if out := c.Must("vm", "get", "never"); !strings.Contains(out, "137") && !strings.Contains(strings.ToLower(out), "kill") {
		t.Errorf("get says nothing of the kill:\n%s", out)
	}
	if len(c.lives(never.GetUid())) != 1 {
		t.Error("it was started again")
	}
	c.Must("vm", "start", "never")
	c.awaitBeat(never.GetUid(), 2)
}

// A lost host's VM moves, and not before its window has passed.
func TestLoseHostWindow(t *testing.T) {
	t.Parallel()
	c := up(t, 3)
	loseHost(t, c, c.Node(c.other(c.Leader())), shortL, shortWindow)
}

// The host that leads is lost: a new leader waits the window from its election.
func TestLoseLeadingHost(t *testing.T) {
	t.Parallel()
	c := up(t, 3)
	loseHost(t, c, c.Leader(), shortL, shortWindow)
}

// One loss at the lease that users have.
func TestLoseHostDefaultLease(t *testing.T) {
	t.Parallel()
	c := up(t, 3, func(o *options) { o.settings = nil })
	loseHost(t, c, c.Node(c.other(c.Leader())), 15*time.Second, 23833*time.Millisecond)
}

func loseHost(t *testing.T, c *Cluster, host *Node, lease, window time.Duration) {
	vm := c.pinned(c.index(host), "web")
	host.Lose()
	begin := time.Now()
	c.Await("web", window+60*time.Second, "runs elsewhere", runsOff(host))
	t.Logf("it runs elsewhere after %s; the window is %s", time.Since(begin), window)
	c.awaitBeat(vm.GetUid(), 2)
	all := c.lives(vm.GetUid())
	// The last grant came at most a renewal before the loss.
	if gap := all[1].first - all[0].last; gap < window-lease/5-200*time.Millisecond {
		t.Errorf("it moved %s after its last sign of life: before the window of %s has surely passed", gap, window)
	}
	if v, _ := c.VM("web"); v.GetUid() != vm.GetUid() {
		t.Errorf("its uid was %s and is %s", vm.GetUid(), v.GetUid())
	}
	host.Start().Await()
	c.AwaitReady()
	if left := host.Running(); len(left) != 0 {
		t.Errorf("the host that came back runs %v", left)
	}
	c.Eventually(20*time.Second, "the host that came back has cleaned up", func() error { return noneOf(host) })
	if len(c.lives(vm.GetUid())) != 2 {
		t.Errorf("it lived %v", c.lives(vm.GetUid()))
	}
}

// noneOf says what is left of VMs on a node.
func noneOf(n *Node) error {
	state, _ := filepath.Glob(filepath.Join(n.Data, "host", "vms", "*"))
	trash, _ := filepath.Glob(filepath.Join(n.Data, "host", "trash", "*"))
	if left := slices.Concat(n.vmDirs(), state, trash); len(left) > 0 {
		return fmt.Errorf("%v is left", left)
	}
	return nil
}

// The daemon is dead and the shim is stopped, so that nothing of ours runs: the
// kernel's timer alone ends the VM.
func TestKillDaemonStopShim(t *testing.T) {
	t.Parallel()
	c := up(t, 3)
	host := c.Node(c.other(c.Leader()))
	vm := c.pinned(c.index(host), "web")
	state := host.Running()[vm.GetUid()]
	if err := syscall.Kill(state.Shim.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	host.Kill()
	killed := sinceBoot()
	end := c.awaitEnd(vm.GetUid(), shortL+late)
	t.Logf("its last sign of life came %s after the kill of the daemon, at most %s after its deadline", end-killed, end-killed-shortL+shortL/5)
	if end > killed+shortL+late {
		t.Errorf("it lived %s after the kill of the daemon", end-killed)
	}
	c.Await("web", 60*time.Second, "runs elsewhere", runsOff(host))
	host.Start().Await()
	c.AwaitReady()
	c.Eventually(20*time.Second, "the host that came back has cleaned up", func() error { return noneOf(host) })
	if left := host.Running(); len(left) != 0 {
		t.Errorf("the host that came back runs %v", left)
	}
}

// A shim that is stopped while its daemon lives ends at the deadline that it
// knows of, and the VM is started again.
func TestStopShim(t *testing.T) {
	t.Parallel()
	c := up(t, 3)
	vm := c.pinned(1, "web")
	stopped := sinceBoot()
	if err := syscall.Kill(c.Node(1).Running()[vm.GetUid()].Shim.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	c.awaitBeat(vm.GetUid(), 2)
	all := c.lives(vm.GetUid())
	t.Logf("it ended %s after the stop of its shim, and lived again %s later", all[0].last-stopped, all[1].first-all[0].last)
	if all[0].last > stopped+shortL+late {
		t.Error("that is late")
	}
	c.Await("web", 20*time.Second, "runs", isRunning)
}

// The daemon is killed at some moment of a start. What comes of it is one copy,
// or none and then one, and nothing that nobody knows of.
func TestKillMidStart(t *testing.T) {
	t.Parallel()
	c := up(t, 3)
	n := c.Node(c.other(c.Leader()))
	for _, o := range c.nodes {
		if o != n {
			c.Must("node", "cordon", o.Name)
		}
	}
	before := len(c.strays())
	for i := range 8 {
		name := fmt.Sprintf("web%d", i)
		// From before the create is sent to after the VM runs.
		delay := time.Duration(20+rand.IntN(100)) * time.Millisecond
		create := c.Command(ctx(t), c.watched(name, "--no-wait")...)
		asked := make(chan result, 1)
		go func() { asked <- run1(t, create, "") }()
		time.Sleep(delay)
		n.Kill()
		var files []string
		for _, d := range n.vmDirs() {
			f, _ := filepath.Glob(d + "/*")
			files = append(files, f...)
		}
		alive := len(c.strays()) - before + 1 // less the daemon
		if r := <-asked; r.code != 0 {
			t.Fatalf("create: %v", r)
		}
		n.Start().Await()
		c.Await(name, 60*time.Second, "runs", isRunning)
		vm, _ := c.VM(name)
		c.awaitBeat(vm.GetUid(), 1)
		host := c.HostOf(name)
		if all := host.Running(); len(all) != 1 {
			t.Errorf("round %d: %d run", i, len(all))
		}
		t.Logf("round %d: killed after %s (%d files, %d processes), attempt %d runs", i, delay, len(files), alive, vm.GetStatus().GetAttempt())
		c.Must("vm", "delete", name)
		c.AwaitReady()
		c.Eventually(10*time.Second, "nothing is left", func() error {
			if after := c.strays(); len(after) != before {
				return fmt.Errorf("%d processes before, now %q", before, after)
			}
			return noneOf(n)
		})
	}
}

// A daemon that is stopped for longer than its lease, and goes on.
func TestStopDaemon(t *testing.T) {
	t.Parallel()
	for _, leads := range []bool{false, true} {
		t.Run(fmt.Sprintf("leads=%t", leads), func(t *testing.T) {
			t.Parallel()
			c := up(t, 3)
			host := c.Leader()
			if !leads {
				host = c.Node(c.other(host))
			}
			vm := c.pinned(c.index(host), "web")
			host.Signal(syscall.SIGSTOP)
			stopped := sinceBoot()
			end := c.awaitEnd(vm.GetUid(), shortL+late)
			t.Logf("its last sign of life came %s after its daemon was stopped", end-stopped)
			c.Eventually(60*time.Second, "it runs elsewhere", func() error {
				if len(c.lives(vm.GetUid())) < 2 {
					return errors.New("not yet")
				}
				return nil
			})
			t.Logf("it lives elsewhere %s after its end", c.lives(vm.GetUid())[1].first-end)
			host.Signal(syscall.SIGCONT)
			c.AwaitReady()
			c.Await("web", 20*time.Second, "runs elsewhere", runsOff(host))
			c.Eventually(20*time.Second, "the host that came back has cleaned up", func() error { return noneOf(host) })
			if len(c.lives(vm.GetUid())) != 2 {
				t.Errorf("it lived %v", c.lives(vm.GetUid()))
			}
		})
	}
}

// A pause past the lease and not past the window: the VM has ended, and comes
// back by itself, there or elsewhere.
func TestStopDaemonShortly(t *testing.T) {
	t.Parallel()
	c := up(t, 3)
	host := c.Node(c.other(c.Leader()))
	vm := c.pinned(c.index(host), "web")
	host.Signal(syscall.SIGSTOP)
	end := c.awaitEnd(vm.GetUid(), shortL+late)
	host.Signal(syscall.SIGCONT)
	c.awaitBeat(vm.GetUid(), 2)
	t.Logf("it lives again %s after its end", c.lives(vm.GetUid())[1].first-end)
	c.AwaitReady()
	c.Await("web", 20*time.Second, "runs", isRunning)
}
