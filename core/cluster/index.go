package cluster

import (
	"google.golang.org/protobuf/proto"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// The indexes follow the records: index adds what a record contributes, and
// unindex takes exactly that away again.

func (s *State) index(m proto.Message) {
	switch m := m.(type) {
	case *blixardv1.VM:
		s.uids.Set(m.Uid, m.Name)
		if p := m.Placement; p != nil {
			s.placed.Set(be(p.NodeId)+m.Uid, struct{}{})
			s.changes.Set(be(p.NodeId)+be(m.AssignmentRevision)+m.Uid, m.Name)
		}
		if waiting(m) {
			s.pending.Set(pendingKey(m), m.Name)
		}
		if m.Runner != nil {
			for _, id := range m.PreparedNodes {
				s.ready.Set(be(id)+m.Uid, struct{}{})
			}
		}
	case *blixardv1.Node:
		s.names.Set(m.Name, m.Id)
		if m.Server != blixardv1.ServerState_SERVER_STATE_UNSPECIFIED {
			s.server.Set(m.Id, struct{}{})
		}
		if m.Host != nil {
			s.hostCount++
		}
		if schedulable(m) {
			s.hosts.Set(scheduleHost(m, s.overcommit()).Key(), m.Id)
		}
	case *blixardv1.DedupeRecord:
		s.old.Set(be(m.LoggedTime)+be(m.Index), dedupePrefix+m.Key)
	case *blixardv1.ArtifactRecord:
		if m.UnusedSince != 0 && m.Name == "" {
			s.idle.Set(be(m.UnusedSince)+m.Digest, m.Digest)
		}
	case *blixardv1.Event:
		s.events++
	}
}

func (s *State) unindex(m proto.Message) {
	switch m := m.(type) {
	case *blixardv1.VM:
		s.uids.Delete(m.Uid)
		if p := m.Placement; p != nil {
			s.placed.Delete(be(p.NodeId) + m.Uid)
			s.changes.Delete(be(p.NodeId) + be(m.AssignmentRevision) + m.Uid)
		}
		if waiting(m) {
			s.pending.Delete(pendingKey(m))
		}
		for _, id := range m.PreparedNodes {
			s.ready.Delete(be(id) + m.Uid)
		}
	case *blixardv1.Node:
		s.names.Delete(m.Name)
		s.server.Delete(m.Id)
		if m.Host != nil {
			s.hostCount--
		}
		if schedulable(m) {
			s.hosts.Delete(scheduleHost(m, s.overcommit()).Key())
		}
	case *blixardv1.DedupeRecord:
		s.old.Delete(be(m.LoggedTime) + be(m.Index))
	case *blixardv1.ArtifactRecord:
		if m.UnusedSince != 0 && m.Name == "" {
			s.idle.Delete(be(m.UnusedSince) + m.Digest)
		}
	case *blixardv1.Event:
		s.events--
	}
}

// waiting VMs want a host and have none.
func waiting(vm *blixardv1.VM) bool { return vm.Placement == nil && vm.Run && !vm.Deleting }

// pendingKey orders what waits: highest priority first, then oldest.
func pendingKey(vm *blixardv1.VM) string {
	return be(uint64(1<<31-int64(vm.GetSpec().GetPriority()))) + be(uint64(vm.CreateTime.GetSeconds())) + vm.Uid
}

func (s *State) overcommit() uint64 {
	return uint64(max(s.meta.GetSettings().GetVcpuOvercommitMilli(), 1000))
}
