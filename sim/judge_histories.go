package sim

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// The histories of all clients are linearizable: every operation seems to have
// happened at one instant between its call and its return, on one VM by its
// name; one whose outcome is unknown, at any instant from its call on, or never.
//
// Searched are the names that the witness has not proven, and in each sixteenth
// seed all of them.
func judgeHistories(w *World) {
	w.judges.witness.realTime(w)
	byName := w.operations()
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		if w.judges.witness.proves(byName[name]) && w.cfg.Seed%16 != 0 {
			continue
		}
		w.judges.judged["histories"] += len(byName[name])
		switch porcupine.CheckOperationsTimeout(vmModel, byName[name], 30*time.Second) {
		case porcupine.Illegal:
			w.fail("histories are linearizable", "VM %s:\n%s", name, historyText(byName[name]))
		case porcupine.Unknown:
			w.fired("HistoryTooHard")
		}
	}
}

// operations are what clients did to each name, as porcupine wants it.
func (w *World) operations() map[string][]porcupine.Operation {
	byName := map[string][]porcupine.Operation{}
	add := func(name string, op *Operation, seen *blixardv1.VM) {
		ret := op.Return
		if op.Unknown || ret == 0 {
			ret = math.MaxInt64
		}
		byName[name] = append(byName[name], porcupine.Operation{
			ClientId: op.Client, Input: op, Output: seen, Call: op.Call, Return: ret,
		})
	}
	names := map[string]bool{}
	for _, op := range w.history {
		if op.Verb < AddMember && op.Verb != List && op.Verb != StaleGet {
			names[op.Name] = true
		}
	}
	for _, op := range w.history {
		switch {
		case op.Verb == LoseMember && op.Error == nil:
			for _, name := range slices.Sorted(maps.Keys(names)) {
				add(name, op, nil)
			}
		case op.Verb.reads() && (op.Unknown || op.Return == 0), op.Verb == StaleGet, op.Verb >= AddMember:
		case op.Verb == List:
			seen := map[string]*blixardv1.VM{}
			for _, vm := range op.VMs {
				seen[vm.Name] = vm
			}
			for _, name := range slices.Sorted(maps.Keys(names)) {
				add(name, op, seen[name])
			}
		default:
			add(op.Name, op, op.VM)
		}
	}
	return byName
}

// modelVM is one name as a sequential world would have it.
type modelVM struct {
	there    bool
	deleting bool   // and may be gone at any moment
	uid      string // empty: made by an operation that nobody heard the answer of
	run      bool
	paused   bool
	gen      uint32
	spec     uint32
}

// vmModel is the sequential specification of one name. A VM that is being
// deleted vanishes some time later by itself: it is taken to be gone as soon as
// somebody sees it gone, and for good.
var vmModel = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{modelVM{}} },
	Step: func(state, input, output any) []any {
		s, op := state.(modelVM), input.(*Operation)
		vm, _ := output.(*blixardv1.VM)
		if op.Verb == LoseMember && s.run { // did it wait for that host?
			stopped := s
			stopped.run, stopped.paused = false, false
			return []any{s, stopped}
		}
		if op.Verb == LoseMember {
			return []any{s}
		}
		if op.Verb == Restored {
			return []any{modelVM{there: true, deleting: vm.Deleting, uid: vm.Uid, run: vm.Run, paused: vm.Paused, gen: vm.RunGeneration, spec: vm.SpecGeneration}}
		}
		if op.Verb == Get || op.Verb == List {
			return only(s.sees(vm))
		}
		if op.Unknown || op.Return == 0 {
			if op.Verb == Revert { // was there such a snapshot?
				return []any{s, s.does(op)}
			}
			if op.Verb == CloneVM && s.there && !s.deleting {
				return []any{s}
			}
			if op.Verb == CloneVM {
				return []any{s, modelVM{there: true, run: true, gen: 1, spec: 1}}
			}
			if op.Verb == Create && s.deleting { // was it gone already?
				return []any{s, modelVM{there: true, run: true, gen: 1, spec: 1}}
			}
			if op.Verb == Create && len(op.Spec.GetVolumes()) > 0 { // were they to be had?
				return []any{s, s.does(op)}
			}
			if op.Verb == Start && s.run { // had it ended?
				return []any{s, s.again()}
			}
			if op.Verb == MoveVM || op.Verb == StayVM || op.Verb == LeaveVM {
				return []any{s}
			}
			if op.Verb == Update || op.Verb == Rollback || op.Verb == PauseVM || op.Verb == ResumeVM { // was there room for it? was it being moved?
				return []any{s, s.does(op)}
			}
			return []any{s.does(op)}
		}
		return only(s.answers(op, vm))
	},
	DescribeOperation: func(input, _ any) string { return input.(*Operation).String() },
	DescribeState:     func(s any) string { return fmt.Sprintf("%+v", s) },
}).ToModel()

func only(ok bool, s modelVM) []any {
	if !ok {
		return nil
	}
	return []any{s}
}

// sees is a read that found vm, or nothing.
func (s modelVM) sees(vm *blixardv1.VM) (bool, modelVM) {
	if vm == nil {
		return !s.there || s.deleting, modelVM{}
	}
	if !s.there || s.uid != "" && s.uid != vm.Uid || s.deleting != vm.Deleting {
		return false, s
	}
	if !s.deleting && (s.run != vm.Run || s.paused != vm.Paused || s.gen != vm.RunGeneration || s.spec != vm.SpecGeneration) {
		return false, s
	}
	s.uid = vm.Uid
	return true, s
}

// does is an operation whose answer nobody heard.
func (s modelVM) does(op *Operation) modelVM {
	switch {
	case op.Verb == Create && !s.there:
		return modelVM{there: true, run: true, gen: 1, spec: 1}
	case !s.there || s.deleting || op.Verb == Create:
		return s
	case op.Verb == Delete:
		s.deleting, s.run = true, false
	case op.Verb == Stop:
		s.run, s.paused = false, false
	case op.Verb == PauseVM:
		s.paused = s.run
	case op.Verb == ResumeVM:
		s.paused = false
	case op.Verb == Update, op.Verb == Rollback && s.spec > 1:
		s.spec++
	case op.Verb == Start && !s.run, op.Verb == Restart, op.Verb == Revert:
		s.run, s.paused = true, s.paused && op.Verb == Start
		s.gen++
	}
	return s
}

// answers is an operation whose answer was heard.
func (s modelVM) answers(op *Operation, vm *blixardv1.VM) (bool, modelVM) {
	if op.Error != nil && (op.Verb == Revert || op.Verb == CloneVM) {
		return true, s // it says more of the snapshot
	}
	switch op.Error.GetCode() {
	case blixardv1.ErrorCode_ERROR_CODE_UNSPECIFIED:
	case blixardv1.ErrorCode_ERROR_CODE_NOT_FOUND:
		return !s.there || s.deleting, modelVM{}
	case blixardv1.ErrorCode_ERROR_CODE_ALREADY_EXISTS:
		return op.Verb == Create && s.there, s
	case blixardv1.ErrorCode_ERROR_CODE_INVALID: // the cluster's leases have changed
		return (op.Verb == Create || op.Verb == Update) && strings.Contains(op.Error.Message, "is too short for a cluster that renews"), s
	case blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION:
		// A host may have no room for the new spec; a first one has none before it.
		// What is stopped can neither be paused nor resumed.
		// What is being moved live cannot be changed or paused meanwhile.
		if strings.Contains(op.Error.Message, "is being moved") && op.Verb != Create && op.Verb != Delete {
			return s.there, s
		}
		if op.Verb == MoveVM || op.Verb == StayVM || op.Verb == LeaveVM {
			return s.there, s
		}
		if op.Verb == Create && len(op.Spec.GetVolumes()) > 0 { // somebody else has one of them
			return !s.there || s.deleting, modelVM{}
		}
		return s.deleting || s.there && (op.Verb == Update || op.Verb == Rollback || (op.Verb == PauseVM || op.Verb == ResumeVM) && !s.run), s
	default:
		return false, s
	}
	switch op.Verb {
	case Create, CloneVM:
		ok := (!s.there || s.deleting) && vm != nil && vm.Uid != s.uid && vm.Run && vm.RunGeneration == 1 && vm.SpecGeneration == 1
		return ok, modelVM{there: true, uid: vm.GetUid(), run: true, gen: 1, spec: 1}
	case Delete:
		if !s.there || vm == nil || s.uid != "" && vm.Uid != s.uid {
			return false, s
		}
		s.uid, s.deleting, s.run = vm.Uid, true, false
		return true, s
	}
	if !s.there || s.deleting || (op.Verb == PauseVM || op.Verb == ResumeVM) && !s.run {
		return false, s
	}
	// A VM that is meant to run may have ended by itself: then Start is another
	// run, and only its host knows.
	if op.Verb == Start && s.run && vm.GetRunGeneration() == s.gen+1 {
		s = s.again()
	} else {
		s = s.does(op)
	}
	return s.sees(vm)
}

func (s modelVM) again() modelVM {
	s.gen++
	return s
}

func historyText(ops []porcupine.Operation) string {
	var s string
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	for _, o := range ops {
		end := "never"
		if o.Return != math.MaxInt64 {
			end = stamp(o.Return)
		}
		op := o.Input.(*Operation)
		text := op.String()
		if op.Verb == List {
			one := *op
			one.Verb, one.VM = Get, nil
			one.VM, _ = o.Output.(*blixardv1.VM)
			text = one.String() + " (of a List)"
		}
		s += fmt.Sprintf("  %s to %s  %s\n", stamp(o.Call), end, text)
	}
	return s
}
