package sim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// No volume is open for writing twice, whatever else has it open; who has one open
// runs where it is, and has it by the newest state, too. A volume is removed only
// when somebody asked for that by its name. A VM that waits for its host, because
// its volumes are there, is taken from it only by a person's word that the host is
// lost. It is then left stopped: its owner says whether it starts without them.
//
// A volume goes with its VM that is moved live. What is on its way is no volume: nobody
// runs with it, and two hosts may have that open, one of which writes nothing. What a
// host had of a volume goes only once another has all of it, and says so after the loss
// of its power, too. Whoever opens a volume finds what was last written to it, wherever.
//
// A VM's own disks are in its directory: who runs there has them open.
type judgeVolumes struct {
	wrote map[string]uint64 // what a volume holds, by uid
	whole map[string]uint64 // the newest migration by which one has come, for good
}

const (
	oneWriter  = "no volume is open twice"
	withVolume = "a VM runs where its volumes are"
	stillHolds = "what lives has its volumes"
	goneByName = "a volume goes by its name only"
	hasWrites  = "a volume has every acknowledged write"
	noVolume   = "what is on its way is no volume"
)

func (j *judgeVolumes) forked(w *World, g *guest) {
	w.judges.judged["volumes"]++
	for _, o := range g.m.guests {
		if o != g && o.dir == g.dir {
			w.fail(oneWriter, "%s: %s and %s run in one directory", g.m.Name, o.instance, g.instance)
		}
	}
	if len(g.mounts) == 0 {
		return
	}
	w.fired("VolumeOpened")
	for _, c := range g.mounts {
		v := g.m.volumes[c.Volume.Uid]
		if v == nil {
			w.fail(withVolume, "%s runs on %s, and volume %s (%s) is not there", g.instance, g.m.Name, c.Volume.Name, c.Volume.Uid)
			continue
		}
		j.found(w, g, v)
		w.guests(func(o *guest) {
			for _, other := range o.mounts {
				if o.incoming != 0 || o.dir.handedOver != 0 {
					continue
				}
				if o != g && other.Volume.Uid == c.Volume.Uid && !(other.ReadOnly && c.ReadOnly) {
					w.fail(oneWriter, "%s (read-only: %t) and %s (read-only: %t) have volume %s open", g.instance, c.ReadOnly, o.instance, other.ReadOnly, c.Volume.Name)
				}
			}
		})
	}
	j.look(w, g)
}

// found looks at what a guest finds that runs with a volume.
func (j *judgeVolumes) found(w *World, g *guest, v *simVolume) {
	if v.arriving {
		w.fail(noVolume, "%s runs on %s with what has come of volume %s by migration %d, and may be less than all", g.instance, g.m.Name, v.name, v.copy)
	}
	if v.copy == g.instance.Index {
		w.fired("MovedWithVolume")
	}
	if wrote, ok := j.wrote[v.uid]; ok && wrote != v.data {
		// A restored cluster may know of an older place only.
		if w.generation == 1 {
			w.fail(hasWrites, "%s runs on %s with volume %s, which holds %x; %x had been written", g.instance, g.m.Name, v.name, v.data, wrote)
		}
		j.wrote[v.uid] = v.data
	}
}

// arrived: a host says of what has come that it is the volume.
func (j *judgeVolumes) arrived(v *simVolume) { j.whole[v.uid] = max(j.whole[v.uid], v.copy) }

// look holds what a guest has open to what its VM has in the newest state.
func (j *judgeVolumes) look(w *World, g *guest) {
	n := &w.judges.newest
	if n.vms == nil || n.meta.GetUnsettled() || g.orphan || w.givenUp[g.m.called] && g.dir.looser().class == blixardv1.LeaseClass_LEASE_CLASS_NONE {
		return // as the judge of what is placed
	}
	vm := n.vm(g.instance.UID)
	for _, c := range g.mounts {
		if !slices.ContainsFunc(vm.GetVolumes(), func(h *blixardv1.VolumeHold) bool { return h.Uid == c.Volume.Uid && (!h.ReadOnly || c.ReadOnly) }) {
			w.fail(stillHolds, "index %d: %s lives on %s with volume %s (read-only: %t), which its VM does not have", n.index, g.instance, g.m.Name, c.Volume.Name, c.ReadOnly)
		}
	}
}

// removed: a volume's file is gone. Somebody wanted that while it was there, or since
// the entry that created it: its host may have made it late.
func (j *judgeVolumes) removed(w *World, m *Machine, v *simVolume) {
	w.judges.judged["volumes"]++
	switch {
	case v.arriving: // it was none
		return
	case j.whole[v.uid] > v.copy:
		w.fired("LeftBehindRemoved")
		return
	}
	_, index, _ := strings.Cut(v.uid, "-")
	created, _ := strconv.ParseUint(index, 10, 64)
	for _, op := range slices.Concat(w.drops, w.history) {
		if op.Verb == DropVolume && op.Name == v.name && (op.Return == 0 || op.Unknown || op.Return >= v.made || op.Revision > created) {
			return
		}
	}
	w.fail(goneByName, "%s: volume %s (%s) is removed, and nobody asked for that", m.Name, v.name, v.uid)
}

// held looks at who has volumes in the newest state.
func (j *judgeVolumes) held(w *World, n *newest) {
	writers := map[string]string{}
	for _, vm := range sorted(n.vms) {
		for _, h := range vm.GetVolumes() {
			w.judges.judged["volumes"]++
			v := n.volumes[h.Volume]
			if v.GetUid() != h.Uid || v.GetDeleting() {
				w.fail(stillHolds, "index %d: %s has volume %s (%s), which is gone or is going", n.index, vm.Name, h.Volume, h.Uid)
			}
			if p := vm.Placement; p != nil && v.GetNodeId() != p.NodeId {
				w.fail(withVolume, "index %d: %s is placed on %s, and its volume %s is on node %d", n.index, vm.Name, p.Node, h.Volume, v.GetNodeId())
			}
			how := fmt.Sprintf("%s, read-only: %t", vm.Name, h.ReadOnly)
			if by, is := writers[h.Uid]; is && by != how && !(h.ReadOnly && by[len(by)-4:] == "true") && by[:len(by)-len(", read-only: true")] != vm.Name {
				w.fail(oneWriter, "index %d: volume %s is had by %s, and by %s", n.index, h.Volume, by, how)
			}
			if _, is := writers[h.Uid]; !is || !h.ReadOnly {
				writers[h.Uid] = how
			}
		}
	}
}

// entry looks at what one entry has changed.
func (j *judgeVolumes) entry(w *World, n *newest) {
	looked := false
	for _, c := range n.changed {
		if len(c.was.GetVolumes())+len(c.is.GetVolumes()) > 0 && !looked {
			j.held(w, n)
			looked = true
		}
		if len(c.was.GetVolumes()) > 0 {
			for _, g := range w.running[c.was.Uid] {
				j.look(w, g)
			}
		}
		was, is := c.was.GetPlacement(), c.is.GetPlacement()
		if was == nil || c.is == nil || c.is.Uid != c.was.Uid || c.is.Deleting || !waits(c.was) || !waits(c.is) {
			continue
		}
		w.judges.judged["volumes"]++
		if is.GetNodeId() == was.NodeId && is.Incarnation.GetIndex() == was.Incarnation.GetIndex() {
			continue
		}
		if m := c.is.GetMigration(); m.GetId() != 0 && is.GetIncarnation().GetIndex() == m.Id { // it has gone live, with its disks
			continue
		}
		if m := c.was.GetMigration(); m.GetOffline() && m.State == blixardv1.MigrationState_MIGRATION_STATE_LEAVING && !keepsSomething(c.was.Spec) {
			continue // somebody said so, and nothing of it stays behind
		}
		if c.is.Run {
			w.fail("a VM that waits is not taken from its host", "index %d: %s starts without its volumes, on node %d", n.index, c.is.Name, is.GetNodeId())
		}
		if m := w.machineOf(was.NodeId); !w.givenUp[was.Node] && (m == nil || !w.givenUp[m.called]) {
			w.fail("a VM that waits is not taken from its host", "index %d: %s waits for node %d, which nobody gave up, and is not placed there any more",
				n.index, c.is.Name, was.NodeId)
		}
	}
}

// keepsSomething says that a VM of these worlds would miss something elsewhere.
func keepsSomething(s *blixardv1.VMSpec) bool {
	return len(s.GetVolumes()) > 0 || len(s.GetImage().GetDisks()) > 0 || len(s.GetNixos().GetVolumes()) > 0
}

// overtaken says that a volume has gone since the backup from which the cluster was
// restored: nothing is there of it, or the beginning of a copy that never came whole.
func (w *World) overtaken(v *blixardv1.ClusterVolume) bool {
	if w.generation == 1 {
		return false
	}
	m := w.byID(v.GetNodeId())
	return v.GetStatus().GetPhase() == blixardv1.VolumePhase_VOLUME_PHASE_LOST ||
		v.GetStatus().GetPhase() == blixardv1.VolumePhase_VOLUME_PHASE_FAILED && m != nil && m.volumes[v.Uid] != nil && m.volumes[v.Uid].arriving
}

// volumesUnrest says what is not as it should be about volumes, once all rests: each
// that has a host is there, as large as it should be unless a VM has it open, and is
// said to be; nothing else is there but what a lost generation has left.
func (w *World) volumesUnrest(v *cluster.State) (why []string) {
	v.Volumes(func(vol *blixardv1.ClusterVolume) bool {
		m := w.byID(vol.NodeId)
		st := vol.GetStatus()
		if m == nil || slices.Contains(w.rest, m) || m.keeper.busy && len(w.rest) > 0 || w.overtaken(vol) {
			return true
		}
		is := m.volumes[vol.Uid]
		switch {
		case len(vol.Copies) > 0 && w.generation == 1 && len(w.rest) == 0:
			why = append(why, fmt.Sprintf("volume %s is on %s, and others have something of it: %v", vol.Name, m.Name, vol.Copies))
		case vol.Deleting:
			why = append(why, "volume "+vol.Name+" is still being deleted")
		case is == nil, st.Phase != blixardv1.VolumePhase_VOLUME_PHASE_READY:
			why = append(why, fmt.Sprintf("volume %s is %s (%s) on %s, there: %t", vol.Name, st.Phase, st.Message, m.Name, is != nil))
		case is.mib != vol.Spec.SizeMib && m.opens(vol.Uid, "", false) == "":
			why = append(why, fmt.Sprintf("volume %s has %d MiB of %d", vol.Name, is.mib, vol.Spec.SizeMib))
		}
		return true
	})
	for _, m := range w.machines {
		if v.Node(m.id) == nil || !m.member || w.generation > 1 || slices.Contains(w.rest, m) {
			continue
		}
		for _, is := range sorted(m.volumes) {
			if vol := v.VolumeByUID(is.uid); vol == nil || vol.NodeId != m.id && !slices.ContainsFunc(vol.Copies, func(c *blixardv1.VolumeCopy) bool { return c.NodeId == m.id }) {
				why = append(why, fmt.Sprintf("%s has volume %s (%s), which the cluster does not know", m.Name, is.name, is.uid))
			}
		}
	}
	return why
}

func waits(vm *blixardv1.VM) bool {
	return vm.GetSpec().GetOnHostLoss() == blixardv1.OnHostLoss_ON_HOST_LOSS_WAIT
}
