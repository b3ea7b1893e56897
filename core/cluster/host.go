package cluster

import (
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// hostBoot gives a host an epoch for one boot of its kernel.
//
// The first epoch comes at once. Another one comes only when the one before was
// fenced, whether the host has rebooted or only been away: until then the same
// boot simply goes on, and another boot is refused, because it may be a clone
// and the original may be alive. Where instances under the long lease may still
// run on the original, a boot that cannot show that it is the same machine
// waits for the long window too.
func (s *State) hostBoot(e *entry, op *blixardv1.HostBootOp) *blixardv1.Response {
	old := s.Node(op.NodeId)
	if old.GetHost() == nil || old.Host.Epoch != op.Epoch || op.BootId == "" {
		return nil
	}
	h := old.Host
	reboot := h.BootId != op.BootId
	if h.EpochState == blixardv1.EpochState_EPOCH_STATE_ACTIVE {
		return nil
	}
	if h.Epoch != 0 && reboot && !s.mayReboot(old, op.Facts) {
		return nil
	}
	n := clone(old)
	h = n.Host
	h.BootId, h.Epoch, h.EpochState = op.BootId, h.Epoch+1, blixardv1.EpochState_EPOCH_STATE_ACTIVE
	h.Suspect, h.Sequence, h.LongestLeaseMs = false, 0, 0
	if op.Facts != nil {
		h.Facts = op.Facts
	}
	s.newEpoch(e, n, reboot)
	s.heldAnew(e, old, op.Facts)
	s.event(e, "HostEpoch", "", n.Name, "epoch %d for boot %s", h.Epoch, h.BootId)
	s.freed()
	return nodeResponse(n)
}

// mayReboot says whether nothing of the boot before can be alive any more.
func (s *State) mayReboot(n *blixardv1.Node, facts *blixardv1.HostFacts) bool {
	was, is := n.Host.GetFacts().GetMachine(), facts.GetMachine()
	if was != "" && was == is {
		return true
	}
	if n.Host.EpochState == blixardv1.EpochState_EPOCH_STATE_FENCED_LONG {
		return true
	}
	// Nothing ends what no lease binds. Where machines cannot be told apart, a
	// cluster of one host must still come back from a reboot.
	another, may := was != "" && is != "", true
	s.Placed(n.Id, func(vm *blixardv1.VM) bool {
		switch vm.Placement.Lease {
		case blixardv1.LeaseClass_LEASE_CLASS_LONG:
			may = false
		case blixardv1.LeaseClass_LEASE_CLASS_NONE:
			may = !another
		}
		return may
	})
	return may
}

// newEpoch carries what is still placed on a host over into its new epoch, and
// stores both. After a reboot nothing of it is alive; it stays the incarnation
// that it was, so that its host keeps its files, with the count of attempts
// among them: the files of another incarnation are removed.
func (s *State) newEpoch(e *entry, n *blixardv1.Node, reboot bool) {
	var placed []*blixardv1.VM
	s.Placed(n.Id, func(vm *blixardv1.VM) bool {
		placed = append(placed, vm)
		return true
	})
	for _, vm := range placed {
		vm = clone(vm)
		vm.Placement.Epoch = n.Host.Epoch
		if reboot {
			vm.Placement.TargetLease = s.leaseFor(vm, n)
			vm.Placement.Lease = vm.Placement.TargetLease
		}
		if !vm.Deleting {
			s.setPhase(e, vm, blixardv1.Phase_PHASE_PENDING, "HostReturned", "its host has a new epoch and has not reported yet")
		}
		s.boundBy(n, vm)
		s.assign(e, vm, nil)
	}
	n.Host.Revision, n.Revision = e.index, e.index
	s.put(nodeKey(n.Id), n)
}

// suspect marks a host that has missed its Syncs, or clears the mark. It only
// stops new placements there.
func (s *State) suspect(e *entry, op *blixardv1.SuspectOp) *blixardv1.Response {
	old := s.Node(op.NodeId)
	if old.GetHost() == nil || old.Host.Epoch != op.Epoch || old.Host.Suspect == op.Suspect {
		return nil
	}
	n := clone(old)
	n.Host.Suspect, n.Revision = op.Suspect, e.index
	s.put(nodeKey(n.Id), n)
	if op.Suspect {
		s.event(e, "HostSuspect", "", n.Name, "has missed three Syncs; gets no new VM")
	} else {
		s.event(e, "HostHeard", "", n.Name, "is heard of again")
		s.freed()
	}
	return nil
}

func (s *State) cordon(e *entry, op *blixardv1.CordonOp) *blixardv1.Response {
	old := s.NodeByName(op.Name)
	if old == nil {
		return noNode(op.Name)
	}
	if old.Cordoned == op.Cordoned {
		return nodeResponse(old)
	}
	n := clone(old)
	n.Cordoned, n.Revision = op.Cordoned, e.index
	s.put(nodeKey(n.Id), n)
	if op.Cordoned {
		s.event(e, "NodeCordoned", "", n.Name, "gets no new VM")
	} else {
		s.event(e, "NodeUncordoned", "", n.Name, "may get new VMs")
		s.freed()
	}
	return nodeResponse(n)
}
