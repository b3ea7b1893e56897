package main

import (
	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Run is an update of the two things that it names, which waits until the guest has
// what it can have at once.
func (c *VMResizeCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	if c.Memory == nil && c.Cpus == nil {
		return usagef("nothing was said to change: give --memory, --cpus, or both")
	}
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	r, err := s.VM.Get(s.ctx, connect.NewRequest(&blixardv1.GetRequest{Name: c.Name}))
	if err != nil {
		return err
	}
	read := r.Msg.GetVm()
	spec := proto.CloneOf(read.GetSpec())
	if c.Memory != nil {
		spec.MemoryMib = *c.Memory
	}
	if c.Cpus != nil {
		spec.Vcpus = *c.Cpus
	}
	return s.change(func(id string) error {
		r, err := s.VM.Update(s.ctx, connect.NewRequest(&blixardv1.UpdateRequest{
			RequestId: id, Name: c.Name, Spec: spec, ValidateOnly: c.ValidateOnly, Restart: c.Restart,
			Uid: read.GetUid(), SpecGeneration: read.GetSpecGeneration()}))
		if err != nil {
			return err
		}
		vm := r.Msg.GetVm()
		switch {
		case c.ValidateOnly:
			return s.showValid(vm, "changed")
		case s.g.Wait && vm.GetRun() && !vm.GetRestartWhenBuilt() && !idle(vm):
			if _, _, err := s.await(c.Name, vm.GetUid(), "resize", ballooned(vm)); err != nil {
				return err
			}
		}
		return s.settle("resize", vm, false)
	})
}

// ballooned waits until a guest has what its newest spec leaves it of what it was
// started with, or has not given it when it was asked.
func ballooned(from *blixardv1.VM) func(*blixardv1.VM) (bool, error) {
	return func(v *blixardv1.VM) (bool, error) {
		if v == nil || v.GetDeleting() {
			return false, &failure{code: exitConflict, what: "the VM is gone", why: errGone.Error()}
		}
		st := v.GetStatus()
		return v.GetPaused() || idle(v) || st.GetBootedMemoryMib() == 0 || st.GetMemoryMessage() != "" ||
			v.GetSpecGeneration() > from.GetSpecGeneration() || st.GetMemoryMib() == min(memoryOf(v), st.GetBootedMemoryMib()), nil
	}
}

// memoryNotes say what a guest has, where that is not what its spec says.
func memoryNotes(v *blixardv1.VM) []string {
	if m := cluster.Memory(v); m != "" {
		return []string{"Memory: " + m}
	}
	return nil
}
