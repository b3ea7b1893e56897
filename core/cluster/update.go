package cluster

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core/mutant"
	"github.com/blixard/blixard/core/schedule"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A VM's spec is replaced as a whole, and what it was is kept. Its host builds
// what the new one needs while the VM runs on; that it runs with the new one is
// something that only the host's report says.

// keptGenerations is how many specs a VM can go back.
const keptGenerations = 5

func (s *State) updateVM(e *entry, op *blixardv1.UpdateVMOp) *blixardv1.Response {
	if err := ValidateVM(op.Name, op.Spec); err != nil {
		return &blixardv1.Response{Error: err}
	}
	vm, resp := s.updatable(op.Name)
	if resp != nil {
		return resp
	}
	if resp := changedSince(vm, op.Uid, op.SpecGeneration); resp != nil {
		return resp
	}
	if resp := s.leaseTooShort(op.Spec); resp != nil {
		return resp
	}
	if resp := s.missing(artifacts(op.Spec)); resp != nil {
		return resp
	}
	next := &blixardv1.Generation{Spec: s.complete(op.Spec), Pins: vm.Pins, Runner: vm.Runner}
	if !sameBuild(vm.Spec, next.Spec) && !mutant.On("RunnerKept") {
		next.Pins, next.Runner = s.pinsFor(next.Spec), nil
	}
	if err := keepsDisks(vm.Spec, next.Spec); err != nil {
		return &blixardv1.Response{Error: err}
	}
	return s.regenerate(e, vm, next, change{
		validateOnly: op.ValidateOnly, event: "VMUpdated",
		restart: op.Restart || next.Spec.OnUpdate == blixardv1.OnUpdate_ON_UPDATE_RESTART,
	})
}

// changedSince refuses to change what is not any more what somebody has read.
func changedSince(vm *blixardv1.VM, uid string, generation uint32) *blixardv1.Response {
	why := ""
	switch {
	case uid != "" && uid != vm.Uid:
		why = "is another one by now: it was deleted and created again"
	case generation != 0 && generation != vm.SpecGeneration:
		why = fmt.Sprintf("has spec generation %d by now, and the change was made to %d", vm.SpecGeneration, generation)
	default:
		return nil
	}
	return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "the VM "+vm.Name+" "+why,
		"look at it ('blixard vm get "+vm.Name+"'), and change it again")
}

func (s *State) rollbackVM(e *entry, op *blixardv1.RollbackVMOp) *blixardv1.Response {
	vm, resp := s.updatable(op.Name)
	if resp != nil {
		return resp
	}
	history := s.History(op.Name)
	if len(history) == 0 {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "the VM "+op.Name+" has had one spec only, so there is nothing to go back to", "'blixard vm history "+op.Name+"' shows the specs that it had")
	}
	next := history[len(history)-1]
	if op.SpecGeneration != 0 || mutant.On("RollbackTooFar") {
		i := slices.IndexFunc(history, func(g *blixardv1.Generation) bool {
			return g.SpecGeneration == op.SpecGeneration || mutant.On("RollbackTooFar")
		})
		if i < 0 {
			return refuse(blixardv1.ErrorCode_ERROR_CODE_NOT_FOUND,
				fmt.Sprintf("the VM %s has no spec generation %d that is kept", op.Name, op.SpecGeneration),
				"'blixard vm history "+op.Name+"' shows those there are")
		}
		next = history[i]
	}
	if err := shrinksNoDisk(vm.Spec, next.Spec); err != nil {
		return &blixardv1.Response{Error: err}
	}
	return s.regenerate(e, vm, next, change{event: "VMRolledBack", restart: op.Restart || next.Spec.OnUpdate == blixardv1.OnUpdate_ON_UPDATE_RESTART})
}

func (s *State) buildVM(e *entry, op *blixardv1.BuildVMOp) *blixardv1.Response {
	vm, resp := s.updatable(op.Name)
	if resp != nil {
		return resp
	}
	if !nixBuilt(vm.Spec) {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "the VM "+op.Name+" is not one that Nix builds", "images are fetched when they are needed")
	}
	if op.Prebuild != nil && vm.Spec.Prebuild != *op.Prebuild {
		if err := checkPrebuild(*op.Prebuild); err != nil {
			return &blixardv1.Response{Error: err}
		}
		vm = clone(vm)
		vm.Spec.Prebuild = *op.Prebuild
	}
	if !op.Refresh {
		vm = clone(vm)
		s.prepare(e, vm)
		s.put(vmKey(vm.Name), vm)
		return vmResponse(vm)
	}
	next := &blixardv1.Generation{Spec: vm.Spec, Pins: s.pinsFor(vm.Spec)}
	return s.regenerate(e, vm, next, change{event: "VMRefreshed", fresh: true, restart: op.Restart || vm.Spec.OnUpdate == blixardv1.OnUpdate_ON_UPDATE_RESTART})
}

func (s *State) updatable(name string) (*blixardv1.VM, *blixardv1.Response) {
	vm := s.VM(name)
	if vm == nil {
		return nil, noVM(name)
	}
	if vm.Restore != nil {
		return nil, refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "the VM "+name+" is just starting from the snapshot "+vm.Restore.Name, "wait until it runs")
	}
	if vm.Deleting {
		return nil, refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "the VM "+name+" is being deleted", "")
	}
	return vm, s.busyMoving(vm, "changed")
}

// change is how a VM gets another spec.
type change struct {
	event                        string
	validateOnly, fresh, restart bool
}

// regenerate makes a spec the VM's, and remembers the one that it had.
func (s *State) regenerate(e *entry, old *blixardv1.VM, next *blixardv1.Generation, c change) *blixardv1.Response {
	vm := clone(old)
	if !c.fresh && proto.Equal(old.Spec, next.Spec) && proto.Equal(old.Pins, next.Pins) {
		if pending := old.GetStatus().GetSpecGeneration() != old.SpecGeneration; c.validateOnly || !c.restart || !pending {
			return vmResponse(old)
		}
		vm.RestartWhenBuilt = true
		s.assign(e, vm, clone(s.Node(vm.GetPlacement().GetNodeId())))
		return vmResponse(vm)
	}
	node := s.Node(old.GetPlacement().GetNodeId())
	if node != nil {
		if old.GetMigration().GetOther() != nil && len(next.Spec.GetVolumes()) > 0 {
			return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION,
				"the VM "+old.Name+" is just being moved, and volumes are on one host", "try again when it is there: 'blixard vm get "+old.Name+"' shows how far it is")
		}
		if old.Placement.Leaving && next.Spec.OnHostLoss == blixardv1.OnHostLoss_ON_HOST_LOSS_WAIT {
			return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION,
				"the VM "+old.Name+" is just leaving "+node.Name+", and cannot be told to wait for it any more", "try again when it runs elsewhere")
		}
		if resp := s.noRoom(old, node, next.Spec); resp != nil {
			return resp
		}
	}
	vm.Spec, vm.Pins, vm.Runner, vm.Fresh, vm.RestartWhenBuilt = next.Spec, next.Pins, next.Runner, c.fresh, c.restart
	vm.SpecGeneration = old.SpecGeneration + 1
	if resp := s.attach(vm); resp != nil {
		return resp
	}
	if resp := s.mount(vm); resp != nil {
		return resp
	}
	if c.validateOnly {
		return vmResponse(vm)
	}
	history := slices.DeleteFunc(slices.Clone(s.History(vm.Name)), func(g *blixardv1.Generation) bool {
		return g.SpecGeneration == next.SpecGeneration && next.SpecGeneration != 0
	})
	history = append(history, &blixardv1.Generation{
		SpecGeneration: old.SpecGeneration, Spec: old.Spec, Pins: old.Pins, Runner: old.Runner, CreateTime: e.time(),
	})
	s.refer(e, inputs(vm.Spec, vm.Pins), +1)
	s.setHistory(e, vm.Name, history[max(0, len(history)-keptGenerations):])
	s.refer(e, inputs(old.Spec, old.Pins), -1)
	s.event(e, c.event, vm.Name, node.GetName(), "spec generation %d", vm.SpecGeneration)
	if node == nil {
		s.prepare(e, vm) // it may wait for long, and hosts hold what it is no more
		if vm.Run {
			s.place(e, vm)
		} else {
			s.put(vmKey(vm.Name), vm)
		}
		return vmResponse(vm)
	}
	n := clone(node)
	s.hold(n, vm.Placement, -1)
	s.reaccount(vm, old.Placement)
	s.hold(n, vm.Placement, +1)
	s.bindVolumes(e, vm, n)
	s.target(vm, vm.Placement, n)
	s.prepare(e, vm)
	s.assign(e, vm, n)
	s.freed()
	return vmResponse(vm)
}

// reaccount makes a placement hold what the spec needs, and at least what a
// running older one does.
func (s *State) reaccount(vm *blixardv1.VM, atLeast *blixardv1.Placement) {
	n, p := need(vm.Spec), vm.Placement
	p.Vcpus = max(vm.Spec.Vcpus, atLeast.GetVcpus())
	p.MemoryMib = max(n.MemoryMiB, atLeast.GetMemoryMib())
	p.DiskMib = max(n.DiskMiB, atLeast.GetDiskMib())
	if p.Devices = devicesFor(vm); atLeast != nil {
		p.Devices = s.giveDevices(vm.Spec, s.Node(p.NodeId), atLeast.Devices)
	}
	p.Ports = bothPorts(hostPorts(vm.Spec), atLeast.GetPorts())
}

// noRoom refuses a spec that the VM's host cannot take in the old one's place.
func (s *State) noRoom(vm *blixardv1.VM, node *blixardv1.Node, spec *blixardv1.VMSpec) *blixardv1.Response {
	h := scheduleHost(node, s.overcommit())
	p := vm.Placement
	h.Used.MilliCPU -= uint64(p.Vcpus) * 1000
	h.Used.MemoryMiB -= p.MemoryMib
	h.Used.DiskMiB -= p.DiskMib
	h.Away, h.Cordoned, h.Suspect = false, false, false // it is there already
	var why []string
	n := need(spec)
	s.withVolumes(&n, spec)
	s.lookAt(h, n, vm.Uid)
	for _, o := range schedule.Obstacles(nil, h, n) {
		why = append(why, o.String())
	}
	if len(why) == 0 {
		return nil
	}
	return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION,
		fmt.Sprintf("the host %s, which has the VM %s, cannot take the new spec: it %s", node.Name, vm.Name, strings.Join(why, ", and ")),
		"make the spec smaller, or make room there")
}

// sameBuild says whether two specs give the same thing to run.
func sameBuild(a, b *blixardv1.VMSpec) bool {
	built := func(s *blixardv1.VMSpec) *blixardv1.VMSpec {
		return &blixardv1.VMSpec{Hypervisor: s.Hypervisor, Vcpus: s.Vcpus, MemoryMib: s.MemoryMib, Source: s.Source, Networks: s.Networks, Devices: s.Devices, Shares: s.Shares}
	}
	return proto.Equal(built(a), built(b))
}

// keepsDisks refuses an update that would need another disk than the one that
// is there: a disk is made once, and then only grows.
func keepsDisks(old, next *blixardv1.VMSpec) *blixardv1.Error {
	const advice = "make a new VM with it, and copy over what you need"
	if fmt.Sprintf("%T", old.Source) != fmt.Sprintf("%T", next.Source) {
		return invalid("spec", "an update cannot make another kind of VM out of it", "make a new VM")
	}
	for _, d := range old.GetImage().GetDisks() {
		i := slices.IndexFunc(next.GetImage().GetDisks(), func(n *blixardv1.Disk) bool { return n.Name == d.Name })
		var same *blixardv1.Disk
		if i >= 0 {
			same = clone(next.GetImage().Disks[i])
			same.SizeMib, same.Limit = d.SizeMib, d.Limit
		}
		if !proto.Equal(d, same) {
			return invalid("spec.image.disks", fmt.Sprintf("the disk %q is there, and an update makes a disk larger, and does nothing else to it", d.Name), advice)
		}
	}
	if err := shrinksNoDisk(old, next); err != nil {
		return err
	}
	sizes := map[string]uint64{}
	for _, v := range old.GetNixos().GetVolumes() {
		sizes[imageOf(v)] = v.GetRoot().GetSizeMib() + v.GetData().GetSizeMib()
	}
	for i, v := range next.GetNixos().GetVolumes() {
		if size, ok := sizes[imageOf(v)]; ok && size != v.GetRoot().GetSizeMib()+v.GetData().GetSizeMib() {
			return invalid(fmt.Sprintf("spec.nixos.volumes[%d]", i), fmt.Sprintf("the volume %s is there, with %d MiB, and is made only once", imageOf(v), size), advice)
		}
	}
	return nil
}

// shrinksNoDisk refuses a spec with a smaller disk than the one that is there, or may
// be by now.
func shrinksNoDisk(old, next *blixardv1.VMSpec) *blixardv1.Error {
	for i, n := range next.GetImage().GetDisks() {
		for _, d := range old.GetImage().GetDisks() {
			if n.Name == d.Name && n.SizeMib < d.SizeMib {
				return invalid(fmt.Sprintf("spec.image.disks[%d].size_mib", i),
					fmt.Sprintf("the disk %q has %d MiB, and %d would cut off what is at its end", d.Name, d.SizeMib, n.SizeMib),
					"a disk never becomes smaller: make a new VM with a smaller one, and copy over what you need")
			}
		}
	}
	return nil
}

func imageOf(v *blixardv1.Volume) string {
	if v.GetRoot() != nil {
		return rootImage
	}
	return v.GetData().GetPath()
}

// History returns the specs that a VM had before, the newest last.
func (s *State) History(name string) []*blixardv1.Generation {
	return get[*blixardv1.History](s, historyKey(name)).GetGenerations()
}

func (s *State) setHistory(e *entry, name string, list []*blixardv1.Generation) {
	before := s.History(name)
	for _, g := range list {
		s.refer(e, inputs(g.Spec, g.Pins), +1)
	}
	if len(list) > 0 {
		s.put(historyKey(name), &blixardv1.History{Vm: name, Generations: list})
	} else if len(before) > 0 {
		s.del(historyKey(name))
	}
	for _, g := range before {
		s.refer(e, inputs(g.Spec, g.Pins), -1)
	}
}

// fallback is the newest spec before this one that was built, while this one is
// not. One that has run where it is placed was, even if nobody has said so yet.
func (s *State) fallback(vm *blixardv1.VM) *blixardv1.Generation {
	if vm.Runner != nil || !nixBuilt(vm.Spec) || vm.Placement != nil && vm.GetStatus().GetSpecGeneration() == vm.SpecGeneration {
		return nil
	}
	for _, g := range slices.Backward(s.History(vm.Name)) {
		if g.Runner != nil {
			return g
		}
	}
	return nil
}
