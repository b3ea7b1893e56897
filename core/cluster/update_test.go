package cluster

import (
	"math"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

const lock1, lock2 = "1111111111111111111111111111111111111111111111111111111111111111", "2222222222222222222222222222222222222222222222222222222222222222"

// newFleet is three hosts that can build, and two lock files.
func newFleet(t *testing.T) *driver {
	d := newDriver()
	for _, name := range []string{"n2", "n3"} {
		d.request(&blixardv1.Command{Op: &blixardv1.Command_AddNode{AddNode: &blixardv1.AddNodeOp{Name: name, Address: name + ":1", Host: true, Level: 1}}})
	}
	d.Nodes(func(n *blixardv1.Node) bool {
		f := facts()
		f.Nix = true
		d.apply(&blixardv1.Command{Op: &blixardv1.Command_HostBoot{HostBoot: &blixardv1.HostBootOp{NodeId: n.Id, BootId: "b", Facts: f}}})
		return true
	})
	for _, digest := range []string{lock1, lock2} {
		d.must(t, &blixardv1.Command{Op: &blixardv1.Command_Announce{Announce: &blixardv1.AnnounceOp{Digest: digest, Size: 9, NodeId: 1}}})
	}
	return d
}

func (d *driver) must(t *testing.T, cmd *blixardv1.Command) *blixardv1.VM {
	t.Helper()
	r := d.request(cmd)
	if r.Error != nil {
		t.Fatal(r.Error.Message)
	}
	return r.GetVm()
}

func (d *driver) refused(t *testing.T, cmd *blixardv1.Command, words string) {
	t.Helper()
	r := d.request(cmd)
	if !strings.Contains(r.GetError().GetMessage(), words) {
		t.Fatalf("answered %v, not a refusal with %q", r, words)
	}
}

func inlineSpec(inline string, memory uint64) *blixardv1.VMSpec {
	return &blixardv1.VMSpec{MemoryMib: memory, Source: &blixardv1.VMSpec_Nixos{Nixos: &blixardv1.Nixos{
		Modules: []*blixardv1.NixosModule{{Source: &blixardv1.NixosModule_Inline{Inline: inline}}},
	}}}
}

func createCmd(name string, spec *blixardv1.VMSpec) *blixardv1.Command {
	return &blixardv1.Command{Op: &blixardv1.Command_CreateVm{CreateVm: &blixardv1.CreateVMOp{Name: name, Spec: spec}}}
}

func updateCmd(name string, spec *blixardv1.VMSpec) *blixardv1.Command {
	return &blixardv1.Command{Op: &blixardv1.Command_UpdateVm{UpdateVm: &blixardv1.UpdateVMOp{Name: name, Spec: spec}}}
}

func rollbackCmd(name string, to uint32) *blixardv1.Command {
	return &blixardv1.Command{Op: &blixardv1.Command_RollbackVm{RollbackVm: &blixardv1.RollbackVMOp{Name: name, SpecGeneration: to}}}
}

func pinsCmd(digest string) *blixardv1.Command {
	return &blixardv1.Command{Op: &blixardv1.Command_SetPins{SetPins: &blixardv1.SetPinsOp{Pins: &blixardv1.Pins{
		Nixpkgs: "github:NixOS/nixpkgs/x", Lock: &blixardv1.Artifact{Digest: digest, Size: 9},
	}}}}
}

// built reports the newest spec as built and running.
func (d *driver) built(vm *blixardv1.VM, path string) *blixardv1.VM {
	o := seen(vm, blixardv1.Phase_PHASE_RUNNING)
	o.SpecGeneration, o.BuiltGeneration = vm.SpecGeneration, vm.SpecGeneration
	o.Runner = &blixardv1.Runner{StorePath: path, ClosureBytes: 7, Hypervisor: blixardv1.Hypervisor_HYPERVISOR_CLOUD_HYPERVISOR}
	d.report(vm.Placement.NodeId, o)
	return d.VM(vm.Name)
}

func (d *driver) references(digest string) uint32 { return d.Artifact(digest).References }

// Who knows that a runner was built need not build it: not the next start, not
// the host after this one.
func TestRunnerIsRecordedAndMoves(t *testing.T) {
	d := newFleet(t)
	d.must(t, pinsCmd(lock1))
	vm := d.must(t, createCmd("web", inlineSpec("{ }", 100)))
	if vm.Pins.GetLock().GetDigest() != lock1 || vm.SpecGeneration != 1 {
		t.Fatal(vm)
	}
	vm = d.built(vm, "/nix/store/a")
	home := vm.Placement.NodeId
	if vm.Runner.GetStorePath() != "/nix/store/a" || len(vm.Runner.Nodes) != 1 || vm.Runner.Nodes[0] != home {
		t.Fatal(vm.Runner)
	}
	n := d.Node(home)
	d.apply(&blixardv1.Command{Op: &blixardv1.Command_Fence{Fence: &blixardv1.FenceOp{WaitedNs: math.MaxInt64, NodeId: home, Epoch: n.Host.Epoch, Term: d.term}}})
	vm = d.VM("web")
	if vm.Placement == nil || vm.Placement.NodeId == home {
		t.Fatal("it was not placed again", vm)
	}
	_, list := d.Assignments(vm.Placement.NodeId, 0)
	if a := list[0]; a.Runner.GetStorePath() != "/nix/store/a" || len(a.RunnerAddresses) != 1 || a.RunnerAddresses[0] != n.Address {
		t.Fatal("the new host is not told where the runner is", a)
	}
	// The host that comes back after another loss is preferred: it has the runner.
	vm = d.built(vm, "/nix/store/a")
	second := vm.Placement.NodeId
	d.boot(home)
	f := facts()
	f.Nix = true
	d.apply(&blixardv1.Command{Op: &blixardv1.Command_HostReport{HostReport: &blixardv1.HostReportOp{NodeId: home, BootId: "b", Epoch: d.Node(home).Host.Epoch, Facts: f}}})
	d.apply(&blixardv1.Command{Op: &blixardv1.Command_Fence{Fence: &blixardv1.FenceOp{WaitedNs: math.MaxInt64, NodeId: second, Epoch: d.Node(second).Host.Epoch, Term: d.term}}})
	if got := d.VM("web").GetPlacement().GetNodeId(); got != home {
		t.Errorf("placed on node %d, and node %d has the runner", got, home)
	}
}

func TestUpdateAndRollback(t *testing.T) {
	d := newFleet(t)
	d.must(t, pinsCmd(lock1))
	vm := d.built(d.must(t, createCmd("web", inlineSpec("{ a = 1; }", 500))), "/nix/store/a")
	d.must(t, pinsCmd(lock2))
	if vm.Pins.Lock.Digest != lock1 {
		t.Fatal("new pins changed a VM that is there")
	}

	// What does not change what is built keeps the runner, and the pins.
	labelled := clone(vm.Spec)
	labelled.Labels = map[string]string{"a": "b"}
	vm = d.must(t, updateCmd("web", labelled))
	if vm.SpecGeneration != 2 || vm.Runner.GetStorePath() != "/nix/store/a" || vm.Pins.Lock.Digest != lock1 {
		t.Fatal(vm)
	}

	vm = d.must(t, updateCmd("web", inlineSpec("{ a = 2; }", 1000)))
	node := d.Node(vm.Placement.NodeId)
	if vm.SpecGeneration != 3 || vm.Runner != nil || vm.Pins.Lock.Digest != lock2 || node.Host.Allocated.MemoryMib != 1000 {
		t.Fatal(vm, node)
	}
	_, list := d.Assignments(node.Id, 0)
	if f := list[0].Fallback; f.GetSpecGeneration() != 2 || f.Runner.GetStorePath() != "/nix/store/a" {
		t.Fatal("there is nothing to fall back on", list[0])
	}
	if d.references(lock1) != 2 || d.references(lock2) != 2 { // two generations; this one and the pins
		t.Fatal(d.references(lock1), d.references(lock2))
	}
	d.built(vm, "/nix/store/b")

	// Smaller again: what runs counts until the new one does.
	vm = d.must(t, rollbackCmd("web", 0))
	node = d.Node(vm.Placement.NodeId)
	if vm.SpecGeneration != 4 || vm.Runner.GetStorePath() != "/nix/store/a" || vm.Spec.Labels["a"] != "b" || node.Host.Allocated.MemoryMib != 1000 {
		t.Fatal(vm, node)
	}
	vm = d.built(vm, "/nix/store/a")
	if m := d.Node(vm.Placement.NodeId).Host.Allocated.MemoryMib; m != 500 || vm.Placement.MemoryMib != 500 {
		t.Fatal("the memory of the spec before is still held:", m)
	}
	if h := d.History("web"); len(h) != 2 || h[0].SpecGeneration != 1 || h[1].SpecGeneration != 3 {
		t.Fatal(h)
	}
	d.refused(t, rollbackCmd("web", 2), "no spec generation 2")

	for range 9 {
		vm = d.must(t, rollbackCmd("web", 0))
	}
	for i := range 9 {
		vm = d.must(t, updateCmd("web", inlineSpec("{ b = "+string(rune('0'+i))+"; }", 500)))
	}
	if h := d.History("web"); len(h) != keptGenerations {
		t.Fatal(len(h))
	}
	d.must(t, &blixardv1.Command{Op: &blixardv1.Command_DeleteVm{DeleteVm: &blixardv1.DeleteVMOp{Name: "web"}}})
	o := seen(d.VM("web"), 0)
	o.Removed = true
	d.report(vm.Placement.NodeId, o)
	if d.VM("web") != nil || len(d.History("web")) != 0 || d.references(lock1) != 0 || d.references(lock2) != 1 {
		t.Fatal("a deleted VM left something", d.references(lock1), d.references(lock2))
	}
}

func TestUpdateRefuses(t *testing.T) {
	d := newFleet(t)
	d.refused(t, updateCmd("web", inlineSpec("{ }", 500)), "there is no VM")
	spec := inlineSpec("{ }", 500)
	spec.GetNixos().Volumes = []*blixardv1.Volume{{Kind: &blixardv1.Volume_Root{Root: &blixardv1.RootVolume{SizeMib: 100}}}}
	d.must(t, createCmd("web", spec))
	before := proto.Clone(d.VM("web"))
	larger := clone(spec)
	larger.GetNixos().Volumes[0].GetRoot().SizeMib = 200
	d.refused(t, updateCmd("web", larger), "made only once")
	d.refused(t, updateCmd("web", createOp("web", 100, 1).GetCreateVm().Spec), "another kind of VM")
	d.refused(t, updateCmd("web", inlineSpec("{ }", 5000)), "2048 MiB of memory free of the 5000 needed")
	d.refused(t, rollbackCmd("web", 0), "one spec only")
	d.refused(t, pinsCmd(strings.Repeat("3", 64)), "does not have the artifact")
	if !proto.Equal(before, d.VM("web")) {
		t.Fatal("a refusal changed the VM")
	}
	d.must(t, createOp("p", 100, 1))
	d.refused(t, &blixardv1.Command{Op: &blixardv1.Command_BuildVm{BuildVm: &blixardv1.BuildVMOp{Name: "p"}}}, "not one that Nix builds")
}

func TestPrebuild(t *testing.T) {
	d := newFleet(t)
	spec := inlineSpec("{ }", 100)
	spec.Prebuild = 5
	vm := d.built(d.must(t, createCmd("web", spec)), "/nix/store/a")
	if len(vm.PreparedNodes) != 2 {
		t.Fatal("two other hosts could hold it ready", vm.PreparedNodes)
	}
	for _, id := range vm.PreparedNodes {
		p := d.Preparations(id)
		if len(p) != 1 || p[0].Uid != vm.Uid || len(p[0].Addresses) == 0 || d.Node(id).Host.PrepareRevision == 0 {
			t.Fatal(p)
		}
		held := []*blixardv1.Prepared{{Uid: vm.Uid, StorePath: "/nix/store/a"}}
		if len(d.Unrecorded(id, held)) != 1 {
			t.Fatal("it is news")
		}
		n := d.Node(id)
		d.apply(&blixardv1.Command{Op: &blixardv1.Command_HostReport{HostReport: &blixardv1.HostReportOp{NodeId: id, BootId: n.Host.BootId, Epoch: n.Host.Epoch, Prepared: held}}})
		if len(d.Unrecorded(id, held)) != 0 {
			t.Fatal("it was recorded")
		}
	}
	if len(d.VM("web").Runner.Nodes) != 3 {
		t.Fatal(d.VM("web").Runner)
	}
	none := uint32(0)
	ready := vm.PreparedNodes
	vm = d.must(t, &blixardv1.Command{Op: &blixardv1.Command_BuildVm{BuildVm: &blixardv1.BuildVMOp{Name: "web", Prebuild: &none}}})
	if len(vm.PreparedNodes) != 0 || len(d.Preparations(ready[0])) != 0 || d.Node(ready[0]).Host.PrepareRevision != d.Revision() {
		t.Fatal("they still hold it", vm)
	}
	// Built anew from what is newest now.
	vm = d.must(t, &blixardv1.Command{Op: &blixardv1.Command_BuildVm{BuildVm: &blixardv1.BuildVMOp{Name: "web", Refresh: true}}})
	if !vm.Fresh || vm.Runner != nil || vm.SpecGeneration != 2 {
		t.Fatal(vm)
	}
	if vm = d.built(vm, "/nix/store/b"); vm.Fresh {
		t.Fatal("it would be built again on the next host")
	}
}

// What hosts hold ready for a VM that is stopped, has no host and gets another
// spec is let go of then, not when it is built again.
func TestAnUpdateEndsWhatIsPrepared(t *testing.T) {
	d := newFleet(t)
	spec := inlineSpec("{ }", 100)
	spec.Prebuild = 1
	vm := d.built(d.must(t, createCmd("web", spec)), "/nix/store/a")
	ready := vm.PreparedNodes[0]
	d.must(t, &blixardv1.Command{Op: &blixardv1.Command_Power{Power: &blixardv1.PowerOp{Name: "web"}}})
	d.fenceHost(vm.Placement.NodeId, false)
	if vm = d.VM("web"); vm.Placement != nil || len(d.Preparations(ready)) != 1 {
		t.Fatal("it should have no host, and be held ready", vm)
	}
	next := inlineSpec("{ x = 1; }", 100)
	next.Prebuild = 1
	d.must(t, updateCmd("web", next))
	if len(d.Preparations(ready)) != 0 || d.Node(ready).Host.PrepareRevision != d.Revision() {
		t.Fatal("the host is not told that its list is another", d.Preparations(ready))
	}
}

// Two people change what both have read: the second is told, and overwrites nothing.
func TestAnUpdateOfWhatHasChanged(t *testing.T) {
	d := newFleet(t)
	vm := d.must(t, createCmd("web", inlineSpec("{ }", 100)))
	change := func(memory uint64, uid string, generation uint32) *blixardv1.Command {
		cmd := updateCmd("web", inlineSpec("{ }", memory))
		cmd.GetUpdateVm().Uid, cmd.GetUpdateVm().SpecGeneration = uid, generation
		return cmd
	}
	d.must(t, change(200, vm.Uid, vm.SpecGeneration))
	d.refused(t, change(300, vm.Uid, vm.SpecGeneration), "has spec generation 2 by now")
	d.refused(t, change(300, "1-999", 0), "is another one by now")
	if m := d.VM("web").Spec.MemoryMib; m != 200 {
		t.Fatal("it was overwritten:", m)
	}
	d.must(t, change(300, vm.Uid, 2))
}
