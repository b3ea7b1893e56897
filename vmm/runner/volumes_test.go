package runner

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/core"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
)

const (
	rawFormat   = blixardv1.VolumeFormat_VOLUME_FORMAT_RAW
	qcow2Format = blixardv1.VolumeFormat_VOLUME_FORMAT_QCOW2
)

// shelf is the volumes of a host, and what they have said.
type shelf struct {
	*volumes
	t    *testing.T
	last *blixardv1.VolumeInventory
}

func newShelf(t *testing.T, state string) *shelf {
	t.Helper()
	s := &shelf{t: t}
	s.volumes = newVolumes(state, filepath.Join(state, "trash"), func(o core.Observed) { s.last = o.Volumes }, func(what string, err error) { t.Log(what, err) })
	if err := os.MkdirAll(s.trash, 0o700); err != nil {
		t.Fatal(err)
	}
	inv, err := s.begin()
	if err != nil {
		t.Fatal(err)
	}
	s.last = inv
	return s
}

func (s *shelf) report(uid string) *blixardv1.VolumeReport {
	for _, r := range s.last.GetVolumes() {
		if r.Uid == uid {
			return r
		}
	}
	return &blixardv1.VolumeReport{Absent: true}
}

func order(uid string, mib uint64, format blixardv1.VolumeFormat) *blixardv1.VolumeOrder {
	return &blixardv1.VolumeOrder{Uid: uid, Name: "v" + uid, SizeMib: mib, Format: format}
}

func mount(o *blixardv1.VolumeOrder, readOnly bool) []*blixardv1.VolumeConfig {
	return []*blixardv1.VolumeConfig{{Volume: o, Disk: "data", ReadOnly: readOnly}}
}

func orders(list ...*blixardv1.VolumeOrder) []*blixardv1.VolumeOrder { return list }

func TestAVolumeIsMadeGrowsAndGoes(t *testing.T) {
	for _, format := range []blixardv1.VolumeFormat{rawFormat, qcow2Format} {
		t.Run(format.String(), func(t *testing.T) {
			s := newShelf(t, t.TempDir())
			o := order("1-1", 16, format)
			s.keep(orders(o), 5)
			if r := s.report("1-1"); s.last.Revision != 5 || r.SizeMib != 16 || r.Error != "" || r.Format != format || r.Name != "v1-1" {
				t.Fatal(s.last)
			}
			o.SizeMib, o.Made = 3<<20, true // far more than its first L1 entries reach
			if room := s.room(3 << 40); room == nil {
				t.Skip("a disk with 3 TiB free")
			}
			s.keep(orders(o), 6)
			if r := s.report("1-1"); r.SizeMib != 16 || !strings.Contains(r.Error, "no space for a disk of the VM") {
				t.Fatal("it says that it has room for 3 TiB: ", r)
			}
			o.SizeMib = 64
			s.keep(orders(o), 7)
			if r := s.report("1-1"); r.SizeMib != 64 || r.Error != "" {
				t.Fatal(r)
			}
			o.Remove = true
			s.keep(orders(o), 8)
			if !s.report("1-1").Absent || s.last.Revision != 8 || s.has("1-1") {
				t.Fatal(s.last)
			}
			if left, _ := filepath.Glob(filepath.Join(s.at, "*")); len(left) > 0 {
				t.Fatal(left)
			}
		})
	}
}

// While a VM has it open it neither grows nor goes, and no other VM gets it that
// could meet a writer.
func TestAnOpenVolumeIsLeftAlone(t *testing.T) {
	s := newShelf(t, t.TempDir())
	o := order("1-1", 8, rawFormat)
	s.keep(orders(o), 1)
	list, err := s.take("a", mount(o, false))
	if err != nil || len(list) != 1 || list[0] != (disk{name: "data", path: s.disk("1-1"), format: "raw"}) {
		t.Fatal(list, err)
	}
	for _, readOnly := range []bool{false, true} {
		if _, err := s.take("b", mount(o, readOnly)); err == nil || !strings.Contains(err.Error(), "VM a has it") {
			t.Fatal(readOnly, err)
		}
	}
	o.SizeMib, o.Made = 16, true
	s.keep(orders(o), 2)
	if r := s.report("1-1"); r.SizeMib != 8 || r.Error != "" {
		t.Fatal("it grew under a VM, or could not: ", r)
	}
	gone := order("1-1", 16, rawFormat)
	gone.Remove = true
	s.keep(orders(gone), 3)
	if r := s.report("1-1"); r.Absent || !strings.Contains(r.Error, "VM a has it open") {
		t.Fatal(r)
	}
	s.keep(orders(o), 4)
	s.drop("a")
	s.again() // as its queue does
	if r := s.report("1-1"); r.SizeMib != 16 {
		t.Fatal("it did not grow when it could: ", r)
	}
	for _, vm := range []string{"a", "b"} {
		if _, err := s.take(vm, mount(o, true)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.take("c", mount(o, false)); err == nil {
		t.Fatal("it is written while it is read")
	}

	// The next daemon knows what it did not start.
	next := newShelf(t, filepath.Dir(s.at))
	next.adopt("a", []opened{{"1-1", true}})
	if _, err := next.take("b", mount(o, true)); err == nil {
		t.Fatal("it is read while it is written")
	}
}

// A volume that another process has locked, of which we know nothing, stays.
func TestALockedVolumeStays(t *testing.T) {
	s := newShelf(t, t.TempDir())
	o := order("1-1", 8, rawFormat)
	s.keep(orders(o), 1)
	f, err := os.OpenFile(s.disk("1-1"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l := unix.Flock_t{Type: unix.F_RDLCK, Start: 100, Len: 1} // one of QEMU's bytes
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &l); err != nil {
		t.Fatal(err)
	}
	o.Remove = true
	s.keep(orders(o), 2)
	if r := s.report("1-1"); r.Absent || !strings.Contains(r.Error, "another process has it open") {
		t.Fatal(r)
	}
}

// What was made and is gone is not made again: a blank disk would hide the loss.
// What nobody ordered stays, and is told of. What was never whole is cleared away.
func TestVolumesAreNeitherReplacedNorSweptAway(t *testing.T) {
	state := t.TempDir()
	s := newShelf(t, state)
	a, b := order("1-1", 8, rawFormat), order("1-2", 8, qcow2Format)
	s.keep(orders(a, b), 1)
	if err := os.WriteFile(s.disk("1-2"), []byte("no image"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(s.dir("1-1")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(s.dir("1-3")+newVolume, 0o700); err != nil {
		t.Fatal(err)
	}
	s = newShelf(t, state)
	if _, err := os.Stat(s.dir("1-3") + newVolume); err == nil {
		t.Error("what was never whole is still there")
	}
	if r := s.report("1-2"); r.Absent || !strings.Contains(r.Error, "qcow2") {
		t.Error("a broken image: ", r)
	}
	a.Made = true
	s.keep(orders(a), 2)
	if r := s.report("1-1"); !r.Absent || !strings.Contains(r.Error, "It is not made again") {
		t.Error("a lost volume: ", r)
	}
	if _, err := s.take("vm", mount(a, false)); err == nil || s.has("1-1") {
		t.Error("a start made a lost volume: ", err)
	}
	if s.report("1-2").Absent {
		t.Error("what is not ordered has gone")
	}
	c := order("1-4", 8, rawFormat)
	c.Written = true
	s.keep(orders(a, c), 3)
	if _, err := s.take("vm", mount(c, false)); err == nil || s.has("1-4") {
		t.Error("a blank volume instead of one that is being sent: ", err)
	}
	s.keep(orders(a, order("../../x", 8, rawFormat)), 4)
	if _, err := os.Stat(filepath.Join(state, "x")); err == nil {
		t.Error("it left its directory")
	}
}

// A host does not take up a volume's orders twice, and late ones not at all.
func TestOldOrdersForVolumesAreNotTaken(t *testing.T) {
	s := newShelf(t, t.TempDir())
	s.keep(orders(order("1-1", 8, rawFormat)), 5)
	s.keep(orders(order("1-2", 8, rawFormat)), 4)
	if !s.report("1-2").Absent || s.last.Revision != 5 {
		t.Fatal(s.last)
	}
}

// QEMU itself reads what we make, in both formats, and finds nothing wrong with an
// image that has grown.
func TestQEMUReadsOurImages(t *testing.T) {
	program, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("no QEMU: run scripts/setup")
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := makeQcow2(f, 10<<20); err != nil {
		t.Fatal(err)
	}
	if err := growQcow2(f, 5<<40); err != nil { // beyond what one cluster of L1 reaches
		t.Fatal(err)
	}
	if n, err := qcow2Size(f); err != nil || n != 5<<40 {
		t.Fatal(n, err)
	}
	if err := growQcow2(f, 1<<30); err != nil {
		t.Fatal(err)
	}
	if n, _ := qcow2Size(f); n != 5<<40 {
		t.Fatal("it shrank to", n)
	}
	cmd := exec.Command(program, "-M", "none", "-display", "none", "-nodefaults", "-qmp", "stdio",
		"-blockdev", "driver=qcow2,node-name=q,file.driver=file,file.filename="+f.Name())
	cmd.Stdin = strings.NewReader(`{"execute":"qmp_capabilities"}{"execute":"query-named-block-nodes"}{"execute":"quit"}`)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), `"virtual-size": 5497558138880`) || strings.Contains(string(out), `"corrupt": true`) {
		t.Fatalf("%v: %s", err, out)
	}
}

// A VM's record says which volumes it has open: the next daemon excludes others.
func TestAVMsVolumesAreHeldOverARestartOfTheDaemon(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	i, a := instance("1-1", 1), program("1-1", "sleep 1000")
	o := order("1-9", 8, rawFormat)
	a.Volumes = mount(o, false) // a program opens none: its record counts
	b.must(vmm.Start, i, a)
	b.reopen()
	if _, err := b.h.volumes.take("other", mount(o, true)); err == nil || !strings.Contains(err.Error(), "VM 1-1 has it") {
		t.Fatal(err)
	}
	b.must(vmm.Kill, i, nil)
	b.exit(i, Killed)
	b.give(vmm.Action{ID: 1 << 40, Verb: vmm.Keep, Volumes: orders(o), Revision: 3})
	b.await("the volume", func(o core.Observed) bool { return len(o.Volumes.GetVolumes()) == 1 })
	if _, err := b.h.volumes.take("other", mount(o, false)); err != nil {
		t.Fatal(err)
	}
}

// What somebody else has removed is not made again, whatever the order that made it
// still says; and what is being written is not said to be gone.
func TestAVolumeThatVanishes(t *testing.T) {
	s := newShelf(t, t.TempDir())
	s.keep(orders(order("1-1", 16, rawFormat)), 5)
	if err := os.RemoveAll(s.dir("1-1")); err != nil {
		t.Fatal(err)
	}
	s.again()
	if r := s.report("1-1"); s.has("1-1") || !r.Absent || !strings.Contains(r.Error, "who has removed it") {
		t.Fatal("an empty one is there in its place: ", r)
	}

	o := order("1-2", 16, rawFormat)
	o.Written = true
	s.mu.Lock()
	s.busy["1-2"] = "it is being written"
	s.mu.Unlock()
	o.Remove = true
	s.keep(orders(o), 6)
	if r := s.report("1-2"); r == nil || r.Error == "" {
		t.Fatal("one that is being written is said to be gone: ", s.last)
	}
}
