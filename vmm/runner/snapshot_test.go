package runner

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/blixard/blixard/core"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
)

// A snapshot keeps a guest and its disk of one moment, and disturbs it for that
// moment only. What goes on from it goes on where it was: the guest counts on, and
// the disk holds what it held. It does so once: what crashes later boots, with what
// it has written since.
func tellSnapshot(t *testing.T, r rig) {
	i, a := instance("c-snap", 1), r.vm("c-snap", "")
	a.Spec.GetImage().Disks = []*blixardv1.Disk{{Name: "data", SizeMib: 8}}
	r.must(vmm.Build, i, a)
	r.must(vmm.Start, i, a)
	r.ready(i)
	r.awaitConsole(i.UID, "tick 2 ")
	r.scratch(i.UID, "before")
	earlier := r.ticks(i.UID)
	done, err := r.order(vmm.Action{Verb: vmm.Snapshot, Instance: i, Assignment: a, Snapshot: "1-50"})
	if err != nil || done.Image.GetSizeBytes() == 0 || done.Image.GetSha256() == "" || done.Image.GetVersion() == "" {
		t.Fatal(done.Image, err)
	}
	t.Logf("%d KiB, paused %d ms", done.Image.SizeBytes>>10, done.Image.PausedMs)
	taken := r.ticks(i.UID)
	r.awaitTicks(i.UID, taken+20) // it goes on
	if strings.Count(r.console(i.UID), "up name=") != 1 {
		t.Error("it was started anew")
	}
	again, err := r.order(vmm.Action{Verb: vmm.Snapshot, Instance: i, Assignment: a, Snapshot: "1-50"})
	if err != nil || again.Image.GetSha256() != done.Image.GetSha256() {
		t.Error("asked again for what is there:", again.Image, err)
	}
	r.scratch(i.UID, "after")
	later := r.ticks(i.UID)
	r.must(vmm.Kill, i, nil)
	r.exit(i, Killed)

	from := &blixardv1.RestoreFrom{Uid: "1-50", Name: "snap", Index: 60, Memory: true}
	i.Attempt = 2
	mark := len(r.console(i.UID))
	if _, err := r.order(vmm.Action{Verb: vmm.Start, Instance: i, Assignment: a, Restore: from}); err != nil {
		t.Fatal(err)
	}
	r.report("restored", i, func(v vmm.Report) bool { return v.Ready && !v.Paused && v.Restored == 60 })
	r.awaitConsoleFrom(i.UID, mark, "tick ")
	first := 0
	fmt.Sscanf(r.console(i.UID)[mark+strings.Index(r.console(i.UID)[mark:], "tick "):], "tick %d", &first)
	if first < earlier || first > taken+1 || first >= later {
		t.Errorf("it goes on at tick %d; the snapshot was taken between %d and %d, and it was killed at %d", first, earlier, taken, later)
	}
	if s := r.scratched(i.UID); s != "before" {
		t.Errorf("the disk holds %q", s)
	}
	if _, err := os.Stat(filepath.Join(r.h.at.stateOf(i.UID), disksBefore)); err == nil {
		t.Error("the disks from before are still there")
	}

	r.scratch(i.UID, "since")
	kill9(t, r.hypervisor(i))
	r.exit(i, Crashed)
	r.reopen()
	r.report("known to be restored", i, func(v vmm.Report) bool { return v.Restored == 60 })
	i.Attempt = 3
	r.must(vmm.Start, i, a)
	r.ready(i)
	r.awaitConsole(i.UID, "attempt=3")
	if s := r.scratched(i.UID); s != "since" {
		t.Errorf("the disk holds %q", s)
	}
	r.must(vmm.Kill, i, nil)
	r.exit(i, Killed)

	r.h.Do(vmm.Action{ID: 999, Verb: vmm.KeepSnapshots, Host: r.host(), Keep: &vmm.KeepList{Generation: 1, Revision: 49}})
	r.await("a list from before it", func(o core.Observed) bool { return o.Kept == 49 })
	if _, _, err := readManifest(r.h.at.snapshotOf("1-50")); err != nil {
		t.Error("a list from before it was taken has removed it:", err)
	}
	r.h.Do(vmm.Action{ID: 1000, Verb: vmm.KeepSnapshots, Host: r.host(), Keep: &vmm.KeepList{Generation: 1, Revision: 70}})
	r.await("its end", func(o core.Observed) bool { return o.Kept == 70 })
	if left, _ := os.ReadDir(r.h.at.snapshots()); len(left) != 0 {
		t.Errorf("left %v", left)
	}
	i.Attempt = 4
	from.Index = 80
	if _, err := r.order(vmm.Action{Verb: vmm.Start, Instance: i, Assignment: a, Restore: from}); err == nil || !strings.Contains(err.Error(), "not here any more") {
		t.Error(err)
	}
	if s := r.scratched(i.UID); s != "since" {
		t.Errorf("a restore that failed has left %q on the disk", s)
	}
	r.must(vmm.Remove, i, nil)
}

// scratch writes a word into a VM's disk, behind its back.
func (b *bench) scratch(uid, word string) {
	b.t.Helper()
	f, err := os.OpenFile(diskPath(b.h.at.stateOf(uid), "data"), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt([]byte(fmt.Sprintf("%-16s", word)), 4096)
		f.Close()
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) scratched(uid string) string {
	b.t.Helper()
	f, err := os.Open(diskPath(b.h.at.stateOf(uid), "data"))
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 16)
	if _, err := f.ReadAt(buf, 4096); err != nil {
		b.t.Fatal(err)
	}
	return strings.TrimRight(string(buf), " ")
}

// With a full disk no snapshot is taken, and the guest goes on; a snapshot that does
// not fit any more beside the VM's own disks restores nothing, and loses nothing.
func TestASnapshotAndAFullDisk(t *testing.T) {
	r := qemuRig(t)
	full := fullDisk(t)
	if full == "" {
		t.Skip("no tmpfs can be mounted here (needs root)")
	}
	i, a := instance("1-1", 1), r.vm("1-1", "")
	r.h.Close()
	r.cfg.StateDir = full
	r.open()
	r.must(vmm.Start, i, a)
	r.ready(i)
	r.awaitConsole(i.UID, "tick 2 ")
	_, err := r.order(vmm.Action{Verb: vmm.Snapshot, Instance: i, Assignment: a, Snapshot: "1-50"})
	if err == nil || !strings.Contains(err.Error(), "no space for it") {
		t.Error(err)
	}
	if left, _ := os.ReadDir(r.h.at.snapshots()); len(left) != 0 {
		t.Errorf("left %v", left)
	}
	r.awaitTicks(i.UID, r.ticks(i.UID)+3)
	r.must(vmm.Kill, i, nil)
}

// What is damaged is not gone on with, and costs nothing.
func TestADamagedSnapshotIsNotRestored(t *testing.T) {
	r := qemuRig(t)
	i, a := instance("1-1", 1), r.vm("1-1", "")
	a.Spec.GetImage().Disks = []*blixardv1.Disk{{Name: "data", SizeMib: 8}}
	r.must(vmm.Start, i, a)
	r.awaitConsole(i.UID, "tick 2 ")
	if _, err := r.order(vmm.Action{Verb: vmm.Snapshot, Instance: i, Assignment: a, Snapshot: "1-50"}); err != nil {
		t.Fatal(err)
	}
	r.scratch(i.UID, "own")
	r.must(vmm.Kill, i, nil)
	r.exit(i, Killed)
	memory := filepath.Join(r.h.at.snapshotOf("1-50"), memoryFile)
	whole, err := os.ReadFile(memory)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(word string) {
		t.Helper()
		i.Attempt++
		_, err := r.order(vmm.Action{Verb: vmm.Start, Instance: i, Assignment: a, Restore: &blixardv1.RestoreFrom{Uid: "1-50", Name: "snap", Index: 60, Memory: true}})
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Error(err)
		}
		if got := r.down(i); got.Restored != 0 {
			t.Error("it counts as restored")
		}
		if s := r.scratched(i.UID); s != "own" {
			t.Errorf("the disk holds %q", s)
		}
	}
	flipped := append([]byte(nil), whole...)
	flipped[len(flipped)/2] ^= 1
	if err := os.WriteFile(memory, flipped, 0o600); err != nil {
		t.Fatal(err)
	}
	refused("is damaged")
	// Whole by its sums, and yet nothing that QEMU understands.
	if err := os.WriteFile(memory, whole[:len(whole)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	r.resum(t, "1-50")
	refused("go on from the snapshot")
	i.Attempt++
	r.must(vmm.Start, i, a)
	r.ready(i)
	r.must(vmm.Kill, i, nil)
}

// resum makes a snapshot's sums be of what is there now.
func (b *bench) resum(t *testing.T, uid string) {
	t.Helper()
	dir := b.h.at.snapshotOf(uid)
	m, _, err := readManifest(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, manifestFile)); err != nil {
		t.Fatal(err)
	}
	if m.Files, err = sums(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if err := writeManifest(dir, m); err != nil {
		t.Fatal(err)
	}
}

// A daemon that dies while it takes a snapshot leaves a guest that goes on, once the
// next one looks, and nothing of the snapshot.
func TestASnapshotThatIsOvertaken(t *testing.T) {
	r := qemuRig(t)
	i, a := instance("1-1", 1), r.vm("1-1", "")
	r.must(vmm.Start, i, a)
	r.awaitConsole(i.UID, "tick 2 ")
	r.last += 2
	snap, stop := r.last-1, r.last
	r.h.Do(vmm.Action{ID: snap, Verb: vmm.Snapshot, Instance: i, Assignment: a, Snapshot: "1-50", Host: r.host()})
	r.h.Do(vmm.Action{ID: stop, Verb: vmm.Stop, Instance: i, Assignment: a, Host: r.host()})
	var err string
	r.await("the snapshot's end", func(o core.Observed) bool {
		for _, d := range o.Done {
			if d.Action == snap {
				err = d.Err
				return true
			}
		}
		return false
	})
	if e := r.exit(i, Exited); e.Code != 0 {
		t.Error(e)
	}
	left, _ := os.ReadDir(r.h.at.snapshots())
	if err != "" && len(left) != 0 || err == "" && len(left) != 1 {
		t.Errorf("%q, and there is %v", err, left)
	}
}

func (b *bench) awaitConsoleFrom(uid string, mark int, word string) {
	b.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if _, rest, ok := strings.Cut(b.console(uid)[mark:], word); ok && strings.Contains(rest, "\n") {
			return
		}
	}
	b.t.Fatalf("no %q on the console: %s", word, b.console(uid)[mark:])
}
