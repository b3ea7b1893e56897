package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A real microVM boots once and then starts from that, which is said; what it starts
// from goes with it.
func TestWarmStart(t *testing.T) {
	guestFiles(t)
	t.Parallel()
	c := up(t, 1)
	create := pushGuest(c)
	c.Fails(exitUsage, []string{"spec.warm", "data"}, create("web", "--warm", "--disk", "name=data,size=8")...)
	if out := c.Must(create("web", "--warm", "--network", "user", "--cmdline", "blixard.tick=100ms")...); strings.Contains(out, "Started") {
		t.Errorf("create says what only get is asked for:\n%s", out)
	}
	if out := c.Must("vm", "get", "web"); !strings.Contains(out, "Started cold: it has booted") {
		t.Errorf("get says:\n%s", out)
	}
	saved := func() []string {
		all, _ := filepath.Glob(filepath.Join(c.HostOf("web").Data, "host", "boots", "*", "*", "manifest.json"))
		return all
	}
	c.Eventually(90*time.Second, "its boot is saved", func() error {
		if len(saved()) != 1 {
			return fmt.Errorf("%v", saved())
		}
		return nil
	})
	c.Must("vm", "restart", "web")
	if out := c.Must("vm", "get", "web"); !strings.Contains(out, "Started warm: from its saved boot") {
		t.Errorf("get says:\n%s", out)
	}
	c.Await("web", 30*time.Second, "is told who it is", func(vm *blixardv1.VM, _ string) bool {
		return strings.Contains(c.Run("vm", "logs", "web").out, "restored name=web uid="+vm.GetUid()+" attempt=2")
	})
	if out := c.Must("vm", "exec", "web", "--", "cat", "/proc/sys/kernel/hostname"); strings.TrimSpace(out) != "web" {
		t.Errorf("its host name is %q", out)
	}
	if n := strings.Count(c.Must("vm", "logs", "web"), "up name="); n != 1 {
		t.Errorf("it booted %d times", n)
	}
	host := c.HostOf("web").Data
	c.Must("vm", "delete", "-y", "web")
	if left, _ := filepath.Glob(filepath.Join(host, "host", "boots", "*", "*")); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}
