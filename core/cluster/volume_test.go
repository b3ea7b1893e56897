package cluster

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// disky is a cluster of three hosts of 1000 MiB of disk each, with a kernel.
func disky() *driver {
	d := plugged("10.0.0.0/24")
	for _, name := range []string{"n2", "n3"} {
		d.request(&blixardv1.Command{Op: &blixardv1.Command_AddNode{AddNode: &blixardv1.AddNodeOp{Name: name, Address: "a", Host: true, Level: 1}}})
	}
	for _, id := range d.hostsByID() {
		n, f := d.Node(id), facts()
		f.Capacity = &blixardv1.Resources{Vcpus: 64, MemoryMib: 1 << 20, DiskMib: 1000}
		f.Hypervisors = append(f.Hypervisors, &blixardv1.HypervisorFact{Hypervisor: blixardv1.Hypervisor_HYPERVISOR_QEMU})
		if n.Host.Epoch == 0 {
			d.apply(&blixardv1.Command{Op: &blixardv1.Command_HostBoot{HostBoot: &blixardv1.HostBootOp{NodeId: n.Id, BootId: "b", Facts: f}}})
		} else {
			d.apply(&blixardv1.Command{Op: &blixardv1.Command_HostReport{HostReport: &blixardv1.HostReportOp{NodeId: n.Id, BootId: n.Host.BootId, Epoch: n.Host.Epoch, Facts: f}}})
		}
	}
	return d
}

func (d *driver) volume(name string, mib uint64, host string) *blixardv1.Response {
	return d.request(&blixardv1.Command{Op: &blixardv1.Command_CreateVolume{CreateVolume: &blixardv1.CreateVolumeOp{
		Name: name, Spec: &blixardv1.VolumeSpec{SizeMib: mib}, Host: host}}})
}

func (d *driver) growTo(name string, mib uint64) *blixardv1.Response {
	return d.request(&blixardv1.Command{Op: &blixardv1.Command_GrowVolume{GrowVolume: &blixardv1.GrowVolumeOp{Name: name, SizeMib: mib}}})
}

func (d *driver) dropVolumeNamed(name string) *blixardv1.Response {
	return d.request(&blixardv1.Command{Op: &blixardv1.Command_DeleteVolume{DeleteVolume: &blixardv1.DeleteVolumeOp{Name: name}}})
}

// mounting is a spec with volumes: data, or data:ro.
func mounting(volumes ...string) *blixardv1.VMSpec {
	s := imageSpec()
	for _, text := range volumes {
		name, how, _ := strings.Cut(text, ":")
		s.Volumes = append(s.Volumes, &blixardv1.VolumeMount{Volume: name, ReadOnly: how == "ro"})
	}
	return s
}

func (d *driver) with(name string, volumes ...string) *blixardv1.Response {
	return d.request(&blixardv1.Command{Op: &blixardv1.Command_CreateVm{CreateVm: &blixardv1.CreateVMOp{Name: name, Spec: mounting(volumes...)}}})
}

func (d *driver) updateTo(name string, volumes ...string) *blixardv1.Response {
	return d.request(&blixardv1.Command{Op: &blixardv1.Command_UpdateVm{UpdateVm: &blixardv1.UpdateVMOp{Name: name, Spec: mounting(volumes...)}}})
}

// inventory is a host that has carried out its orders, but for those it fails at.
func (d *driver) inventory(node uint64, sequence uint64, fails ...string) {
	revision, orders := d.VolumeOrders(node)
	inv := &blixardv1.VolumeInventory{Revision: revision, Sequence: sequence}
	for _, o := range orders {
		r := &blixardv1.VolumeReport{Uid: o.Uid, Name: o.Name, Format: o.Format, SizeMib: o.SizeMib, Copy: o.Copy, Arriving: o.Arriving}
		if slices.Contains(fails, o.Name) {
			r = &blixardv1.VolumeReport{Uid: o.Uid, Name: o.Name, Absent: true, Error: "no room"}
		}
		if !o.Remove {
			inv.Volumes = append(inv.Volumes, r)
		}
	}
	slices.SortFunc(inv.Volumes, func(a, b *blixardv1.VolumeReport) int { return strings.Compare(a.Uid, b.Uid) })
	d.tellVolumes(node, inv)
}

func (d *driver) tellVolumes(node uint64, inv *blixardv1.VolumeInventory) {
	h := d.Node(node).Host
	if news := d.UnrecordedVolumes(node, inv); news != nil {
		d.apply(&blixardv1.Command{Op: &blixardv1.Command_HostReport{HostReport: &blixardv1.HostReportOp{NodeId: node, BootId: h.BootId, Epoch: h.Epoch, Volumes: news}}})
	}
}

func (d *driver) runsNewest(name string) {
	vm := d.VM(name)
	o := seen(vm, blixardv1.Phase_PHASE_RUNNING)
	o.SpecGeneration, o.Attempt = vm.SpecGeneration, vm.GetStatus().GetAttempt()+1
	d.report(vm.Placement.NodeId, o)
}

func refused(t *testing.T, r *blixardv1.Response, words string) {
	t.Helper()
	if !strings.Contains(r.GetError().GetMessage(), words) {
		t.Fatalf("refused with %q, want %q", r.GetError().GetMessage(), words)
	}
}

func accepted(t *testing.T, r *blixardv1.Response) {
	t.Helper()
	if r.GetError() != nil {
		t.Fatal(r.GetError())
	}
}

// A volume is made where its first VM is placed, keeps the VM there, and outlives it.
func TestAVolumeOutlivesItsVM(t *testing.T) {
	d := disky()
	accepted(t, d.volume("data", 300, ""))
	if v := d.Volume("data"); v.NodeId != 0 || v.Status.Phase != blixardv1.VolumePhase_VOLUME_PHASE_WAITING {
		t.Fatal(v)
	}
	accepted(t, d.with("web", "data"))
	v, vm := d.Volume("data"), d.VM("web")
	host := vm.Placement.NodeId
	if v.NodeId != host || vm.Placement.DiskMib != 0 || d.Node(host).Host.Allocated.DiskMib != 300 {
		t.Fatal(v, vm.Placement, d.Node(host).Host.Allocated)
	}
	if vm.Spec.OnHostLoss != blixardv1.OnHostLoss_ON_HOST_LOSS_WAIT {
		t.Fatal("it does not wait for its host", vm.Spec)
	}
	d.inventory(host, 1)
	if v = d.Volume("data"); v.Status.Phase != blixardv1.VolumePhase_VOLUME_PHASE_READY || !v.Status.Made {
		t.Fatal(v)
	}
	if a := d.assignment(d.VM("web"), host); len(a.Volumes) != 1 || !a.Volumes[0].Volume.Made || a.Volumes[0].Disk != "data" {
		t.Fatal(a.Volumes)
	}
	refused(t, d.dropVolumeNamed("data"), "the VM web has the volume data")
	refused(t, d.with("other", "data"), "the VM web has the volume data")
	refused(t, d.with("other", "data:ro"), "the VM web has the volume data")
	d.drop("web")
	if d.VM("web") != nil || d.Volume("data") == nil {
		t.Fatal("the VM is", d.VM("web"), "and the volume", d.Volume("data"))
	}
	d.cordonAllBut(t, host, true)
	accepted(t, d.with("next", "data"))
	if p := d.VM("next").Placement; p != nil {
		t.Fatal("placed away from its volume, or on a cordoned host:", p)
	}
	x, _ := d.Explain("next")
	if !strings.Contains(x.Summary, "which has its volume data") || !slices.ContainsFunc(x.Verdicts, func(v *blixardv1.Verdict) bool {
		return v.NodeId != host && slices.Contains(v.Reasons, "the VM's volume data is on "+d.Node(host).Name)
	}) {
		t.Fatal(x)
	}
	d.cordonAllBut(t, host, false)
	if d.VM("next").GetPlacement().GetNodeId() != host {
		t.Fatal(d.VM("next"))
	}
}

// cordonAllBut cordons a host, or uncordons it.
func (d *driver) cordonAllBut(t *testing.T, host uint64, cordoned bool) {
	t.Helper()
	accepted(t, d.request(&blixardv1.Command{Op: &blixardv1.Command_Cordon{Cordon: &blixardv1.CordonOp{Name: d.Node(host).Name, Cordoned: cordoned}}}))
}

// One VM writes, or some read; and what a VM may still run with it still has.
func TestOneVMWritesAVolume(t *testing.T) {
	d := disky()
	accepted(t, d.volume("data", 10, "n2"))
	d.inventory(d.NodeByName("n2").Id, 1)
	accepted(t, d.with("a", "data:ro"))
	accepted(t, d.with("b", "data:ro"))
	refused(t, d.updateTo("a", "data"), "the VM b has the volume data")
	d.drop("b")
	accepted(t, d.updateTo("a", "data"))
	d.runsNewest("a")
	accepted(t, d.updateTo("a", "data:ro")) // and it may still be writing
	refused(t, d.with("b", "data:ro"), "the VM a has the volume data")
	d.runsNewest("a")
	accepted(t, d.with("b", "data:ro"))
	d.drop("b")

	accepted(t, d.updateTo("a"))
	refused(t, d.with("b", "data"), "which may still run with an earlier spec")
	refused(t, d.dropVolumeNamed("data"), "which may still run with an earlier spec")
	d.runsNewest("a")
	accepted(t, d.with("b", "data"))
	refused(t, d.request(&blixardv1.Command{Op: &blixardv1.Command_RollbackVm{RollbackVm: &blixardv1.RollbackVMOp{Name: "a"}}}), "the VM b has the volume data")

	// Stopped, and its host knows the newest spec: nothing can come of the one before.
	accepted(t, d.request(&blixardv1.Command{Op: &blixardv1.Command_Power{Power: &blixardv1.PowerOp{Name: "b"}}}))
	accepted(t, d.updateTo("b"))
	refused(t, d.dropVolumeNamed("data"), "the VM b")
	d.report(d.VM("b").Placement.NodeId, seen(d.VM("b"), blixardv1.Phase_PHASE_STOPPED))
	accepted(t, d.dropVolumeNamed("data"))
}

func TestAVolumeGoesWhenItsHostSaysSo(t *testing.T) {
	d := disky()
	accepted(t, d.volume("data", 400, "n2"))
	n := d.NodeByName("n2").Id
	refused(t, d.volume("more", 601, "n2"), "n2 has 600 MiB of disk free of the 601 needed")
	refused(t, d.growTo("data", 1001), "n2 has 600 MiB of disk free of the 601 needed")
	refused(t, d.growTo("data", 399), "would cut off")
	accepted(t, d.growTo("data", 500))
	d.inventory(n, 1)
	if v := d.Volume("data"); v.Status.SizeMib != 500 || d.Node(n).Host.Allocated.DiskMib != 500 {
		t.Fatal(v, d.Node(n).Host.Allocated)
	}
	uid := d.Volume("data").Uid
	accepted(t, d.dropVolumeNamed("data"))
	refused(t, d.volume("data", 1, ""), "still being deleted")
	// What was seen before the order came says nothing.
	d.tellVolumes(n, &blixardv1.VolumeInventory{Revision: d.Volume("data").OrderRevision - 1, Sequence: 2})
	if d.Volume("data") == nil {
		t.Fatal("dropped unordered")
	}
	d.inventory(n, 3)
	if d.Volume("data") != nil || d.Node(n).Host.GetAllocated().GetDiskMib() != 0 {
		t.Fatal(d.Volume("data"), d.Node(n).Host.Allocated)
	}
	accepted(t, d.volume("data", 1, "n2"))
	if d.Volume("data").Uid == uid {
		t.Fatal("a uid is used twice")
	}
}

// What was made and is not there any more is lost, and is said to be; what is there
// and nobody ordered is an orphan.
func TestAVolumeIsLostAndAnotherFound(t *testing.T) {
	d := disky()
	n := d.NodeByName("n3").Id
	accepted(t, d.volume("data", 10, "n3"))
	d.inventory(n, 1, "data")
	if v := d.Volume("data"); v.Status.Phase != blixardv1.VolumePhase_VOLUME_PHASE_FAILED || v.Status.Made || v.Status.Message != "no room" {
		t.Fatal(v)
	}
	d.inventory(n, 2)
	stray := &blixardv1.VolumeReport{Uid: "1-7", Name: "old", SizeMib: 5}
	d.tellVolumes(n, &blixardv1.VolumeInventory{Revision: 1 << 40, Sequence: 3, Volumes: []*blixardv1.VolumeReport{stray}})
	if v := d.Volume("data"); v.Status.Phase != blixardv1.VolumePhase_VOLUME_PHASE_LOST {
		t.Fatal(v)
	}
	if o := d.Node(n).Host.OrphanVolumes; len(o) != 1 || !proto.Equal(o[0], stray) {
		t.Fatal(o)
	}
	refused(t, d.with("web", "data"), "the volume data is lost")
	d.inventory(n, 4) // somebody has put it back
	if v := d.Volume("data"); v.Status.Phase != blixardv1.VolumePhase_VOLUME_PHASE_READY || len(d.Node(n).Host.OrphanVolumes) != 0 {
		t.Fatal(v, d.Node(n).Host.OrphanVolumes)
	}
	accepted(t, d.with("web", "data"))
	refused(t, d.request(&blixardv1.Command{Op: &blixardv1.Command_RemoveNode{RemoveNode: &blixardv1.RemoveNodeOp{Name: "n3"}}}), "1 VM is")
	d.drop("web")
	refused(t, d.request(&blixardv1.Command{Op: &blixardv1.Command_RemoveNode{RemoveNode: &blixardv1.RemoveNodeOp{Name: "n3"}}}), "1 volume is on n3")
	d.fenceBoth(n)
	accepted(t, d.lose("n3"))
	if v := d.Volume("data"); v.Status.Phase != blixardv1.VolumePhase_VOLUME_PHASE_LOST {
		t.Fatal(v)
	}
	accepted(t, d.dropVolumeNamed("data"))
	if d.Volume("data") != nil {
		t.Fatal(d.Volume("data"))
	}
}

func (d *driver) fenceBoth(node uint64) {
	for _, long := range []bool{false, true} {
		h := d.Node(node).Host
		d.apply(&blixardv1.Command{Op: &blixardv1.Command_Fence{Fence: &blixardv1.FenceOp{NodeId: node, Epoch: h.Epoch, Term: d.term, Long: long, WaitedNs: 1 << 62}}})
	}
}

// Volumes go with a VM only where that was asked for, and nobody else has them.
func TestVolumesGoWithAVMWhenAsked(t *testing.T) {
	d := disky()
	for _, name := range []string{"mine", "ours", "never"} {
		accepted(t, d.volume(name, 10, ""))
	}
	accepted(t, d.with("a", "mine", "ours:ro"))
	accepted(t, d.with("b", "ours:ro"))
	accepted(t, d.request(&blixardv1.Command{Op: &blixardv1.Command_DeleteVm{DeleteVm: &blixardv1.DeleteVMOp{Name: "a"}}}))
	accepted(t, d.request(&blixardv1.Command{Op: &blixardv1.Command_DeleteVm{DeleteVm: &blixardv1.DeleteVMOp{Name: "a", Volumes: true}}}))
	if d.Volume("mine").Deleting {
		t.Fatal("it goes while the VM may have it open")
	}
	d.drop("a")
	if !d.Volume("mine").Deleting || d.Volume("ours").Deleting || d.Volume("never").Deleting {
		t.Fatal(d.Volume("mine"), d.Volume("ours"), d.Volume("never"))
	}
}

func TestWrongVolumesAreRefused(t *testing.T) {
	d := disky()
	refused(t, d.volume("data", 0, ""), "it is 0")
	refused(t, d.volume("data", 1, "nowhere"), "no node named")
	accepted(t, d.volume("a", 1, "n2"))
	accepted(t, d.volume("b", 1, "n3"))
	refused(t, d.with("web", "a", "b"), "the volume a is on n2, and b on n3")
	refused(t, d.with("web", "c"), "there is no volume named")
	refused(t, d.with("web", "a", "a:ro"), "is there twice")
	refused(t, d.with("web", strings.Repeat("a", 21)), "21 bytes long")
	s := mounting("a")
	s.OnHostLoss = blixardv1.OnHostLoss_ON_HOST_LOSS_REPLACE
	refused(t, d.request(&blixardv1.Command{Op: &blixardv1.Command_CreateVm{CreateVm: &blixardv1.CreateVMOp{Name: "web", Spec: s}}}), "runs only where they are")
	s = mounting("a")
	s.Source = &blixardv1.VMSpec_Process{Process: &blixardv1.Process{Argv: []string{"/bin/true"}}}
	refused(t, d.request(&blixardv1.Command{Op: &blixardv1.Command_CreateVm{CreateVm: &blixardv1.CreateVMOp{Name: "web", Spec: s}}}), "only an image has disks")
	accepted(t, d.request(&blixardv1.Command{Op: &blixardv1.Command_CreateVolume{CreateVolume: &blixardv1.CreateVolumeOp{
		Name: "q", Spec: &blixardv1.VolumeSpec{SizeMib: 1, Format: blixardv1.VolumeFormat_VOLUME_FORMAT_QCOW2}}}}))
	s = mounting("q")
	s.Hypervisor = blixardv1.Hypervisor_HYPERVISOR_FIRECRACKER
	refused(t, d.request(&blixardv1.Command{Op: &blixardv1.Command_CreateVm{CreateVm: &blixardv1.CreateVMOp{Name: "web", Spec: s}}}), "which is qcow2")
}

// Whatever is done, the ledger is what VMs and volumes take; no volume is one VM's
// for writing and another's at all; and a state loaded from its records is the same.
func TestVolumesWhateverHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := disky()
		volumes, vms := rapid.SampledFrom([]string{"v1", "v2", "v3", "v1:ro", "v2:ro"}), rapid.SampledFrom([]string{"a", "b", "c"})
		name := func() string { n, _, _ := strings.Cut(volumes.Draw(t, "volume"), ":"); return n }
		sequence := uint64(0)
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			vm := d.VM(vms.Draw(t, "vm"))
			switch rapid.IntRange(0, 8).Draw(t, "what") {
			case 0:
				d.volume(name(), rapid.Uint64Range(1, 600).Draw(t, "mib"), rapid.SampledFrom([]string{"", "n2", "n3"}).Draw(t, "host"))
			case 1:
				d.growTo(name(), rapid.Uint64Range(1, 900).Draw(t, "mib"))
			case 2:
				d.dropVolumeNamed(name())
			case 3:
				d.with(vms.Draw(t, "name"), rapid.SliceOfN(volumes, 0, 2).Draw(t, "mounts")...)
			case 4:
				d.updateTo(vms.Draw(t, "name"), rapid.SliceOfN(volumes, 0, 2).Draw(t, "mounts")...)
			case 5:
				if vm != nil {
					d.drop(vm.Name)
				}
			case 6:
				if vm.GetPlacement() != nil && !vm.Deleting {
					d.runsNewest(vm.Name)
				}
			case 7:
				sequence++
				d.inventory(rapid.SampledFrom(d.hostsByID()).Draw(t, "node"), sequence)
			case 8:
				if vm != nil {
					d.request(&blixardv1.Command{Op: &blixardv1.Command_Power{Power: &blixardv1.PowerOp{Name: vm.Name, Run: rapid.Bool().Draw(t, "run")}}})
				}
			}
			d.volumesHold(t)
			d.rebuilt(t)
		}
	})
}

func (d *driver) volumesHold(t *rapid.T) {
	disk, writers, users := map[uint64]uint64{}, map[string]int{}, map[string]int{}
	d.VMs("", func(vm *blixardv1.VM) bool {
		if vm.Placement != nil {
			disk[vm.Placement.NodeId] += vm.Placement.DiskMib
		}
		has := map[string]bool{}
		for _, h := range vm.Volumes {
			has[h.Uid] = has[h.Uid] || !h.ReadOnly
			v := d.VolumeByUID(h.Uid)
			if v == nil || v.Deleting {
				t.Fatalf("%s has %s, which is %v", vm.Name, h.Volume, v)
			}
			if vm.Placement != nil && v.NodeId != vm.Placement.NodeId {
				t.Fatalf("%s is on %d and its volume %v", vm.Name, vm.Placement.NodeId, v)
			}
		}
		for uid, writes := range has {
			users[uid]++
			if writes {
				writers[uid]++
			}
		}
		return true
	})
	for uid, n := range writers {
		if n > 1 || users[uid] > 1 {
			t.Fatalf("volume %s has %d writers and %d users", uid, n, users[uid])
		}
	}
	d.Volumes(func(v *blixardv1.ClusterVolume) bool {
		disk[v.NodeId] += v.Spec.SizeMib
		return true
	})
	d.Nodes(func(n *blixardv1.Node) bool {
		if used := n.Host.GetAllocated().GetDiskMib(); used != disk[n.Id] || used > n.Host.GetFacts().GetCapacity().GetDiskMib() {
			t.Fatalf("%s: the ledger says %d MiB, and VMs and volumes take %d of %d", n.Name, used, disk[n.Id], n.Host.GetFacts().GetCapacity().GetDiskMib())
		}
		return true
	})
}

// A volume that its host has larger than the state knows, because the state was
// restored from an older backup, is accounted as large as it is.
func TestAVolumeIsLargerThanWasKnown(t *testing.T) {
	d := disky()
	d.volume("data", 100, "n1")
	d.inventory(1, 1)
	v := d.Volume("data")
	before := d.Node(1).Host.Allocated.DiskMib
	report := &blixardv1.VolumeReport{Uid: v.Uid, Name: v.Name, Format: v.Spec.Format, SizeMib: 300}
	for sequence := range uint64(2) { // telling it twice changes nothing more
		d.tellVolumes(1, &blixardv1.VolumeInventory{Revision: v.OrderRevision, Sequence: 2 + sequence, Volumes: []*blixardv1.VolumeReport{report}})
		if v = d.Volume("data"); v.Spec.SizeMib != 300 || d.Node(1).Host.Allocated.DiskMib != before+200 {
			t.Fatalf("%d MiB, and %d more are accounted", v.Spec.SizeMib, d.Node(1).Host.Allocated.DiskMib-before)
		}
	}
	if news := d.UnrecordedVolumes(1, &blixardv1.VolumeInventory{Revision: v.OrderRevision, Sequence: 9, Volumes: []*blixardv1.VolumeReport{report}}); news != nil {
		t.Error("there is always more to tell: ", news)
	}
}
