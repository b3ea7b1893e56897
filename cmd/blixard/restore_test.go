package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Two of three servers are lost for good. The third restores the cluster from its
// own copy, in place; one of the lost machines turns out to have its disk, and
// rejoins. Nothing that ran runs twice, and all of it runs again when the leases of
// the first generation have surely ended: not before.
func TestRestoreACluster(t *testing.T) {
	t.Parallel()
	c := up(t, 3, func(o *options) {
		o.settings = shortLease()
		o.settings.LongLeaseMs = 10_000
	})
	n1, n3 := c.Node(1), c.Node(3)
	here, there := c.pinned(3, "here"), c.pinned(1, "there")
	file := filepath.Join(c.dir, "backup")
	if out := c.Must("cluster", "backup", file); !strings.Contains(out, "generation 1") || !strings.Contains(out, "2 VMs on 3 nodes") {
		t.Errorf("backup says:\n%s", out)
	}
	c.Fails(exitUsage, []string{"needs somebody's word", "no server of that generation", "not made longer", "down to one host", "--hosts-off"}, "cluster", "restore", file)
	c.Fails(exitUsage, []string{"needs somebody's word", "no server of that generation", "none of its VMs is alive"}, "cluster", "restore", "--hosts-off", file)
	// What may be the only good one is not written over unasked.
	c.Fails(exitConflict, []string{file + " is there already", "-y to overwrite"}, "cluster", "backup", file)
	c.Fails(exitUsage, []string{c.dir + " is a directory", filepath.Join(c.dir, "cluster.backup")}, "cluster", "backup", c.dir)
	c.Fails(exitError, []string{"cannot write the backup", "name a file in a directory"}, "cluster", "backup", filepath.Join(c.dir, "no", "where"))
	c.Must("cluster", "backup", "-y", file)
	c.Fails(exitConflict, []string{"still alive", "n2 answers", "stop every server"}, "cluster", "restore", "-y", file)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(c.dir, "cut")
	if err := os.WriteFile(cut, whole[:len(whole)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	c.Fails(exitUsage, []string{"no whole backup"}, "cluster", "restore", "-y", cut)

	// What came after the backup is lost with it; unless a copy is taken now.
	c.Must(c.watched("late")...)
	late, _ := c.VM("late")
	c.awaitBeat(late.GetUid(), 1)
	n1.Lose()
	c.Node(2).Lose()
	c.Fails(exitNoQuorum, nil, "--timeout", "3s", "cluster", "backup", "-y", file)
	c.Must("cluster", "backup", "-y", "--stale", file)
	begin := sinceBoot()
	out := c.Must("cluster", "restore", "-y", file)
	for _, want := range []string{"generation 2", "3 VMs", "none of them is started", "cluster rejoin"} {
		if !strings.Contains(out, want) {
			t.Errorf("restore does not say %q:\n%s", want, out)
		}
	}
	c.Fails(exitConflict, []string{"generation 2 already"}, "cluster", "restore", "-y", file)
	if out := c.Must("vm", "explain", "late"); !strings.Contains(out, "was restored from a backup") {
		t.Errorf("explain: %s", out)
	}

	n1.Start().Await()
	r := run1(t, c.at(n1, "cluster", "rejoin", n3.Addr), "")
	if r.code != 0 || !strings.Contains(r.out, "generation 2, as node 1") {
		t.Errorf("rejoin: %v", r)
	}
	window := 17_700 * time.Millisecond // of 10 s
	for _, vm := range []*blixardv1.VM{here, there, late} {
		c.Await(vm.GetName(), 90*time.Second, "runs again", func(v *blixardv1.VM, node string) bool {
			return v.GetUid() == vm.GetUid() && v.GetStatus().GetPhase() == blixardv1.Phase_PHASE_RUNNING && node != "n2"
		})
		c.awaitBeat(vm.GetUid(), 2)
		after := c.lives(vm.GetUid())[1].first - begin
		t.Logf("%s runs again %s after the restore; the window is %s", vm.GetName(), after, window)
		if after < window {
			t.Errorf("%s runs again before the window has passed", vm.GetName())
		}
	}
	c.Eventually(30*time.Second, "two servers vote", func() error {
		s, err := n3.Status()
		if err == nil && strings.Contains(s.GetSummary(), "quorum of 2 servers") {
			return nil
		}
		return fmt.Errorf("%v: %s", err, s.GetSummary())
	})
	// The restored cluster is one like any other.
	c.Must("cluster", "remove", "-y", "--lost", "n2")
	c.Must(create("new")...)
}

// at is a command line that asks one node only.
func (c *Cluster) at(n *Node, args ...string) *exec.Cmd {
	return c.Command(ctx(c.t), append([]string{"--server", n.Addr}, args...)...)
}
