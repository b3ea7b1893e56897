package cluster

import (
	"slices"
	"strings"
	"testing"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

const (
	snapCreating = blixardv1.SnapshotState_SNAPSHOT_STATE_CREATING
	snapReady    = blixardv1.SnapshotState_SNAPSHOT_STATE_READY
	snapFailed   = blixardv1.SnapshotState_SNAPSHOT_STATE_FAILED
)

// snapshotBench is one host with one VM that runs.
type snapshotBench struct {
	*driver
	t *testing.T
}

func newSnapshotBench(t *testing.T) snapshotBench {
	b := snapshotBench{newDriver(), t}
	f := facts()
	f.Hypervisors = []*blixardv1.HypervisorFact{{Hypervisor: blixardv1.Hypervisor_HYPERVISOR_QEMU, Version: "7"}}
	b.apply(&blixardv1.Command{Op: &blixardv1.Command_HostBoot{HostBoot: &blixardv1.HostBootOp{NodeId: 1, BootId: "b", Facts: f}}})
	kernel := strings.Repeat("a", 64)
	b.apply(&blixardv1.Command{Op: &blixardv1.Command_Announce{Announce: &blixardv1.AnnounceOp{Digest: kernel, Size: 5, NodeId: 1}}})
	b.must(t, createCmd("web", &blixardv1.VMSpec{MemoryMib: 100, Source: &blixardv1.VMSpec_Image{Image: &blixardv1.Image{
		Kernel: &blixardv1.Artifact{Digest: kernel, Size: 5}, Disks: []*blixardv1.Disk{{Name: "data", SizeMib: 50}},
	}}}))
	b.runs(nil)
	return b
}

// runs has the host report the VM, and what came of snapshots.
func (b snapshotBench) runs(results []*blixardv1.SnapshotResult) {
	vm := b.VM("web")
	b.report(1, &blixardv1.Observation{
		Uid: vm.Uid, Incarnation: vm.Placement.Incarnation, Attempt: 1, Phase: blixardv1.Phase_PHASE_RUNNING, SpecGeneration: vm.SpecGeneration,
		Lease: vm.Placement.TargetLease, AssignmentRevision: vm.AssignmentRevision, Snapshots: results,
	})
}

func (b snapshotBench) take(name string) *blixardv1.Command {
	return &blixardv1.Command{Op: &blixardv1.Command_CreateSnapshot{CreateSnapshot: &blixardv1.CreateSnapshotOp{Name: name, Vm: "web"}}}
}

func (b snapshotBench) drop(name string) *blixardv1.Command {
	return &blixardv1.Command{Op: &blixardv1.Command_DeleteSnapshot{DeleteSnapshot: &blixardv1.DeleteSnapshotOp{Name: name}}}
}

func (b snapshotBench) revert(name string) *blixardv1.Command {
	return &blixardv1.Command{Op: &blixardv1.Command_RestoreSnapshot{RestoreSnapshot: &blixardv1.RestoreSnapshotOp{Name: name}}}
}

func (b snapshotBench) ok(cmd *blixardv1.Command) {
	b.t.Helper()
	if r := b.request(cmd); r.Error != nil {
		b.t.Fatal(r.Error)
	}
}

func (b snapshotBench) kept(revision uint64, missing ...string) {
	n := b.Node(1)
	b.apply(&blixardv1.Command{Op: &blixardv1.Command_HostReport{HostReport: &blixardv1.HostReportOp{NodeId: 1, BootId: n.Host.BootId, Epoch: n.Host.Epoch, SnapshotsKept: revision, SnapshotsMissing: missing}}})
}

func (b snapshotBench) disk() uint64 { return b.Node(1).Host.Allocated.DiskMib }

// taken is a snapshot that is ready.
func (b snapshotBench) taken(name string) *blixardv1.VMSnapshot {
	b.t.Helper()
	b.ok(b.take(name))
	b.runs([]*blixardv1.SnapshotResult{{Uid: b.Snapshot(name).Uid, Image: &blixardv1.SnapshotImage{SizeBytes: 80 << 20, Version: "7"}}})
	if p := b.Snapshot(name); p.State != snapReady {
		b.t.Fatal(p)
	}
	return b.Snapshot(name)
}

// The room of a snapshot is held before it is taken, is what it takes from then on,
// and is free when its host has said that the bytes are gone, and not before.
func TestTheLifeOfASnapshot(t *testing.T) {
	b := newSnapshotBench(t)
	own := b.disk()
	b.ok(b.take("s"))
	p := b.Snapshot("s")
	_, list := b.Assignments(1, 0)
	if p.State != snapCreating || b.disk() != own+100+16+50 || len(list[0].Snapshots) != 1 || list[0].Snapshots[0].Uid != p.Uid {
		t.Fatal(p, b.disk(), list)
	}
	if refs := b.references(strings.Repeat("a", 64)); refs != 2 {
		t.Error("its kernel is needed by", refs)
	}
	b.refused(t, b.revert("s"), "is not ready")
	b.refused(t, b.take("s"), "exists")
	b.runs([]*blixardv1.SnapshotResult{{Uid: p.Uid, Image: &blixardv1.SnapshotImage{SizeBytes: 80<<20 + 1, Version: "7"}}})
	if _, list = b.Assignments(1, 0); b.disk() != own+81 || len(list[0].Snapshots) != 0 || len(b.KeptSnapshots(1)) != 1 {
		t.Fatal(b.disk(), list)
	}
	b.ok(b.drop("s"))
	at := b.Node(1).Host.SnapshotRevision
	if at != b.Revision() || len(b.KeptSnapshots(1)) != 0 || b.AwaitsKept(1, at-1, nil) || !b.AwaitsKept(1, at, nil) {
		t.Fatal("its host is not told", at)
	}
	b.kept(at - 1)
	if b.Snapshot("s") == nil || b.disk() != own+81 {
		t.Fatal("it is forgotten before its host has removed it")
	}
	b.kept(at)
	if b.Snapshot("s") != nil || b.disk() != own || b.references(strings.Repeat("a", 64)) != 1 {
		t.Fatal(b.Snapshot("s"), b.disk())
	}
}

// What was ready and is not on its host any more is told of; what became ready after
// the list was made was not missing.
func TestASnapshotWhoseFilesAreGone(t *testing.T) {
	b := newSnapshotBench(t)
	own := b.disk()
	b.ok(b.take("s"))
	uid, list := b.Snapshot("s").Uid, b.Node(1).Host.SnapshotRevision
	b.kept(list, uid)
	if p := b.Snapshot("s"); p.State != snapCreating || b.AwaitsKept(1, list, []string{uid}) {
		t.Fatal("it is just being taken, and is missed", p)
	}
	b.runs([]*blixardv1.SnapshotResult{{Uid: uid, Image: &blixardv1.SnapshotImage{SizeBytes: 1, Version: "7"}}})
	b.kept(list, uid)
	if p := b.Snapshot("s"); p.State != snapReady {
		t.Fatal("what was said before it was there counts", p)
	}
	if !b.AwaitsKept(1, b.Revision(), []string{uid}) {
		t.Error("nobody would hear of it")
	}
	b.ok(b.revert("s"))
	b.kept(b.Revision(), uid)
	if b.VM("web").Restore != nil {
		t.Error("its VM waits for what is not there, and has disks of its own")
	}
	if p := b.Snapshot("s"); p.State != snapFailed || !strings.Contains(p.Message, "are not on n1 any more") {
		t.Fatal(p)
	}
	b.kept(b.Node(1).Host.SnapshotRevision)
	if b.disk() != own {
		t.Error("it takes room", b.disk())
	}
	b.ok(b.drop("s"))
}

// One that could not be taken is told of, and holds nothing once that is sure.
func TestASnapshotThatFails(t *testing.T) {
	b := newSnapshotBench(t)
	own := b.disk()
	b.ok(b.take("s"))
	b.runs([]*blixardv1.SnapshotResult{{Uid: b.Snapshot("s").Uid, Message: "the disk is full"}})
	if p := b.Snapshot("s"); p.State != snapFailed || p.Message != "the disk is full" || b.disk() == own || len(b.KeptSnapshots(1)) != 0 {
		t.Fatal(p, b.disk())
	}
	b.kept(b.Node(1).Host.SnapshotRevision)
	if b.disk() != own || b.Snapshot("s") == nil {
		t.Fatal(b.disk())
	}
	// What its VM left before it was taken is not taken any more.
	b.ok(b.take("late"))
	b.request(&blixardv1.Command{Op: &blixardv1.Command_DeleteVm{DeleteVm: &blixardv1.DeleteVMOp{Name: "web"}}})
	vm := b.VM("web")
	b.report(1, &blixardv1.Observation{Uid: vm.Uid, Incarnation: vm.Placement.Incarnation, Removed: true, Lease: vm.Placement.TargetLease, AssignmentRevision: vm.AssignmentRevision})
	if p := b.Snapshot("late"); p.State != snapFailed {
		t.Fatal(p)
	}
}

// What no hypervisor can keep, or this host's cannot, is refused before anything is held.
func TestWhatHasNoSnapshot(t *testing.T) {
	for hypervisor, why := range map[blixardv1.Hypervisor]string{
		blixardv1.Hypervisor_HYPERVISOR_QEMU: "", blixardv1.Hypervisor_HYPERVISOR_CLOUD_HYPERVISOR: "",
		blixardv1.Hypervisor_HYPERVISOR_FIRECRACKER: "", blixardv1.Hypervisor_HYPERVISOR_PROCESS: "process has no snapshot",
	} {
		b := newSnapshotBench(t)
		vm := clone(b.VM("web"))
		vm.Placement.Hypervisor = hypervisor
		if got := b.unsnapshotable(vm); got != why {
			t.Errorf("%v: %q", hypervisor, got)
		}
	}
	b := newSnapshotBench(t)
	vm := clone(b.VM("web"))
	vm.Placement.Devices = []*blixardv1.Device{{Kind: "gpu", Address: "0000:01:00.0"}} // it runs with one, though its newest spec has none
	b.put(vmKey("web"), vm)
	b.refused(t, b.take("s"), "it has PCI devices of its host")
	vm = clone(vm)
	vm.Placement.Devices = nil
	vm.Spec.Devices = []*blixardv1.DeviceRequest{{Kind: "gpu"}}
	b.put(vmKey("web"), vm)
	b.refused(t, b.take("s"), "it has PCI devices of its host")
}

// Of what runs with an older spec, that one counts, too: what it has open is not kept.
func TestAVolumeThatItRunsWithStill(t *testing.T) {
	b := newSnapshotBench(t)
	vm := clone(b.VM("web"))
	vm.Spec.Volumes = []*blixardv1.VolumeMount{{Volume: "data"}}
	b.put(vmKey("web"), vm)
	spec := clone(vm.Spec)
	spec.Volumes = nil
	b.ok(&blixardv1.Command{Op: &blixardv1.Command_UpdateVm{UpdateVm: &blixardv1.UpdateVMOp{Name: "web", Spec: spec}}})
	if vm := b.VM("web"); len(vm.Spec.Volumes) != 0 || vm.Status.SpecGeneration == vm.SpecGeneration {
		t.Fatal(vm)
	}
	b.refused(t, b.take("s"), "the spec that it runs with: it uses volumes")
}

// A restore is a run that was asked for, is done once, and is given up by a stop or
// a restart. What it needs is not deleted meanwhile.
func TestARestore(t *testing.T) {
	b := newSnapshotBench(t)
	p := b.taken("s")
	before := b.VM("web").RunGeneration
	b.ok(b.revert("s"))
	vm := b.VM("web")
	if r := vm.Restore; r.GetUid() != p.Uid || r.Index != b.Revision() || !r.Memory || vm.RunGeneration != before+1 {
		t.Fatal(vm)
	}
	if _, list := b.Assignments(1, 0); list[0].Restore.GetUid() != p.Uid {
		t.Fatal(list)
	}
	b.refused(t, b.drop("s"), "is just starting from")
	b.refused(t, b.take("other"), "just starting from")
	observe := func(restored uint64) {
		vm := b.VM("web")
		b.report(1, &blixardv1.Observation{
			Uid: vm.Uid, Incarnation: vm.Placement.Incarnation, Attempt: 2, Phase: blixardv1.Phase_PHASE_RUNNING, SpecGeneration: vm.SpecGeneration,
			Lease: vm.Placement.TargetLease, AssignmentRevision: vm.AssignmentRevision, Restored: restored,
		})
	}
	observe(vm.Restore.Index - 1)
	if b.VM("web").Restore == nil {
		t.Fatal("an older restore counts for this one")
	}
	observe(vm.Restore.Index)
	if b.VM("web").Restore != nil {
		t.Fatal("it is done, and asked for again")
	}
	b.ok(b.revert("s"))
	b.ok(&blixardv1.Command{Op: &blixardv1.Command_Power{Power: &blixardv1.PowerOp{Name: "web", Run: true, Restart: true}}})
	if b.VM("web").Restore != nil {
		t.Fatal("a restart does not give it up")
	}
	// Another version may not understand the memory.
	n := b.Node(1)
	f := clone(n.Host.Facts)
	f.Hypervisors[0].Version = "8"
	b.apply(&blixardv1.Command{Op: &blixardv1.Command_HostReport{HostReport: &blixardv1.HostReportOp{NodeId: 1, BootId: n.Host.BootId, Epoch: n.Host.Epoch, Facts: f}}})
	b.refused(t, b.revert("s"), "has 8 now")
}

// A clone is another VM, which starts where the bytes are, and nowhere else.
func TestAClone(t *testing.T) {
	b := newSnapshotBench(t)
	p := b.taken("s")
	cloned := func(name string) *blixardv1.VM {
		return b.must(t, &blixardv1.Command{Op: &blixardv1.Command_CloneSnapshot{CloneSnapshot: &blixardv1.CloneSnapshotOp{Name: "s", Vm: name}}})
	}
	vm := cloned("copy")
	if r := vm.Restore; r.GetUid() != p.Uid || r.Memory || !r.Clone || vm.Uid == b.VM("web").Uid || vm.Placement.GetNodeId() != 1 {
		t.Fatal(vm)
	}
	if n := b.needOf(vm); n.Only != 1 {
		t.Fatal(n)
	}
	b.ok(&blixardv1.Command{Op: &blixardv1.Command_Power{Power: &blixardv1.PowerOp{Name: "copy", Run: true, Restart: true}}})
	if b.VM("copy").Restore == nil {
		t.Fatal("it would boot from nothing")
	}
	b.refused(t, &blixardv1.Command{Op: &blixardv1.Command_RemoveNode{RemoveNode: &blixardv1.RemoveNodeOp{Name: "n1"}}}, "n1")
}

// A host that is lost takes its snapshots along: who was to go on from one says so, and
// starts without it; a clone, which has nothing else, says that it waits.
func TestARestoreWhoseHostIsLost(t *testing.T) {
	for _, c := range []struct {
		name, vm, reason, says string
		loss                   blixardv1.OnHostLoss
		gone                   bool
	}{
		{"replaced", "web", "NoHostFits", "no host has room", blixardv1.OnHostLoss_ON_HOST_LOSS_REPLACE, true},
		{"waits", "web", "HostLost", "the snapshot s, from which it was to go on, is there too", blixardv1.OnHostLoss_ON_HOST_LOSS_WAIT, false},
		{"clone", "copy", "NoHostFits", "it starts from the snapshot s, which is on n1 only, and that is not heard of", blixardv1.OnHostLoss_ON_HOST_LOSS_REPLACE, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newSnapshotBench(t)
			b.taken("s")
			if c.vm == "copy" {
				b.must(t, &blixardv1.Command{Op: &blixardv1.Command_CloneSnapshot{CloneSnapshot: &blixardv1.CloneSnapshotOp{Name: "s", Vm: "copy"}}})
			} else {
				b.ok(b.revert("s"))
			}
			vm := copyVM(b.VM(c.vm))
			vm.Spec, vm.Placement = clone(vm.Spec), clone(vm.Placement)
			vm.Spec.OnHostLoss = c.loss
			vm.Placement.Lease = map[bool]blixardv1.LeaseClass{true: blixardv1.LeaseClass_LEASE_CLASS_SHORT, false: blixardv1.LeaseClass_LEASE_CLASS_LONG}[c.loss == blixardv1.OnHostLoss_ON_HOST_LOSS_REPLACE]
			b.put(vmKey(vm.Name), vm)
			n := b.Node(1)
			b.apply(&blixardv1.Command{Op: &blixardv1.Command_Fence{Fence: &blixardv1.FenceOp{NodeId: 1, Epoch: n.Host.Epoch, Term: b.term, WaitedNs: 1 << 60}}})
			vm = b.VM(c.vm)
			if st := vm.Status; st.Reason != c.reason || !strings.Contains(st.Message, c.says) {
				t.Errorf("%v", st)
			}
			if (vm.Restore == nil) != c.gone {
				t.Errorf("it is to go on from %v", vm.Restore)
			}
			told := false
			b.Events(0, func(ev *blixardv1.Event) bool {
				told = told || ev.Type == "RestoreLost"
				return true
			})
			if told != c.gone {
				t.Errorf("that it starts without the snapshot is told: %t", told)
			}
		})
	}
}

// Of all VMs that are to start from one snapshot, each hears that it is gone.
func TestAllThatStartFromASnapshot(t *testing.T) {
	for name, lose := range map[string]func(snapshotBench, *blixardv1.VMSnapshot){
		"its files are gone": func(b snapshotBench, p *blixardv1.VMSnapshot) { b.kept(b.Revision(), p.Uid) },
		"its host is removed": func(b snapshotBench, p *blixardv1.VMSnapshot) {
			e := &entry{index: b.Revision(), cmd: &blixardv1.Command{}}
			b.loseSnapshots(e, b.Node(1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newSnapshotBench(t)
			p := b.taken("s")
			// By its name it is found before the VM that the snapshot was taken of.
			b.must(t, &blixardv1.Command{Op: &blixardv1.Command_CloneSnapshot{CloneSnapshot: &blixardv1.CloneSnapshotOp{Name: "s", Vm: "copy"}}})
			b.ok(b.revert("s"))
			b.refused(t, b.drop("s"), "2 VMs are just starting from the snapshot s: web, copy")
			lose(b, p)
			if b.VM("web").Restore != nil {
				t.Error("a VM with disks of its own waits for what is not there")
			}
			if b.VM("copy").Restore == nil {
				t.Error("a clone would boot from nothing")
			}
			var told []string
			b.Events(0, func(ev *blixardv1.Event) bool {
				if ev.Type == "RestoreLost" {
					told = append(told, ev.Vm)
				}
				return true
			})
			if !slices.Equal(told, []string{"web"}) {
				t.Errorf("told are %v", told)
			}
		})
	}
}
