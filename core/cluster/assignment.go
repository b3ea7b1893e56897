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
		list = append(list, s.assignment(s.VM(name), node))
		return true
	})
	return to, list
}

// assignment is what a host must know of a VM that is placed there.
func (s *State) assignment(vm *blixardv1.VM, node uint64) *blixardv1.Assignment {
	p := at(vm, node)
	a := &blixardv1.Assignment{
		Uid: vm.Uid, Name: vm.Name, Incarnation: p.Incarnation, Revision: vm.AssignmentRevision,
		Spec: vm.Spec, Run: vm.Run && !p.Held, RunGeneration: vm.RunGeneration + p.Starts, Remove: removes(vm),
		Lease: p.TargetLease, LeaseMs: p.TargetLeaseMs,
		Hypervisor: p.Hypervisor,
	}
	if other(vm, node) {
		a.Revision, a.Remove = vm.Migration.AssignmentRevision, !moving(vm)
		a.Run = false
	}
	if a.Remove {
		return a
	}
	if moving(vm) {
		a.Migration = s.migrationOrder(vm, node)
	}
	a.Paused = vm.Paused
	a.Restore, a.Snapshots = vm.Restore, s.orders(vm)
	a.Interfaces, a.Devices = s.interfaces(vm), devicesFor(vm)
	a.Volumes = s.volumeConfigs(vm, node)
	a.SpecGeneration, a.RestartWhenBuilt, a.Pins, a.Fresh = vm.SpecGeneration, vm.RestartWhenBuilt, vm.Pins, vm.Fresh
	if a.Migration.GetRole() == blixardv1.MigrationRole_MIGRATION_ROLE_TARGET {
		if g := s.sized(vm); g != nil { // the machine that its guest is in
			a.Spec, a.SpecGeneration = g.Spec, g.SpecGeneration
		}
	}
	a.Fallback = s.fallback(vm)
	if a.Runner = vm.Runner; a.Runner == nil {
		a.RunnerAddresses = s.holders(a.Fallback.GetRunner(), node)
	} else {
		a.RunnerAddresses = s.holders(a.Runner, node)
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

// migrationOrder is a host's part in a VM's live move.
func (s *State) migrationOrder(vm *blixardv1.VM, node uint64) *blixardv1.MigrationOrder {
	m := vm.Migration
	o := &blixardv1.MigrationOrder{
		Id: m.Id, Role: blixardv1.MigrationRole_MIGRATION_ROLE_SOURCE, PeerNodeId: m.Other.NodeId,
		Attempt: m.Attempt, Send: m.State >= blixardv1.MigrationState_MIGRATION_STATE_SENDING,
	}
	if other(vm, node) {
		o = &blixardv1.MigrationOrder{Id: m.Id, Role: blixardv1.MigrationRole_MIGRATION_ROLE_TARGET, PeerNodeId: vm.Placement.NodeId}
	}
	o.PeerAddress = s.Node(o.PeerNodeId).GetAddress()
	return o
}
