package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A backup of a VM that is cut off anywhere, or has any bit flipped, is refused.
func TestADamagedVMBackupIsRefused(t *testing.T) {
	var file bytes.Buffer
	w, err := newBackupWriter(&file, &blixardv1.VMBackupHeader{Name: "web", Disks: []*blixardv1.BackupDisk{{Disk: "data"}}})
	for _, p := range []*blixardv1.VolumeData{
		{Part: &blixardv1.VolumeData_Header{Header: &blixardv1.VolumeHeader{SizeMib: 1, Bytes: 1 << 20}}},
		{Part: &blixardv1.VolumeData_Chunk{Chunk: &blixardv1.VolumeChunk{Offset: 4096, Data: []byte("abc")}}},
		{Part: &blixardv1.VolumeData_End{End: &blixardv1.VolumeEnd{Chunks: 1, Sha256: make([]byte, 32)}}},
	} {
		err = errors.Join(err, w.disk(p))
	}
	if err = errors.Join(err, w.end()); err != nil {
		t.Fatal(err)
	}
	whole := file.Bytes()
	if h, err := checkVMBackup(bytes.NewReader(whole)); err != nil || h.GetName() != "web" {
		t.Fatal(h, err)
	}
	refused := func(what string, b []byte) {
		t.Helper()
		if _, err := checkVMBackup(bytes.NewReader(b)); !errors.Is(err, errVMBackup) {
			t.Fatalf("%s: %v", what, err)
		}
	}
	for n := range whole {
		refused(fmt.Sprintf("%d of %d bytes", n, len(whole)), whole[:n])
	}
	refused("a byte more", append(bytes.Clone(whole), 0))
	for bit := range len(whole) * 8 {
		b := bytes.Clone(whole)
		b[bit/8] ^= 1 << (bit % 8)
		refused(fmt.Sprintf("bit %d is flipped", bit), b)
	}
}

// A VM's backup makes the same VM on another cluster, with what its disks held: its
// own ones and volumes, raw and qcow2.
func TestVMBackupAndRestore(t *testing.T) {
	guestFiles(t)
	t.Parallel()
	c := up(t, 1)
	create := pushGuest(c)
	c.Must("volume", "create", "data", "--size", "16")
	c.Must("volume", "create", "images", "--size", "16", "--format", "qcow2")
	c.Must(create("web", "--volume", "data", "--volume", "images", "--disk", "name=own,size=8", "--cmdline", "blixard.note=data,images,own")...)
	c.awaitTick("web", 1)
	vm, _ := c.VM("web")
	file := filepath.Join(t.TempDir(), "web.backup")
	if r := c.Run("vm", "backup", "web", file); r.code == 0 || !strings.Contains(r.String(), "or give --pause") {
		t.Fatal(r)
	}
	if r := c.Must("--timeout", "120s", "vm", "backup", "--pause", "web", file); !strings.Contains(r, "3 disks") || !strings.Contains(r, "as after a loss of power") {
		t.Fatal(r)
	}
	n := c.ticks("web")
	c.awaitTick("web", n+1) // it goes on
	c.Fails(exitConflict, []string{"it uses volumes", "vm backup --pause web"}, "vm", "backup", "--memory", "web", file+".none")

	bad := filepath.Join(t.TempDir(), "bad")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(bad, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := c.Run("vm", "restore", bad, "--name", "copy"); r.code == 0 || !strings.Contains(r.String(), "no whole backup of a VM") {
		t.Fatal(r)
	}

	other := up(t, 1)
	other.Must("--timeout", "120s", "vm", "restore", file, "--name", "copy")
	for disk, bytes := range map[string]int{"data": 16 << 20, "images": 16 << 20, "own": 8 << 20} {
		words := fmt.Sprintf("disk %s of %d holds %q", disk, bytes, "uid="+vm.GetUid()+" attempt=1")
		other.Eventually(90*time.Second, words, func() error {
			if r := other.Run("vm", "logs", "copy"); !strings.Contains(r.out, words) {
				return fmt.Errorf("%s", tailOf(r.String(), 400))
			}
			return nil
		})
	}
	if r := other.Run("vm", "restore", file, "--name", "copy"); r.code == 0 || !strings.Contains(r.String(), "exists") {
		t.Fatal(r)
	}
	if r := other.Must("volume", "list", "-o", "name"); strings.TrimSpace(r) != "copy-data\ncopy-images\ncopy-own" {
		t.Fatal(r)
	}
}

// A backup with memory goes on where it was, on another cluster: it has not booted, and
// is told who it is. Nothing is left of the snapshots on the way.
func TestVMBackupWithMemory(t *testing.T) {
	guestFiles(t)
	t.Parallel()
	c := up(t, 1)
	create := pushGuest(c)
	c.Must(create("web", "--disk", "name=own,size=8", "--cmdline", "blixard.note=own blixard.tick=100ms")...)
	c.Await("web", 90*time.Second, "ticks", func(*blixardv1.VM, string) bool { return c.lastTick("web") >= 3 })
	vm, _ := c.VM("web")
	file := filepath.Join(t.TempDir(), "web.backup")
	if out := c.Must("--timeout", "120s", "vm", "backup", "--memory", "web", file); !strings.Contains(out, "with its memory and 1 disk.") || !strings.Contains(out, "Only QEMU ") {
		t.Fatal(out)
	}
	taken := c.lastTick("web")
	c.Await("web", 90*time.Second, "goes on", func(*blixardv1.VM, string) bool { return c.lastTick("web") > taken+5 })
	unsaved := func(c *Cluster) {
		t.Helper()
		c.Eventually(30*time.Second, "nothing of a snapshot is left", func() error {
			left, _ := filepath.Glob(filepath.Join(c.nodes[0].Data, "host", "snapshots", "*"))
			if out := c.Must("snapshot", "list", "-o", "name"); strings.TrimSpace(out) != "" || len(left) > 0 {
				return fmt.Errorf("%s %v", out, left)
			}
			return nil
		})
	}
	unsaved(c)

	// A bit in the memory, which is the last of it.
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-len(b)/8] ^= 1
	if err := os.WriteFile(file+".bad", b, 0o600); err != nil {
		t.Fatal(err)
	}
	other := up(t, 1)
	if r := other.Run("vm", "restore", file+".bad"); r.code == 0 || !strings.Contains(r.String(), "no whole backup of a VM") {
		t.Fatal(r)
	}
	unsaved(other)
	// From its disks, with volumes in their place.
	other.Must("--timeout", "120s", "vm", "restore", "--no-memory", file, "--name", "booted")
	other.Must("--timeout", "120s", "vm", "restore", file, "--name", "copy")
	other.Await("copy", 90*time.Second, "goes on", func(*blixardv1.VM, string) bool {
		return other.lastTick("copy") > 3 && strings.Contains(other.Run("vm", "logs", "copy").out, "restored name=copy")
	})
	if out := other.Must("vm", "logs", "copy"); strings.Contains(out, "up name=") {
		t.Errorf("it has booted:\n%s", tailOf(out, 600))
	}
	words := fmt.Sprintf("disk own of %d holds %q", 8<<20, "uid="+vm.GetUid()+" attempt=1")
	other.Eventually(90*time.Second, words, func() error {
		if r := other.Run("vm", "logs", "booted"); !strings.Contains(r.out, words) {
			return fmt.Errorf("%s", tailOf(r.String(), 400))
		}
		return nil
	})
	unsaved(other)
}
