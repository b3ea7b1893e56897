package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What one VM has written to a volume the next one reads, in both formats, after a
// grow, the death of the daemon and of the VM; and volumes go by their names only.
func TestVolumesOutliveVMs(t *testing.T) {
	guestFiles(t)
	t.Parallel()
	c := up(t, 3)
	create := pushGuest(c)
	c.Must("volume", "create", "data", "--size", "32")
	c.Must("volume", "create", "images", "--size", "64", "--format", "qcow2")
	if out := c.Must("volume", "list"); strings.Count(out, "waiting") != 2 {
		t.Fatal(out)
	}
	note := func(vm, words string) {
		t.Helper()
		c.Eventually(90*time.Second, words, func() error {
			if r := c.Run("vm", "logs", vm); !strings.Contains(r.out, words) {
				return fmt.Errorf("%s", tailOf(r.String(), 400))
			}
			return nil
		})
	}
	c.Must(create("first", "--volume", "data", "--volume", "images", "--cmdline", "blixard.note=data,images")...)
	vm, _ := c.VM("first")
	note("first", `disk data of 33554432 holds ""`)
	note("first", `disk images of 67108864 holds ""`)
	note("first", "disk images has a note now")
	host := c.Named(vm.GetPlacement().GetNode())

	for _, refusal := range []struct{ words, args string }{
		{"the VM first has the volume data", "volume delete -y data"},
		{"the VM first has the volume data", "vm create other --kernel kernel --initrd guest --volume data:ro"},
		{"1 VM is placed on", "cluster remove " + host.Name},
	} {
		if r := c.Run(strings.Fields(refusal.args)...); r.code == 0 || !strings.Contains(r.String(), refusal.words) {
			t.Errorf("%s: %s", refusal.args, r)
		}
	}
	if r := c.Must("vm", "explain", "first"); !strings.Contains(r, "its volume data is there") || strings.Count(r, "the VM's volume data is on "+host.Name) != 2 {
		t.Error(r)
	}
	c.Must("volume", "grow", "data", "--size", "48")
	c.Must("volume", "grow", "images", "--size", "96")
	if r := c.Must("volume", "get", "data"); !strings.Contains(r, "first") {
		t.Error(r)
	}
	host.Kill()
	host.Start().Await()
	c.AwaitReady()

	r := c.Must("--timeout", "120s", "vm", "delete", "-y", "first")
	if !strings.Contains(r, "Kept: volume data, volume images") {
		t.Error(r)
	}
	c.Eventually(30*time.Second, "both are free, and as large as they should be", func() error {
		if r := c.Must("volume", "list"); strings.Count(r, "ready") != 2 || strings.Contains(r, "first") {
			return fmt.Errorf("%s", r)
		}
		return nil
	})
	c.Must(create("second", "--volume", "data:ro", "--volume", "images", "--cmdline", "blixard.note=data,images")...)
	note("second", fmt.Sprintf("disk data of %d holds %q", 48<<20, "uid="+vm.GetUid()+" attempt=1"))
	note("second", "disk data is read-only")
	note("second", fmt.Sprintf("disk images of %d holds %q", 96<<20, "uid="+vm.GetUid()+" attempt=1"))
	note("second", "disk images has a note now")
	if second, _ := c.VM("second"); second.GetPlacement().GetNode() != host.Name {
		t.Error("placed away from its volumes", second.GetPlacement())
	}

	// What the cluster does not know stays, and is shown.
	stray := filepath.Join(host.Data, "host", "volumes", "9-9")
	if err := os.MkdirAll(stray, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(stray, "volume.json"), []byte(`{"version":1,"uid":"9-9","name":"old","format":1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(stray, "disk"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	host.Kill()
	host.Start().Await()
	c.AwaitReady()
	c.Eventually(30*time.Second, "the orphan is shown", func() error {
		if r := c.Must("volume", "list"); !strings.Contains(r, "9-9, called old") {
			return fmt.Errorf("%s", r)
		}
		return nil
	})

	r = c.Must("--timeout", "120s", "vm", "delete", "-y", "--volumes", "second")
	if !strings.Contains(r, "Its volumes go, too") {
		t.Error(r)
	}
	c.Eventually(30*time.Second, "both volumes are gone", func() error {
		left, _ := filepath.Glob(filepath.Join(host.Data, "host", "volumes", "*"))
		if r := c.Must("volume", "list", "-o", "name"); strings.TrimSpace(r) != "" || len(left) != 1 {
			return fmt.Errorf("%s, %q", r, left)
		}
		return nil
	})

	c.Must("volume", "create", "fixed", "--size", "16", "--host", host.Name)
	if r := c.Run("cluster", "remove", host.Name); r.code == 0 || !strings.Contains(r.String(), "1 volume is on") {
		t.Error(r)
	}
	if r := c.Run("volume", "create", "huge", "--size", "60000000", "--host", host.Name); r.code == 0 || !strings.Contains(r.String(), "MiB of disk free of the 60000000 needed") {
		t.Error(r)
	}
	c.Must("volume", "delete", "-y", "fixed")
}
