package cluster

import (
	"slices"

	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// hostBoot gives a host an epoch for one boot of its kernel.
//
// The first epoch comes at once. Another one comes only when the one before was
// fenced, whether the host has rebooted or only been away: until then the same
// boot simply goes on, and another boot is refused, because it may be a clone
// and the original may be alive. Where instances under the long lease may still
// run on the original, a boot that cannot show that it is the same machine
// waits for the long window too; where instances under no lease may, it waits
// for ever, or until somebody gives the host up (lost.go).
func (s *State) hostBoot(e *entry, op *blixardv1.HostBootOp) *blixardv1.Response {
	old := s.Node(op.NodeId)
	if old.GetHost() == nil || old.Host.Epoch != op.Epoch || op.BootId == "" {
		return nil
	}
	h := old.Host
	reboot := h.BootId != op.BootId
	if h.EpochState == blixardv1.EpochState_EPOCH_STATE_ACTIVE && !(mutant.On("RebootAtOnce") && reboot) {
		return nil
	}
	if why := s.MayNotBoot(old, op.BootId, op.Facts); why != "" {
		s.refusedBoot(e, old, "HostRefused", op.BootId, why)
		return nil
	}
	n := clone(old)
	h = n.Host
	h.BootId, h.Epoch, h.EpochState = op.BootId, h.Epoch+1, blixardv1.EpochState_EPOCH_STATE_ACTIVE
	h.Suspect, h.SilentSince, h.Sequence, h.VolumeSequence = false, nil, 0, 0
	h.HeardRevision = e.index
	if op.Facts != nil {
		h.Facts = op.Facts
	}
	s.newEpoch(e, n, reboot)
	s.heldAnew(e, old, op.Facts)
	s.event(e, "HostEpoch", "", n.Name, "epoch %d for boot %s", h.Epoch, h.BootId)
	s.freed()
	return nodeResponse(n)
}

// MayNotBoot says why a boot gets no epoch although the one before is fenced:
// something of the boot before may be alive. It is "" for one that may.
func (s *State) MayNotBoot(n *blixardv1.Node, boot string, facts *blixardv1.HostFacts) string {
	if why := s.Held(n); why != "" {
		return why
	}
	h := n.GetHost()
	was, is := h.GetFacts().GetMachine(), facts.GetMachine()
	if h.GetEpoch() == 0 || h.BootId == boot || was != "" && was == is {
		return ""
	}
	long, none := false, false
	s.Placed(n.Id, func(vm *blixardv1.VM) bool {
		l := at(vm, n.Id).Lease
		long = long || l == blixardv1.LeaseClass_LEASE_CLASS_LONG
		none = none || l == blixardv1.LeaseClass_LEASE_CLASS_NONE
		return !none || !long
	})
	another := was != "" && is != ""
	// The only voter has the whole cluster on its disk. A clone of that is a
	// cluster of its own, which this one cannot forbid anything, and a reboot must
	// get through, also where machines cannot be told apart.
	sole := slices.Equal(s.meta.Voters, []uint64{n.Id})
	switch {
	case none && !sole:
		return "VMs that no lease binds may still run on the machine of the boot before, if this one is a clone of it or has its disk; should that machine be off for good: 'blixard cluster remove --lost " + n.Name + "', and join this one as a new node"
	case (long || none && another) && h.EpochState != blixardv1.EpochState_EPOCH_STATE_FENCED_LONG:
		return "VMs may still run on the machine of the boot before, if this one is a clone of it or has its disk; it waits until their long lease has surely ended"
	}
	return ""
}

// cloned writes down that two machines go by the identity of one host.
func (s *State) cloned(e *entry, op *blixardv1.CloneOp) *blixardv1.Response {
	n := s.Node(op.NodeId)
	if n.GetHost() == nil || n.Host.Epoch != op.Epoch || n.Host.BootId == op.BootId {
		return nil
	}
	s.refusedBoot(e, n, "HostCloned", op.BootId, "while boot "+n.Host.BootId+" holds the epoch and is alive: two machines go by the identity of this host. Stop the second, and give it an empty data directory")
	return nil
}

// mostRefused bounds what is kept of refused boots.
const mostRefused = 8

// RefusedBoot says whether an event of that kind has told of a boot already.
func RefusedBoot(n *blixardv1.Node, kind, boot string) bool {
	return slices.Contains(n.GetHost().GetRefusedBoots(), kind+" "+boot)
}

// refusedBoot tells of a boot that asks in vain: once, however often it asks.
func (s *State) refusedBoot(e *entry, old *blixardv1.Node, kind, boot, why string) {
	if RefusedBoot(old, kind, boot) {
		return
	}
	n := clone(old)
	n.Host.RefusedBoots = append(n.Host.RefusedBoots, kind+" "+boot)
	if k := len(n.Host.RefusedBoots); k > mostRefused {
		n.Host.RefusedBoots = n.Host.RefusedBoots[k-mostRefused:]
	}
	s.put(nodeKey(n.Id), n)
	s.event(e, kind, "", n.Name, "boot %s asks for leases, and is refused: %s", boot, why)
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
		p := at(vm, n.Id)
		p.Epoch = n.Host.Epoch
		if reboot {
			p.Lease, p.LeaseMs = 0, 0
			s.target(vm, p, n)
		}
		if other(vm, n.Id) { // no move outlives an epoch: it is only to be removed
			vm.Migration.AssignmentRevision = e.index
			s.put(vmKey(vm.Name), vm)
			continue
		}
		if !vm.Deleting {
			s.setPhase(e, vm, blixardv1.Phase_PHASE_PENDING, "HostReturned", "its host has a new epoch and has not reported yet")
		}
		s.assign(e, vm, nil)
	}
	n.Host.Revision = e.index
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
	n.Host.Suspect, n.Host.SilentSince, n.Host.HeardRevision = op.Suspect, nil, e.index
	if op.Suspect { // it has missed three Syncs
		n.Host.SilentSince = e.timeBefore(3 * int64(s.meta.Settings.GetRenewMs()) * 1e6)
	}
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
	if old.Drain != nil && !op.Cordoned {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, op.Name+" is being drained", "'blixard node restore "+op.Name+"' ends that, and lets it take VMs again")
	}
	if old.Cordoned == op.Cordoned {
		return nodeResponse(old)
	}
	n := clone(old)
	n.Cordoned = op.Cordoned
	s.put(nodeKey(n.Id), n)
	if op.Cordoned {
		s.event(e, "NodeCordoned", "", n.Name, "gets no new VM")
	} else {
		s.event(e, "NodeUncordoned", "", n.Name, "may get new VMs")
		s.freed()
	}
	return nodeResponse(n)
}
