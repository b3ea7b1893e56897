package main

import (
	"fmt"
	"os"
	"testing"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A node that runs ten VMs is lost: all ten run elsewhere, and when it is back nothing
// is thrown at it. Then drains take them all to one node, and all away from it again.
// BLIXARD_TEN=guests has them be real microVMs, and the lease the default one: it is a
// soak's (scripts/soak ten), and prints how long each step took.
func TestTenVMs(t *testing.T) {
	t.Parallel()
	real := os.Getenv("BLIXARD_TEN") == "guests"
	patience := 60 * time.Second
	c := up(t, 3, func(o *options) {
		if real {
			o.settings = nil
		}
	})
	vm := func(name string) []string { return c.watched(name) } // and judged at the end: never two copies
	if real {
		guest := pushGuest(c)
		patience = 5 * time.Minute
		vm = func(name string) []string { return guest(name, "--hypervisor", "qemu") }
	}
	lost := c.Node(c.other(c.Leader()))
	others := []string{}
	for _, n := range c.nodes {
		if n != lost {
			others = append(others, n.Name)
		}
	}
	node := func(verb string, names ...string) {
		c.Must(append([]string{"--timeout", patience.String(), "node", verb}, names...)...)
	}
	var names []string
	node("cordon", others...)
	for i := range 10 {
		names = append(names, fmt.Sprintf("vm%d", i))
		c.Must(vm(names[i])...)
	}
	node("uncordon", others...)
	begin := time.Now()
	step := func(what string, right func(node string) bool) {
		t.Helper()
		c.Eventually(patience, what, func() error {
			for _, name := range names {
				v, on := c.VM(name)
				if s := v.GetStatus(); !right(on) || s.GetPhase() != blixardv1.Phase_PHASE_RUNNING || real && s.GetFailures() > 0 {
					return fmt.Errorf("%s is %s on %q: %s", name, phaseText(v), on, s.GetMessage())
				}
			}
			return nil
		})
		t.Logf("%s: %s", what, time.Since(begin).Round(100*time.Millisecond))
		begin = time.Now()
	}
	lost.Lose()
	step("ten run off the lost node", func(on string) bool { return on != lost.Name })
	lost.Start().Await()
	c.AwaitReady()
	time.Sleep(2 * time.Second)
	step("none goes to it when it is back", func(on string) bool { return on != lost.Name })
	for _, name := range others {
		node("drain", name)
	}
	step("drains took all ten to one node", func(on string) bool { return on == lost.Name })
	node("restore", others...)
	node("drain", lost.Name)
	step("a drain took all ten away", func(on string) bool { return on != lost.Name })
	running := map[string]string{}
	for _, n := range c.nodes {
		// any order: each is looked up
		for uid := range n.Running() {
			if was := running[uid]; was != "" {
				t.Errorf("TWO COPIES: VM %s runs on %s and on %s", uid, was, n.Name)
			}
			running[uid] = n.Name
		}
	}
	if len(running) != len(names) {
		t.Errorf("of ten VMs, these run: %v", running)
	}
}
