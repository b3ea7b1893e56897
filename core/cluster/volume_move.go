package cluster

import (
	"fmt"
	"slices"
	"strings"

	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A volume goes live with the VM that writes it, if no other VM has it. Its record
// says which host has it, and what other hosts have of it:
//
//	             source              target              source, target take its room
//	begin        the volume          arriving copy       both
//	  │ Switch   left-behind copy    the volume          both
//	  │            until the target has said that it has it: then it is to be
//	  ▼            removed, and is dropped when the source has said that it is gone
//	  abandoned  the volume          copy to be removed, as long as it is none
//
// So at every moment the host with the record has all of it, and a copy goes only by an
// order that names it: by the migration that brought it. Copies are no instances. They
// stay on a host that is fenced, and go with one that is lost for good.

// arriving says that a volume is on its way to another host.
func arriving(v *blixardv1.ClusterVolume) bool {
	return slices.ContainsFunc(v.GetCopies(), func(c *blixardv1.VolumeCopy) bool { return c.Arriving && !c.Removing })
}

// copyOn is what a host has of a volume that is on another; nil: nothing.
func copyOn(v *blixardv1.ClusterVolume, node uint64) *blixardv1.VolumeCopy {
	for _, c := range v.GetCopies() {
		if c.NodeId == node {
			return c
		}
	}
	return nil
}

// CopiesOn calls f for everything that a host has of volumes that are on others, until
// f returns false. f must not change them.
func (s *State) CopiesOn(node uint64, f func(*blixardv1.ClusterVolume, *blixardv1.VolumeCopy) bool) {
	prefix := be(node)
	s.copies.Ascend(prefix, func(k, name string) bool {
		v := s.Volume(name)
		return strings.HasPrefix(k, prefix) && f(v, copyOn(v, node))
	})
}

func (s *State) copiesOf(node uint64) (list []*blixardv1.ClusterVolume) {
	s.CopiesOn(node, func(v *blixardv1.ClusterVolume, _ *blixardv1.VolumeCopy) bool {
		list = append(list, v)
		return true
	})
	return list
}

func copyOrder(v *blixardv1.ClusterVolume, c *blixardv1.VolumeCopy) *blixardv1.VolumeOrder {
	return &blixardv1.VolumeOrder{
		Uid: v.Uid, Name: v.Name, Format: v.Spec.Format, SizeMib: c.SizeMib, Remove: c.Removing, Copy: c.Copy, Arriving: c.Arriving,
	}
}

// changeCopies gives a volume, the caller's own copy, its copies as f makes them: f may
// change one, which is the volume's own then, and says that it has.
func changeCopies(e *entry, v *blixardv1.ClusterVolume, f func(c *blixardv1.VolumeCopy) bool) (some bool) {
	for _, c := range v.Copies {
		if f(c) {
			c.OrderRevision, some = e.index, true
		}
	}
	return some
}

// removeCopies has all copies of a volume removed, the caller's own copy.
func removeCopies(e *entry, v *blixardv1.ClusterVolume) {
	changeCopies(e, v, func(c *blixardv1.VolumeCopy) bool {
		was := c.Removing
		c.Removing = true
		return !was
	})
}

// dropCopy forgets what a host had of a volume, and the volume, if that was the last
// of one that is being deleted. The host's node is the caller's own copy; nil: it is no
// host any more.
func (s *State) dropCopy(e *entry, v *blixardv1.ClusterVolume, host *blixardv1.Node, id uint64) {
	v = clone(v)
	if host != nil {
		s.holdDisk(host, -int64(copyOn(v, id).SizeMib))
	}
	v.Copies = slices.DeleteFunc(v.Copies, func(c *blixardv1.VolumeCopy) bool { return c.NodeId == id })
	s.freed()
	if v.Deleting && v.NodeId == 0 && len(v.Copies) == 0 {
		s.forgetVolume(e, v)
		return
	}
	s.put(volumeKey(v.Name), v)
}

// older says that what a host said was said before it knew that a volume has come to
// it.
func older(v *blixardv1.ClusterVolume, revision uint64) bool {
	return v.Copy != 0 && revision < v.OrderRevision
}

// copyGone says that a host, which has this of a volume, has no more what is to be
// removed there. What it was to have on its way and has as a volume stays, as one that
// the cluster does not know: it was restored from a backup of before it came.
func copyGone(c *blixardv1.VolumeCopy, r *blixardv1.VolumeReport) bool {
	return c.Removing && (r.Absent || r.Copy != c.Copy || c.Arriving && !r.Arriving)
}

// settles says that what a volume's host has of it lets go of what was left behind.
func settles(v *blixardv1.ClusterVolume, r *blixardv1.VolumeReport) bool {
	return !r.Absent && !r.Arriving && r.Copy == v.Copy && slices.ContainsFunc(v.Copies, func(c *blixardv1.VolumeCopy) bool { return !c.Arriving && !c.Removing })
}

// cameSince says that a volume has come to its host since the backup from which the
// cluster was restored, by a migration that nobody knows.
func cameSince(v *blixardv1.ClusterVolume, r *blixardv1.VolumeReport) bool {
	return !r.Absent && !r.Arriving && r.Copy != v.Copy
}

// volumeThere takes what its host has of a volume, the caller's own copy.
func (s *State) volumeThere(e *entry, v *blixardv1.ClusterVolume, r *blixardv1.VolumeReport) {
	switch {
	case cameSince(v, r):
		v.Copy, v.OrderRevision = r.Copy, e.index
	case settles(v, r):
		changeCopies(e, v, func(c *blixardv1.VolumeCopy) bool {
			left := !c.Arriving && !c.Removing
			c.Removing = c.Removing || left
			return left
		})
	}
}

// volumesStay says why a VM's volumes cannot go with it, wherever to.
func (s *State) volumesStay(vm *blixardv1.VM) (why, advice string) {
	for _, h := range vm.Volumes {
		if h.Leaving {
			return "it may still run with the volume " + h.Volume + ", which its newest spec has not", "'blixard vm restart " + vm.Name + "' first"
		}
	}
	for _, m := range vm.Spec.GetVolumes() {
		v := s.Volume(m.Volume)
		switch {
		case v == nil:
			return "its volume " + m.Volume + " is gone", ""
		case m.ReadOnly:
			return "it has the volume " + v.Name + " read-only, as others may: that stays on " + v.Node, "one that is its alone, and that it writes, goes with it"
		case s.inTheWay(v, vm.Uid, false) != "":
			return s.inTheWay(v, vm.Uid, false) + " has its volume " + v.Name + ", too", "only a volume that no other VM has goes with it"
		case v.Deleting:
			return "its volume " + v.Name + " is being deleted", ""
		case v.Status.GetPhase() != blixardv1.VolumePhase_VOLUME_PHASE_READY:
			return "its volume " + v.Name + " is not ready: " + v.Status.GetMessage(), "'blixard volume get " + v.Name + "' says more"
		case v.Status.SizeMib != v.Spec.SizeMib:
			return "its volume " + v.Name + " is still to grow", "'blixard vm restart " + vm.Name + "' first"
		case arriving(v):
			return "its volume " + v.Name + " is on its way already", "wait until that has ended"
		}
	}
	return "", ""
}

// volumesSize is the room that a VM's volumes take, wherever they are.
func (s *State) volumesSize(vm *blixardv1.VM) (mib uint64) {
	for _, m := range vm.Spec.GetVolumes() {
		mib += s.Volume(m.Volume).GetSpec().GetSizeMib()
	}
	return mib
}

// hasSome says that a host has something of one of a VM's volumes already; "" if not.
func (s *State) hasSome(vm *blixardv1.VM, n *blixardv1.Node) string {
	for _, m := range vm.Spec.GetVolumes() {
		v := s.Volume(m.Volume)
		if copyOn(v, n.Id) != nil {
			return "has not removed yet what it has of the volume " + m.Volume + " since an earlier move"
		}
		if slices.ContainsFunc(n.GetHost().GetOrphanVolumes(), func(r *blixardv1.VolumeReport) bool { return r.Uid == v.GetUid() }) {
			return "has a volume of the uid of " + m.Volume + " (" + v.GetUid() + "), which the cluster does not know: it must be put aside there"
		}
	}
	return ""
}

// sendVolumes begins to have a VM's volumes come to the target of its move, the
// caller's own copy of a node.
func (s *State) sendVolumes(e *entry, vm *blixardv1.VM, target *blixardv1.Node) {
	for _, m := range vm.Spec.GetVolumes() {
		v := clone(s.Volume(m.Volume))
		v.Copies = append(v.Copies, &blixardv1.VolumeCopy{NodeId: target.Id, Copy: e.index, Arriving: true, SizeMib: v.Spec.SizeMib, OrderRevision: e.index})
		s.holdDisk(target, int64(v.Spec.SizeMib))
		s.put(volumeKey(v.Name), v)
	}
}

// moved calls f for a VM's volumes that are on their way by its move, each a copy of
// its own that is stored then.
func (s *State) moved(vm *blixardv1.VM, f func(*blixardv1.ClusterVolume, *blixardv1.VolumeCopy)) {
	m := vm.Migration
	for _, h := range vm.Volumes {
		v := clone(s.VolumeByUID(h.Uid))
		for _, c := range v.GetCopies() {
			if c.Arriving && !c.Removing && c.Copy == m.Id {
				f(v, c)
				s.put(volumeKey(v.Name), v)
				break
			}
		}
	}
}

// abandonVolumes has what has come of a VM's volumes removed: its move has ended.
func (s *State) abandonVolumes(e *entry, vm *blixardv1.VM) {
	s.moved(vm, func(_ *blixardv1.ClusterVolume, c *blixardv1.VolumeCopy) { c.Removing, c.OrderRevision = true, e.index })
}

// switchVolumes has a VM's volumes be where it may run from now on. What each host has
// takes its room as before.
func (s *State) switchVolumes(e *entry, vm *blixardv1.VM, to *blixardv1.Node) {
	early := mutant.On("LeftBehindEarly") // in the closure it would stay in production's programs
	s.moved(vm, func(v *blixardv1.ClusterVolume, c *blixardv1.VolumeCopy) {
		from := v.Node
		v.NodeId, c.NodeId, v.Node = c.NodeId, v.NodeId, to.Name
		v.Copy, c.Copy, c.Arriving = c.Copy, v.Copy, false
		v.OrderRevision, c.OrderRevision = e.index, e.index
		v.Status.Message = fmt.Sprintf("it has come from %s, and %s has not said yet that it has all of it", from, to.Name)
		c.Removing = early
		s.event(e, "VolumeMoved", "", to.Name, "volume %s, from %s, with the VM %s", v.Name, from, vm.Name)
	})
}
