package sim

import (
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// hearsay is what clients tell each other: which VMs there are, and which of them have
// a snapshot, as the last answer about each had it. Who wants a snapshot of a VM, or a
// move, has it made and started first: else most of a run's wishes would be about
// nothing.
type hearsay struct {
	vms       map[string]*blixardv1.VM
	snapshots map[string]bool // by the VM's name
	brought   map[string]bool // of those: they were brought, and nothing goes back to them
	archives  map[string]*archive
}

func newHearsay() hearsay {
	return hearsay{map[string]*blixardv1.VM{}, map[string]bool{}, map[string]bool{}, map[string]*archive{}}
}

// learn takes in what an answer says of what was asked for.
func (h hearsay) learn(op *Operation) {
	if op.Unknown || op.Verb == List {
		return
	}
	none := op.Error.GetCode() == blixardv1.ErrorCode_ERROR_CODE_NOT_FOUND
	switch op.Verb {
	case DropSnapshot, Revert, BackUp:
		if none || op.Verb == DropSnapshot && op.Error == nil {
			delete(h.snapshots, op.Name)
		}
		none = false
	case CloneVM:
		if none {
			delete(h.snapshots, originOf(op.Name))
		}
		none = false
	case TakeSnapshot, BringBack:
		if op.Error == nil || op.Error.GetCode() == blixardv1.ErrorCode_ERROR_CODE_ALREADY_EXISTS {
			h.snapshots[op.Name] = true
		}
		if op.Error == nil {
			h.brought[op.Name] = op.Verb == BringBack
		}
		none = none && op.Verb == TakeSnapshot
	case Delete:
		none = none || op.Error == nil
	case Get:
		none = op.VM == nil
	}
	switch {
	case none:
		delete(h.vms, op.Name)
	case op.VM.GetName() == op.Name:
		h.vms[op.Name] = op.VM
	}
}

// first is what has to be done before a wish for a snapshot or a move of a VM can come
// true, or the wish.
func (h hearsay) first(verb Verb, name string) Verb {
	vm := h.vms[name]
	switch {
	case verb == BringBack && h.archives[name] == nil:
		return h.first(BackUp, name)
	case verb == BringBack && h.snapshots[name], verb == Revert && h.snapshots[name] && h.brought[name]:
		return DropSnapshot
	case verb == BringBack, verb == BackUp && h.snapshots[name]:
		return verb
	case verb == CloneVM && h.snapshots[originOf(name)]:
		return CloneVM
	case vm == nil || verb == CloneVM:
		return Create
	case verb == DropSnapshot && h.snapshots[name]:
		return DropSnapshot
	case !vm.Run:
		return Start
	case verb == Revert && !h.snapshots[name], verb == DropSnapshot, verb == BackUp:
		return TakeSnapshot
	case verb == MoveVM && vm.Paused:
		return ResumeVM
	}
	return verb
}
