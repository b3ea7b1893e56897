package cluster

import (
	"fmt"

	"github.com/blixard/blixard/core/schedule"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Explain says for every host what placement thinks of it for a VM, as things
// stand, and where the VM is and why.
func (s *State) Explain(name string) (*blixardv1.ExplainResponse, *blixardv1.Error) {
	vm := s.VM(name)
	if vm == nil {
		return nil, noVM(name).Error
	}
	out := &blixardv1.ExplainResponse{Vm: s.Shown(vm), Revision: s.Revision()}
	n := s.needOf(vm)
	fits, hosts := 0, 0
	s.Nodes(func(node *blixardv1.Node) bool {
		if node.Host == nil {
			return true
		}
		hosts++
		h := scheduleHost(node, s.overcommit())
		v := &blixardv1.Verdict{NodeId: node.Id, Node: node.Name, Load: h.Load(), Chosen: vm.Placement.GetNodeId() == node.Id}
		if at(vm, node.Id) != nil { // what it holds itself does not stand in its own way
			mine := schedule.Resources{MilliCPU: n.MilliCPU, MemoryMiB: n.MemoryMiB, DiskMiB: n.DiskMiB}
			h.Used.MilliCPU -= min(mine.MilliCPU, h.Used.MilliCPU)
			h.Used.MemoryMiB -= min(mine.MemoryMiB, h.Used.MemoryMiB)
			h.Used.DiskMiB -= min(mine.DiskMiB, h.Used.DiskMiB)
		}
		s.lookAt(h, n, vm.Uid)
		for _, o := range schedule.Obstacles(nil, h, n) {
			v.Reasons = append(v.Reasons, o.String())
		}
		if v.Fits = len(v.Reasons) == 0; v.Fits {
			fits++
		}
		out.Verdicts = append(out.Verdicts, v)
		return true
	})
	out.Summary = s.summary(vm, fits, hosts)
	return out, nil
}

func (s *State) summary(vm *blixardv1.VM, fits, hosts int) string {
	p := vm.Placement
	if p == nil {
		if o := vm.GetMigration().GetOther(); o != nil && vm.Deleting {
			return "it is being deleted: " + s.deletionWaits(vm)
		}
		if vm.Deleting || !vm.Run {
			return "it is stopped and holds no host"
		}
		if s.Unsettled(vm) {
			return vm.GetStatus().GetMessage()
		}
		if l := s.needOf(vm).Local; len(l) > 0 {
			return fmt.Sprintf("it waits for %s, which has its %s: %d of %d hosts fit now", l[0].Where, l[0].What, fits, hosts)
		}
		return fmt.Sprintf("it waits for a host: %d of %d fit now", fits, hosts)
	}
	node := s.Node(p.NodeId)
	lost := node.GetHost().GetEpochState() != blixardv1.EpochState_EPOCH_STATE_ACTIVE
	text := fmt.Sprintf("it was placed on %s by entry %d, where most was left among the hosts that fit", node.GetName(), p.Incarnation.GetIndex())
	if m := vm.Migration; !m.GetOffline() && m.GetId() != 0 && m.Id == p.Incarnation.GetIndex() {
		text = fmt.Sprintf("it came live from %s to %s, by entry %d", m.From, node.GetName(), m.Id)
	} else if l := s.needOf(vm).Local; len(l) > 0 {
		text = fmt.Sprintf("it was placed on %s by entry %d: its %s is there", node.GetName(), p.Incarnation.GetIndex(), l[0].What)
	}
	switch {
	case vm.Deleting:
		text = "it is being deleted: " + s.deletionWaits(vm)
	case s.Held(node) != "":
		text += "; but " + s.Held(node)
	case lost && p.Lease == blixardv1.LeaseClass_LEASE_CLASS_NONE:
		text = fmt.Sprintf("its host %s is lost, not heard of%s, and it may still run there: no lease ends it; should the machine be lost for good, 'blixard cluster remove --lost %s'", node.GetName(), silentSince(node), node.GetName())
	case lost:
		text = fmt.Sprintf("its host %s is lost, not heard of%s, and it may still run there; it is not started elsewhere because it waits for its host", node.GetName(), silentSince(node))
	case silent(node) && p.Lease == blixardv1.LeaseClass_LEASE_CLASS_SHORT:
		text = fmt.Sprintf("its host %s has not been heard of%s; once its lease has surely ended, the VM is placed on another host", node.GetName(), silentSince(node))
	case silent(node):
		text = fmt.Sprintf("its host %s has not been heard of%s; the VM waits for it, and is not started elsewhere", node.GetName(), silentSince(node))
	case moving(vm):
		text += "; it is being moved " + s.movingText(vm) + ": " + vm.Migration.Message
	case leavesOffline(vm) && p.Leaving:
		text += "; it leaves that, and starts on another host"
	case p.Leaving:
		text += "; it is leaving that, which is drained, and starts on another host"
	case p.Held:
		text += "; that is drained, and it is kept stopped there until 'blixard node restore " + node.GetName() + "'"
	case node.GetDrain() != nil && s.stepOf(node, vm, false) == blixardv1.DrainStep_DRAIN_STEP_NEXT:
		text += "; that is drained, and it leaves when its turn comes and another host has room"
	case looping(vm) != "":
		text += "; " + looping(vm)
	case restarted(vm) != "":
		text += "; " + restarted(vm)
	case vm.Paused:
		text += fmt.Sprintf("; it is paused, until 'blixard vm resume %s'", vm.Name)
	}
	if r := s.resized(vm); r != "" && !lost {
		text += "; " + r
	}
	return text
}
