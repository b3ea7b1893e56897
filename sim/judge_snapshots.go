package sim

import (
	"fmt"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A snapshot is of one moment, memory and disks; what is said to be ready is there,
// whole, until the state gives it up, and what the state has forgotten is there no
// more; a VM goes on from it with just that, and once for each time that it was asked.
type judgeSnapshots struct {
	done  map[string]bool    // restores of which the guest has gone on, by uid and index
	holds map[string]content // what each was taken with, or brought, by uid
}

type content struct{ memory, disk uint64 }

const backedUp = "what is brought back is what was backed up"

// taken looks at a snapshot that was just made.
func (j *judgeSnapshots) taken(w *World, m *Machine, s *savedVM) {
	w.judges.judged["snapshots"]++
	if s.memory != s.disk {
		w.fail("a snapshot is of one moment", "%s: the disks of %s are not of the moment of its memory", m.Name, s.uid)
	}
	j.holds[s.uid] = content{s.memory, s.disk}
}

// backedUp looks at an archive that was just made.
func (j *judgeSnapshots) backedUp(w *World, m *Machine, a *archive) { j.same(w, m, &a.savedVM) }

// same looks whether bytes are what their snapshot was taken with, or brought.
func (j *judgeSnapshots) same(w *World, m *Machine, s *savedVM) {
	w.judges.judged["snapshots"]++
	if is := (content{s.memory, s.disk}); is != j.holds[s.uid] {
		w.fail(backedUp, "%s: the snapshot %s holds %x, and was to hold %x", m.Name, s.uid, is, j.holds[s.uid])
	}
}

// ready says that what a client brings is.
func (j *judgeSnapshots) ready(w *World, op *Operation) bool {
	p := w.judges.newest.snapshots[snapshotName(op.Name)]
	return op.brought != "" && p.GetUid() == op.brought && p.State == blixardv1.SnapshotState_SNAPSHOT_STATE_READY
}

// removed looks at bytes that are about to go.
func (j *judgeSnapshots) removed(w *World, m *Machine, s *savedVM) {
	w.judges.judged["snapshots"]++
	for _, p := range sorted(w.judges.newest.snapshots) {
		if p.Uid == s.uid && w.byID(p.NodeId) == m && p.State == blixardv1.SnapshotState_SNAPSHOT_STATE_READY {
			w.fail("what is ready is there", "index %d: %s removes %s, which is ready", w.judges.newest.index, m.Name, s.uid)
		}
	}
}

// wentOn looks at a VM that is about to run from a snapshot.
func (j *judgeSnapshots) wentOn(w *World, m *Machine, d *vmDir) {
	w.judges.judged["snapshots"]++
	w.fired("WentOn")
	key := fmt.Sprintf("%s/%d", d.uid, d.restoring)
	if j.done[key] {
		w.fail("a restore is done once", "%s: VM %s goes on again by the restore of entry %d", m.Name, d.uid, d.restoring)
	}
	j.done[key] = true
	if d.from != nil {
		j.same(w, m, d.from)
	}
	if d.from != nil && d.data != d.from.memory {
		w.fail("a snapshot is of one moment", "%s: VM %s goes on with the memory of %s, and other disks", m.Name, d.uid, d.from.uid)
	}
}

// entry looks at the records that one entry has changed.
func (j *judgeSnapshots) entry(w *World, n *newest) {
	for _, c := range n.snapped {
		const ready = blixardv1.SnapshotState_SNAPSHOT_STATE_READY
		switch {
		case c.is == nil:
			w.judges.judged["snapshots"]++
			m := w.byID(c.was.NodeId)
			if m != nil && m.member && n.nodes[c.was.NodeId].GetHost() != nil && m.saved[c.was.Uid] != nil {
				w.fail("what is forgotten is gone", "index %d: the snapshot %s is forgotten, and %s has its bytes", n.index, c.was.Uid, m.Name)
			}
		case c.is.State == ready && c.was.GetState() != ready:
			w.judges.judged["snapshots"]++
			if m := w.byID(c.is.NodeId); m != nil && (m.saved[c.is.Uid] == nil || !m.saved[c.is.Uid].whole) {
				w.fail("what is ready is there", "index %d: the snapshot %s is ready, and %s does not have it", n.index, c.is.Uid, m.Name)
			} else if m != nil {
				j.same(w, m, m.saved[c.is.Uid])
			}
		}
	}
}

// snapshotUnrest says what of snapshots is not as it should be at rest.
func (w *World) snapshotUnrest(v *cluster.State, m *Machine) (why []string) {
	mine := map[string]*blixardv1.VMSnapshot{}
	v.Snapshots(func(p *blixardv1.VMSnapshot) bool {
		if p.NodeId == m.id {
			mine[p.Uid] = p
		}
		return true
	})
	for _, s := range sorted(m.saved) {
		if p := mine[s.uid]; !s.whole || p.GetState() != blixardv1.SnapshotState_SNAPSHOT_STATE_READY && m.member && v.Node(m.id) != nil {
			why = append(why, fmt.Sprintf("%s has bytes of the snapshot %s (whole %t), which is %s", m.Name, s.uid, s.whole, p.GetState()))
		}
	}
	for _, p := range sorted(mine) {
		switch s := m.saved[p.Uid]; p.State {
		case blixardv1.SnapshotState_SNAPSHOT_STATE_READY:
			if s == nil || !s.whole {
				why = append(why, fmt.Sprintf("the snapshot %s is ready, and %s does not have it", p.Uid, m.Name))
			}
		case blixardv1.SnapshotState_SNAPSHOT_STATE_FAILED:
			if p.DiskMib > 0 {
				why = append(why, fmt.Sprintf("the snapshot %s has failed, and takes room on %s", p.Uid, m.Name))
			}
		default:
			why = append(why, fmt.Sprintf("the snapshot %s is still %s on %s", p.Uid, p.State, m.Name))
		}
	}
	return why
}
