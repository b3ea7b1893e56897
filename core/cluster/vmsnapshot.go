package cluster

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/blixard/blixard/core/hypervisor"
	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A snapshot of a VM is a record here, and bytes on one host. Neither is there for
// long without the other:
//
//	CREATING   ordered by the assignment of its VM, on the host that has it
//	READY      its host has said so; the bytes are whole
//	FAILED     the host could not, or the VM has left it before; no bytes
//	DELETING   until its host has removed the bytes, or was given up
//
// The host is told which snapshots to keep, all of them (Snapshots), with the
// revision of that list; what was ordered at or before that and is not among them
// it removes, and says so (snapshotsKept). Only then is the record gone, and the room that it
// takes free. So bytes whose record is gone do not exist, and a record that is READY
// has its bytes, or fails as soon as its host has missed them.
//
// A VM starts from a snapshot when its record says so (VM.restore), once: until its
// host has said that the guest has gone on. It starts there on that host and
// nowhere else.

const snapshotCapability = blixardv1.Capability_CAPABILITY_SNAPSHOT

func snapshotKey(name string) string { return snapshotPrefix + name }

// Snapshot returns a snapshot of a VM by its name, or nil.
func (s *State) Snapshot(name string) *blixardv1.VMSnapshot {
	return get[*blixardv1.VMSnapshot](s, snapshotKey(name))
}

// Snapshots calls f for every snapshot by name until f returns false.
func (s *State) Snapshots(f func(*blixardv1.VMSnapshot) bool) { ascend(s, snapshotPrefix, "", f) }

// snapshotsAt are those whose bytes are on a node, or may be, by uid.
func (s *State) snapshotsAt(node uint64) (list []*blixardv1.VMSnapshot) {
	prefix := be(node)
	s.snapshots.Ascend(prefix, func(k, name string) bool {
		if k[:8] != prefix {
			return false
		}
		list = append(list, s.Snapshot(name))
		return true
	})
	return list
}

// KeptSnapshots are the uids of those that a host keeps.
func (s *State) KeptSnapshots(node uint64) (uids []string) {
	for _, p := range s.snapshotsAt(node) {
		if p.State == blixardv1.SnapshotState_SNAPSHOT_STATE_CREATING || p.State == blixardv1.SnapshotState_SNAPSHOT_STATE_READY {
			uids = append(uids, p.Uid)
		}
	}
	return uids
}

// AwaitsKept says that a host's word about which list of snapshots it has carried
// out changes something.
func (s *State) AwaitsKept(node uint64, kept uint64, missing []string) bool {
	return kept != 0 && slices.ContainsFunc(s.snapshotsAt(node), func(p *blixardv1.VMSnapshot) bool {
		return p.Revision <= kept && (givenUp(p) || gone(p, missing))
	})
}

// gone says that a snapshot was ready, and its host has not got it: somebody has removed
// its files, or the cluster was restored from a backup of before it was deleted.
func gone(p *blixardv1.VMSnapshot, missing []string) bool {
	return p.State == blixardv1.SnapshotState_SNAPSHOT_STATE_READY && slices.Contains(missing, p.Uid)
}

// givenUp snapshots are to have no bytes, and may have some.
func givenUp(p *blixardv1.VMSnapshot) bool {
	return p.State == blixardv1.SnapshotState_SNAPSHOT_STATE_DELETING || p.State == blixardv1.SnapshotState_SNAPSHOT_STATE_FAILED && p.DiskMib > 0
}

// orders are the snapshots that are to be taken of a VM, the oldest first.
func (s *State) orders(vm *blixardv1.VM) (list []*blixardv1.SnapshotOrder) {
	prefix := vm.Uid + "/"
	s.ordered.Ascend(prefix, func(k string, _ string) bool {
		if len(k) <= len(prefix) || k[:len(prefix)] != prefix {
			return false
		}
		list = append(list, &blixardv1.SnapshotOrder{Uid: k[len(prefix)+8:]})
		return true
	})
	return list
}

func orderKey(p *blixardv1.VMSnapshot) string {
	return p.VmUid + "/" + be(uint64(p.CreateTime.GetSeconds())) + p.Uid
}

func (s *State) reindexSnapshot(o, n *blixardv1.VMSnapshot) {
	if o != nil {
		s.snapshots.Delete(be(o.NodeId) + o.Uid)
		if o.State == blixardv1.SnapshotState_SNAPSHOT_STATE_CREATING {
			s.ordered.Delete(orderKey(o))
		}
	}
	if n != nil {
		s.snapshots.Set(be(n.NodeId)+n.Uid, n.Name)
		if n.State == blixardv1.SnapshotState_SNAPSHOT_STATE_CREATING {
			s.ordered.Set(orderKey(n), n.Name)
		}
	}
}

func (s *State) createSnapshot(e *entry, op *blixardv1.CreateSnapshotOp) *blixardv1.Response {
	const no = blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION
	if err := ValidateName(op.Name); err != nil {
		return &blixardv1.Response{Error: err}
	}
	if s.Snapshot(op.Name) != nil {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_ALREADY_EXISTS, "a snapshot named "+op.Name+" exists", "use another name, or delete it first")
	}
	vm := s.VM(op.Vm)
	if vm == nil {
		return noVM(op.Vm)
	}
	cannot := func(why, advice string) *blixardv1.Response {
		return refuse(no, "no snapshot of the VM "+op.Vm+" can be taken: "+why, advice)
	}
	if why := s.unsnapshotable(vm); why != "" {
		return cannot(why, "")
	}
	phase := vm.GetStatus().GetPhase()
	switch {
	case vm.Deleting:
		return cannot("it is being deleted", "")
	case vm.Placement == nil || !vm.Run || phase != blixardv1.Phase_PHASE_RUNNING && phase != blixardv1.Phase_PHASE_PAUSED:
		return cannot("it does not run now", "'blixard vm start "+op.Vm+"', and wait until it runs")
	case vm.Restore != nil:
		return cannot("it is just starting from the snapshot "+vm.Restore.Name, "wait until it runs")
	case migrating(vm):
		return cannot("it is moving to another host", "wait until it has")
	case vm.Placement.Leaving:
		return cannot("it is leaving its host", "wait until it runs elsewhere")
	}
	spec, generation := vm.Spec, vm.SpecGeneration
	if runs := vm.Status.SpecGeneration; runs != generation {
		i := slices.IndexFunc(s.History(vm.Name), func(g *blixardv1.Generation) bool { return g.SpecGeneration == runs })
		if i < 0 {
			return cannot("the spec that it runs with is not known any more", "'blixard vm restart "+op.Vm+"' first")
		}
		spec, generation = s.History(vm.Name)[i].Spec, runs
		if why := unkept(spec); why != "" {
			return cannot("the spec that it runs with: "+why, "'blixard vm restart "+op.Vm+"' first")
		}
	}
	node := copyNode(s.Node(vm.Placement.NodeId))
	size := snapshotMiB(spec)
	free := node.Host.GetFacts().GetCapacity().GetDiskMib() - min(node.Host.GetFacts().GetCapacity().GetDiskMib(), node.Host.GetAllocated().GetDiskMib())
	if size > free {
		return refuse(no, fmt.Sprintf("no room for a snapshot of the VM %s: its memory and its disks have %d MiB, and its host %s has %d MiB of disk free", op.Vm, size, node.Name, free),
			"delete other snapshots ('blixard snapshot list'), or VMs there")
	}
	hash := sha256.Sum256(blixardv1.Encode(spec))
	p := &blixardv1.VMSnapshot{
		Name: op.Name, Uid: fmt.Sprintf("%d-%d", s.meta.Generation, e.index), Vm: vm.Name, VmUid: vm.Uid,
		Spec: spec, SpecGeneration: generation, SpecHash: hash[:], NodeId: node.Id, Node: node.Name,
		State: blixardv1.SnapshotState_SNAPSHOT_STATE_CREATING, Hypervisor: vm.Placement.Hypervisor,
		DiskMib: size, CreateTime: e.time(), Incarnation: vm.Placement.Incarnation,
	}
	s.refer(e, artifacts(spec), +1)
	s.accountSnapshot(node, p, +1)
	s.keepsAnew(e, node)
	s.put(snapshotKey(p.Name), p)
	s.assign(e, copyVM(vm), node)
	s.event(e, "SnapshotOrdered", vm.Name, node.Name, "snapshot %s", p.Name)
	return snapshotResponse(p)
}

func snapshotResponse(p *blixardv1.VMSnapshot) *blixardv1.Response {
	return &blixardv1.Response{Result: &blixardv1.Response_Snapshot{Snapshot: p}}
}

// unsnapshotable says why no snapshot can be taken of a VM, wherever it is.
func (s *State) unsnapshotable(vm *blixardv1.VM) string {
	if why := unkept(vm.Spec); why != "" {
		return why
	}
	if len(vm.Spec.GetDevices())+len(vm.Placement.GetDevices()) > 0 {
		return "it has PCI devices of its host, whose state nobody but they can keep"
	}
	return s.unable(vm, snapshotCapability)
}

// unkept says what of a VM with a spec no snapshot holds.
func unkept(spec *blixardv1.VMSpec) string {
	if nixBuilt(spec) {
		return "Blixard has no snapshots of VMs that Nix builds yet"
	}
	if len(spec.GetVolumes()) > 0 {
		return "it uses volumes, and Blixard has no snapshots of those yet"
	}
	if len(spec.GetShares()) > 0 {
		return "it shares folders of its host, which go on without it"
	}
	return ""
}

// snapshotMiB is the most that a snapshot of a VM takes.
func snapshotMiB(spec *blixardv1.VMSpec) uint64 {
	const state = 16 // what devices hold
	size := spec.GetMemoryMib() + state
	for _, d := range spec.GetImage().GetDisks() {
		if !d.ReadOnly {
			size += d.SizeMib
		}
	}
	return size
}

// accountSnapshot accounts a snapshot's room to its host, the caller's own copy, or
// takes it back.
func (s *State) accountSnapshot(node *blixardv1.Node, p *blixardv1.VMSnapshot, sign int) {
	if node.GetHost() == nil {
		return
	}
	if node.Host.Allocated == nil {
		node.Host.Allocated = &blixardv1.Resources{}
	}
	if sign > 0 {
		node.Host.Allocated.DiskMib += p.DiskMib
	} else {
		node.Host.Allocated.DiskMib -= p.DiskMib
	}
}

// keepsAnew notes for a host, the caller's own copy, that the list of the snapshots
// that it keeps has changed.
func (s *State) keepsAnew(e *entry, node *blixardv1.Node) {
	node.Host.SnapshotRevision, node.Host.Revision = e.index, e.index
}

func noSnapshot(name string) *blixardv1.Response {
	return refuse(blixardv1.ErrorCode_ERROR_CODE_NOT_FOUND, fmt.Sprintf("there is no snapshot named %q", name), "'blixard snapshot list' shows those there are")
}

// startsFrom are the VMs that are just starting from a snapshot: the one that it was
// taken of, and clones.
func (s *State) startsFrom(uid string) (list []*blixardv1.VM) {
	prefix := uid + "/"
	s.restores.Ascend(prefix, func(k, name string) bool {
		if !strings.HasPrefix(k, prefix) {
			return false
		}
		list = append(list, s.VM(name))
		return true
	})
	return list
}

// lostTo has a VM start without the snapshot that it was to go on from, which is no
// more: it has disks of its own. It gives the caller's own copy, and whether anything
// came of it: a clone has nothing else to start from, and waits.
func (s *State) lostTo(e *entry, vm *blixardv1.VM, node *blixardv1.Node, why string) (*blixardv1.VM, bool) {
	r := vm.Restore
	if r == nil || r.Clone {
		return vm, false
	}
	vm = copyVM(vm)
	vm.Restore = nil
	s.event(e, "RestoreLost", vm.Name, node.Name, "the snapshot %s %s: the VM starts without it", r.Name, why)
	return vm, true
}

func (s *State) deleteSnapshot(e *entry, op *blixardv1.DeleteSnapshotOp) *blixardv1.Response {
	old := s.Snapshot(op.Name)
	if old == nil || op.Uid != "" && op.Uid != old.Uid && !mutant.On("GivenUpByName") {
		return noSnapshot(op.Name)
	}
	if old.State == blixardv1.SnapshotState_SNAPSHOT_STATE_DELETING {
		return snapshotResponse(old)
	}
	if op.Uid != "" && old.State == blixardv1.SnapshotState_SNAPSHOT_STATE_READY {
		return snapshotResponse(old)
	}
	if list := s.startsFrom(old.Uid); len(list) > 0 {
		var names []string
		for _, vm := range list {
			names = append(names, vm.Name)
		}
		text, advice := "the VM "+names[0]+" is just starting from the snapshot "+op.Name, "wait until it runs, or give that up with 'blixard vm stop "+names[0]+"'"
		if len(names) > 1 {
			text, advice = fmt.Sprintf("%d VMs are just starting from the snapshot %s: %s", len(names), op.Name, some(names)), "wait until they run, or give that up with 'blixard vm stop'"
		}
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, text, advice)
	}
	p := clone(old)
	p.State = blixardv1.SnapshotState_SNAPSHOT_STATE_DELETING
	s.put(snapshotKey(p.Name), p)
	node := s.Node(p.NodeId)
	if node.GetHost() == nil {
		s.dropSnapshot(e, nil, p, "its host is no member any more")
		return snapshotResponse(p)
	}
	node = copyNode(node)
	s.keepsAnew(e, node)
	if vm := s.VMByUID(p.VmUid); old.State == blixardv1.SnapshotState_SNAPSHOT_STATE_CREATING && vm.GetPlacement().GetNodeId() == node.Id {
		s.assign(e, copyVM(vm), node) // it is not ordered any more
	} else {
		s.put(nodeKey(node.Id), node)
	}
	return snapshotResponse(p)
}

// dropSnapshot forgets a snapshot of which no bytes are left. The node, nil for none,
// is the caller's own copy.
func (s *State) dropSnapshot(e *entry, node *blixardv1.Node, p *blixardv1.VMSnapshot, why string) {
	s.accountSnapshot(node, p, -1)
	s.refer(e, artifacts(p.Spec), -1)
	s.del(snapshotKey(p.Name))
	s.event(e, "SnapshotDeleted", p.Vm, p.Node, "snapshot %s: %s", p.Name, why)
	s.freed()
}

// loseSnapshots forgets what only a node had, that is a member no more.
func (s *State) loseSnapshots(e *entry, node *blixardv1.Node) {
	for _, p := range s.snapshotsAt(node.Id) {
		for _, vm := range s.startsFrom(p.Uid) {
			if vm, ok := s.lostTo(e, vm, node, "went with its host"); ok {
				s.put(vmKey(vm.Name), vm)
			}
		}
		s.dropSnapshot(e, nil, p, "its host was removed from the cluster")
	}
}

// snapshotsKept takes a host's word that it has carried out a list of snapshots to keep. The
// node is the caller's own copy. What is missing of it counts only of those that were
// ready when the list was made: what has become ready since was not missing then.
func (s *State) snapshotsKept(e *entry, node *blixardv1.Node, revision uint64, missing []string) {
	for _, p := range s.snapshotsAt(node.Id) {
		switch {
		case p.Revision > revision:
		case gone(p, missing):
			for _, vm := range s.startsFrom(p.Uid) {
				if vm, ok := s.lostTo(e, vm, node, "has lost its files"); ok {
					s.assignAt(e, vm, node)
				}
			}
			s.failSnapshot(e, node, p, "its files are not on "+node.Name+" any more")
		case !givenUp(p):
		case p.State == blixardv1.SnapshotState_SNAPSHOT_STATE_DELETING:
			s.dropSnapshot(e, node, p, "its host has removed it")
		default:
			s.accountSnapshot(node, p, -1)
			p = clone(p)
			p.DiskMib = 0
			s.put(snapshotKey(p.Name), p)
			s.freed()
		}
	}
}

// taken takes down what came of the snapshots of a VM, which is the caller's own
// copy, as its node is. It says whether something did.
func (s *State) taken(e *entry, node *blixardv1.Node, vm *blixardv1.VM, o *blixardv1.Observation) (news bool) {
	for _, r := range o.Snapshots {
		name, ok := s.snapshots.Get(be(node.Id) + r.Uid)
		old := s.Snapshot(name)
		if !ok || old.State != blixardv1.SnapshotState_SNAPSHOT_STATE_CREATING || old.VmUid != vm.Uid {
			continue
		}
		news = true
		if r.Image == nil {
			s.failSnapshot(e, node, old, r.Message)
			continue
		}
		p := s.becomesReady(node, old, r.Image)
		s.event(e, "SnapshotTaken", vm.Name, node.Name, "snapshot %s, %d MiB", p.Name, p.DiskMib)
	}
	return news
}

// failSnapshot: nothing of it is to be kept. The node is the caller's own copy.
func (s *State) failSnapshot(e *entry, node *blixardv1.Node, p *blixardv1.VMSnapshot, why string) {
	p = clone(p)
	p.State, p.Message = blixardv1.SnapshotState_SNAPSHOT_STATE_FAILED, why
	s.put(snapshotKey(p.Name), p)
	s.keepsAnew(e, node)
	s.redrain()
	s.event(e, "SnapshotFailed", p.Vm, node.Name, "snapshot %s: %s", p.Name, why)
}

// leavesUntaken fails what was to be taken of a VM that leaves its node, the caller's
// own copy.
func (s *State) leavesUntaken(e *entry, node *blixardv1.Node, vm *blixardv1.VM) {
	for _, o := range s.orders(vm) {
		if name, ok := s.snapshots.Get(be(node.Id) + o.Uid); ok {
			s.failSnapshot(e, node, s.Snapshot(name), "the VM has left the host before it was taken")
		}
	}
}

// ready refuses to start from a snapshot that is not there, or with which its host
// cannot go on any more.
func (s *State) startable(p *blixardv1.VMSnapshot, memory bool) *blixardv1.Response {
	const no = blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION
	node := s.Node(p.NodeId)
	switch {
	case p.State != blixardv1.SnapshotState_SNAPSHOT_STATE_READY:
		return refuse(no, fmt.Sprintf("the snapshot %s is not ready: it is %s", p.Name, snapshotStateText(p.State)), "'blixard snapshot get "+p.Name+"' says why")
	case node.GetHost() == nil:
		return refuse(no, "the snapshot "+p.Name+" is gone: its host "+p.Node+" is no member any more", "")
	case !memory:
		return nil
	}
	for _, f := range node.Host.GetFacts().GetHypervisors() {
		if f.Hypervisor == p.Hypervisor && f.Version != p.Image.GetVersion() {
			return refuse(no, fmt.Sprintf("the snapshot %s is of %s %s, and its host %s has %s now, which may not understand it",
				p.Name, hypervisor.NameOf(p.Hypervisor), p.Image.GetVersion(), p.Node, f.Version),
				"'blixard vm clone "+p.Name+" NAME' makes a VM that boots from its disks")
		}
	}
	return nil
}

// migrating says that a VM is on its way to another host.
func migrating(vm *blixardv1.VM) bool {
	switch vm.GetMigration().GetState() {
	case blixardv1.MigrationState_MIGRATION_STATE_UNSPECIFIED, blixardv1.MigrationState_MIGRATION_STATE_DONE, blixardv1.MigrationState_MIGRATION_STATE_FAILED:
		return false
	}
	return true
}

func snapshotStateText(st blixardv1.SnapshotState) string {
	switch st {
	case blixardv1.SnapshotState_SNAPSHOT_STATE_CREATING:
		return "being taken"
	case blixardv1.SnapshotState_SNAPSHOT_STATE_FAILED:
		return "failed"
	case blixardv1.SnapshotState_SNAPSHOT_STATE_DELETING:
		return "being deleted"
	}
	return "ready"
}

// restoreSnapshot has a VM go on from its snapshot.
func (s *State) restoreSnapshot(e *entry, op *blixardv1.RestoreSnapshotOp) *blixardv1.Response {
	const no = blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION
	p := s.Snapshot(op.Name)
	if p == nil {
		return noSnapshot(op.Name)
	}
	if resp := s.startable(p, true); resp != nil {
		return resp
	}
	vm := s.VMByUID(p.VmUid)
	clones := "'blixard vm clone " + p.Name + " NAME' makes another VM of it"
	switch {
	case vm == nil || vm.Deleting:
		return refuse(no, fmt.Sprintf("the VM %s of the snapshot %s is deleted", p.Vm, p.Name), clones)
	case vm.Placement.GetNodeId() != p.NodeId || vm.Placement.GetLeaving():
		where := "has no host now"
		if n := s.Node(vm.Placement.GetNodeId()); n != nil {
			where = "is on " + n.Name
		}
		return refuse(no, fmt.Sprintf("the snapshot %s is on %s, and the VM %s %s", p.Name, p.Node, vm.Name, where), clones)
	case migrating(vm):
		return refuse(no, "the VM "+vm.Name+" is moving to another host", "wait until it has, or cancel that")
	case vm.SpecGeneration != p.SpecGeneration:
		return refuse(no, fmt.Sprintf("the VM %s has another spec (generation %d) than its snapshot %s (%d)", vm.Name, vm.SpecGeneration, p.Name, p.SpecGeneration), clones)
	}
	vm = copyVM(vm)
	vm.Run, vm.Paused = true, false
	vm.RunGeneration++
	vm.Restore = &blixardv1.RestoreFrom{Uid: p.Uid, Name: p.Name, Index: e.index, Memory: true, NodeId: p.NodeId}
	if ended(vm) && !vm.Placement.GetHeld() {
		s.setPhase(e, vm, blixardv1.Phase_PHASE_PENDING, "RestoreAsked", "its user asked for it to go on from the snapshot "+p.Name)
	}
	node := copyNode(s.Node(vm.Placement.NodeId))
	s.leavesUntaken(e, node, vm)
	s.assign(e, vm, node)
	s.event(e, "RestoreOrdered", vm.Name, p.Node, "from the snapshot %s", p.Name)
	return vmResponse(vm)
}

// cloneSnapshot makes a new VM of a snapshot. Ports of the host are left out: the
// VM that it was taken of may have them there.
func (s *State) cloneSnapshot(e *entry, op *blixardv1.CloneSnapshotOp) *blixardv1.Response {
	p := s.Snapshot(op.Name)
	if p == nil {
		return noSnapshot(op.Name)
	}
	if resp := s.startable(p, op.Memory); resp != nil {
		return resp
	}
	spec := clone(p.Spec)
	for _, n := range spec.Networks {
		n.Address, n.Mac, n.Ports = "", "", nil
		if op.Memory && n.GetNetwork() != "" {
			return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION,
				"a clone with the memory of "+p.Name+" would have, on the network "+n.GetNetwork()+", the addresses of the VM that it was taken of: they are in that memory",
				"clone it without --memory: then it boots, with addresses of its own")
		}
	}
	if h := spec.Health; h.GetTcp().GetHost() == "" && h.GetHttp().GetHost() == "" && (h.GetTcp() != nil || h.GetHttp() != nil) {
		spec.Health = nil // it went by a port of the host
	}
	return s.createFrom(e, &blixardv1.CreateVMOp{Name: op.Vm, Spec: spec},
		&blixardv1.RestoreFrom{Uid: p.Uid, Name: p.Name, Index: e.index, Memory: op.Memory, NodeId: p.NodeId, Clone: true})
}

// restored takes a host's word that a VM, the caller's own copy, has gone on from
// its snapshot.
func (s *State) restored(e *entry, node *blixardv1.Node, vm *blixardv1.VM, index uint64) {
	if r := vm.Restore; r != nil && index >= r.Index {
		vm.Restore = nil
		s.event(e, "VMRestored", vm.Name, node.Name, "from the snapshot %s", r.Name)
	}
}

// keepsSome refuses to take a host out that has snapshots which would be gone with it.
func (s *State) keepsSome(n *blixardv1.Node) *blixardv1.Response {
	var names []string
	for _, p := range s.snapshotsAt(n.Id) {
		if p.State != blixardv1.SnapshotState_SNAPSHOT_STATE_FAILED || p.DiskMib > 0 {
			names = append(names, p.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, n.Name+" has snapshots that are nowhere else: "+some(names),
		"'blixard snapshot delete' those that nobody needs. Should the machine be lost for good: 'blixard cluster remove --lost "+n.Name+"'")
}
