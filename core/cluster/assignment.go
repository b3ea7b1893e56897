package cluster

import (
	"encoding/binary"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Assignments returns what a host must know: the changes in (from, to], with to
// the newest there is. From 0 it is everything placed there.
func (s *State) Assignments(node, from uint64) (to uint64, list []*blixardv1.Assignment) {
	prefix := be(node)
	to = s.Node(node).GetHost().GetRevision()
	s.changes.Ascend(prefix+be(from+1), func(k, name string) bool {
		if k[:8] != prefix || binary.BigEndian.Uint64([]byte(k[8:16])) > to {
			return false
		}
		list = append(list, s.assignment(s.VM(name)))
		return true
	})
	return to, list
}

func (s *State) assignment(vm *blixardv1.VM) *blixardv1.Assignment {
	a := &blixardv1.Assignment{
		Uid: vm.Uid, Name: vm.Name, Incarnation: vm.Placement.Incarnation, Revision: vm.AssignmentRevision,
		Spec: vm.Spec, Run: vm.Run && !vm.Placement.Held, RunGeneration: vm.RunGeneration + vm.Placement.Starts, Remove: removes(vm),
		Lease: vm.Placement.TargetLease, LeaseMs: vm.Placement.TargetLeaseMs,
		Hypervisor: vm.Placement.Hypervisor,
	}
	if a.Remove {
		return a
	}
	a.Paused = vm.Paused
	a.Interfaces = s.interfaces(vm)
	a.SpecGeneration, a.RestartWhenBuilt, a.Pins, a.Fresh = vm.SpecGeneration, vm.RestartWhenBuilt, vm.Pins, vm.Fresh
	a.Fallback = s.fallback(vm)
	if a.Runner = vm.Runner; a.Runner == nil {
		a.RunnerAddresses = s.holders(a.Fallback.GetRunner(), vm.Placement.NodeId)
	} else {
		a.RunnerAddresses = s.holders(a.Runner, vm.Placement.NodeId)
	}
	needs := inputs(vm.Spec, vm.Pins)
	if a.Fallback != nil {
		needs = append(needs, inputs(a.Fallback.Spec, a.Fallback.Pins)...)
	}
	for _, art := range needs {
		src := &blixardv1.ArtifactSource{Artifact: art}
		for _, id := range s.Artifact(art.Digest).GetNodes() {
			if n := s.Node(id); n != nil {
				src.Addresses = append(src.Addresses, n.Address)
			}
		}
		a.Sources = append(a.Sources, src)
	}
	return a
}
