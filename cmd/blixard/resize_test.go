package main

import (
	"strings"
	"testing"
)

// What has no balloon is resized at its next start, and everybody says so; what its
// host has no room for is refused.
func TestResizeAtTheNextStart(t *testing.T) {
	t.Parallel()
	c := up(t, 1)
	c.Must(create("web", "--memory", "64")...)
	before, _ := c.VM("web")
	c.Must("vm", "resize", "web", "--memory", "96", "--cpus", "2")
	if out := c.Must("vm", "explain", "web"); !strings.Contains(out, "it runs with 64 MiB of memory, and has no balloon: 96 count from its next start; it runs with vcpus: 1, and 2 count from its next start") {
		t.Errorf("explain: %s", out)
	}
	vm, _ := c.VM("web")
	if vm.GetStatus().GetAttempt() != 1 || vm.GetPlacement().GetMemoryMib() != 96 {
		t.Errorf("%v", vm)
	}
	c.Must("vm", "resize", "web", "--memory", "80")
	if vm, _ := c.VM("web"); vm.GetPlacement().GetMemoryMib() != 96 { // it may have been started with that meanwhile
		t.Errorf("accounted are %d MiB", vm.GetPlacement().GetMemoryMib())
	}
	c.Must("vm", "resize", "web", "--memory", "72", "--restart")
	vm, _ = c.VM("web")
	if p := vm.GetPlacement(); vm.GetUid() != before.GetUid() || vm.GetStatus().GetAttempt() != 2 || p.GetMemoryMib() != 72 || p.GetVcpus() != 2 {
		t.Errorf("%v", vm)
	}
	if out := c.Must("vm", "explain", "web"); strings.Contains(out, "next start") {
		t.Errorf("explain: %s", out)
	}
	c.Fails(exitConflict, []string{"cannot take the new spec", "memory"}, "vm", "resize", "web", "--memory", "8388608")
	c.Fails(exitUsage, []string{"--memory"}, "vm", "resize", "web")
	c.Fails(exitNotFound, []string{"none"}, "vm", "resize", "none", "--cpus", "1")
}
