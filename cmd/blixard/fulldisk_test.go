package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// smallDisk mounts so many MiB of memory as a node's data directory.
func smallDisk(t *testing.T, n *Node, mib int) {
	t.Helper()
	if err := os.MkdirAll(n.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", n.Data, "tmpfs", 0, fmt.Sprintf("size=%dm", mib)); err != nil {
		t.Skipf("only root can mount a small disk: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(n.Data, syscall.MNT_DETACH) })
}

// fill leaves a disk without a free byte.
func fill(t *testing.T, file string) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
}

// The disk of a node's data is full: the daemon says so and ends, or refuses;
// its VMs live on; with room again it goes on with all that it had acknowledged.
func TestFullDiskKillsNoVM(t *testing.T) {
	t.Parallel()
	c := &Cluster{t: t, dir: t.TempDir()}
	t.Cleanup(c.down)
	n := c.Add()
	smallDisk(t, n, 24)
	n.Start().Await()
	c.Must("cluster", "init", "--lease", "3s", "--renew", "600ms")
	c.AwaitReady()
	vm := c.pinned(1, "web")
	pid := n.PID(vm)

	filler := filepath.Join(n.Data, "filler")
	fill(t, filler)
	acknowledged := []string{"web"}
	said := ""
	for i := range 400 {
		name := fmt.Sprintf("vm%d", i)
		r := c.Run("--timeout", "5s", "vm", "create", name, "--process", "--no-wait", "--require", "no=where", "--label", "x="+strings.Repeat("y", 60), "--", "/bin/true")
		if r.code != 0 {
			said = r.err
			break
		}
		acknowledged = append(acknowledged, name)
	}
	if said == "" {
		t.Fatal("the full disk was never noticed")
	}
	t.Logf("after %d creates: %s", len(acknowledged)-1, said)
	c.Eventually(10*time.Second, "the daemon ends", func() error {
		if n.Alive() {
			return errors.New("it is alive")
		}
		return nil
	})
	log := tail(n.log, 1500)
	t.Logf("the daemon's last words:\n%s", log)
	if !strings.Contains(log, "no space left on device") {
		t.Error("it does not say why it ended")
	}
	c.stays(n, vm, pid, 2*time.Second)

	// Still full: it may start or not, but it harms nothing.
	n.Start()
	time.Sleep(2 * time.Second)
	t.Logf("started on the full disk, alive: %t\n%s", n.Alive(), tail(n.log, 600))
	n.Kill()
	c.stays(n, vm, pid, time.Second)

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	n.Start().Await()
	c.AwaitReady()
	c.Await("web", 20*time.Second, "runs", isRunning)
	c.stays(n, vm, pid, 2*time.Second)
	have := map[string]bool{}
	for _, name := range strings.Fields(c.Must("vm", "list", "-o", "name")) {
		have[name] = true
	}
	for _, name := range acknowledged {
		if !have[name] {
			t.Errorf("%s was acknowledged and is lost", name)
		}
	}
	c.Must("vm", "delete", "-y", "web")
}
