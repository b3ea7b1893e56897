package sim

import (
	"fmt"
	"time"

	"github.com/blixard/blixard/core"
	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
)

// Snapshots on a machine's disk survive the daemon and the power. What a guest holds,
// in memory and on its disks, is one number here, another one at every moment at
// which it runs.
//
// Taking one may be slow, fail (the disk is full), or end with the daemon: what is
// there by then is half of one, which the next daemon removes, and a guest that
// stands still. Loading one may fail; when the daemon dies meanwhile the guest is
// gone, or stands still, as hypervisors differ. The machine may not lose what is
// whole.
type savedVM struct {
	uid          string
	whole        bool
	memory, disk uint64
	has          uint64 // MiB that its balloon left it
}

// saving is a Snapshot under way.
type saving struct {
	order  vmm.Action
	orders *orders
	guest  *guest
	was    bool // it was paused before
	memory uint64
	saved  *savedVM
}

// holds is what is in a guest's memory now, and what it has written to its disks.
func (g *guest) holds() uint64 {
	if g.frozen {
		return g.revived
	}
	at := g.m.w.now
	if g.paused {
		at = g.pausedAt
	}
	if g.halted {
		at = min(at, g.haltedAt)
	}
	return mix(uint64(at) ^ g.life<<50 ^ uint64(g.m.Index)<<58)
}

// leaves has the disks hold what the guest that ends has written.
func (g *guest) leaves() {
	if g.frozen || g.incoming != 0 || g.waits {
		return
	}
	g.dir.data = g.holds()
	for _, v := range g.written() {
		v.data = g.holds()
		v.settle()
		if g.dir.handedOver == 0 {
			g.m.w.judges.volumes.wrote[v.uid] = v.data
		}
	}
}

// takeSnapshot begins a snapshot.
func (d *Daemon) takeSnapshot(o *orders, a vmm.Action, dir *vmDir) {
	m, w := d.m, d.m.w
	if s := m.saved[a.Snapshot]; s != nil && s.whole {
		d.snapshotEnds(o, a, s, "")
		return
	}
	if dir == nil || dir.guest == nil || dir.guest.dying || !dir.guest.ready || dir.guest.instance != a.Instance {
		d.snapshotEnds(o, a, nil, "it does not run")
		return
	}
	if _, fails := w.mishap("SnapshotFails", m.place(), w.mix.SnapshotFails, 0, 0); fails {
		d.snapshotEnds(o, a, nil, "the disk is full")
		return
	}
	g := dir.guest
	s := &saving{order: a, orders: o, guest: g, was: g.paused, saved: &savedVM{uid: a.Snapshot}}
	if !mutant.On("SnapshotWhileRunning") {
		g.pause()
	}
	s.memory, s.saved.has = g.holds(), g.has
	m.saved[a.Snapshot] = s.saved
	d.saving[a.Instance.UID] = s
	w.push(event{at: w.now + between(m.rand, 50*time.Millisecond, 5*time.Second), kind: evSaved, m: m, life: d.life, ref: s})
}

// overtaken ends a snapshot, or the saving of a boot, that an order after it makes useless.
func (d *Daemon) overtaken(uid string) {
	if s := d.saving[uid]; s != nil {
		d.saved(s, errOvertaken)
	}
	if f := d.freezing[uid]; f != nil {
		d.froze(f, errOvertaken)
	}
}

const errOvertaken = "it is not wanted any more"

// saved: memory and disks are written down, or it is given up.
func (d *Daemon) saved(s *saving, err string) {
	m, w := d.m, d.m.w
	uid := s.order.Instance.UID
	if d.saving[uid] != s || err == "" && m.crashes(pointSaved.before) {
		return
	}
	delete(d.saving, uid)
	defer m.crashes(pointSaved.after)
	g := s.guest
	gone := g.dir.guest != g || g.dying
	switch {
	case err != "":
	case gone:
		err = "it has ended meanwhile"
	case d.keeps != nil && !d.keeps.Wants(s.saved.uid):
		err = errOvertaken
	}
	if err != "" {
		delete(m.saved, s.saved.uid)
	} else {
		s.saved.memory, s.saved.disk, s.saved.whole = s.memory, g.holds(), true
		w.say(m, fmt.Sprintf("snapshot %s of VM %s is taken", s.saved.uid, g.instance))
		w.fired("SnapshotTaken")
		w.judges.snapshots.taken(w, m, s.saved)
	}
	if !gone && !s.was {
		g.goOn()
	}
	d.snapshotEnds(s.orders, s.order, s.saved, err)
}

// snapshotEnds answers a Snapshot.
func (d *Daemon) snapshotEnds(o *orders, a vmm.Action, s *savedVM, err string) {
	if err == "" {
		d.image = s.image()
	}
	d.finish(o.uid, a.ID, err)
	d.image = nil
}

func (s *savedVM) image() *blixardv1.SnapshotImage {
	return &blixardv1.SnapshotImage{SizeBytes: 1 << 20, Sha256: fmt.Sprintf("%x", s.memory), Version: "sim", Machine: "sim"}
}

// keepSnapshots takes a list of what to keep, and carries it out after a while.
func (d *Daemon) keepSnapshots(a vmm.Action) {
	m := d.m
	m.w.push(event{at: m.w.now + between(m.rand, time.Millisecond, time.Second), kind: evKept, m: m, life: d.life, ref: a})
}

func (d *Daemon) snapshotsKept(a vmm.Action) {
	m, w := d.m, d.m.w
	if m.crashes(actPoints[vmm.KeepSnapshots].before) {
		return
	}
	defer m.crashes(actPoints[vmm.KeepSnapshots].after)
	if d.keeps == nil || a.Keep.Revision >= d.keeps.Revision {
		d.keeps = a.Keep
	}
	for _, s := range sorted(d.saving) {
		if !d.keeps.Wants(s.saved.uid) {
			d.saved(s, errOvertaken)
		}
		if m.daemon != d {
			return // it died of that
		}
	}
	for _, s := range sorted(m.saved) {
		switch {
		case a.Keep.Wants(s.uid) || mutant.On("SnapshotStays"):
			continue
		case !s.whole: // it is just coming
			if !mutant.On("UploadStays") {
				delete(m.saved, s.uid)
			}
			continue
		}
		w.judges.snapshots.removed(w, m, s)
		delete(m.saved, s.uid)
		w.say(m, "snapshot "+s.uid+" is removed")
		w.fired("SnapshotRemoved")
	}
	var missing []string
	for _, uid := range a.Keep.UIDs {
		if s := m.saved[uid]; s == nil || !s.whole {
			missing = append(missing, uid)
		}
	}
	d.observe(core.Observed{Kept: a.Keep.Revision, Missing: missing})
}

// clearSaved removes what an earlier daemon did not finish.
func (m *Machine) clearSaved() {
	for _, s := range sorted(m.saved) {
		if !s.whole && !mutant.On("UploadStays") {
			delete(m.saved, s.uid)
		}
	}
}

// revive puts a snapshot's disks into the place of those that are there.
func (d *Daemon) revive(dir *vmDir, a vmm.Action) (err string) {
	m, w := d.m, d.m.w
	if dir.restoring != 0 { // an attempt before was one, and its guest has not run
		dir.data, dir.restoring = dir.before, 0
	}
	dir.from, dir.loader = nil, d.life
	from := a.Restore
	if from == nil {
		return ""
	}
	s := m.saved[from.Uid]
	if s == nil || !s.whole {
		return "the snapshot's files are not here any more"
	}
	if _, fails := w.mishap("RestoreFails", m.place(), w.mix.SnapshotFails, 0, 0); fails {
		return "the disk is full"
	}
	dir.before, dir.restoring = dir.data, from.Index
	if !mutant.On("RestoreKeepsDisks") {
		dir.data = s.disk
	}
	if from.Memory {
		dir.from, dir.keepPaused = s, a.Assignment.GetPaused()
		return ""
	}
	dir.wentOn(w, m)
	return ""
}

// wentOn: what was restored runs from now on, and is never undone.
func (d *vmDir) wentOn(w *World, m *Machine) {
	w.judges.snapshots.wentOn(w, m, d)
	d.restored, d.restoring = d.restoring, 0
}

// loads: a guest that was just forked is to go on from memory.
func (g *guest) loads() {
	m := g.m
	g.has = g.dir.from.has
	g.frozen, g.paused, g.revived, g.pausedAt = true, true, g.dir.from.memory, m.w.now
	m.w.push(event{at: m.w.now + between(m.rand, 50*time.Millisecond, 2*time.Second), kind: evLoaded, m: m, life: g.life, ref: g})
}

func (g *guest) loaded() {
	if g.waits {
		g.hasBoot()
		return
	}
	m, w := g.m, g.m.w
	_, fails := w.mishap("LoadFails", m.place(), w.mix.SnapshotFails, 0, 0)
	switch d := m.daemon; {
	case g.dying:
		return
	case d == nil || d.life != g.dir.loader:
		if m.rand.IntN(2) == 0 {
			g.gone(exited(1)) // nobody sends it any more
			return
		}
		g.ready = true
	case d.paused:
		w.push(event{at: w.now + int64(time.Second), kind: evLoaded, m: m, life: g.life, ref: g})
		return
	case fails:
		g.kill()
		return
	default:
		if g.ready = true; !g.dir.keepPaused {
			g.goOn()
		}
	}
	m.notice(g.dir)
}
