package cluster

import (
	"fmt"
	"testing"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func (d *driver) bootAs(node uint64, boot, machine string) {
	f := facts()
	f.Machine = machine
	d.apply(&blixardv1.Command{Op: &blixardv1.Command_HostBoot{HostBoot: &blixardv1.HostBootOp{
		NodeId: node, BootId: boot, Epoch: d.Node(node).Host.Epoch, Facts: f,
	}}})
}

func (d *driver) fenceHost(node uint64, long bool) {
	d.apply(&blixardv1.Command{Op: &blixardv1.Command_Fence{Fence: &blixardv1.FenceOp{WaitedNs: 1 << 60,
		NodeId: node, Epoch: d.Node(node).Host.Epoch, Term: d.term, Long: long,
	}}})
}

// A host removes the files of another incarnation: those of a VM that waits for
// its host must come through the host's reboot.
func TestARebootKeepsTheIncarnation(t *testing.T) {
	d := newDriver()
	d.bootAs(FirstID, "b1", "m")
	d.request(createOp("a", 64, 2))
	before := d.VM("a").Placement
	d.fenceHost(FirstID, false)
	d.bootAs(FirstID, "b2", "m")
	after := d.VM("a").Placement
	if after.Epoch != 2 || !sameIncarnation(before.Incarnation, after.Incarnation) {
		t.Fatalf("before %v, after %v", before, after)
	}
}

// What no lease binds may live on the original of a clone for ever.
func TestACloneGetsNoEpochWhileSomethingIsUnbound(t *testing.T) {
	for _, test := range []struct {
		machine       string
		voters        []uint64
		short, atLong uint64 // the epoch after the short window, and after the long one
	}{
		{"m", []uint64{2, 3, 4}, 2, 2},
		{"another", []uint64{2, 3, 4}, 1, 1},
		{"", []uint64{2, 3, 4}, 1, 1},
		// The whole cluster is on its disk: a clone of it asks nobody. It must come
		// back from a reboot.
		{"another", []uint64{FirstID}, 1, 2},
		{"", []uint64{FirstID}, 2, 2},
	} {
		d := newDriver()
		d.index++
		d.Reconfigure(d.index, d.term, test.voters, nil)
		d.bootAs(FirstID, "b1", "m")
		d.request(createOp("a", 64, 1))
		d.fenceHost(FirstID, false)
		d.bootAs(FirstID, "b2", test.machine)
		if h := d.Node(FirstID).Host; h.Epoch != test.short {
			t.Errorf("machine %q, voters %v: epoch %d, want %d", test.machine, test.voters, h.Epoch, test.short)
		}
		d.fenceHost(FirstID, true)
		d.bootAs(FirstID, "b2", test.machine)
		if h := d.Node(FirstID).Host; h.Epoch != test.atLong {
			t.Errorf("machine %q, voters %v, after the long window: epoch %d, want %d", test.machine, test.voters, h.Epoch, test.atLong)
		}
	}
}

// What has the long lease may live on the original until that has ended.
func TestACloneWaitsForTheLongWindow(t *testing.T) {
	for _, machine := range []string{"", "another"} {
		d := newDriver()
		d.bootAs(FirstID, "b1", "m")
		d.request(&blixardv1.Command{Op: &blixardv1.Command_AddNode{AddNode: &blixardv1.AddNodeOp{Name: "n2", Address: "a", Host: true, Level: 1}}})
		d.request(createOp("a", 64, 2))
		d.fenceHost(FirstID, false)
		d.bootAs(FirstID, "b2", machine)
		if h := d.Node(FirstID).Host; h.Epoch != 1 {
			t.Errorf("machine %q: epoch %d before the long window has passed", machine, h.Epoch)
		}
		d.fenceHost(FirstID, true)
		d.bootAs(FirstID, "b2", machine)
		if h := d.Node(FirstID).Host; h.Epoch != 2 {
			t.Errorf("machine %q: epoch %d after the long window", machine, h.Epoch)
		}
	}
}

func (d *driver) eventsOf(kind string) (n int) {
	d.Events(0, func(e *blixardv1.Event) bool {
		if e.Type == kind {
			n++
		}
		return true
	})
	return n
}

// A boot that asks in vain gets one event of a kind, however often it asks, and
// what is kept of such boots is bounded.
func TestARefusedBootIsToldOfOnce(t *testing.T) {
	d := newDriver()
	d.index++
	d.Reconfigure(d.index, d.term, []uint64{2, 3, 4}, nil)
	d.bootAs(FirstID, "b1", "m")
	d.request(createOp("a", 64, 1))
	clone := func(boot string) {
		d.apply(&blixardv1.Command{Op: &blixardv1.Command_Clone{Clone: &blixardv1.CloneOp{NodeId: FirstID, BootId: boot, Epoch: 1}}})
	}
	for range 3 {
		clone("b2")
		clone("b1") // holds the epoch itself
	}
	d.fenceHost(FirstID, false)
	for range 3 {
		d.bootAs(FirstID, "b2", "another")
		d.bootAs(FirstID, "b3", "")
	}
	if c, r := d.eventsOf("HostCloned"), d.eventsOf("HostRefused"); c != 1 || r != 2 {
		t.Errorf("%d events of clones, %d of refused boots", c, r)
	}
	for i := range 20 {
		clone(fmt.Sprint("c", i))
	}
	if k := len(d.Node(FirstID).Host.RefusedBoots); k != mostRefused {
		t.Errorf("%d boots are kept", k)
	}
}

// The only voter cannot go, whoever else has been announced.
func TestTheOnlyVoterCannotGo(t *testing.T) {
	d := newDriver()
	d.index++
	d.Reconfigure(d.index, d.term, []uint64{FirstID}, nil)
	d.request(&blixardv1.Command{Op: &blixardv1.Command_AddNode{AddNode: &blixardv1.AddNodeOp{Name: "n2", Address: "a", Server: true, Level: 1}}})
	remove := func() *blixardv1.Response {
		return d.request(&blixardv1.Command{Op: &blixardv1.Command_RemoveNode{RemoveNode: &blixardv1.RemoveNodeOp{Name: "n1"}}})
	}
	if r := remove(); r.Error == nil {
		t.Fatal("the only voter was removed")
	}
	d.index++
	d.Reconfigure(d.index, d.term, []uint64{FirstID, d.NodeByName("n2").Id}, nil)
	if r := remove(); r.Error != nil {
		t.Fatal(fmt.Sprint(r.Error))
	}
}

// A host that can no longer hold what forks loosens the lease of its programs,
// and of what Nix built, which is scripts.
func TestAHostThatHoldsNoForksLoosens(t *testing.T) {
	d := newDriver()
	d.boot(FirstID)
	d.request(&blixardv1.Command{Op: &blixardv1.Command_AddNode{AddNode: &blixardv1.AddNodeOp{Name: "n2", Address: "a", Host: true, Level: 1}}})
	f := facts()
	f.Nix = true
	report := func() {
		n := d.Node(FirstID)
		d.apply(&blixardv1.Command{Op: &blixardv1.Command_HostReport{HostReport: &blixardv1.HostReportOp{
			NodeId: FirstID, BootId: n.Host.BootId, Epoch: n.Host.Epoch, Facts: clone(f),
		}}})
	}
	report()
	d.request(createOp("a", 64, 1))
	flake := createOp("b", 64, 1)
	flake.GetCreateVm().Spec.Source = &blixardv1.VMSpec_Flake{Flake: &blixardv1.Flake{From: &blixardv1.Flake_Ref{Ref: "github:me/infra"}}}
	d.request(flake)
	for _, name := range []string{"a", "b"} {
		if l := d.VM(name).GetPlacement().GetLease(); l != blixardv1.LeaseClass_LEASE_CLASS_SHORT {
			t.Fatal(name, l)
		}
	}
	f.HoldsForks = false
	report()
	for _, name := range []string{"a", "b"} {
		p := d.VM(name).Placement
		if p.Lease != blixardv1.LeaseClass_LEASE_CLASS_LONG || p.TargetLease != p.Lease || d.VM(name).AssignmentRevision != d.index {
			t.Fatalf("%s: %v, told at %d of %d", name, p, d.VM(name).AssignmentRevision, d.index)
		}
	}
}

// A delete that frees what a lost host held changes the host, and who watches
// sees it.
func TestADeleteOnALostHostChangesTheHost(t *testing.T) {
	d := newDriver()
	d.request(&blixardv1.Command{Op: &blixardv1.Command_AddNode{AddNode: &blixardv1.AddNodeOp{Name: "n2", Address: "a", Host: true, Level: 1}}})
	host := d.NodeByName("n2").Id
	d.boot(host)
	d.request(createOp("a", 64, blixardv1.OnHostLoss_ON_HOST_LOSS_WAIT))
	d.fenceHost(host, false)
	d.fenceHost(host, true)
	if d.VM("a").GetPlacement() == nil {
		t.Fatal("it does not wait for its host")
	}
	d.request(&blixardv1.Command{Op: &blixardv1.Command_DeleteVm{DeleteVm: &blixardv1.DeleteVMOp{Name: "a"}}})
	if n := d.Node(host); d.VM("a") != nil || n.Host.Instances != 0 || n.Revision != d.index {
		t.Errorf("entry %d left %v", d.index, n)
	}
}
