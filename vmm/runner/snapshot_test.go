package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/blixard/blixard/core"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/shim"
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
	first := r.firstTick(i.UID, mark)
	if first < earlier || first > taken+1 || first >= later {
		t.Errorf("it goes on at tick %d; the snapshot was taken between %d and %d, and it was killed at %d", first, earlier, taken, later)
	}
	if s := r.scratched(i.UID); s != "before" {
		t.Errorf("the disk holds %q", s)
	}
	var chance []string
	if r.agent {
		chance = append(chance, r.isTold(i, "vm-c-snap"))
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
	r.must(vmm.Remove, i, nil)

	// Nothing of that VM is there any more, and others are made of its snapshot: one that
	// goes on, once it is not paused any more, which another daemon sees to, and one that
	// boots. Each has disks of its own.
	clone := func(uid string, memory bool) shim.Instance {
		t.Helper()
		c, b := instance(uid, 1), r.vm(uid, "")
		b.Spec.GetImage().Disks, b.Paused = a.Spec.GetImage().Disks, memory
		if _, err := r.order(vmm.Action{Verb: vmm.Start, Instance: c, Assignment: b, Restore: &blixardv1.RestoreFrom{Uid: "1-50", Name: "snap", Index: 65, Memory: memory, Clone: true}}); err != nil {
			t.Fatal(err)
		}
		r.report("a clone", c, func(v vmm.Report) bool { return v.Ready && v.Paused == memory && v.Restored == 65 })
		if memory {
			r.reopen()
			r.report("paused still", c, func(v vmm.Report) bool { return v.Ready && v.Paused })
			if strings.Contains(r.console(uid), "tick ") {
				t.Error("it has gone on")
			}
			r.must(vmm.Resume, c, b)
		}
		r.awaitConsole(uid, "tick ")
		if s := r.scratched(uid); s != "before" {
			t.Errorf("the disk holds %q", s)
		}
		if booted := strings.Contains(r.console(uid), "up name="); booted == memory {
			t.Errorf("booted: %t", booted)
		}
		return c
	}
	c := clone("c-clone", true)
	if n := r.firstTick(c.UID, 0); n < earlier || n > taken+1 {
		t.Errorf("the clone goes on at tick %d", n)
	}
	if r.agent {
		if chance = append(chance, r.isTold(c, "vm-c-clone")); chance[0] == chance[1] {
			t.Errorf("two guests of one snapshot draw alike: %q", chance)
		}
	}
	i = clone("c-boots", false)
	r.scratch(i.UID, "since")
	for _, c := range []shim.Instance{c, i} {
		r.must(vmm.Kill, c, nil)
		r.exit(c, Killed)
	}
	r.must(vmm.Remove, c, nil)

	r.give(vmm.Action{ID: 999, Verb: vmm.KeepSnapshots, Host: r.host(), Keep: &vmm.KeepList{Generation: 1, Revision: 49, UIDs: []string{"1-50"}}})
	r.await("a list from before it", func(o core.Observed) bool { return o.Kept == 49 && o.Missing == nil })
	if _, _, err := readManifest(r.h.at.snapshotOf("1-50")); err != nil {
		t.Error("a list from before it was taken has removed it:", err)
	}
	r.give(vmm.Action{ID: 1000, Verb: vmm.KeepSnapshots, Host: r.host(), Keep: &vmm.KeepList{Generation: 1, Revision: 70, UIDs: []string{"1-60"}}})
	r.await("its end, and what is missing", func(o core.Observed) bool { return o.Kept == 70 && slices.Equal(o.Missing, []string{"1-60"}) })
	if left, _ := os.ReadDir(r.h.at.snapshots()); len(left) != 0 {
		t.Errorf("left %v", left)
	}
	i.Attempt++
	from.Index = 80
	if _, err := r.order(vmm.Action{Verb: vmm.Start, Instance: i, Assignment: a, Restore: from}); err == nil || !strings.Contains(err.Error(), "not here any more") {
		t.Error(err)
	}
	if s := r.scratched(i.UID); s != "since" {
		t.Errorf("a restore that failed has left %q on the disk", s)
	}
	r.must(vmm.Remove, i, nil)
}

// isTold awaits that a restored guest knows who it is and what time it is, and gives
// what it draws by chance then.
func (r rig) isTold(i shim.Instance, name string) string {
	r.t.Helper()
	r.awaitConsole(i.UID, fmt.Sprintf("restored name=%s uid=%s attempt=%d clock=+", name, i.UID, i.Attempt))
	run := func(argv ...string) string {
		r.t.Helper()
		e, err := r.h.Exec(r.t.Context(), i.UID, &blixardv1.ExecRequest{Argv: argv, TimeoutMs: uint32(patience.Milliseconds())})
		if err != nil || e.ExitCode != 0 {
			r.t.Fatal(argv, e, err)
		}
		return strings.TrimSpace(string(e.Stdout))
	}
	before := time.Now()
	now, err := time.Parse(time.RFC3339Nano, run("date"))
	if early, late := before.Sub(now), time.Until(now); err != nil || early > time.Second || late > time.Second {
		r.t.Errorf("its clock is %v, and it is %v (%v)", now, before, err)
	}
	if got := run("cat", "/proc/sys/kernel/hostname"); got != name {
		r.t.Errorf("its host name is %q", got)
	}
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) { // it is written down that it was
		rec, err := readRecord(r.h.at.stateOf(i.UID))
		if err == nil && rec.Untold == "" {
			break
		}
		if time.Now().After(end) {
			r.t.Fatal("it is to be told still:", rec, err)
		}
	}
	return run("cat", "/proc/sys/kernel/random/uuid")
}

// firstTick is the first that a guest has said behind a mark.
func (b *bench) firstTick(uid string, mark int) (n int) {
	_, rest, _ := strings.Cut(b.console(uid)[mark:], "tick ")
	fmt.Sscanf(rest, "%d", &n)
	return n
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

// savers are the drivers that keep snapshots.
var savers = []struct {
	name   string
	rig    func(*testing.T) rig
	memory string // where its snapshot has the guest's
}{
	{"qemu", qemuRig, memoryFile},
	{"cloud-hypervisor", cloudRig, vmFolder + "/memory-ranges"},
	{"firecracker", firecrackerRig, vmFolder + "/" + firecrackerMemory},
}

// With a full disk no snapshot is taken, and the guest goes on.
func TestASnapshotAndAFullDisk(t *testing.T) {
	t.Parallel()
	for _, s := range savers {
		t.Run(s.name, func(t *testing.T) {
			r := s.rig(t)
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
			if err := r.snap(i, a); err == nil || !strings.Contains(err.Error(), "no space for it") {
				t.Error(err)
			}
			r.unsaved()
			r.awaitTicks(i.UID, r.ticks(i.UID)+3)
			r.must(vmm.Kill, i, nil)
		})
	}
}

// snap takes the snapshot 1-50.
func (b *bench) snap(i shim.Instance, a *blixardv1.Assignment) error {
	b.t.Helper()
	_, err := b.order(vmm.Action{Verb: vmm.Snapshot, Instance: i, Assignment: a, Snapshot: "1-50"})
	return err
}

// unsaved says that nothing of a snapshot is there.
func (b *bench) unsaved() {
	b.t.Helper()
	if left, _ := os.ReadDir(b.h.at.snapshots()); len(left) != 0 {
		b.t.Errorf("left %v", left)
	}
}

// unrestored has 1-50 refused, at no cost.
func (b *bench) unrestored(i *shim.Instance, a *blixardv1.Assignment, word string) {
	b.t.Helper()
	i.Attempt++
	_, err := b.order(vmm.Action{Verb: vmm.Start, Instance: *i, Assignment: a, Restore: &blixardv1.RestoreFrom{Uid: "1-50", Name: "snap", Index: 60, Memory: true}})
	if err == nil || !strings.Contains(err.Error(), word) {
		b.t.Errorf("%v, want %q", err, word)
	}
	if got := b.down(*i); got.Restored != 0 {
		b.t.Error("it counts as restored")
	}
	if s := b.scratched(i.UID); s != "own" {
		b.t.Errorf("the disk holds %q", s)
	}
}

// What is damaged is not gone on with, and costs nothing; nor is what another version
// has written.
func TestADamagedSnapshotIsNotRestored(t *testing.T) {
	t.Parallel()
	for _, s := range savers {
		t.Run(s.name, func(t *testing.T) {
			r := s.rig(t)
			i, a := instance("1-1", 1), r.vm("1-1", "")
			a.Spec.GetImage().Disks = []*blixardv1.Disk{{Name: "data", SizeMib: 8}}
			r.must(vmm.Start, i, a)
			r.awaitConsole(i.UID, "tick 2 ")
			if err := r.snap(i, a); err != nil {
				t.Fatal(err)
			}
			r.scratch(i.UID, "own")
			r.must(vmm.Kill, i, nil)
			r.exit(i, Killed)
			dir := r.h.at.snapshotOf("1-50")
			m, _, err := readManifest(dir)
			if err != nil {
				t.Fatal(err)
			}
			manifested := func(change func(*manifest)) {
				t.Helper()
				other := *m
				change(&other)
				if err := writeManifest(dir, &other); err != nil {
					t.Fatal(err)
				}
			}
			manifested(func(m *manifest) { m.Version = "0.9" })
			r.unrestored(&i, a, "the snapshot is of 0.9 on ")
			manifested(func(m *manifest) { m.Machine = "another" })
			r.unrestored(&i, a, "on another, and only the same can go on with it")
			manifested(func(*manifest) {})
			memory, err := os.OpenFile(filepath.Join(dir, s.memory), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer memory.Close()
			st, err := memory.Stat()
			if err != nil {
				t.Fatal(err)
			}
			flip := func() {
				t.Helper()
				one := make([]byte, 1)
				_, err := memory.ReadAt(one, st.Size()/2)
				if one[0] ^= 1; err == nil {
					_, err = memory.WriteAt(one, st.Size()/2)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			flip()
			r.unrestored(&i, a, "is damaged")
			flip()
			if err := checkSums(t.Context(), dir, m); err != nil {
				t.Fatal(err)
			}
			// Whole by its sums, and yet nothing that the hypervisor understands.
			if err := memory.Truncate(st.Size() / 2); err != nil {
				t.Fatal(err)
			}
			r.resum(t, "1-50")
			r.unrestored(&i, a, "go on from the snapshot")
			i.Attempt++
			r.must(vmm.Start, i, a)
			r.ready(i)
			r.must(vmm.Kill, i, nil)
		})
	}
}

// A hypervisor that cannot write its guest, dies of it or never comes to an end leaves
// no snapshot; and the guest goes on, if it can.
func TestASnapshotThatItsHypervisorSpoils(t *testing.T) {
	defer func(d time.Duration) { stalled = d }(stalled)
	for _, s := range savers[1:] {
		t.Run(s.name, func(t *testing.T) {
			stalled = 20 * time.Second
			r := s.rig(t)
			if r.real {
				t.Skip("the real one does not do this when asked")
			}
			start := func(uid, word string) (shim.Instance, *blixardv1.Assignment) {
				i, a := instance(uid, 1), r.vm(uid, "")
				a.Spec.GetImage().Cmdline += " " + word
				a.Spec.GetImage().Disks = []*blixardv1.Disk{{Name: "data", SizeMib: 8}}
				r.must(vmm.Start, i, a)
				r.ready(i)
				r.awaitConsole(i.UID, "tick 1 ")
				return i, a
			}
			full, a := start("1-1", "fake.save=1")
			if err := r.snap(full, a); err == nil || !strings.Contains(err.Error(), "has not written its guest") || !strings.Contains(err.Error(), "no space left on device") {
				t.Error(err)
			}
			r.unsaved()
			r.awaitTicks(full.UID, r.ticks(full.UID)+3)
			dies, a := start("1-2", "fake.save=2")
			if err := r.snap(dies, a); err == nil {
				t.Error("what died has kept its guest")
			}
			r.exit(dies, Crashed)
			r.unsaved()
			hangs, a := start("1-3", "fake.save=3")
			stalled = 500 * time.Millisecond
			if err := r.snap(hangs, a); !errors.Is(err, errStalled) && (err == nil || !strings.Contains(err.Error(), errStalled.Error())) {
				t.Error(err)
			}
			stalled = 20 * time.Second
			r.unsaved()
			r.awaitTicks(hangs.UID, r.ticks(hangs.UID)+3)

			i, a := start("1-4", "fake.load=1")
			if err := r.snap(i, a); err != nil {
				t.Fatal(err)
			}
			r.scratch(i.UID, "own")
			r.must(vmm.Kill, i, nil)
			r.exit(i, Killed)
			r.unrestored(&i, a, "does not take its guest")
			// One that another version has written, which our own books do not say.
			state := filepath.Join(r.h.at.snapshotOf("1-50"), vmFolder, map[string]string{"firecracker": firecrackerState}[s.name])
			if s.name == "cloud-hypervisor" {
				state = filepath.Join(state, "state.json")
			}
			b, err := os.ReadFile(state)
			if err == nil {
				err = os.WriteFile(state, []byte(strings.Replace(string(b), `"Version":7`, `"Version":6`, 1)), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			r.resum(t, "1-50")
			r.unrestored(&i, a, "the snapshot is of version 6")
			i.Attempt++
			r.must(vmm.Start, i, a)
			r.ready(i)
			for _, i := range []shim.Instance{full, hangs, i} {
				r.must(vmm.Kill, i, nil)
			}
		})
	}
}

// A snapshot has the disks that the guest has, not those of a spec that it will run
// with some day; and what a snapshot lacks is not made up for by an empty disk.
func TestASnapshotHasTheDisksThatRun(t *testing.T) {
	t.Parallel()
	r := cloudRig(t)
	disks := func(names ...string) (list []*blixardv1.Disk) {
		for _, n := range names {
			list = append(list, &blixardv1.Disk{Name: n, SizeMib: 8})
		}
		return list
	}
	i, a := instance("1-1", 1), r.vm("1-1", "")
	a.Spec.GetImage().Disks = disks("data", "old")
	r.must(vmm.Start, i, a)
	r.ready(i)
	r.awaitConsole(i.UID, "tick 1 ")
	r.scratch(i.UID, "kept")
	b := r.vm("1-1", "")
	b.Spec.GetImage().Disks = disks("new")
	b.SpecGeneration = 2
	if err := r.snap(i, b); err != nil {
		t.Fatal(err)
	}
	m, _, err := readManifest(r.h.at.snapshotOf("1-50"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range m.Files {
		if name, ok := inFolder(f.Name, disksFolder); ok {
			names = append(names, name)
		}
	}
	if strings.Join(names, " ") != "data.raw old.raw" {
		t.Errorf("it has %v", names)
	}
	r.must(vmm.Kill, i, nil)
	r.exit(i, Killed)
	for _, memory := range []bool{true, false} {
		i.Attempt++
		from := &blixardv1.RestoreFrom{Uid: "1-50", Name: "snap", Index: 60, Memory: memory}
		if _, err := r.order(vmm.Action{Verb: vmm.Start, Instance: i, Assignment: b, Restore: from}); err == nil || !strings.Contains(err.Error(), "has a disk new, and the snapshot has none") {
			t.Errorf("memory %t: %v", memory, err)
		}
	}
	if s := r.scratched(i.UID); s != "kept" {
		t.Errorf("the disk holds %q", s)
	}
}

// What the vendors refuse their fakes refuse, so that it cannot be asked for by
// mistake: a snapshot of a guest that runs, one over another's files, and a load into a
// machine that is made already.
func TestTheFakesRefuseSnapshots(t *testing.T) {
	t.Parallel()
	for _, s := range savers[1:] {
		t.Run(s.name, func(t *testing.T) {
			r := s.rig(t)
			if r.real {
				t.Skip("it is no fake")
			}
			i, a := instance("1-1", 1), r.vm("1-1", "")
			r.must(vmm.Start, i, a)
			r.awaitConsole(i.UID, "tick 1 ")
			dir := t.TempDir()
			if err := os.Chmod(dir, 0o777); err != nil { // it may be another user
				t.Fatal(err)
			}
			at := rest{filepath.Join(r.h.at.runOf(i.UID), apiSocket)}
			save, load := cloudControl{at}.snapshot, cloudControl{at}.restore
			if s.name == "firecracker" {
				save = firecrackerControl{at}.snapshot
				load = func(ctx context.Context, dir string) error {
					file := filepath.Join(t.TempDir(), "order")
					order := fmt.Sprintf(`{"snapshot_path":"%[1]s/state","mem_backend":{"backend_type":"File","backend_path":"%[1]s/memory"}}`, dir)
					if err := os.WriteFile(file, []byte(order), 0o600); err != nil {
						return err
					}
					return firecrackerControl{at}.load(ctx, file)
				}
			}
			refused := func(err error, word string) {
				t.Helper()
				var why *refusal
				if !errors.As(err, &why) || !strings.Contains(why.text, word) {
					t.Errorf("%v, want %q", err, word)
				}
			}
			refused(save(t.Context(), dir), "not paused")
			r.must(vmm.Pause, i, nil)
			if err := save(t.Context(), dir); err != nil {
				t.Error(err)
			}
			refused(save(t.Context(), dir), "file exists")
			refused(load(t.Context(), dir), map[string]string{"firecracker": "not supported after starting", "cloud-hypervisor": "already created"}[s.name])
			r.must(vmm.Resume, i, nil)
			r.awaitTicks(i.UID, r.ticks(i.UID)+2)
			r.must(vmm.Kill, i, nil)
		})
	}
}

// The machine of a snapshot becomes a VM's own: its disks by their serials, its taps in
// their order. What we know nothing of stays, and what does not fit is refused.
func TestAMachineBecomesAnother(t *testing.T) {
	b := boot{kernel: "/k2", initrd: "/i2", disks: []disk{{name: "b", path: "/2/b"}, {name: "a", path: "/2/a"}}, nics: []nic{{tap: "t2"}}}
	got, err := b.ownMachine([]byte(`{"payload":{"kernel":"/k1","initramfs":"/i1","cmdline":"c","more":1},"cpus":{"boot_vcpus":1},
		"memory":{"size":12345678901234567},"disks":[{"path":"/1/a","serial":"a","id":"_disk0"},{"path":"/1/b","serial":"b"}],"net":[{"tap":"t1","mac":"m"}],"vsock":null}`))
	const want = `{"cpus":{"boot_vcpus":1},"disks":[{"id":"_disk0","path":"/2/a","serial":"a"},{"path":"/2/b","serial":"b"}],` +
		`"memory":{"size":12345678901234567},"net":[{"mac":"m","tap":"t2"}],"payload":{"cmdline":"c","initramfs":"/i2","kernel":"/k2","more":1},"vsock":null}`
	if err != nil || string(got) != want {
		t.Errorf("%s, %v", got, err)
	}
	for text, word := range map[string]string{
		`{"payload":{},"net":[{"tap":"t"}]}`:                                                    "0 of disks",
		`{"payload":{},"disks":[{"serial":"a"},{"serial":"x"}],"net":[{"tap":"t"}]}`:            `a disk "x"`,
		`{"payload":{},"disks":[{"serial":"a"},{}],"net":[{"tap":"t"}]}`:                        "serial",
		`{"payload":{},"disks":[{"serial":"a"},{"serial":"b"}],"net":null}`:                     "0 of net",
		`{"disks":[{"serial":"a"},{"serial":"b"}],"net":[{"tap":"t"}]}`:                         "payload",
		`{"payload":{},"disks":[{"serial":"a"},{"serial":"b"},{"serial":"b"}],"net":[{"t":1}]}`: "3 of disks",
	} {
		if got, err := b.ownMachine([]byte(text)); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
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
	t.Parallel()
	r := qemuRig(t)
	i, a := instance("1-1", 1), r.vm("1-1", "")
	r.must(vmm.Start, i, a)
	r.awaitConsole(i.UID, "tick 2 ")
	r.last += 2
	snap, stop := r.last-1, r.last
	r.give(vmm.Action{ID: snap, Verb: vmm.Snapshot, Instance: i, Assignment: a, Snapshot: "1-50", Host: r.host()})
	r.give(vmm.Action{ID: stop, Verb: vmm.Stop, Instance: i, Assignment: a, Host: r.host()})
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
