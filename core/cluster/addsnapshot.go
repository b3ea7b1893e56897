package cluster

import (
	"fmt"
	"slices"

	"github.com/blixard/blixard/core/hypervisor"
	"github.com/blixard/blixard/core/mutant"
	"github.com/blixard/blixard/core/schedule"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A snapshot need not be of a VM of this cluster: a backup brings one along. Its record
// is made first, on a host that can go on with it, so that its room is accounted and its
// bytes are on the list of what the host keeps. It is CREATING until who brings the
// bytes says that the host has all of them, and gives it up by deleting it, with its uid: then
// one that is ready already stays, and so does another of its name. It is of no VM, so
// nothing goes back to it: VMs are made of it.

func (s *State) addSnapshot(e *entry, op *blixardv1.AddSnapshotOp) *blixardv1.Response {
	if err := ValidateName(op.Name); err != nil {
		return &blixardv1.Response{Error: err}
	}
	if err := ValidateVM(op.Vm, op.Spec); err != nil {
		return &blixardv1.Response{Error: err}
	}
	const no = blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION
	if s.Snapshot(op.Name) != nil {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_ALREADY_EXISTS, "a snapshot named "+op.Name+" exists", "use another name, or delete it first")
	}
	if why := unkept(op.Spec); why != "" || op.Spec.GetImage() == nil || len(op.Spec.GetDevices()) > 0 {
		return refuse(no, "no VM of that spec has snapshots: "+why, "")
	}
	if resp := s.missing(artifacts(op.Spec)); resp != nil {
		return resp
	}
	spec := s.complete(op.Spec)
	node, resp := s.revives(spec, op)
	if resp != nil {
		return resp
	}
	node = copyNode(node)
	p := &blixardv1.VMSnapshot{
		Name: op.Name, Uid: fmt.Sprintf("%d-%d", s.meta.Generation, e.index), Vm: op.Vm, Spec: spec,
		NodeId: node.Id, Node: node.Name, State: blixardv1.SnapshotState_SNAPSHOT_STATE_CREATING, Hypervisor: op.Hypervisor,
		DiskMib: snapshotMiB(spec), CreateTime: e.time(),
	}
	s.refer(e, artifacts(spec), +1)
	s.accountSnapshot(node, p, +1)
	s.keepsAnew(e, node)
	s.put(nodeKey(node.Id), node)
	s.put(snapshotKey(p.Name), p)
	s.event(e, "SnapshotOrdered", "", node.Name, "snapshot %s is brought, of a VM %s", p.Name, p.Vm)
	return snapshotResponse(p)
}

// revives finds the host for a snapshot that is brought: the hypervisor is there in that
// version, and there is room for the snapshot and for a VM of it.
func (s *State) revives(spec *blixardv1.VMSpec, op *blixardv1.AddSnapshotOp) (*blixardv1.Node, *blixardv1.Response) {
	const no = blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION
	what := hypervisor.NameOf(op.Hypervisor) + " " + op.Version
	has := func(n *blixardv1.Node) bool {
		return slices.ContainsFunc(n.GetHost().GetFacts().GetHypervisors(), func(f *blixardv1.HypervisorFact) bool {
			return f.Hypervisor == op.Hypervisor && f.Version == op.Version && op.Version != ""
		})
	}
	if op.Host != "" {
		switch n := s.NodeByName(op.Host); {
		case n == nil:
			return nil, noNode(op.Host)
		case !has(n):
			return nil, refuse(no, "the memory is of "+what+", and "+op.Host+" has not that one", "'blixard node get "+op.Host+"' shows what it has")
		default:
			return n, s.noDisk(n, snapshotMiB(spec)+need(spec).DiskMiB)
		}
	}
	spec = clone(spec)
	spec.Hypervisor = op.Hypervisor
	for _, n := range spec.Networks {
		n.Ports = nil // as of a clone
	}
	n, some := need(spec), false
	n.DiskMiB += snapshotMiB(spec)
	for h := range s.emptiestFirst(n) {
		node := s.Node(h.ID)
		if !has(node) {
			continue
		}
		if some = true; len(schedule.Obstacles(nil, h, n)) == 0 {
			return node, nil
		}
	}
	if some {
		return nil, refuse(no, fmt.Sprintf("no host with %s has room for %d MiB of memory and disks of a snapshot, and for a VM of it beside that", what, snapshotMiB(spec)),
			"make room; 'blixard node list -o wide' shows what hosts have left")
	}
	return nil, refuse(no, "the memory is of "+what+", and no host has that one", "'blixard node get' shows what a host has")
}

// Bringing says what is left to do of a snapshot that addSnapshot has answered, perhaps
// not for the first time: its files are to be taken to a host, or it is ready, or, with
// neither, nobody waits for it any more.
func (s *State) Bringing(p *blixardv1.VMSnapshot) (to *blixardv1.Node, ready *blixardv1.VMSnapshot) {
	now := s.Snapshot(p.GetName())
	switch {
	case now == nil || now.Uid != p.Uid:
	case now.State == blixardv1.SnapshotState_SNAPSHOT_STATE_READY && !mutant.On("RetryRefused"):
		return nil, now
	case now.State == blixardv1.SnapshotState_SNAPSHOT_STATE_CREATING:
		return s.Node(now.NodeId), nil
	}
	return nil, nil
}

func (s *State) snapshotAdded(e *entry, op *blixardv1.SnapshotAddedOp) *blixardv1.Response {
	old := s.Snapshot(op.Name)
	if old == nil || old.Uid != op.Uid || old.VmUid != "" || old.State != blixardv1.SnapshotState_SNAPSHOT_STATE_CREATING || op.Image == nil {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "nobody waits for a snapshot "+op.Name+" any more", "send it again")
	}
	node := s.Node(old.NodeId)
	if node.GetHost() == nil {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "the host "+old.Node+" is no member any more", "send it again")
	}
	node = copyNode(node)
	p := s.becomesReady(node, old, op.Image)
	s.put(nodeKey(node.Id), node)
	s.event(e, "SnapshotTaken", "", node.Name, "snapshot %s was brought, %d MiB", p.Name, p.DiskMib)
	return snapshotResponse(p)
}

// becomesReady takes down what a host has made, on the caller's own copy of its node.
func (s *State) becomesReady(node *blixardv1.Node, old *blixardv1.VMSnapshot, image *blixardv1.SnapshotImage) *blixardv1.VMSnapshot {
	p := clone(old)
	p.State, p.Image = blixardv1.SnapshotState_SNAPSHOT_STATE_READY, image
	s.accountSnapshot(node, p, -1)
	p.DiskMib = min(p.DiskMib, (image.SizeBytes+1<<20-1)>>20)
	s.accountSnapshot(node, p, +1)
	s.put(snapshotKey(p.Name), p)
	s.freed()
	return p
}
