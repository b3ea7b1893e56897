package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// The cuts do what they say.
func TestCutNetwork(t *testing.T) {
	t.Parallel()
	c := up(t, 2, networked(t))
	n := c.network
	if !n.reaches(1, 2) || !n.reaches(2, 1) {
		t.Fatal("the nodes cannot reach each other")
	}
	n.Cut(1, 2)
	if n.reaches(1, 2) {
		t.Error("a cut node reaches the other")
	}
	n.Heal(1, 2)
	if !n.reaches(1, 2) {
		t.Error("a healed node does not reach the other")
	}
}

// A host is cut off, both ways or one way: its VM ends by its deadline and moves,
// the majority goes on, and after healing the host has a new epoch and nothing of
// what it ran.
func TestCutOffHost(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		in, out bool
		leads   bool
	}{
		{"both ways", true, true, false},
		{"it hears but is not heard", false, true, false},
		{"it is heard but does not hear", true, false, false},
		{"the leader", true, true, true},
		{"the leader hears but is not heard", false, true, true},
		{"the leader is heard but does not hear", true, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := up(t, 3, networked(t))
			host := c.Leader()
			if !test.leads {
				host = c.Node(c.other(host))
			}
			rest := c.without(host)
			vm := c.pinned(c.index(host), "web")
			epoch := c.epoch(host)

			heal := c.Apart(c.index(host), test.in, test.out)
			cut := sinceBoot()
			begin := time.Now()
			rest.Must(create("meanwhile", "--no-wait")...)
			t.Logf("first write of the majority %s after the cut", time.Since(begin))
			end := c.awaitEnd(vm.GetUid(), shortL+late+5*time.Second)
			t.Logf("its last sign of life came %s after the cut", end-cut)
			rest.Await("web", 60*time.Second, "runs elsewhere", runsOff(host))
			c.awaitBeat(vm.GetUid(), 2)
			t.Logf("it lives elsewhere %s after the cut", c.lives(vm.GetUid())[1].first-cut)

			heal()
			begin = time.Now()
			c.AwaitReady()
			t.Logf("all is well %s after healing", time.Since(begin))
			if now := c.epoch(host); now <= epoch {
				t.Errorf("its epoch was %d and is %d", epoch, now)
			}
			c.Eventually(20*time.Second, "the host that came back has cleaned up", func() error {
				if r := host.Running(); r[vm.GetUid()].VM.PID != 0 {
					return errors.New("it runs the VM")
				}
				return nil
			})
			if len(c.lives(vm.GetUid())) != 2 {
				t.Errorf("it lived %v", c.lives(vm.GetUid()))
			}
		})
	}
}

func (c *Cluster) epoch(n *Node) (epoch uint64) {
	c.t.Helper()
	c.Eventually(20*time.Second, "the epoch of "+n.Name, func() error {
		out := c.Run("node", "get", n.Name, "-o", "wide")
		if out.code != 0 {
			return errors.New(out.err)
		}
		lines := strings.Split(out.out, "\n")
		at := strings.Index(lines[0], "EPOCH")
		_, err := fmt.Sscan(lines[1][at:], &epoch)
		return err
	})
	return epoch
}

// A name is deleted and made again while its host is cut off: not before the old
// VM has surely ended.
func TestCutOffRecreate(t *testing.T) {
	t.Parallel()
	c := up(t, 3, networked(t))
	host := c.Node(c.other(c.Leader()))
	rest := c.without(host)
	old := c.pinned(c.index(host), "web")
	heal := c.Apart(c.index(host), true, true)
	cut := sinceBoot()
	rest.Must("vm", "delete", "-y", "--no-wait", "web")
	r := rest.Fails(exitConflict, []string{"web is still being deleted", "next:"}, c.watched("web")...)
	t.Logf("at once: %s", r.err)
	var made time.Duration
	later := false
	for refused := 1; ; refused++ {
		r := rest.Run(c.watched("web", "--no-wait")...)
		if r.code == 0 {
			made = sinceBoot()
			t.Logf("made again %s after the cut, refused %d times", made-cut, refused)
			break
		}
		if !later && sinceBoot()-cut > 2*shortL {
			later = true
			t.Logf("later: %s", r.err)
			for _, w := range []string{host.Name, "cannot be reached", "lease has surely ended"} {
				if !strings.Contains(r.err, w) {
					t.Errorf("%q is not in what it says:\n%s", w, r.err)
				}
			}
		}
		if r.code != exitConflict || sinceBoot()-cut > time.Minute {
			t.Fatalf("create: %v", r)
		}
		time.Sleep(100 * time.Millisecond)
	}
	if made-cut < shortWindow-shortL/5-200*time.Millisecond {
		t.Error("that is before the host's window has surely passed")
	}
	rest.Await("web", 20*time.Second, "runs", isRunning)
	vm, _ := rest.VM("web")
	if vm.GetUid() == old.GetUid() {
		t.Error("it has the uid of the old one")
	}
	c.awaitBeat(vm.GetUid(), 1)
	if was, is := c.lives(old.GetUid()), c.lives(vm.GetUid()); len(was) != 1 || was[0].last >= is[0].first {
		t.Errorf("the old one lived %v, the new one %v", was, is)
	}
	heal()
	c.AwaitReady()
	c.Eventually(20*time.Second, "the host that came back has cleaned up", func() error { return noneOf(host) })
	c.Await("web", 10*time.Second, "runs", isRunning)
}

// Two of three daemons, the leader's with them, are dead for two minutes. What
// waits for its host lives on; what would be replaced ends by its deadline.
func TestNoQuorumForTwoMinutes(t *testing.T) {
	t.Parallel()
	c := up(t, 3)
	host := c.Node(c.other(c.Leader()))
	waits := c.pinned(c.index(host), "waits", "--on-host-loss", "wait")
	moves := c.pinned(c.index(host), "moves")
	pid := host.PID(waits)
	rest := c.without(host)
	for _, n := range rest.nodes {
		n.Kill()
	}
	killed := sinceBoot()
	end := c.awaitEnd(moves.GetUid(), shortL+late)
	t.Logf("what moves ended %s after the quorum", end-killed)
	r := c.Run("--timeout", "5s", "vm", "stop", "waits")
	if r.code != exitNoQuorum && r.code != exitTimeout {
		t.Errorf("stop without a quorum: %v", r)
	}
	c.stays(host, waits, pid, 2*time.Minute-(sinceBoot()-killed))
	if len(c.lives(moves.GetUid())) != 1 {
		t.Errorf("without a quorum it lived %v", c.lives(moves.GetUid()))
	}
	for _, n := range rest.nodes {
		n.Start()
	}
	back := time.Now()
	c.AwaitReady()
	// Until its host has a new epoch, the cluster still says what it said before.
	c.awaitBeat(moves.GetUid(), 2)
	t.Logf("what moves runs again %s after the quorum's return", time.Since(back))
	c.AwaitReady()
	c.Await("moves", 60*time.Second, "runs again", isRunning)
	c.Await("waits", 60*time.Second, "runs", isRunning)
	t.Logf("all is well %s after the quorum's return", time.Since(back))
	c.stays(host, waits, pid, 2*shortL)
	if len(c.lives(waits.GetUid())) != 1 {
		t.Errorf("what waits lived %v", c.lives(waits.GetUid()))
	}
	if v, _ := c.VM("waits"); v.GetStatus().GetAttempt() != 1 || v.GetStatus().GetPhase() != blixardv1.Phase_PHASE_RUNNING {
		t.Errorf("it is %v", v.GetStatus())
	}
	c.Must("vm", "stop", "waits") // it obeys again
}
