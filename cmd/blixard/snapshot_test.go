package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// lastTick is the number of a guest's newest tick; ticks count within one boot.
func (c *Cluster) lastTick(name string) (n int) {
	if all := regexp.MustCompile(`tick (\d+)[^\n]*\n`).FindAllStringSubmatch(c.Run("vm", "logs", name).out, -1); len(all) > 0 {
		n, _ = strconv.Atoi(all[len(all)-1][1])
	}
	return n
}

// A real microVM goes back to what it was, over the death of its daemon, and is
// cloned. Nothing of a snapshot is left once it is deleted.
func TestSnapshotRestoreAndClone(t *testing.T) {
	guestFiles(t)
	t.Parallel()
	c := up(t, 3)
	create := pushGuest(c)
	c.Must(create("web", "--cmdline", "blixard.tick=100ms", "--disk", "name=data,size=8")...)
	c.Await("web", 90*time.Second, "ticks", func(*blixardv1.VM, string) bool { return c.lastTick("web") >= 3 })
	out := c.Must("snapshot", "create", "web", "first")
	if !strings.Contains(out, "ready") || !strings.Contains(out, "first") {
		t.Errorf("create says:\n%s", out)
	}
	taken := c.lastTick("web")
	vm, _ := c.VM("web")
	host := c.Named(vm.GetPlacement().GetNode())
	c.Fails(exitConflict, []string{"first", "exists"}, "snapshot", "create", "web", "first")
	c.Await("web", 90*time.Second, "goes on", func(*blixardv1.VM, string) bool { return c.lastTick("web") > taken+30 })

	later := c.lastTick("web")
	out = c.Must("--yes", "snapshot", "restore", "first")
	if !strings.Contains(out, "Running") {
		t.Errorf("restore says:\n%s", out)
	}
	again := fmt.Sprintf("tick %d ", later-5)
	c.Eventually(60*time.Second, "it counts again what it has counted since", func() error {
		if n := strings.Count(c.Run("vm", "logs", "web").out, again); n != 2 {
			return fmt.Errorf("%s is there %d times", again, n)
		}
		return nil
	})
	now, _ := c.VM("web")
	if now.GetUid() != vm.GetUid() || now.GetRestore() != nil || now.GetStatus().GetAttempt() != 2 {
		t.Errorf("%v", now)
	}
	if n := strings.Count(c.Must("vm", "logs", "web"), "up name="); n != 1 {
		t.Errorf("it booted %d times", n)
	}

	// Another daemon knows that it was restored, and does not do it again.
	host.Kill()
	host.Start()
	at := c.lastTick("web")
	c.Await("web", 90*time.Second, "goes on", func(*blixardv1.VM, string) bool { return c.lastTick("web") > at })

	// A clone boots, with a copy of the disk and a name of its own, where the bytes are.
	if out := c.Must("vm", "clone", "first", "copy"); !strings.Contains(out, "Running") {
		t.Errorf("clone says:\n%s", out)
	}
	c.Await("copy", 90*time.Second, "boots", func(*blixardv1.VM, string) bool {
		return strings.Contains(c.Run("vm", "logs", "copy").out, "up name=copy")
	})
	clone, _ := c.VM("copy")
	if clone.GetPlacement().GetNode() != host.Name || clone.GetUid() == vm.GetUid() {
		t.Errorf("%v", clone)
	}
	// It gives memory back while it runs, gets it again, and more when it is started.
	boot := clone.GetSpec().GetMemoryMib()
	if out := c.Must("vm", "resize", "copy", "--memory", fmt.Sprint(boot-32)); !strings.Contains(out, fmt.Sprintf("Memory: %d of the %d MiB that it was started with", boot-32, boot)) {
		t.Errorf("resize says:\n%s", out)
	}
	if out := c.Must("vm", "resize", "copy", "--memory", fmt.Sprint(boot+32)); !strings.Contains(out, fmt.Sprintf("Memory: %d MiB, as it was started; the %d MiB of its spec count from its next start", boot, boot+32)) {
		t.Errorf("resize says:\n%s", out)
	}
	if now, _ := c.VM("copy"); now.GetStatus().GetAttempt() != 1 {
		t.Errorf("%v", now)
	}
	// And one with the memory is where the other was.
	c.Must("vm", "clone", "--memory", "first", "twin")
	c.Await("twin", 90*time.Second, "goes on", func(*blixardv1.VM, string) bool { return c.lastTick("twin") > taken-5 })
	if n := strings.Count(c.Must("vm", "logs", "twin"), "up name="); n != 0 {
		t.Error("the twin has booted")
	}

	if out := c.Must("snapshot", "list", "web"); !strings.Contains(out, "first") || !strings.Contains(out, host.Name) {
		t.Errorf("list:\n%s", out)
	}
	c.Must("-y", "vm", "delete", "web", "copy", "twin")
	c.Fails(exitConflict, []string{"web", "is deleted", "vm clone first"}, "--yes", "snapshot", "restore", "first")
	c.Fails(exitConflict, []string{"snapshots that are nowhere else", "first"}, "--yes", "cluster", "remove", host.Name)
	c.Must("-y", "snapshot", "delete", "first")
	c.Fails(exitNotFound, []string{"first"}, "snapshot", "get", "first")
	if left, err := os.ReadDir(filepath.Join(host.Data, "host", "snapshots")); err != nil || len(left) != 0 {
		t.Errorf("left %v %v", left, err)
	}
	c.Eventually(20*time.Second, "nothing is accounted", func() error {
		if out := c.Must("node", "get", host.Name, "-o", "json"); strings.Contains(out, `"disk_mib":`) && strings.Contains(out[strings.Index(out, "allocated"):], `"disk_mib": "`) {
			return fmt.Errorf("%s", tailOf(out, 500))
		}
		return nil
	})
}
