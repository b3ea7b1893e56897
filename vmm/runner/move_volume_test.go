package runner

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/shim"
)

// coming is an order for what comes by a migration, and left one for what it has left.
func coming(o *blixardv1.VolumeOrder, migration uint64, remove bool) *blixardv1.VolumeOrder {
	return &blixardv1.VolumeOrder{Uid: o.Uid, Name: o.Name, Format: o.Format, SizeMib: o.SizeMib, Copy: migration, Arriving: true, Remove: remove}
}

func home(o *blixardv1.VolumeOrder, migration uint64) *blixardv1.VolumeOrder {
	return &blixardv1.VolumeOrder{Uid: o.Uid, Name: o.Name, Format: o.Format, SizeMib: o.SizeMib, Copy: migration, Made: true}
}

func gone(o *blixardv1.VolumeOrder, migration uint64) *blixardv1.VolumeOrder {
	o = home(o, migration)
	o.Remove = true
	return o
}

// What comes of a volume is none until the cluster says so, or its VM takes over; and
// it goes only while it is none.
func TestAVolumeOnItsWayIsNone(t *testing.T) {
	for _, format := range []blixardv1.VolumeFormat{rawFormat, qcow2Format} {
		t.Run(format.String(), func(t *testing.T) {
			state := t.TempDir()
			s := newShelf(t, state)
			o := order("1-1", 16, format)
			o.Format = format
			comes := func(migration uint64) error {
				_, err := s.take("a", mount(coming(o, migration, false), false))
				return err
			}
			refused := func(what, why string, err error) {
				t.Helper()
				if err == nil || !strings.Contains(err.Error(), why) {
					t.Errorf("%s: %v", what, err)
				}
			}
			if err := comes(10); err != nil {
				t.Fatal("it comes before the orders of its time have: ", err)
			}
			s.drop("a")
			if r := s.report("1-1"); !r.Arriving || r.Copy != 10 || r.SizeMib != 16 {
				t.Fatal(r)
			}
			// Its move has ended; what was ordered before that is carried out no more.
			s.keep(orders(coming(o, 10, true)), 12)
			if r := s.report("1-1"); !r.Absent {
				t.Fatal(r)
			}
			refused("it comes after its end", "has ended", comes(10))

			s.keep(orders(coming(o, 20, false)), 20)
			if r := s.report("1-1"); !r.Absent {
				t.Fatal("it is made before its VM comes: ", r)
			}
			if err := comes(20); err != nil {
				t.Fatal(err)
			}
			s.keep(orders(coming(o, 20, true)), 22)
			if r := s.report("1-1"); !r.Arriving || !strings.Contains(r.Error, "has it open") {
				t.Fatal(r)
			}
			// A daemon that begins now knows what it is by its mark.
			s = newShelf(t, state)
			if r := s.report("1-1"); !r.Arriving || r.Copy != 20 {
				t.Fatal(r)
			}
			_, err := s.take("b", mount(home(o, 0), false))
			refused("a VM starts with it", "never came to its end", err)
			s.keep(orders(home(o, 7)), 23)
			refused("it is the volume of another time", "never came to its end", s.arrived("1-1", 7))
			if r := s.report("1-1"); !r.Arriving || r.Error == "" {
				t.Fatal(r)
			}
			// The cluster says that it has come.
			s.keep(orders(home(o, 20)), 24)
			if r := s.report("1-1"); r.Arriving || r.Copy != 20 || r.Error != "" {
				t.Fatal(r)
			}
			// Nothing that is said of another copy, or of one on its way, removes it.
			s.keep(orders(gone(o, 0)), 25)
			s.keep(orders(coming(o, 20, true)), 26)
			s.keep(orders(gone(o, 21)), 27)
			if r := s.report("1-1"); r.Absent {
				t.Fatal("the volume is gone")
			}
			s.keep(orders(coming(o, 30, false)), 30)
			refused("it comes where one is that nobody knows", "put that aside", comes(30))
			s.keep(orders(gone(o, 20)), 31)
			if r := s.report("1-1"); !r.Absent {
				t.Fatal(r)
			}
			big := coming(order("1-2", 1<<32, format), 40, false)
			s.keep(orders(big), 40)
			_, err = s.take("a", mount(big, false))
			refused("it has room for 4 PiB", "no space", err)
			if r := s.report("1-2"); !r.Absent {
				t.Fatal(r)
			}
		})
	}
}

// A guest that writes moves with its volume: see TestAGuestMovesWithItsDisk.
func TestAGuestMovesWithItsVolume(t *testing.T) {
	formats := []blixardv1.VolumeFormat{qcow2Format}
	if os.Getenv("BLIXARD_MIGRATIONS") != "" { // scripts/soak migrations does all
		formats = append(formats, rawFormat)
	}
	for _, format := range formats {
		t.Run(strings.ToLower(strings.TrimPrefix(format.String(), "VOLUME_FORMAT_")), func(t *testing.T) { movesWithItsVolume(t, format) })
	}
}

func movesWithItsVolume(t *testing.T, format blixardv1.VolumeFormat) {
	o := order("1-9", 64, format)
	r := newRoad(t, countsOnDisk, func(a *blixardv1.Assignment) { a.Volumes = mount(o, false) })
	killed := func(i shim.Instance) func() { return func() { kill9(r.t.(*testing.T), r.to.state(i).VM.PID) } }
	cut := func(shim.Instance) func() { return r.cut }
	for _, c := range []struct {
		name, at string
		spoil    func(shim.Instance) func()
		always   bool
	}{
		{"the way is cut midway", "copying", cut, false},
		{"the way is cut when the disks have gone", "settled", cut, false},
		{"the target dies while it is copied to", "copying", killed, false},
		{"the target dies at the door", "door", killed, false},
		{"the daemon ends midway", "copying", nil, false},
		{"the daemon ends at the door", "door", nil, false},
		{"the daemon ends when the disks have gone", "settled", nil, true},
	} {
		// scripts/soak migrations does all.
		if !c.always && os.Getenv("BLIXARD_MIGRATIONS") == "" {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			r.from.t, r.to.t, r.t = t, t, t
			if c.spoil == nil {
				r.daemonEnds(c.at)
			} else {
				r.fails(c.at, c.spoil)
			}
			r.mu.Lock()
			r.steps = nil
			r.mu.Unlock()
			r.to.orders(r.index+1, coming(o, r.index, true))
			r.to.volume(o, "gone with its move", func(v *blixardv1.VolumeReport) bool { return v == nil })
			r.index++ // the orders' revision
		})
	}
	r.from.t, r.to.t, r.t = t, t, t
	target := r.receive()
	r.send()
	if p := r.outcome(); p.HandedOver == 0 {
		t.Fatalf("it stays: %+v", p.Outgoing)
	}
	r.to.report("loaded", target, func(p vmm.Report) bool { return p.Incoming == vmm.Loaded })
	// Until it takes over it may be told that nothing has come of it: it is marked.
	marked := func(v *blixardv1.VolumeReport) bool { return v != nil && v.Arriving && v.Copy == r.index }
	r.to.volume(o, "marked", marked)
	r.to.reopen()
	r.to.report("loaded, after a restart", target, func(p vmm.Report) bool { return p.Incoming == vmm.Loaded })
	r.to.volume(o, "marked, after a restart", marked)
	if err := r.to.h.ReadDisk(t.Context(), o.Uid, "", "", func(*blixardv1.VolumeData) error { return nil }); err == nil || !strings.Contains(err.Error(), "on its way") {
		t.Errorf("a backup reads it: %v", err)
	}
	// The daemon ends when the mark has gone, and the guest has not been told.
	reached, on := make(chan struct{}), make(chan struct{})
	r.at("unmarked", func() { r.to.h.cancel(); close(reached); <-on })
	r.to.give(vmm.Action{ID: 1 << 41, Verb: vmm.TakeOver, Instance: target, Host: r.to.host()})
	<-reached
	close(on)
	r.to.reopen()
	r.to.report("loaded or here, after a restart", target, func(p vmm.Report) bool { return p.Incoming == vmm.Loaded || p.Ready })
	r.to.must(vmm.TakeOver, target, nil)
	r.to.must(vmm.Resume, target, nil)
	r.to.report("ready", target, func(p vmm.Report) bool { return p.Ready && !p.Paused && p.Incoming == 0 })
	r.to.volume(o, "the volume", func(v *blixardv1.VolumeReport) bool { return v != nil && !v.Arriving && v.Copy == r.index })
	goesOn(r.to)
	// An order of the time before, or about the source's, removes nothing here.
	r.to.orders(r.index+1, coming(o, r.index, true))
	r.to.orders(r.index+2, gone(o, 0))
	// The source removes its own once nothing of the VM lives there.
	r.from.orders(r.index+1, gone(o, 0))
	r.from.volume(o, "open at the source", func(v *blixardv1.VolumeReport) bool { return v != nil && strings.Contains(v.Error, "has it open") })
	left := last(counts(t, r.from.console(roamer)))
	if format == rawFormat {
		holdsAll(t, r.from.h.volumes.disk(o.Uid), left)
	}
	r.from.must(vmm.Kill, r.source, nil)
	r.from.volume(o, "gone from the source", func(v *blixardv1.VolumeReport) bool { return v == nil })
	r.from.must(vmm.Remove, r.source, nil)
	r.to.must(vmm.Kill, target, nil)
	said := last(counts(t, r.to.console(roamer)))
	if said <= left {
		t.Errorf("it had said %d there, and has said %d here", left, said)
	}
	r.to.volume(o, "still there", func(v *blixardv1.VolumeReport) bool { return v != nil && v.Error == "" })
	disk := r.to.h.volumes.disk(o.Uid)
	if format == qcow2Format {
		disk = r.to.plain(o)
	}
	holdsAll(t, disk, said)
}

// plain is what a qcow2 volume that nobody has open holds, as a raw file.
func (b guestBench) plain(o *blixardv1.VolumeOrder) string {
	b.t.Helper()
	is, err := os.ReadFile(b.h.volumes.disk(o.Uid))
	if err != nil {
		b.t.Fatal(err)
	}
	at64 := func(at uint64) uint64 { return binary.BigEndian.Uint64(is[at:]) & (1<<56 - 1) &^ 511 }
	bits, l1 := binary.BigEndian.Uint32(is[20:]), at64(40)
	cluster := uint64(1) << bits
	raw := make([]byte, o.SizeMib<<20)
	for at := uint64(0); at < uint64(len(raw)); at += cluster {
		if l2 := at64(l1 + at/cluster/(cluster/8)*8); l2 != 0 {
			if data := at64(l2 + at/cluster%(cluster/8)*8); data != 0 {
				copy(raw[at:], is[data:min(data+cluster, uint64(len(is)))])
			}
		}
	}
	path := filepath.Join(b.t.(*testing.T).TempDir(), "raw")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		b.t.Fatal(err)
	}
	return path
}

// orders has a host keep volumes.
func (b guestBench) orders(revision uint64, list ...*blixardv1.VolumeOrder) {
	b.give(vmm.Action{ID: 1<<40 + revision, Verb: vmm.Keep, Volumes: list, Revision: revision})
}

// volume waits until a host's copy of a volume is as it should be; nil: there is none.
func (b guestBench) volume(o *blixardv1.VolumeOrder, what string, is func(*blixardv1.VolumeReport) bool) {
	b.t.Helper()
	var inv *blixardv1.VolumeInventory
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		b.h.volumes.mu.Lock()
		inv, _ = b.h.volumes.inventory()
		b.h.volumes.mu.Unlock()
		var v *blixardv1.VolumeReport
		for _, r := range inv.GetVolumes() {
			if r.Uid == o.Uid && !r.Absent {
				v = r
			}
		}
		if is(v) {
			return
		}
	}
	b.t.Fatalf("the volume is not %s: %v", what, inv)
}
