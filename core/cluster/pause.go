package cluster

import (
	"cmp"

	"github.com/blixard/blixard/core/hypervisor"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// pause says that a VM is to be kept where it is, or to go on. It holds for the
// VM, not for its instance: whatever starts it meanwhile, it is paused again.
// Stop and Restart end it.
func (s *State) pause(e *entry, op *blixardv1.PauseOp) *blixardv1.Response {
	vm := s.VM(op.Name)
	switch {
	case vm == nil:
		return noVM(op.Name)
	case vm.Deleting:
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "the VM "+op.Name+" is being deleted", "")
	case !vm.Run:
		verb := map[bool]string{true: "pause", false: "resume"}[op.Paused]
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "the VM "+op.Name+" is stopped, so there is nothing to "+verb, "'blixard vm start "+op.Name+"' first")
	case vm.Paused == op.Paused:
		return vmResponse(vm)
	case moving(vm):
		return s.busyMoving(vm, "paused")
	}
	if why := s.unpausable(vm); op.Paused && why != "" {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "the VM "+op.Name+" cannot be paused: "+why, "'blixard vm stop "+op.Name+"' ends it instead")
	}
	vm = copyVM(vm)
	vm.Paused = op.Paused
	if op.Paused {
		s.event(e, "VMPauseOrdered", vm.Name, vm.GetPlacement().GetNode(), "its guest is kept where it is")
	} else {
		s.event(e, "VMResumeOrdered", vm.Name, vm.GetPlacement().GetNode(), "its guest goes on")
	}
	if vm.Placement == nil {
		s.put(vmKey(vm.Name), vm)
		return vmResponse(vm)
	}
	s.assign(e, vm, copyNode(s.Node(vm.Placement.NodeId)))
	return vmResponse(vm)
}

// unpausable says why what runs a VM cannot pause it; "" when it can, or when
// that is not known yet.
func (s *State) unpausable(vm *blixardv1.VM) string {
	return s.unable(vm, blixardv1.Capability_CAPABILITY_PAUSE)
}

// unable says why what runs a VM does not do something; "" when it does, or when
// that is not known yet.
func (s *State) unable(vm *blixardv1.VM, c blixardv1.Capability) string {
	h := cmp.Or(vm.GetRunner().GetHypervisor(), vm.GetPlacement().GetHypervisor(), vm.GetSpec().GetHypervisor())
	k := hypervisor.Get(h)
	if k == nil {
		return ""
	}
	if why := k.Why(c); why != "" {
		return why
	}
	if nixBuilt(vm.Spec) { // it brings its own
		return ""
	}
	node := s.Node(vm.GetPlacement().GetNodeId())
	for _, f := range node.GetHost().GetFacts().GetHypervisors() {
		if f.Hypervisor == h && !doneBy(f).Has(hypervisor.Of(c)) {
			return "the " + k.Name + " of its host " + node.Name + " has no " + hypervisor.Name(c)
		}
	}
	return ""
}
