package cluster

import (
	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// hostReport takes over what a host saw. A report of another epoch, or of one
// that is fenced, says nothing about now and is dropped; so is an observation
// that was applied before, or of another incarnation.
func (s *State) hostReport(e *entry, op *blixardv1.HostReportOp) *blixardv1.Response {
	old := s.Node(op.NodeId)
	if old.GetHost() == nil || old.Host.Epoch != op.Epoch || old.Host.BootId != op.BootId ||
		old.Host.EpochState != blixardv1.EpochState_EPOCH_STATE_ACTIVE {
		return nil
	}
	n := copyNode(old)
	if op.Facts != nil {
		n.Host.Facts = op.Facts
		s.freed()
	}
	s.prepared(e, op.NodeId, op.Prepared)
	s.volumesSeen(e, n, op.Volumes)
	s.snapshotsKept(e, n, op.SnapshotsKept, op.SnapshotsMissing)
	for _, o := range op.Observations {
		if o.Sequence <= n.Host.Sequence {
			continue
		}
		n.Host.Sequence = o.Sequence
		s.observe(e, n, o)
	}
	s.put(nodeKey(n.Id), n)
	s.heldAnew(e, old, op.Facts)
	return nil
}

// heldAnew: whether a host can hold what forks decides the lease of its programs.
func (s *State) heldAnew(e *entry, old *blixardv1.Node, facts *blixardv1.HostFacts) {
	if facts != nil && facts.GetHoldsForks() != old.GetHost().GetFacts().GetHoldsForks() {
		s.retarget(e)
	}
}

// observe takes one observation; the node is the caller's own copy.
func (s *State) observe(e *entry, n *blixardv1.Node, o *blixardv1.Observation) {
	vm := s.VMByUID(o.Uid)
	p := at(vm, n.Id)
	if p == nil || p.Epoch != n.Host.Epoch || !sameIncarnation(p.Incarnation, o.Incarnation) {
		return
	}
	if other(vm, n.Id) {
		s.observeOther(e, n, vm, o)
		return
	}
	current := o.AssignmentRevision >= vm.AssignmentRevision
	news := s.taken(e, n, vm, o)
	if o.Removed {
		switch {
		case !current:
		case vm.Deleting:
			s.release(e, vm, n, "its host has removed it")
		case p.Leaving:
			s.release(e, vm, n, "it has left "+n.Name+", "+whyLeft(vm))
		}
		return
	}
	vm = copyVM(vm)
	tighten(vm.Placement, vm.AssignmentRevision, o)
	s.restored(e, n, vm, o.Restored)
	if news { // what is done is not ordered any more
		vm.AssignmentRevision, n.Host.Revision = e.index, e.index
	}
	st := &blixardv1.VMStatus{
		Phase: o.Phase, Reason: o.Reason, Message: o.Message, Attempt: o.Attempt,
		ExitCode: o.ExitCode, Failures: o.Failures, ChangeTime: e.time(), Sequence: o.Sequence,
		SpecGeneration: o.SpecGeneration, BuiltGeneration: o.BuiltGeneration, BuildMessage: o.BuildMessage,
		Health: o.Health, HealthMessage: o.HealthMessage, LastFailure: vm.GetStatus().GetLastFailure(),
		BootedMemoryMib: o.BootedMemoryMib, MemoryMib: o.MemoryMib, MemoryMessage: o.MemoryMessage, Warm: o.Warm,
	}
	s.felt(e, n, vm, o)
	s.failed(e, n, vm, o, st)
	s.builtBy(e, vm, n.Id, o)
	if o.SpecGeneration == vm.SpecGeneration && vm.Status.GetSpecGeneration() != vm.SpecGeneration {
		s.hold(n, vm.Placement, -1) // what the spec before needed more is free
		s.reaccount(vm, nil)
		s.hold(n, vm.Placement, +1)
		unmount(vm)
		s.freed()
	}
	if current && !vm.Run && o.Phase == blixardv1.Phase_PHASE_STOPPED { // nothing is alive, and what is started next has the newest spec
		unmount(vm)
	}
	if mutant.On("BalloonCredited") && o.MemoryMib != 0 && o.MemoryMib < vm.Placement.MemoryMib {
		s.hold(n, vm.Placement, -1)
		vm.Placement.MemoryMib = o.MemoryMib
		s.hold(n, vm.Placement, +1)
	}
	s.observeMove(e, n, vm, o)
	s.underDrain(n, vm, st)
	if st.Phase == blixardv1.Phase_PHASE_RUNNING && vm.Status.GetPhase() != st.Phase && n.Drain != nil {
		s.redrain() // it may go live now
	}
	if vm.Deleting {
		st.Phase = blixardv1.Phase_PHASE_DELETING
	}
	vm.Status = st
	s.put(vmKey(vm.Name), vm)
	if mutant.On("ExitReleases") && o.Phase == blixardv1.Phase_PHASE_FAILED {
		s.release(e, vm, n, "it has ended")
	}
	if mutant.On("DrainReleasesEarly") && p.Leaving && current && o.Phase == blixardv1.Phase_PHASE_DELETING {
		s.release(e, vm, n, "it is leaving")
	}
}

func sameIncarnation(a, b *blixardv1.Incarnation) bool {
	return a.GetGeneration() == b.GetGeneration() && a.GetIndex() == b.GetIndex()
}
