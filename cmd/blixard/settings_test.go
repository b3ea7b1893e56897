package main

import (
	"strings"
	"testing"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// The leases of a cluster are changed while a VM runs. It is not disturbed, and
// when its host is lost it runs elsewhere as soon as the new window says, and no
// sooner.
func TestSettingsOfARunningCluster(t *testing.T) {
	t.Parallel()
	c := up(t, 3, func(o *options) { o.settings = &blixardv1.Settings{LeaseMs: 60_000, RenewMs: 600} })
	host := c.Node(c.other(c.Node(1)))
	vm := c.pinned(c.index(host), "keep")
	pid := host.PID(vm)

	if out := c.Must("cluster", "settings", "show"); !strings.Contains(out, "1m0s") || !strings.Contains(out, "1m18.8s") {
		t.Errorf("show says:\n%s", out)
	}
	c.Fails(exitUsage, []string{"nothing was said to change"}, "cluster", "settings", "set")
	c.Fails(exitUsage, []string{"too short for --renew", "blixard cluster settings set --lease"}, "cluster", "settings", "set", "--renew", "40s")
	c.Fails(exitUsage, []string{"overcommit is 0.5, and must be 1 to 100"}, "cluster", "settings", "set", "--overcommit", "0.5")
	c.Fails(exitUsage, []string{"long lease (30s) must be more than the lease (1m)"}, "cluster", "settings", "set", "--long-lease", "30s")

	c.Fails(exitUsage, []string{"--lease 0 is out of range: want 1s to 1h"}, "cluster", "settings", "set", "--lease", "0s")
	c.Fails(exitUsage, []string{"--overcommit 0 is out of range"}, "cluster", "settings", "set", "--overcommit", "0")
	for _, alone := range []string{"settings", "pins"} {
		if one, other := c.Must("cluster", alone), c.Must("cluster", alone, "show"); one != other {
			t.Errorf("cluster %s says\n%s, and with show\n%s", alone, one, other)
		}
	}

	out := c.Must("cluster", "settings", "set", "--lease", "3s")
	if !strings.Contains(out, "3s") || !strings.Contains(out, "9.2s") {
		t.Errorf("set says:\n%s", out)
	}
	c.Await("keep", 30*time.Second, "lives under the shorter lease", func(vm *blixardv1.VM, _ string) bool {
		return vm.GetPlacement().GetLeaseMs() == 3000
	})
	if out := c.Must("events"); !strings.Contains(out, "lease 3s, was 1m") {
		t.Errorf("the events do not say it:\n%s", out)
	}
	if now := host.PID(vm); now != pid {
		t.Fatalf("its pid was %d and is %d", pid, now)
	}
	loseHost(t, c, host, 3*time.Second, 9200*time.Millisecond)
	c.Await("keep", 30*time.Second, "is there again", phaseIs(blixardv1.Phase_PHASE_RUNNING))

	// What a VM asks for itself is in the way.
	c.Must(create("own", "--lease", "4s")...)
	c.Fails(exitConflict, []string{"own has a lease of its own"}, "cluster", "settings", "set", "--lease", "9s", "--renew", "2s")
}
