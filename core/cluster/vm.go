package cluster

import (
	"cmp"
	"fmt"

	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func (s *State) createVM(e *entry, op *blixardv1.CreateVMOp) *blixardv1.Response {
	return s.createFrom(e, op, nil)
}

// createFrom makes a VM that starts from a snapshot; nil: from nothing.
func (s *State) createFrom(e *entry, op *blixardv1.CreateVMOp, from *blixardv1.RestoreFrom) *blixardv1.Response {
	if err := ValidateVM(op.Name, op.Spec); err != nil {
		return &blixardv1.Response{Error: err}
	}
	if old := s.VM(op.Name); old != nil {
		if old.Deleting {
			return refuse(blixardv1.ErrorCode_ERROR_CODE_ALREADY_EXISTS,
				fmt.Sprintf("the VM %s is still being deleted: %s", op.Name, s.deletionWaits(old)),
				"wait for it with 'blixard vm get "+op.Name+"', or use another name")
		}
		return refuse(blixardv1.ErrorCode_ERROR_CODE_ALREADY_EXISTS, "a VM named "+op.Name+" exists", "use another name, or delete it first")
	}
	if resp := s.leaseTooShort(op.Spec); resp != nil {
		return resp
	}
	if resp := s.missing(artifacts(op.Spec)); resp != nil {
		return resp
	}
	vm := &blixardv1.VM{
		Name: op.Name, Uid: fmt.Sprintf("%d-%d", s.meta.Generation, e.index),
		Spec: s.complete(op.Spec), SpecGeneration: 1, Run: true, RunGeneration: 1,
		CreateTime: e.time(), Revision: e.index, Restore: from,
	}
	if mutant.On("UidByName") {
		vm.Uid = "1-" + op.Name
	}
	if resp := s.attach(vm); resp != nil {
		return resp
	}
	if resp := s.mount(vm); resp != nil {
		return resp
	}
	if op.ValidateOnly {
		return vmResponse(vm)
	}
	vm.Pins = s.pinsFor(vm.Spec)
	s.refer(e, inputs(vm.Spec, vm.Pins), +1)
	s.place(e, vm)
	return vmResponse(vm)
}

func (s *State) leaseTooShort(spec *blixardv1.VMSpec) *blixardv1.Response {
	l, renew := spec.LeaseMs, s.meta.Settings.GetRenewMs()
	if l == 0 || l >= 3*renew {
		return nil
	}
	return refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID,
		fmt.Sprintf("a lease of %d ms is too short for a cluster that renews every %d ms", l, renew),
		fmt.Sprintf("give it at least %d, or leave it out", 3*renew))
}

// complete fills in what the user left out, so that a later default changes
// nothing that exists.
func (s *State) complete(spec *blixardv1.VMSpec) *blixardv1.VMSpec {
	spec = clone(spec)
	spec.Vcpus = cmp.Or(spec.Vcpus, 1)
	spec.MemoryMib = cmp.Or(spec.MemoryMib, 512)
	completeNixos(spec)
	spec.OnUpdate = cmp.Or(spec.OnUpdate, blixardv1.OnUpdate_ON_UPDATE_NEXT_START)
	spec.Restart = cmp.Or(spec.Restart, blixardv1.RestartPolicy_RESTART_POLICY_ALWAYS)
	spec.StopGraceMs = cmp.Or(spec.StopGraceMs, 20_000)
	completeHealth(spec)
	for _, d := range spec.GetImage().GetDisks() {
		if d.SizeMib == 0 && d.Source != nil {
			d.SizeMib = (d.Source.Size + 1<<20 - 1) >> 20
		}
	}
	for _, n := range spec.GetNetworks() {
		for _, p := range n.Ports {
			p.Protocol = protocolOf(p)
		}
	}
	for _, m := range spec.GetVolumes() {
		m.Disk = diskOf(m)
	}
	if spec.OnHostLoss == blixardv1.OnHostLoss_ON_HOST_LOSS_UNSPECIFIED {
		spec.OnHostLoss = blixardv1.OnHostLoss_ON_HOST_LOSS_REPLACE
		if keepsData(spec) {
			spec.OnHostLoss = blixardv1.OnHostLoss_ON_HOST_LOSS_WAIT
		}
	}
	return spec
}

func noVM(name string) *blixardv1.Response {
	return refuse(blixardv1.ErrorCode_ERROR_CODE_NOT_FOUND, fmt.Sprintf("there is no VM named %q", name), "'blixard vm list' shows those there are")
}

func (s *State) deleteVM(e *entry, op *blixardv1.DeleteVMOp) *blixardv1.Response {
	vm := s.VM(op.Name)
	if vm == nil || op.Uid != "" && op.Uid != vm.Uid {
		return noVM(op.Name)
	}
	if vm.Deleting {
		if op.Volumes && !vm.DeleteVolumes {
			vm = copyVM(vm)
			vm.DeleteVolumes = true
			s.put(vmKey(vm.Name), vm)
		}
		return vmResponse(vm)
	}
	vm = copyVM(vm)
	vm.Deleting, vm.Run, vm.DeleteVolumes = true, false, op.Volumes
	if mutant.On("VolumeFreedByDelete") {
		vm.Volumes = nil
	}
	if mutant.On("AddressFreedEarly") {
		vm.Attachments = nil
	}
	s.setPhase(e, vm, blixardv1.Phase_PHASE_DELETING, "Deleting", "deleted by its user")
	if moving(vm) {
		s.abandon(e, vm, nil, "it was deleted")
	}
	if vm.Placement == nil {
		if s.put(vmKey(vm.Name), vm); vm.GetMigration().GetOther() == nil {
			s.drop(e, vm)
		}
		return vmResponse(vm)
	}
	node := copyNode(s.Node(vm.Placement.NodeId))
	if s.gone(node, vm.Placement.Lease) || mutant.On("FreedUnreported") && vm.Status.GetSequence() == 0 {
		s.put(vmKey(vm.Name), vm)
		s.release(e, vm, node, "deleted; its host's long window has passed")
		s.put(nodeKey(node.Id), node)
		return vmResponse(vm)
	}
	s.assign(e, vm, node)
	return vmResponse(vm)
}

// drop forgets a VM of which nothing is alive.
func (s *State) drop(e *entry, vm *blixardv1.VM) {
	s.refer(e, inputs(vm.Spec, vm.Pins), -1)
	s.setHistory(e, vm.Name, nil)
	s.unprepare(e, vm)
	s.del(vmKey(vm.Name))
	s.freeVolumes(e, vm)
	s.bury(e, &blixardv1.Removed{Uid: vm.Uid, Name: vm.Name})
	s.event(e, "VMDeleted", vm.Name, "", "nothing of it is left")
}

// deletionWaits says what a deletion waits for.
func (s *State) deletionWaits(vm *blixardv1.VM) string {
	node := s.Node(cmp.Or(vm.GetPlacement().GetNodeId(), vm.GetMigration().GetOther().GetNodeId()))
	if node == nil {
		return "it will be gone in a moment"
	}
	if node.Host.GetSuspect() || node.Host.GetEpochState() != blixardv1.EpochState_EPOCH_STATE_ACTIVE {
		return "its host " + node.Name + " cannot be reached, and it may still run there; it is gone when the host answers or its lease has surely ended"
	}
	return "its host " + node.Name + " is ending it"
}

func (s *State) power(e *entry, op *blixardv1.PowerOp) *blixardv1.Response {
	vm := s.VM(op.Name)
	if vm == nil {
		return noVM(op.Name)
	}
	if vm.Deleting {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "the VM "+op.Name+" is being deleted", "")
	}
	if vm.Run == op.Run && !op.Restart && !(op.Run && ended(vm)) {
		return vmResponse(vm)
	}
	vm = copyVM(vm)
	vm.Run = op.Run
	kind, what := "VMStopOrdered", "it is ended, and stays so"
	switch {
	case op.Restart:
		kind, what = "VMRestartOrdered", "it is ended, and started"
	case op.Run:
		kind, what = "VMStartOrdered", "it is started"
	}
	s.event(e, kind, vm.Name, vm.GetPlacement().GetNode(), "%s", what)
	if !op.Run || op.Restart {
		vm.Paused = false
		if !vm.Restore.GetClone() { // which has nothing else to start from
			vm.Restore = nil
		}
	}
	if op.Restart || op.Run {
		vm.RunGeneration++
		if ended(vm) && !vm.Placement.GetHeld() { // how it ended is no answer to whoever waits for the start
			s.setPhase(e, vm, blixardv1.Phase_PHASE_PENDING, "StartAsked", "its user asked for it to be started")
		}
	}
	if moving(vm) { // its user wants it ended, here and there
		s.abandon(e, vm, nil, map[bool]string{false: "it was stopped", true: "it was restarted"}[op.Run])
	}
	switch {
	case vm.Placement != nil:
		s.assign(e, vm, copyNode(s.Node(vm.Placement.NodeId)))
		s.redrain()
	case op.Run:
		s.place(e, vm)
	default:
		if leavesOffline(vm) {
			s.endOffline(e, vm, nil)
		}
		s.setPhase(e, vm, blixardv1.Phase_PHASE_STOPPED, "Stopped", "stopped by its user before it had a host")
		s.put(vmKey(vm.Name), vm)
	}
	return vmResponse(vm)
}

// ended VMs were meant to run, and by their restart policy do so no more, or not yet.
func ended(vm *blixardv1.VM) bool {
	p := vm.GetStatus().GetPhase()
	return p == blixardv1.Phase_PHASE_STOPPED || p == blixardv1.Phase_PHASE_FAILED
}

// setPhase changes the status of the caller's own copy.
func (s *State) setPhase(e *entry, vm *blixardv1.VM, phase blixardv1.Phase, reason, message string) {
	st := &blixardv1.VMStatus{}
	if vm.Status != nil {
		st = clone(vm.Status)
	}
	st.Phase, st.Reason, st.Message, st.ChangeTime = phase, reason, message, e.time()
	vm.Status = st
}
