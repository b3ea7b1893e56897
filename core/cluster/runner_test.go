package cluster

import (
	"strings"
	"testing"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// What Nix built goes live when its runner's record says that it can, and first to a host
// that has it. Its hypervisor is in it: what the hosts have besides is no matter.
func TestWhatNixBuiltGoesLive(t *testing.T) {
	const qemu = blixardv1.Hypervisor_HYPERVISOR_QEMU
	d := newFleet(t)
	facts := func(n *blixardv1.Node, change func(*blixardv1.HostFacts)) {
		f := clone(n.Host.Facts)
		change(f)
		d.apply(&blixardv1.Command{Op: &blixardv1.Command_HostReport{HostReport: &blixardv1.HostReportOp{NodeId: n.Id, BootId: n.Host.BootId, Epoch: n.Host.Epoch, Facts: f}}})
	}
	for _, name := range []string{"n1", "n2", "n3"} {
		facts(d.NodeByName(name), func(f *blixardv1.HostFacts) {
			f.Hypervisors = []*blixardv1.HypervisorFact{{Hypervisor: qemu, Version: "of " + name}}
		})
	}
	spec := inlineSpec("{ }", 500)
	spec.Hypervisor, spec.OnHostLoss = qemu, 1
	d.must(t, createCmd("web", spec))
	stays := func(words, advice string) {
		t.Helper()
		e := d.migrate("web", "").GetError()
		if !strings.Contains(e.GetMessage(), words) || !strings.Contains(e.GetAdvice(), advice) {
			t.Fatalf("%q, %q; want %q, %q", e.GetMessage(), e.GetAdvice(), words, advice)
		}
	}
	built := func(r *blixardv1.Runner) {
		vm := d.VM("web")
		o := seen(vm, blixardv1.Phase_PHASE_RUNNING)
		o.SpecGeneration, o.BuiltGeneration, o.Runner = vm.SpecGeneration, vm.SpecGeneration, r
		d.report(vm.Placement.NodeId, o)
	}
	d.runs("web")
	stays("what it needs is being built", "wait")
	built(&blixardv1.Runner{StorePath: "/nix/store/1", Hypervisor: qemu})
	stays("of before guests could move", "--refresh")
	built(&blixardv1.Runner{StorePath: "/nix/store/2", Hypervisor: qemu, Stays: "it has devices of its host, which stay there"})
	stays("it has devices of its host", "--offline")
	built(&blixardv1.Runner{StorePath: "/nix/store/3", Hypervisor: blixardv1.Hypervisor_HYPERVISOR_CLOUD_HYPERVISOR})
	stays("cloud-hypervisor", "--offline") // what was built knows best
	built(&blixardv1.Runner{StorePath: "/nix/store/4", Hypervisor: qemu, Movable: true})
	var holder *blixardv1.Node
	d.Nodes(func(n *blixardv1.Node) bool { // the last of those that it is not on
		if n.Host != nil && n.Id != d.VM("web").Placement.NodeId {
			holder = n
		}
		return true
	})
	d.apply(&blixardv1.Command{Op: &blixardv1.Command_HostReport{HostReport: &blixardv1.HostReportOp{NodeId: holder.Id, BootId: "b", Epoch: holder.Host.Epoch,
		Prepared: []*blixardv1.Prepared{{Uid: d.VM("web").Uid, StorePath: "/nix/store/4"}}}}})
	if why, _ := d.immovable(d.VM("web")); why != "" {
		t.Fatal(why)
	}
	if r := d.migrate("web", ""); r.Error != nil || r.GetVm().GetMigration().GetTo() != holder.Name {
		t.Fatalf("it goes to %s (%v), and %s has what was built", r.GetVm().GetMigration().GetTo(), r.Error, holder.Name)
	}
	a := d.assigned(holder.Name)
	if a.GetRunner().GetStorePath() != "/nix/store/4" || len(a.RunnerAddresses) != 1 || a.RunnerAddresses[0] != d.Node(d.VM("web").Placement.NodeId).Address {
		t.Errorf("the target hears %v, to be had of %v", a.GetRunner(), a.RunnerAddresses)
	}
	d.cancel("web", false)
	d.removedFrom(d.VM("web"))
	d.runs("web")
	// Whether KVM is usable is the host's still.
	for _, name := range []string{"n1", "n2", "n3"} {
		facts(d.NodeByName(name), func(f *blixardv1.HostFacts) {
			f.Kvm = &blixardv1.KVM{Usable: name == d.VM("web").Placement.Node}
		})
	}
	d.runs("web")
	if e := d.migrate("web", "").GetError(); !strings.Contains(e.GetMessage(), "whether KVM is usable") {
		t.Errorf("%q", e.GetMessage())
	}
	// A volume that is its host's.
	own := inlineSpec("{ }", 500)
	own.Hypervisor = qemu
	own.GetNixos().Volumes = []*blixardv1.Volume{{Kind: &blixardv1.Volume_Data{Data: &blixardv1.DataVolume{Path: "/srv/golden.raw", ReadOnly: true}}}}
	vm := &blixardv1.VM{Spec: own, Runner: &blixardv1.Runner{Movable: true}}
	if why, _ := nixStays(vm); !strings.Contains(why, "/srv/golden.raw") {
		t.Errorf("%q", why)
	}
}
