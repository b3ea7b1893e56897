package cluster

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core/hypervisor"
	"github.com/blixard/blixard/core/mutant"
	"github.com/blixard/blixard/core/schedule"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A volume is a disk with a record of its own. It gets a host once: by its user's
// word, or when its first VM is placed. It leaves that only with a VM that is moved
// live (volume_move.go). Its host makes it of an order, and says what it has; what a
// host has and nobody ordered stays where it is (an orphan). A volume goes when its user deletes it by name, which nobody
// can while a VM has it, and when its host has said that it is gone.
//
//	waiting ──► making ──► ready ──► deleting ──► (gone)
//	             │  ▲        │
//	             ▼  │        ▼
//	            failed      lost
//
// Which VM has it, for writing or not, stands in the VMs' records, like addresses:
// a VM has a volume for as long as anything of the VM may have it open.

// Volume returns a volume by its name, or nil.
func (s *State) Volume(name string) *blixardv1.ClusterVolume {
	return get[*blixardv1.ClusterVolume](s, volumeKey(name))
}

// VolumeByUID returns a volume by its uid, or nil.
func (s *State) VolumeByUID(uid string) *blixardv1.ClusterVolume {
	name, ok := s.volumes.Get(uid)
	if !ok {
		return nil
	}
	return s.Volume(name)
}

// Volumes calls f for every volume by name until f returns false.
func (s *State) Volumes(f func(*blixardv1.ClusterVolume) bool) { ascend(s, volumePrefix, "", f) }

// VolumesOn calls f for every volume of a host, until f returns false. f must not
// change them.
func (s *State) VolumesOn(node uint64, f func(*blixardv1.ClusterVolume) bool) {
	prefix := be(node)
	s.kept.Ascend(prefix, func(k, name string) bool {
		return strings.HasPrefix(k, prefix) && f(s.Volume(name))
	})
}

// VolumeUses calls f for every VM that has a volume, until f returns false.
func (s *State) VolumeUses(uid string, f func(vm *blixardv1.VM, readOnly bool) bool) {
	prefix := uid + "\x00"
	s.users.Ascend(prefix, func(k string, readOnly bool) bool {
		return strings.HasPrefix(k, prefix) && f(s.VMByUID(k[len(prefix):]), readOnly)
	})
}

func volumeKey(name string) string { return volumePrefix + name }

func volumeResponse(v *blixardv1.ClusterVolume) *blixardv1.Response {
	return &blixardv1.Response{Result: &blixardv1.Response_Volume{Volume: v}}
}

func noVolume(name string) *blixardv1.Response {
	return refuse(blixardv1.ErrorCode_ERROR_CODE_NOT_FOUND, fmt.Sprintf("there is no volume named %q", name), "'blixard volume list' shows those there are")
}

func (s *State) createVolume(e *entry, op *blixardv1.CreateVolumeOp) *blixardv1.Response {
	if err := ValidateVolume(op.Name, op.Spec); err != nil {
		return &blixardv1.Response{Error: err}
	}
	if old := s.Volume(op.Name); old != nil {
		message, advice := "a volume named "+op.Name+" exists", "use another name, or delete it first"
		if old.Deleting {
			message, advice = fmt.Sprintf("the volume %s is still being deleted: %s", op.Name, old.Status.GetMessage()), "wait for it, or use another name"
		}
		return refuse(blixardv1.ErrorCode_ERROR_CODE_ALREADY_EXISTS, message, advice)
	}
	v := &blixardv1.ClusterVolume{
		Name: op.Name, Uid: fmt.Sprintf("%d-%d", s.meta.Generation, e.index), Spec: clone(op.Spec), Written: op.Written, CreateTime: e.time(),
		Status: &blixardv1.VolumeStatus{Phase: blixardv1.VolumePhase_VOLUME_PHASE_WAITING, Message: "it is made on the host of the first VM that uses it"},
	}
	v.Spec.Format = max(v.Spec.Format, blixardv1.VolumeFormat_VOLUME_FORMAT_RAW)
	var node *blixardv1.Node
	switch {
	case op.Host != "":
		switch node = s.NodeByName(op.Host); {
		case node == nil:
			return noNode(op.Host)
		case node.Host.GetFacts() == nil:
			return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, op.Host+" is no host, or has not said yet what it has", "'blixard node list' shows the hosts")
		}
		if resp := s.noDisk(node, v.Spec.SizeMib); resp != nil {
			return resp
		}
	case op.Written:
		if node = s.hostFor(v, op.Beside); node == nil {
			return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION,
				fmt.Sprintf("no host has room for a volume of %d MiB, and for what goes beside it", v.Spec.SizeMib), "make room, or name a host; 'blixard node list -o wide' shows what they have left")
		}
	}
	if node != nil {
		node = copyNode(node)
		s.bind(e, v, node)
		s.put(nodeKey(node.Id), node)
	}
	s.put(volumeKey(v.Name), v)
	s.event(e, "VolumeCreated", "", v.Node, "volume %s, %d MiB", v.Name, v.Spec.SizeMib)
	return volumeResponse(v)
}

// hostFor is the emptiest host with room for a volume, and for a VM beside it.
func (s *State) hostFor(v *blixardv1.ClusterVolume, beside *blixardv1.VMSpec) *blixardv1.Node {
	n := schedule.Need{}
	if beside != nil {
		n = need(s.complete(beside))
	}
	n.DiskMiB += v.Spec.SizeMib
	for h := range s.emptiestFirst(n) {
		fits := h.Used.DiskMiB+n.DiskMiB <= h.Capacity.DiskMiB
		if beside != nil {
			fits = len(schedule.Obstacles(nil, h, n)) == 0
		}
		if fits {
			return s.Node(h.ID)
		}
	}
	return nil
}

// noDisk refuses so many MiB more on a host than it has.
func (s *State) noDisk(n *blixardv1.Node, more uint64) *blixardv1.Response {
	h := loadOf(n, s.overcommit())
	free := h.Capacity.DiskMiB - min(h.Used.DiskMiB, h.Capacity.DiskMiB)
	if more <= free {
		return nil
	}
	return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION,
		fmt.Sprintf("%s has %d MiB of disk free of the %d needed", n.Name, free, more), "make it smaller, make room there, or use another host")
}

// bind gives a volume its host, for good. Both are the caller's own, and are not
// stored here.
func (s *State) bind(e *entry, v *blixardv1.ClusterVolume, node *blixardv1.Node) {
	v.NodeId, v.Node, v.OrderRevision = node.Id, node.Name, e.index
	v.Status = &blixardv1.VolumeStatus{Phase: blixardv1.VolumePhase_VOLUME_PHASE_MAKING, Message: node.Name + " has not made it yet"}
	if v.Written {
		v.Status.Message = "what it holds has not come to " + node.Name + " yet"
	}
	s.holdDisk(node, int64(v.Spec.SizeMib))
}

// holdDisk accounts a volume's room to its host, the caller's own copy.
func (s *State) holdDisk(node *blixardv1.Node, mib int64) {
	if node.Host.Allocated == nil {
		node.Host.Allocated = &blixardv1.Resources{}
	}
	if mutant.On("VolumeUnaccounted") && mib > 0 {
		return
	}
	node.Host.Allocated.DiskMib += uint64(mib)
}

func (s *State) growVolume(e *entry, op *blixardv1.GrowVolumeOp) *blixardv1.Response {
	v := s.Volume(op.Name)
	switch {
	case v == nil:
		return noVolume(op.Name)
	case v.Deleting:
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "the volume "+v.Name+" is being deleted", "")
	case op.SizeMib == v.Spec.SizeMib:
		return volumeResponse(v)
	case op.SizeMib < v.Spec.SizeMib:
		return &blixardv1.Response{Error: invalid("size_mib", fmt.Sprintf("the volume %s has %d MiB, and %d would cut off what is at its end", v.Name, v.Spec.SizeMib, op.SizeMib),
			"a volume never becomes smaller: make a smaller one, and copy over what you need")}
	case v.Status.Phase == blixardv1.VolumePhase_VOLUME_PHASE_LOST:
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "the volume "+v.Name+" is lost: "+v.Status.Message, "delete it, and make another one")
	case arriving(v):
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "the volume "+v.Name+" is on its way to another host, with the VM that has it", "wait until that has moved ('blixard volume get "+v.Name+"'), or end the move")
	}
	next := clone(v)
	next.Spec.SizeMib = op.SizeMib
	if err := ValidateVolume(v.Name, next.Spec); err != nil {
		return &blixardv1.Response{Error: err}
	}
	if v.NodeId != 0 {
		n := s.Node(v.NodeId)
		if resp := s.noDisk(n, op.SizeMib-v.Spec.SizeMib); resp != nil {
			return resp
		}
		n = copyNode(n)
		s.holdDisk(n, int64(op.SizeMib-v.Spec.SizeMib))
		next.OrderRevision = e.index
		next.Status.Message = fmt.Sprintf("%s is to make it larger; a VM that has it open sees that at its next start", n.Name)
		s.put(nodeKey(n.Id), n)
	}
	s.put(volumeKey(v.Name), next)
	s.tellUsers(e, next)
	s.event(e, "VolumeGrown", "", next.Node, "volume %s, from %d MiB to %d", v.Name, v.Spec.SizeMib, next.Spec.SizeMib)
	return volumeResponse(next)
}

// tellUsers has the hosts of VMs that have a volume hear what has changed about it.
func (s *State) tellUsers(e *entry, v *blixardv1.ClusterVolume) {
	var list []*blixardv1.VM
	s.VolumeUses(v.Uid, func(vm *blixardv1.VM, _ bool) bool {
		if vm.Placement != nil && !slices.Contains(list, vm) {
			list = append(list, vm)
		}
		return true
	})
	for _, vm := range list {
		s.assign(e, copyVM(vm), copyNode(s.Node(vm.Placement.NodeId)))
	}
}

func (s *State) deleteVolume(e *entry, op *blixardv1.DeleteVolumeOp) *blixardv1.Response {
	v := s.Volume(op.Name)
	if v == nil || op.Uid != "" && op.Uid != v.Uid {
		return noVolume(op.Name)
	}
	if v.Deleting {
		return volumeResponse(v)
	}
	if by := s.inTheWay(v, "", false); by != "" {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, fmt.Sprintf("%s has the volume %s", by, v.Name),
			"delete that VM first, or take the volume out of its spec ('blixard vm update VM --detach "+v.Name+"') and restart it")
	}
	return volumeResponse(s.condemn(e, v))
}

// condemn has a volume deleted that no VM has.
func (s *State) condemn(e *entry, v *blixardv1.ClusterVolume) *blixardv1.ClusterVolume {
	v = clone(v)
	v.Deleting, v.OrderRevision = true, e.index
	v.Status.Phase, v.Status.Message = blixardv1.VolumePhase_VOLUME_PHASE_DELETING, "its host "+v.Node+" is removing it"
	removeCopies(e, v)
	if n := s.Node(v.NodeId); n.GetHost() == nil {
		s.dropVolume(e, v, nil)
		return v
	}
	s.put(volumeKey(v.Name), v)
	return v
}

// dropVolume forgets a volume of which its host has nothing any more, once nobody has.
// The node, its host unless it has none, is the caller's own copy.
func (s *State) dropVolume(e *entry, v *blixardv1.ClusterVolume, node *blixardv1.Node) {
	if node != nil {
		s.holdDisk(node, -int64(v.Spec.SizeMib))
	}
	if len(v.Copies) > 0 {
		v = clone(v)
		v.NodeId, v.Node = 0, ""
		removeCopies(e, v)
		s.put(volumeKey(v.Name), v)
		return
	}
	s.forgetVolume(e, v)
}

func (s *State) forgetVolume(e *entry, v *blixardv1.ClusterVolume) {
	s.del(volumeKey(v.Name))
	s.event(e, "VolumeDeleted", "", v.Node, "volume %s: nothing of it is left", v.Name)
	s.freed()
}

// inTheWay is who has a volume so that somebody else cannot have it, in words: one
// may write it, or some read it.
func (s *State) inTheWay(v *blixardv1.ClusterVolume, uid string, readOnly bool) (by string) {
	if mutant.On("VolumeSharedForWriting") && uid != "" {
		return ""
	}
	s.VolumeUses(v.Uid, func(vm *blixardv1.VM, reads bool) bool {
		if vm.Uid == uid || readOnly && reads {
			return true
		}
		by = "the VM " + vm.Name
		hold := vm.Volumes[slices.IndexFunc(vm.Volumes, func(h *blixardv1.VolumeHold) bool { return h.Uid == v.Uid })]
		switch {
		case vm.Deleting:
			by += ", which is still being deleted,"
		case hold.Leaving:
			by += ", which may still run with an earlier spec,"
		}
		return false
	})
	return by
}

// mount gives a VM, the caller's own, the volumes of its spec. What it had of an
// earlier spec it keeps while it may run with that.
func (s *State) mount(vm *blixardv1.VM) *blixardv1.Response {
	const code = blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION
	var list []*blixardv1.VolumeHold
	var first *blixardv1.ClusterVolume
	for i, m := range vm.Spec.GetVolumes() {
		v := s.Volume(m.Volume)
		why, advice := "", "use another volume"
		switch {
		case v == nil:
			why, advice = fmt.Sprintf("there is no volume named %q", m.Volume), "make it with 'blixard volume create', or use one that 'blixard volume list' shows"
		case v.Deleting:
			why = "the volume " + v.Name + " is being deleted"
		case v.Status.Phase == blixardv1.VolumePhase_VOLUME_PHASE_LOST:
			why = "the volume " + v.Name + " is lost: " + v.Status.Message
		case s.inTheWay(v, vm.Uid, m.ReadOnly) != "":
			why = fmt.Sprintf("%s has the volume %s", s.inTheWay(v, vm.Uid, m.ReadOnly), v.Name)
			advice = "one VM has a volume for writing, or some have it read-only; " + advice
		case first != nil && v.NodeId != 0 && v.NodeId != first.NodeId:
			why = fmt.Sprintf("the volume %s is on %s, and %s on %s", first.Name, first.Node, v.Name, v.Node)
			advice = "a VM runs where all its volumes are: " + advice
		case v.Spec.Format == blixardv1.VolumeFormat_VOLUME_FORMAT_QCOW2 && !slices.ContainsFunc(kinds(vm.Spec, wanted(vm.Spec)|qcow2), func(k *hypervisor.Kind) bool { return k.Can().Has(qcow2) }):
			why = "nothing that can run this spec reads the volume " + v.Name + ", which is qcow2"
		}
		if why != "" {
			return &blixardv1.Response{Error: &blixardv1.Error{Code: code, Field: fmt.Sprintf("spec.volumes[%d]", i), Message: why, Advice: advice}}
		}
		if v.NodeId != 0 {
			first = v
		}
		list = append(list, &blixardv1.VolumeHold{Volume: v.Name, Uid: v.Uid, ReadOnly: m.ReadOnly})
	}
	for _, h := range vm.Volumes {
		covered := slices.ContainsFunc(list, func(n *blixardv1.VolumeHold) bool { return n.Uid == h.Uid && (!n.ReadOnly || h.ReadOnly) })
		if vm.Placement != nil && !covered && !mutant.On("VolumeFreedEarly") {
			list = append(list, &blixardv1.VolumeHold{Volume: h.Volume, Uid: h.Uid, ReadOnly: h.ReadOnly, Leaving: true})
		}
	}
	vm.Volumes = list
	return nil
}

// unmount gives back what a VM, the caller's own, had of earlier specs: nothing
// runs with them any more.
func unmount(vm *blixardv1.VM) {
	vm.Volumes = slices.DeleteFunc(slices.Clone(vm.Volumes), func(h *blixardv1.VolumeHold) bool { return h.Leaving })
}

// bindVolumes gives the volumes of a VM that is being placed their host, if they
// have none. The node is the caller's own copy.
func (s *State) bindVolumes(e *entry, vm *blixardv1.VM, node *blixardv1.Node) {
	for _, m := range vm.Spec.GetVolumes() {
		if v := s.Volume(m.Volume); v != nil && v.NodeId == 0 {
			v = clone(v)
			s.bind(e, v, node)
			s.put(volumeKey(v.Name), v)
			s.freed() // who waits with it needs no room for it any more, but that host
			s.meta.PlaceAgain = true
		}
	}
}

// withVolumes adds to a need that a VM must be where its volumes are, and what
// those take that are nowhere yet. It says how much that is.
func (s *State) withVolumes(n *schedule.Need, spec *blixardv1.VMSpec) (mib uint64) {
	for _, m := range spec.GetVolumes() {
		v := s.Volume(m.Volume)
		switch {
		case v == nil:
			continue // the spec is refused for it
		case v.NodeId == 0:
			mib += v.Spec.SizeMib
		case !mutant.On("PlacedAwayFromVolume"):
			n.Local = append(n.Local, schedule.Local{Host: v.NodeId, What: "volume " + v.Name, Where: v.Node})
		}
		if v.Spec.Format == blixardv1.VolumeFormat_VOLUME_FORMAT_QCOW2 && !slices.Contains(n.Wants, wantQcow2) {
			n.Wants = append(n.Wants, wantQcow2)
		}
	}
	n.DiskMiB += mib
	return mib
}

// volumeConfigs are what a host must know of a VM's volumes, which are there or come
// with the VM.
func (s *State) volumeConfigs(vm *blixardv1.VM, node uint64) (list []*blixardv1.VolumeConfig) {
	for _, m := range vm.Spec.GetVolumes() {
		if v := s.Volume(m.Volume); v != nil {
			o := volumeOrder(v)
			if c := copyOn(v, node); c != nil {
				o = copyOrder(v, c)
			}
			list = append(list, &blixardv1.VolumeConfig{Volume: o, Disk: m.Disk, ReadOnly: m.ReadOnly, Limit: m.Limit})
		}
	}
	return list
}

func volumeOrder(v *blixardv1.ClusterVolume) *blixardv1.VolumeOrder {
	return &blixardv1.VolumeOrder{
		Uid: v.Uid, Name: v.Name, Format: v.Spec.Format, SizeMib: v.Spec.SizeMib, Remove: v.Deleting, Made: v.Status.GetMade(), Written: v.Written, Copy: v.Copy,
	}
}

// VolumeOrders returns the orders for all volumes of a host, and their revision:
// that of the newest.
func (s *State) VolumeOrders(node uint64) (revision uint64, list []*blixardv1.VolumeOrder) {
	s.VolumesOn(node, func(v *blixardv1.ClusterVolume) bool {
		revision = max(revision, v.OrderRevision)
		list = append(list, volumeOrder(v))
		return true
	})
	s.CopiesOn(node, func(v *blixardv1.ClusterVolume, c *blixardv1.VolumeCopy) bool {
		revision = max(revision, c.OrderRevision)
		if c.Arriving || c.Removing { // what was left behind just stays
			list = append(list, copyOrder(v, c))
		}
		return true
	})
	return revision, list
}

// VolumeRevision is the revision of the newest order for a host's volumes.
func (s *State) VolumeRevision(node uint64) (revision uint64) {
	after := be(node + 1)
	s.kept.Descend(after, func(k, name string) bool {
		if strings.HasPrefix(k, be(node)) {
			revision = s.Volume(name).OrderRevision
		}
		return k >= after
	})
	s.CopiesOn(node, func(_ *blixardv1.ClusterVolume, c *blixardv1.VolumeCopy) bool {
		revision = max(revision, c.OrderRevision)
		return true
	})
	return revision
}

// mostOrphans bounds what the cluster keeps of a host's volumes that it does not know.
const mostOrphans = 64

// UnrecordedVolumes is what of a host's inventory the state does not know yet; nil
// when it knows all of it.
func (s *State) UnrecordedVolumes(node uint64, inv *blixardv1.VolumeInventory) *blixardv1.VolumeNews {
	h := s.Node(node).GetHost()
	if inv == nil || h == nil || inv.Sequence <= h.VolumeSequence {
		return nil
	}
	news := &blixardv1.VolumeNews{Revision: inv.Revision, Sequence: inv.Sequence}
	seen := map[string]bool{}
	for _, r := range inv.Volumes {
		seen[r.Uid] = true
		switch v := s.VolumeByUID(r.Uid); {
		case copyOn(v, node) != nil:
			if c := copyOn(v, node); inv.Revision >= c.OrderRevision && copyGone(c, r) {
				news.Gone = append(news.Gone, r.Uid)
			}
		case v == nil || v.NodeId != node:
			if !r.Absent && len(news.Orphans) < mostOrphans {
				news.Orphans = append(news.Orphans, r)
			}
		case !older(v, inv.Revision) && (!proto.Equal(seenOf(v, r), v.Status) || settles(v, r) || cameSince(v, r)):
			news.Changed = append(news.Changed, r)
		}
	}
	s.CopiesOn(node, func(v *blixardv1.ClusterVolume, c *blixardv1.VolumeCopy) bool {
		if !seen[v.Uid] && c.Removing && inv.Revision >= c.OrderRevision {
			news.Gone = append(news.Gone, v.Uid)
		}
		return true
	})
	s.VolumesOn(node, func(v *blixardv1.ClusterVolume) bool {
		if !seen[v.Uid] && absent(v, inv.Revision) {
			news.Gone = append(news.Gone, v.Uid)
		}
		return true
	})
	same := slices.EqualFunc(news.Orphans, h.OrphanVolumes, func(a, b *blixardv1.VolumeReport) bool { return proto.Equal(a, b) })
	if same && len(news.Changed) == 0 && len(news.Gone) == 0 {
		return nil
	}
	return news
}

// absent says that it is news when a host, which has carried out the orders up to a
// revision, does not have a volume: it was to be removed, or it had been made.
func absent(v *blixardv1.ClusterVolume, revision uint64) bool {
	if v.Deleting {
		return revision >= v.OrderRevision
	}
	return !older(v, revision) && v.Status.GetMade() && v.Status.Phase != blixardv1.VolumePhase_VOLUME_PHASE_LOST
}

// seenOf is the status of a volume of which its host has said something.
func seenOf(v *blixardv1.ClusterVolume, r *blixardv1.VolumeReport) *blixardv1.VolumeStatus {
	st := &blixardv1.VolumeStatus{Phase: blixardv1.VolumePhase_VOLUME_PHASE_READY, Made: v.Status.GetMade() || !r.Absent, SizeMib: r.SizeMib, Message: r.Error}
	switch {
	case v.Deleting:
		st.Phase = blixardv1.VolumePhase_VOLUME_PHASE_DELETING
		if st.Message == "" {
			st.Message = "its host " + v.Node + " is removing it"
		}
	case r.Absent && v.Status.GetMade():
		st.Phase = blixardv1.VolumePhase_VOLUME_PHASE_LOST
	case r.Error != "":
		st.Phase = blixardv1.VolumePhase_VOLUME_PHASE_FAILED
	case r.SizeMib < v.Spec.SizeMib:
		st.Message = fmt.Sprintf("it has %d MiB until the VM that has it open starts again", r.SizeMib)
	}
	return st
}

// volumesSeen takes over what a host has said of its volumes. The node is the
// caller's own copy.
func (s *State) volumesSeen(e *entry, n *blixardv1.Node, news *blixardv1.VolumeNews) {
	if news == nil || news.Sequence <= n.Host.VolumeSequence {
		return
	}
	n.Host.VolumeSequence = news.Sequence
	var made []*blixardv1.ClusterVolume
	for _, r := range news.Changed {
		old := s.VolumeByUID(r.Uid)
		if old == nil || old.NodeId != n.Id || older(old, news.Revision) {
			continue
		}
		v := clone(old)
		if v.Status = seenOf(old, r); proto.Equal(v.Status, old.Status) && !settles(old, r) && !cameSince(old, r) {
			continue
		}
		s.volumeThere(e, v, r)
		if r.SizeMib > v.Spec.SizeMib && !v.Deleting {
			// It was grown after the backup from which the cluster was restored. It takes
			// that room, whether anybody has granted it or not.
			s.holdDisk(n, int64(r.SizeMib-v.Spec.SizeMib))
			s.event(e, "VolumeGrown", "", n.Name, "volume %s, to the %d MiB that its host has: %d were known", v.Name, r.SizeMib, v.Spec.SizeMib)
			v.Spec.SizeMib, v.OrderRevision = r.SizeMib, e.index
		}
		s.put(volumeKey(v.Name), v)
		switch ready := blixardv1.VolumePhase_VOLUME_PHASE_READY; {
		case v.Status.Made && !old.Status.GetMade():
			made = append(made, v)
			s.event(e, "VolumeMade", "", n.Name, "volume %s", v.Name)
		case v.Status.Phase != ready && v.Status.Phase != old.Status.Phase:
			s.event(e, "VolumeFailed", "", n.Name, "volume %s: %s", v.Name, v.Status.Message)
		}
	}
	for _, uid := range news.Gone {
		v := s.VolumeByUID(uid)
		if c := copyOn(v, n.Id); c != nil {
			if c.Removing && news.Revision >= c.OrderRevision {
				s.dropCopy(e, v, n, n.Id)
			}
			continue
		}
		if v == nil || v.NodeId != n.Id || !absent(v, news.Revision) {
			continue
		}
		if v.Deleting {
			s.dropVolume(e, v, n)
			continue
		}
		s.loseVolume(e, v, "its host "+n.Name+" does not have it any more")
	}
	if len(news.Orphans) > 0 || len(n.Host.OrphanVolumes) > 0 {
		n.Host.OrphanVolumes = news.Orphans
	}
	if n.Drain != nil {
		s.redrain() // what waits for its host may go live with one that is ready
	}
	if len(made) == 0 {
		return
	}
	s.put(nodeKey(n.Id), copyNode(n)) // who is told of it below begins from here
	for _, v := range made {
		s.tellUsers(e, v)
	}
	n.Host.Revision = s.Node(n.Id).Host.Revision
}

func (s *State) loseVolume(e *entry, v *blixardv1.ClusterVolume, why string) {
	v = clone(v)
	v.Status.Phase, v.Status.Message = blixardv1.VolumePhase_VOLUME_PHASE_LOST, why
	s.put(volumeKey(v.Name), v)
	s.event(e, "VolumeLost", "", v.Node, "volume %s: %s", v.Name, why)
}

// loseVolumes gives up what is on a host that is lost for good. The records stay:
// a volume goes by its name only.
func (s *State) loseVolumes(e *entry, n *blixardv1.Node) {
	for _, v := range s.volumesOf(n.Id) {
		if v.Deleting {
			s.dropVolume(e, v, nil)
			continue
		}
		s.loseVolume(e, v, "its host "+n.Name+" was lost for good")
	}
	for _, v := range s.copiesOf(n.Id) {
		s.dropCopy(e, v, nil, n.Id)
	}
}

func (s *State) volumesOf(node uint64) (list []*blixardv1.ClusterVolume) {
	s.VolumesOn(node, func(v *blixardv1.ClusterVolume) bool {
		list = append(list, v)
		return true
	})
	return list
}

// freeVolumes lets go of the volumes of a VM of which nothing is left, and deletes
// those that were to go with it.
func (s *State) freeVolumes(e *entry, vm *blixardv1.VM) {
	if !vm.DeleteVolumes && !mutant.On("VolumeDeletedWithVM") {
		return
	}
	for _, h := range vm.Volumes {
		v := s.VolumeByUID(h.Uid)
		if v != nil && !v.Deleting && s.inTheWay(v, "", false) == "" {
			s.condemn(e, v)
		}
	}
}

// reindexVolume follows where a volume is.
func (s *State) reindexVolume(o, n *blixardv1.ClusterVolume) {
	keptKey := func(v *blixardv1.ClusterVolume) string { return be(v.NodeId) + be(v.OrderRevision) + v.Uid }
	for _, c := range o.GetCopies() {
		s.copies.Delete(be(c.NodeId) + o.Uid)
	}
	for _, c := range n.GetCopies() {
		s.copies.Set(be(c.NodeId)+n.Uid, n.Name)
	}
	if o != nil {
		s.volumes.Delete(o.Uid)
		if o.NodeId != 0 {
			s.kept.Delete(keptKey(o))
		}
	}
	if n != nil {
		s.volumes.Set(n.Uid, n.Name)
		if n.NodeId != 0 {
			s.kept.Set(keptKey(n), n.Name)
		}
	}
}

// reindexHolds follows which volumes a VM has. One that it has for writing and
// otherwise, it has for writing.
func (s *State) reindexHolds(o, n *blixardv1.VM) {
	if len(o.GetVolumes()) == 0 && len(n.GetVolumes()) == 0 {
		return
	}
	for _, h := range o.GetVolumes() {
		s.users.Delete(h.Uid + "\x00" + o.Uid)
	}
	for _, h := range n.GetVolumes() {
		key := h.Uid + "\x00" + n.Uid
		reads, also := s.users.Get(key)
		s.users.Set(key, h.ReadOnly && (!also || reads))
	}
}
