package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A node is drained while its leader is killed: its VMs run elsewhere, each once;
// what waits for it stays, or is stopped; and restored, it takes VMs again.
func TestDrain(t *testing.T) {
	t.Parallel()
	c := up(t, 3)
	c.Must("node", "cordon", "n2", "n3")
	moves := []string{"a", "b", "c", "d", "e"}
	for _, name := range append(moves, "keep") {
		more := []string{}
		if name == "keep" {
			more = []string{"--on-host-loss", "wait"}
		}
		c.Must(create(name, more...)...)
	}
	c.Must("node", "uncordon", "n2", "n3")

	dry := c.Must("node", "drain", "n1", "--dry-run")
	for _, name := range moves {
		if !strings.Contains(dry, name+"      n1     next    n") {
			t.Errorf("the dry run says nothing of where %s goes:\n%s", name, dry)
		}
	}
	if !strings.Contains(dry, "keep   n1     stays ") {
		t.Errorf("the dry run says nothing of what stays:\n%s", dry)
	}
	if out := c.Must("node", "get", "n1"); strings.Contains(out, "Drain") {
		t.Errorf("a dry run drains:\n%s", out)
	}

	// Begun by somebody who goes away at once, and seen to its end by another
	// leader.
	cancelled, cancel := context.WithCancel(ctx(t))
	defer cancel()
	cmd := c.Command(cancelled, "node", "drain", "n1", "--parallel", "1")
	var says strings.Builder
	cmd.Stderr = &says
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	draining := func() (d *blixardv1.Drain) {
		c.Eventually(20*time.Second, "an answer about n1", func() error {
			r, err := c.Client().Node.Get(ctx(t), connect.NewRequest(&blixardv1.NodeServiceGetRequest{Name: "n1"}))
			if err != nil {
				return err
			}
			d = r.Msg.GetNode().GetDrain()
			return nil
		})
		return d
	}
	c.Eventually(20*time.Second, "the drain begins", func() error {
		if draining() == nil {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	cmd.Process.Signal(syscall.SIGINT)
	cmd.Wait()
	if cmd.ProcessState.ExitCode() != exitInterrupted || !strings.Contains(says.String(), "the drain goes on in the cluster") {
		t.Errorf("interrupted: exit %d\n%s", cmd.ProcessState.ExitCode(), says.String())
	}
	leader := c.Leader()
	leader.Kill()
	leader.Start().Await()

	r := c.Fails(exitPartial, []string{"n1 still runs keep", "--stop-local"}, "node", "drain", "n1")
	if !strings.Contains(r.out, "5 of 5 moved") || !strings.Contains(r.out, "Drained") {
		t.Errorf("drained, it says:\n%s", r.out)
	}
	for _, name := range moves {
		c.Await(name, 60*time.Second, "runs elsewhere", func(v *blixardv1.VM, node string) bool {
			return node != "n1" && v.GetStatus().GetPhase() == blixardv1.Phase_PHASE_RUNNING
		})
	}
	keep, node := c.VM("keep")
	if len(c.Named("n1").Running()) != 1 || node != "n1" || keep.GetStatus().GetAttempt() != 1 {
		t.Errorf("keep was disturbed: %v", keep)
	}
	events := c.Must("events")
	for _, want := range []string{"NodeDraining", "VMMoving", "NodeDrained"} {
		if !strings.Contains(events, want) {
			t.Errorf("there is no event %s:\n%s", want, events)
		}
	}

	// Asked for again, it is not told of again.
	if again := c.Must("events"); strings.Count(again, "NodeDrained") != 1 {
		t.Errorf("one drain has ended, and the events are\n%s", again)
	}
	c.Fails(exitPartial, nil, "node", "drain", "n1")
	if again := c.Must("events"); strings.Count(again, "NodeDrained") != 1 {
		t.Errorf("asked for twice, its end is told of twice:\n%s", again)
	}

	c.Must("node", "drain", "n1", "--stop-local")
	if n := len(c.Named("n1").Running()); n != 0 {
		t.Errorf("%d VMs run on a drained node", n)
	}
	c.Fails(exitConflict, []string{"keep does not start", "node restore n1"}, "vm", "start", "keep")
	c.Fails(exitConflict, []string{"node restore n1"}, "node", "uncordon", "n1")
	if out := c.Must("node", "get", "n1"); !strings.Contains(out, "keep: it waits for its host, and is stopped") {
		t.Errorf("node get:\n%s", out)
	}

	c.Must("node", "restore", "n1")
	c.Await("keep", 30*time.Second, "runs again", func(v *blixardv1.VM, node string) bool {
		return node == "n1" && v.GetStatus().GetPhase() == blixardv1.Phase_PHASE_RUNNING
	})
	time.Sleep(time.Second)
	for _, name := range moves {
		if _, node := c.VM(name); node == "n1" {
			t.Errorf("%s was moved back", name)
		}
	}
	c.Must(create("fresh")...)
	if _, node := c.VM("fresh"); node != "n1" {
		t.Errorf("the emptiest host is n1, and a new VM goes to %s", node)
	}
	c.Fails(exitNotFound, []string{`no node named "n9"`}, "node", "drain", "n9")
}

// What no other host has room for runs on, and goes as soon as one has.
func TestDrainWaitsForRoom(t *testing.T) {
	t.Parallel()
	c := up(t, 2)
	big := func(name string) {
		c.Must("vm", "create", name, "--memory", "3000", "--process", "--", "/bin/sleep", "1000")
	}
	big("a")
	host := c.HostOf("a").Name
	big("b")
	vm, _ := c.VM("a")
	pid := c.Named(host).PID(vm)
	c.Fails(exitTimeout, []string{"0 of 1 moved; no room elsewhere for a", "node restore " + host}, "node", "drain", host, "--timeout", "3s")
	if out := c.Must("node", "get", host); !strings.Contains(out, "has 1096 MiB of memory free of the 3000 needed") || !strings.Contains(out, "Draining") {
		t.Errorf("node get:\n%s", out)
	}
	if c.Named(host).PID(vm) != pid {
		t.Error("what can go nowhere was disturbed")
	}
	c.Must("vm", "delete", "b")
	c.Must("node", "drain", host)
	c.Await("a", 30*time.Second, "runs elsewhere", func(v *blixardv1.VM, node string) bool {
		return node != host && v.GetStatus().GetPhase() == blixardv1.Phase_PHASE_RUNNING
	})
	if running := c.Named(host).Running(); len(running) != 0 {
		t.Errorf("%v still run there", slices.Sorted(maps.Keys(running)))
	}
}

// Nodes that are drained together are looked at together, and emptied side by side:
// nothing goes from one to the next.
func TestDrainOfSeveral(t *testing.T) {
	t.Parallel()
	c := up(t, 3)
	c.Must("node", "cordon", "n3")
	for _, name := range []string{"a", "b", "c", "d"} {
		c.Must(create(name)...)
	}
	c.Must("node", "uncordon", "n3")
	dry := c.Must("node", "drain", "n1", "n2", "--dry-run")
	if strings.Count(dry, "FROM") != 1 || strings.Count(dry, "next   n3") != 4 || !strings.Contains(dry, "n2     next") {
		t.Errorf("the dry run of two:\n%s", dry)
	}
	c.Fails(exitNotFound, []string{`no node named "n9"`}, "node", "drain", "n1", "n9", "--dry-run")
	c.Fails(exitUsage, []string{"--parallel 0 is out of range"}, "node", "drain", "n1", "--parallel", "0")

	out := c.Must("node", "drain", "n2", "n1", "n2")
	if strings.Count(out, "2 of 2 moved") != 2 {
		t.Errorf("two nodes were drained:\n%s", out)
	}
	for _, name := range []string{"a", "b", "c", "d"} {
		if _, node := c.VM(name); node != "n3" {
			t.Errorf("%s is on %s", name, node)
		}
	}
	if events := c.Must("events"); strings.Count(events, "VMMoving") != 4 {
		t.Errorf("four VMs had to move, each once:\n%s", events)
	}

	// The last one has nowhere to send anything; what is said of it is what was seen.
	r := c.Fails(exitTimeout, []string{"node n3: not drained within 3s", "last seen: 0 of 4 moved; no room elsewhere for a, b, c, d"}, "node", "drain", "n3", "--timeout", "3s")
	if strings.Contains(r.err, "no answer") {
		t.Errorf("the servers answer: %s", r.err)
	}
	r = c.Run("node", "drain", "n1", "n3", "--timeout", "3s")
	if r.code != exitPartial || !strings.Contains(r.out, "Drained") || !strings.Contains(r.err, "node n3: not drained within 3s") || strings.Contains(r.err, "no answer") {
		t.Errorf("one of two in time: %v", r)
	}
}
