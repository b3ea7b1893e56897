package cluster

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A VM is made larger or smaller by an update like any other. Memory goes at once
// where what runs has a balloon, and was started with so much; all else counts from
// the next start. Accounted is the larger of what runs and of what is to run: a guest
// can take back what it has given to its balloon.

// Memory says what a guest has of the memory that it was started with, and what its
// spec says; "" where these are one, where nothing runs, and where nobody knows.
func Memory(vm *blixardv1.VM) string {
	st, want := vm.GetStatus(), vm.GetSpec().GetMemoryMib()
	boot, has := st.GetBootedMemoryMib(), st.GetMemoryMib()
	if boot == 0 || boot == want && has == want {
		return ""
	}
	text := fmt.Sprintf("%d MiB, as it was started", boot)
	if has != boot && has != 0 {
		text = fmt.Sprintf("%d of the %d MiB that it was started with; its balloon has the rest, which stays accounted to it until its next start", has, boot)
	}
	switch {
	case has != min(want, boot) && st.GetMemoryMessage() != "":
		text += fmt.Sprintf("; it should have %d, but %s", min(want, boot), firstLine(st.GetMemoryMessage()))
	case has != min(want, boot):
		text += fmt.Sprintf("; it should have %d, and is being asked", min(want, boot))
	}
	if want > boot {
		text += fmt.Sprintf("; the %d MiB of its spec count from its next start", want)
	}
	return text
}

// sized is the spec that a VM runs with, of another size than its newest and the same in
// all else; nil for none. A guest goes on with it on another host: what it has of memory
// and processors is in it.
func (s *State) sized(vm *blixardv1.VM) *blixardv1.Generation {
	if vm.RestartWhenBuilt || nixBuilt(vm.Spec) { // it is just to end; or its size is in what was built
		return nil
	}
	for _, g := range s.History(vm.Name) {
		if g.SpecGeneration != vm.GetStatus().GetSpecGeneration() || g.SpecGeneration == vm.SpecGeneration {
			continue
		}
		as := clone(g.Spec)
		as.MemoryMib, as.Vcpus = vm.Spec.GetMemoryMib(), vm.Spec.GetVcpus()
		if proto.Equal(as, vm.Spec) {
			return g
		}
	}
	return nil
}

// resized says how what runs differs in size from the newest spec; "" where it does
// not.
func (s *State) resized(vm *blixardv1.VM) string {
	st := vm.GetStatus()
	if p := st.GetPhase(); p != blixardv1.Phase_PHASE_RUNNING && p != blixardv1.Phase_PHASE_PAUSED {
		return ""
	}
	var list []string
	if m := Memory(vm); m != "" {
		list = append(list, "its memory is "+m)
	}
	history := s.History(vm.Name)
	i := slices.IndexFunc(history, func(g *blixardv1.Generation) bool { return g.SpecGeneration == st.SpecGeneration })
	if i < 0 || st.SpecGeneration == vm.SpecGeneration {
		return strings.Join(list, "; ")
	}
	was := history[i].Spec
	if st.BootedMemoryMib == 0 && was.GetMemoryMib() != vm.Spec.MemoryMib {
		list = append(list, fmt.Sprintf("it runs with %d MiB of memory, and has no balloon: %d count from its next start", was.MemoryMib, vm.Spec.MemoryMib))
	}
	if was.GetVcpus() != vm.Spec.Vcpus {
		list = append(list, fmt.Sprintf("it runs with vcpus: %d, and %d count from its next start", was.Vcpus, vm.Spec.Vcpus))
	}
	return strings.Join(list, "; ")
}
