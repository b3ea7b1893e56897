package cluster

import (
	"cmp"

	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// The indexes follow the records: reindex takes away what the old record
// contributed and adds what the new one does, and leaves alone what is the same.
// Either may be nil.
func (s *State) reindex(old, now proto.Message) {
	kind := now
	if now == nil {
		kind = old
	}
	switch kind.(type) {
	case *blixardv1.VM:
		o, _ := old.(*blixardv1.VM)
		n, _ := now.(*blixardv1.VM)
		s.reindexVM(o, n)
		s.reindexAttachments(o, n)
		s.reindexPorts(o, n)
		s.reindexHolds(o, n)
		s.reindexDevices(o, n)
		s.revise(vmPrefix+cmp.Or(n.GetName(), o.GetName()), o != nil, n != nil, o.GetRevision(), n.GetRevision())
	case *blixardv1.Node:
		o, _ := old.(*blixardv1.Node)
		n, _ := now.(*blixardv1.Node)
		s.reindexNode(o, n)
		s.reindexSpaces(o, n)
		s.revise(nodeKey(cmp.Or(n.GetId(), o.GetId())), o != nil, n != nil, o.GetRevision(), n.GetRevision())
	case *blixardv1.ClusterNetwork:
		o, _ := old.(*blixardv1.ClusterNetwork)
		n, _ := now.(*blixardv1.ClusterNetwork)
		s.reindexNetwork(o, n)
	case *blixardv1.ClusterVolume:
		o, _ := old.(*blixardv1.ClusterVolume)
		n, _ := now.(*blixardv1.ClusterVolume)
		s.reindexVolume(o, n)
	case *blixardv1.VMSnapshot:
		o, _ := old.(*blixardv1.VMSnapshot)
		n, _ := now.(*blixardv1.VMSnapshot)
		s.reindexSnapshot(o, n)
	case *blixardv1.DedupeRecord:
		if o, _ := old.(*blixardv1.DedupeRecord); o != nil {
			s.old.Delete(ageKey(o))
		}
		if n, _ := now.(*blixardv1.DedupeRecord); n != nil {
			s.old.Set(ageKey(n), dedupePrefix+n.Key)
		}
	case *blixardv1.ArtifactRecord:
		if o, _ := old.(*blixardv1.ArtifactRecord); unused(o) {
			s.idle.Delete(be(o.UnusedSince) + o.Digest)
		}
		if n, _ := now.(*blixardv1.ArtifactRecord); unused(n) {
			s.idle.Set(be(n.UnusedSince)+n.Digest, n.Digest)
		}
	case *blixardv1.Removed:
		if old != nil {
			s.buried--
		}
		if now != nil {
			s.buried++
		}
	case *blixardv1.Event:
		if old != nil {
			s.events--
		}
		if now != nil {
			s.events++
		}
	}
}

// revise keeps what changed in the order in which it did.
func (s *State) revise(key string, was, is bool, from, to uint64) {
	if was && is && from == to {
		return
	}
	if was {
		s.revised.Delete(be(from) + key)
	}
	if is {
		s.revised.Set(be(to)+key, key)
	}
}

// side is one of the placements of a VM, and when its host's assignment last changed.
type side struct {
	p        *blixardv1.Placement
	revision uint64
}

// sidesOf are the placement with the right to run, and the other; p is nil for none.
func sidesOf(vm *blixardv1.VM) [2]side {
	m := vm.GetMigration()
	return [2]side{{vm.GetPlacement(), vm.GetAssignmentRevision()}, {m.GetOther(), m.GetAssignmentRevision()}}
}

func sameSides(o, n [2]side) bool {
	for i := range o {
		if o[i].p.GetNodeId() != n[i].p.GetNodeId() || o[i].p != nil && o[i].revision != n[i].revision {
			return false
		}
	}
	return true
}

func (s *State) reindexVM(o, n *blixardv1.VM) {
	was, is := sidesOf(o), sidesOf(n)
	samePlaces := o.GetUid() == n.GetUid() && sameSides(was, is)
	if o != nil {
		if o.Uid != n.GetUid() {
			s.uids.Delete(o.Uid)
		}
		for _, at := range was {
			if at.p != nil && !samePlaces {
				s.placed.Delete(be(at.p.NodeId) + o.Uid)
				s.changes.Delete(be(at.p.NodeId) + be(at.revision) + o.Uid)
			}
		}
		if waiting(o) {
			s.pending.Delete(pendingKey(o))
		}
		if o.GetPlacement().GetLeaving() {
			s.leaving.Delete(be(o.Placement.NodeId) + pendingKey(o))
		}
		if was[1].p != nil && is[1].p == nil {
			s.migrating.Delete(o.Name)
		}
		for _, id := range o.PreparedNodes {
			s.ready.Delete(be(id) + o.Uid)
		}
		if r := o.Restore; r != nil {
			s.restores.Delete(r.Uid + "/" + o.Uid)
		}
	}
	if n != nil {
		if o.GetUid() != n.Uid {
			s.uids.Set(n.Uid, n.Name)
		}
		for _, at := range is {
			if at.p != nil && !samePlaces {
				s.placed.Set(be(at.p.NodeId)+n.Uid, struct{}{})
				s.changes.Set(be(at.p.NodeId)+be(at.revision)+n.Uid, n.Name)
			}
		}
		if waiting(n) {
			s.pending.Set(pendingKey(n), n.Name)
		}
		if n.GetPlacement().GetLeaving() {
			s.leaving.Set(be(n.Placement.NodeId)+pendingKey(n), n.Name)
		}
		if is[1].p != nil && was[1].p == nil {
			s.migrating.Set(n.Name, struct{}{})
		}
		if n.Runner != nil {
			for _, id := range n.PreparedNodes {
				s.ready.Set(be(id)+n.Uid, struct{}{})
			}
		}
		if r := n.Restore; r != nil {
			s.restores.Set(r.Uid+"/"+n.Uid, n.Name)
		}
	}
}

func (s *State) reindexNode(o, n *blixardv1.Node) {
	if o.GetName() != n.GetName() {
		if o != nil {
			s.names.Delete(o.Name)
		}
		if n != nil {
			s.names.Set(n.Name, n.Id)
		}
	}
	const none = blixardv1.ServerState_SERVER_STATE_UNSPECIFIED
	switch was, is := o.GetServer() != none, n.GetServer() != none; {
	case was && !is:
		s.server.Delete(o.Id)
	case is && !was:
		s.server.Set(n.Id, struct{}{})
	}
	if (o.GetServer() != none || n.GetServer() != none) &&
		(o.GetServer() != n.GetServer() || o.GetName() != n.GetName() || o.GetAddress() != n.GetAddress()) {
		s.serversVersion++
	}
	switch was, is := o.GetDrain() != nil, n.GetDrain() != nil; {
	case was && !is:
		s.drained.Delete(o.Id)
	case is && !was:
		s.drained.Set(n.Id, struct{}{})
	}
	if o.GetHost() != nil {
		s.hostCount--
	}
	if n.GetHost() != nil {
		s.hostCount++
	}
	was, is := s.loadKey(o), s.loadKey(n)
	if was == is {
		return
	}
	if was != "" {
		s.hosts.Delete(was)
	}
	if is != "" {
		s.hosts.Set(is, n.Id)
	}
}

// loadKey is a node's place in the order of hosts to choose from; none for one
// that gets no VM.
func (s *State) loadKey(n *blixardv1.Node) string {
	if n == nil || !schedulable(n) {
		return ""
	}
	h := loadOf(n, s.overcommit())
	return h.Key()
}

// unused artifacts are collected after a while.
func unused(a *blixardv1.ArtifactRecord) bool {
	return a != nil && (a.UnusedSince != 0 || mutant.On("CollectedInUse")) && a.Name == ""
}

// waiting VMs want a host and have none.
func waiting(vm *blixardv1.VM) bool { return vm.Placement == nil && vm.Run && !vm.Deleting }

// pendingKey orders what waits: highest priority first, then oldest.
func pendingKey(vm *blixardv1.VM) string {
	priority := vm.GetSpec().GetPriority()
	if mutant.On("PriorityIgnored") {
		priority = 0
	}
	return be(uint64(1<<31-int64(priority))) + be(uint64(vm.CreateTime.GetSeconds())) + vm.Uid
}

func (s *State) overcommit() uint64 {
	return uint64(max(s.meta.GetSettings().GetVcpuOvercommitMilli(), 1000))
}
