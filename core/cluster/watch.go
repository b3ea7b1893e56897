package cluster

import (
	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// News is what became of the state since a revision: not every step, but what
// there is now of all that changed, and what is gone. Put upon what was there at
// that revision, it gives what is there now.
type News struct {
	Removed []*blixardv1.Removed // oldest first; a name may be used again since
	VMs     []*blixardv1.VM      // as Shown, in no order that means anything
	Nodes   []*blixardv1.Node
	Events  []*blixardv1.Event // oldest first
}

// Since tells what changed after a revision, in O(log n) and what it tells. Not
// ok: it is not all known any more. Events are told of only when they are wanted,
// for they are forgotten the soonest. After 0 comes all there is.
func (s *State) Since(after uint64, events bool) (n News, ok bool) {
	if after != 0 && (after < s.meta.GetRemovedFloor() || events && after < s.meta.GetEventFloor()) {
		return News{}, false
	}
	from := be(after + 1)
	if mutant.On("WatchSkips") && after != 0 {
		from = be(after + 2)
	}
	s.revised.Ascend(from, func(_ string, key string) bool {
		r, _ := s.records.Get(key)
		switch m := r.msg.(type) {
		case *blixardv1.VM:
			n.VMs = append(n.VMs, s.Shown(m))
		case *blixardv1.Node:
			n.Nodes = append(n.Nodes, m)
			if m.Host.GetHeardRevision() > after {
				n.VMs = s.reshown(n.VMs, m, after)
			}
		}
		return true
	})
	if after != 0 {
		ascend(s, removedPrefix, from, func(r *blixardv1.Removed) bool {
			n.Removed = append(n.Removed, r)
			return true
		})
	}
	if events {
		ascend(s, eventPrefix, from, func(e *blixardv1.Event) bool {
			n.Events = append(n.Events, e)
			return true
		})
	}
	return n, true
}

// reshown adds the VMs of a host that is heard of, or is not, since a revision,
// and that have not changed otherwise: those whose status is that host's word, and
// not those that are to come to it.
func (s *State) reshown(list []*blixardv1.VM, n *blixardv1.Node, after uint64) []*blixardv1.VM {
	s.Placed(n.Id, func(vm *blixardv1.VM) bool {
		if vm.Revision <= after && vm.Placement.GetNodeId() == n.Id {
			list = append(list, s.Shown(vm))
		}
		return true
	})
	return list
}

// maxRemoved is how many removals the cluster remembers for watchers.
const maxRemoved = 4096

// bury remembers that a VM or a node went.
func (s *State) bury(e *entry, r *blixardv1.Removed) {
	if mutant.On("WatchForgets") {
		return
	}
	r.Revision = e.index // it is part of the key
	s.put(removedPrefix+be(e.index)+r.Uid+"/"+r.Name, r)
	if s.buried <= maxRemoved {
		return
	}
	oldest := ""
	s.records.Ascend(removedPrefix, func(k string, r record) bool {
		oldest, s.meta.RemovedFloor = k, r.msg.(*blixardv1.Removed).Revision
		return false
	})
	s.del(oldest)
}
