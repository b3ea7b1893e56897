package sim

import (
	"fmt"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A VM begins to leave its host only while that is drained, while no more than
// the bound are under way there, while another host has room for it, and never if
// it waits for its host; and it leaves for another host. By somebody's word (an offline
// move) it leaves also a host that is not drained, but for one that waits and would miss
// its disks. When all rests, a drained host has nothing left that could go elsewhere, and
// nothing that was to be stopped there runs.
type judgeDrains struct{}

// entry looks at what one entry has changed.
func (j *judgeDrains) entry(w *World, n *newest) {
	for _, c := range n.changed {
		was, is := c.was.GetPlacement(), c.is.GetPlacement()
		if was != nil && was.Leaving && is != nil && is.Incarnation.GetIndex() != was.Incarnation.GetIndex() &&
			is.NodeId == was.NodeId && n.nodes[is.NodeId].GetDrain() != nil {
			w.fail("a drain empties its host", "index %d: %s comes back to %s, which is drained", n.index, c.name, is.Node)
		}
		if !is.GetLeaving() || was.GetLeaving() && was.Incarnation.GetIndex() == is.Incarnation.GetIndex() {
			continue
		}
		w.judges.judged["drains"]++
		node, under := n.nodes[is.NodeId], 0
		// any order: a number
		for _, vm := range n.vms {
			if p := vm.GetPlacement(); p != nil && p.NodeId == is.NodeId && p.Leaving {
				under++
			}
		}
		switch bound := int(node.GetDrain().GetParallel()); {
		case c.is.GetMigration().GetState() == blixardv1.MigrationState_MIGRATION_STATE_LEAVING:
			w.fired("LeavesOffline")
			if waits(c.is) && (writes(c.is.Spec) || len(c.is.Spec.Volumes) > 0) {
				w.fail("a drain moves what it may", "index %d: %s leaves %s, where its disks are, and for which it waits", n.index, c.name, is.Node)
			}
		case node.GetDrain() == nil || !node.Cordoned:
			w.fail("a drain moves what it may", "index %d: %s leaves %s, which is not drained", n.index, c.name, is.Node)
		case waits(c.is):
			w.fail("a drain moves what it may", "index %d: %s leaves %s, for which it waits", n.index, c.name, is.Node)
		case under > bound:
			w.fail("a drain keeps to its bound", "index %d: %d VMs are leaving %s at a time, and %d may", n.index, under, is.Node, bound)
		}
	}
}

// undrained says what a drain has left undone about a VM that is placed.
func (w *World) undrained(v *cluster.State, vm *blixardv1.VM) string {
	p := vm.GetPlacement()
	if p == nil {
		return ""
	}
	d, phase := v.Node(p.NodeId).GetDrain(), vm.GetStatus().GetPhase()
	good := phase == blixardv1.Phase_PHASE_STOPPED
	ended := vm.Run && !p.Held && (good || phase == blixardv1.Phase_PHASE_FAILED) && forbids(vm.Spec.Restart, good)
	switch {
	case p.Leaving:
		return "is still leaving its host"
	case d == nil && p.Held:
		return "is kept stopped on a host that is not drained"
	case d == nil, ended:
	case waits(vm):
		if d.StopLocal && vm.Run && !p.Held {
			return "is not stopped on its host, which is drained"
		}
	case !vm.Run:
		return "is stopped, and has not left its host, which is drained"
	case !w.explained(v, vm, false):
		return fmt.Sprintf("has not left %s, which is drained, and another host has room", p.Node)
	}
	return ""
}
