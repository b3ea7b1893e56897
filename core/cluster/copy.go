package cluster

import (
	"slices"

	"google.golang.org/protobuf/proto"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A record is never changed: who wants another one copies it, changes the copy,
// and puts that.
//
// What nearly every entry copies shares with the record whatever is replaced as
// a whole when it changes (a spec, pins, a status, a migration, facts,
// a drain). Its own are the message
// itself, its lists, a VM's placement and runner, a host's state and ledger:
// these may be changed in place. Who changes anything else uses clone.

func copyVM(vm *blixardv1.VM) *blixardv1.VM {
	c := &blixardv1.VM{
		Name: vm.Name, Uid: vm.Uid, Spec: vm.Spec, Run: vm.Run, RunGeneration: vm.RunGeneration, Deleting: vm.Deleting,
		Status: vm.Status, CreateTime: vm.CreateTime, Revision: vm.Revision, AssignmentRevision: vm.AssignmentRevision,
		SpecGeneration: vm.SpecGeneration, Pins: vm.Pins, RestartWhenBuilt: vm.RestartWhenBuilt, Fresh: vm.Fresh, Paused: vm.Paused,
		PreparedNodes: slices.Clone(vm.PreparedNodes), Attachments: slices.Clone(vm.Attachments), Migration: vm.Migration, Restore: vm.Restore,
		Volumes: slices.Clone(vm.Volumes), DeleteVolumes: vm.DeleteVolumes,
	}
	if vm.Runner != nil {
		c.Runner = clone(vm.Runner)
	}
	if p := vm.Placement; p != nil {
		c.Placement = &blixardv1.Placement{
			NodeId: p.NodeId, Epoch: p.Epoch, Incarnation: p.Incarnation, Lease: p.Lease, TargetLease: p.TargetLease,
			Hypervisor: p.Hypervisor, Vcpus: p.Vcpus, MemoryMib: p.MemoryMib, DiskMib: p.DiskMib, Node: p.Node, LeaseMs: p.LeaseMs, TargetLeaseMs: p.TargetLeaseMs,
			Leaving: p.Leaving, Held: p.Held, Starts: p.Starts,
			Ports: slices.Clone(p.Ports), Devices: slices.Clone(p.Devices),
		}
	}
	return c
}

func copyNode(n *blixardv1.Node) *blixardv1.Node {
	c := &blixardv1.Node{
		Id: n.Id, Name: n.Name, Address: n.Address, Server: n.Server, Cordoned: n.Cordoned,
		CreateTime: n.CreateTime, Revision: n.Revision, Level: n.Level, Drain: n.Drain,
	}
	if h := n.Host; h != nil {
		c.Host = &blixardv1.HostState{
			BootId: h.BootId, Epoch: h.Epoch, EpochState: h.EpochState, Suspect: h.Suspect, Facts: h.Facts,
			Instances: h.Instances, Revision: h.Revision, Sequence: h.Sequence,
			PrepareRevision: h.PrepareRevision, RefusedBoots: slices.Clone(h.RefusedBoots), SilentSince: h.SilentSince,
			HeardRevision: h.HeardRevision, SnapshotRevision: h.SnapshotRevision, VolumeSequence: h.VolumeSequence, OrphanVolumes: slices.Clone(h.OrphanVolumes),
		}
		if a := h.Allocated; a != nil {
			c.Host.Allocated = &blixardv1.Resources{Vcpus: a.Vcpus, MemoryMib: a.MemoryMib, DiskMib: a.DiskMib}
		}
	}
	return c
}

func copyMeta(m *blixardv1.Meta) *blixardv1.Meta {
	return &blixardv1.Meta{
		ClusterId: m.ClusterId, Generation: m.Generation, Settings: m.Settings, LoggedTime: m.LoggedTime,
		Applied: m.Applied, AppliedTerm: m.AppliedTerm, PlaceMore: m.PlaceMore, PlaceAfter: m.PlaceAfter,
		PlaceAgain: m.PlaceAgain, Voters: m.Voters, Learners: m.Learners, Pins: m.Pins,
		RemovedFloor: m.RemovedFloor, EventFloor: m.EventFloor, DrainMore: m.DrainMore, Restored: m.Restored, Unsettled: m.Unsettled,
	}
}

// clone copies all of a message.
func clone[M proto.Message](m M) M { return proto.Clone(m).(M) }
