package cluster

import (
	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// fence ends an epoch: its proposer has granted it nothing for the whole
// window, and granted nothing since it proposed. An entry that a later leader
// appended proves neither, so only the proposer's own term counts. What came into
// the log since it proposed may have loosened a lease: then it has not waited
// long enough, and proposes again.
//
// The short window releases what lives under a SHORT lease. What waits stays
// where it is, unreachable. The long window releases, of that, only what its
// user deletes.
func (s *State) fence(e *entry, op *blixardv1.FenceOp) *blixardv1.Response {
	old := s.Node(op.NodeId)
	if op.Term != e.term && !mutant.On("FenceOfOldTerm") || old.GetHost() == nil || old.Host.Epoch != op.Epoch {
		return nil
	}
	if op.WaitedNs < s.WindowOf(old, op.Long) && !mutant.On("FenceBeforeWindow") {
		return nil
	}
	n := clone(old)
	from, to := blixardv1.EpochState_EPOCH_STATE_ACTIVE, blixardv1.EpochState_EPOCH_STATE_FENCED
	if op.Long {
		from, to = blixardv1.EpochState_EPOCH_STATE_FENCED, blixardv1.EpochState_EPOCH_STATE_FENCED_LONG
	}
	if n.Host.EpochState != from {
		return nil
	}
	n.Host.EpochState, n.Host.HeardRevision = to, e.index
	if n.Host.SilentSince == nil { // a new leader, whom it has never asked
		n.Host.SilentSince = e.timeBefore(s.WindowOf(n, false))
	}
	var placed []*blixardv1.VM
	s.Placed(n.Id, func(vm *blixardv1.VM) bool {
		placed = append(placed, vm)
		return true
	})
	s.event(e, "HostFenced", "", n.Name, "epoch %d: its lease has surely ended", n.Host.Epoch)
	for _, vm := range placed {
		if moving(vm) {
			vm = copyVM(vm)
			s.abandon(e, vm, n, n.Name+" was lost")
			s.put(vmKey(vm.Name), vm)
		}
		switch {
		case other(vm, n.Id):
			if s.gone(n, at(vm, n.Id).Lease) {
				s.releaseOther(e, copyVM(vm), n, "its host "+n.Name+" was lost and fenced")
			}
		case vm.Placement.Lease == blixardv1.LeaseClass_LEASE_CLASS_SHORT, mutant.On("FenceReleasesLong"):
			vm, _ = s.lostTo(e, vm, n, "was lost with its host")
			s.release(e, vm, n, "its host "+n.Name+" was lost and fenced")
		case s.gone(n, vm.Placement.Lease) && removes(vm):
			s.release(e, vm, n, "its host "+n.Name+" was lost for the long window while it removed it")
		case !vm.Deleting && !op.Long:
			vm = clone(vm)
			message := "its host " + n.Name + " was lost; it may still run there, so it is not started elsewhere"
			if r := vm.Restore; r != nil {
				message += "; the snapshot " + r.Name + ", from which it was to go on, is there too"
			}
			s.setPhase(e, vm, blixardv1.Phase_PHASE_UNREACHABLE, "HostLost", message)
			s.put(vmKey(vm.Name), vm)
		}
	}
	s.put(nodeKey(n.Id), n)
	s.redrain()
	return nodeResponse(n)
}

// gone says whether nothing under the lease class can be alive on a host: its
// epoch's window for that class has passed.
func (s *State) gone(n *blixardv1.Node, class blixardv1.LeaseClass) bool {
	switch class {
	case blixardv1.LeaseClass_LEASE_CLASS_SHORT:
		return n.Host.EpochState >= blixardv1.EpochState_EPOCH_STATE_FENCED
	case blixardv1.LeaseClass_LEASE_CLASS_LONG:
		return n.Host.EpochState >= blixardv1.EpochState_EPOCH_STATE_FENCED_LONG ||
			mutant.On("ConsentSkipsWindow") && n.Host.EpochState >= blixardv1.EpochState_EPOCH_STATE_FENCED
	}
	return false
}

// baseLeaseMs is the lease that a placement without one of its own has, or, if long, the
// longest that one can have by the settings.
func (s *State) baseLeaseMs(long bool) uint32 {
	if long {
		return max(s.meta.Settings.GetLeaseMs(), s.meta.Settings.GetLongLeaseMs())
	}
	return s.meta.Settings.GetLeaseMs()
}

// LeastWindow is what WindowOf is for a host with nothing on it: no host's is shorter,
// and it is found in O(1).
func (s *State) LeastWindow(long bool) int64 { return Window(s.meta.Settings, s.baseLeaseMs(long)) }

// WindowOf is how long after its last grant, in nanoseconds of the granter's clock,
// nothing can be alive on a host of what its epoch's short fence releases, or, if
// long, of anything that has a lease. It grows when a lease is loosened, and
// shrinks when the host has acknowledged that one is shorter.
func (s *State) WindowOf(n *blixardv1.Node, long bool) int64 {
	longest := s.baseLeaseMs(long)
	s.Placed(n.Id, func(vm *blixardv1.VM) bool {
		if p := at(vm, n.Id); long || p.Lease == blixardv1.LeaseClass_LEASE_CLASS_SHORT {
			longest = max(longest, p.LeaseMs)
		}
		return true
	})
	return Window(s.meta.Settings, longest)
}
