package cluster

import (
	"strings"
	"testing"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func (b snapshotBench) bring(change func(*blixardv1.AddSnapshotOp)) *blixardv1.Response {
	op := &blixardv1.AddSnapshotOp{Name: "s", Vm: "web", Spec: clone(b.VM("web").Spec), Hypervisor: blixardv1.Hypervisor_HYPERVISOR_QEMU, Version: "7"}
	change(op)
	return b.request(&blixardv1.Command{Op: &blixardv1.Command_AddSnapshot{AddSnapshot: op}})
}

func (b snapshotBench) brought(p *blixardv1.VMSnapshot) *blixardv1.Response {
	return b.request(&blixardv1.Command{Op: &blixardv1.Command_SnapshotAdded{SnapshotAdded: &blixardv1.SnapshotAddedOp{
		Name: p.Name, Uid: p.Uid, Image: &blixardv1.SnapshotImage{SizeBytes: 60<<20 - 1, Version: "7"}}}})
}

// A snapshot that is brought has its room and its place on the host's list from the
// beginning, is ready when its host has it, and is for new VMs only.
func TestASnapshotIsBrought(t *testing.T) {
	b := newSnapshotBench(t)
	before, revision := b.disk(), b.Node(1).Host.SnapshotRevision
	r := b.bring(func(*blixardv1.AddSnapshotOp) {})
	if r.Error != nil {
		t.Fatal(r.Error)
	}
	p := r.GetSnapshot()
	if p.State != snapCreating || p.VmUid != "" || b.disk() != before+166 || b.Node(1).Host.SnapshotRevision <= revision || b.KeptSnapshots(1)[0] != p.Uid {
		t.Fatal(p, b.disk()-before, b.KeptSnapshots(1))
	}
	// The VM of the same name on this cluster has nothing to do with it, and takes none.
	if o := b.orders(b.VM("web")); len(o) != 0 {
		t.Fatal(o)
	}
	b.runs([]*blixardv1.SnapshotResult{{Uid: p.Uid, Message: "no"}})
	b.kept(b.Node(1).Host.SnapshotRevision, p.Uid) // its host has not got it yet
	if now := b.Snapshot("s"); now.State != snapCreating {
		t.Fatal(now)
	}
	other := clone(p)
	other.Uid = "1-7"
	if r := b.brought(other); r.Error == nil {
		t.Fatal("another one is ready")
	}
	if r := b.brought(p); r.Error != nil {
		t.Fatal(r.Error)
	}
	if now := b.Snapshot("s"); now.State != snapReady || now.DiskMib != 60 || b.disk() != before+60 {
		t.Fatal(now, b.disk()-before)
	}
	if r := b.brought(p); r.Error == nil {
		t.Fatal("it is ready twice")
	}
	if r := b.request(b.revert("s")); r.Error == nil || !strings.Contains(r.Error.Advice, "vm clone s") {
		t.Fatal(r.Error)
	}
	b.ok(&blixardv1.Command{Op: &blixardv1.Command_CloneSnapshot{CloneSnapshot: &blixardv1.CloneSnapshotOp{Name: "s", Vm: "copy", Memory: true}}})
	if vm := b.VM("copy"); vm.GetRestore().GetUid() != p.Uid || vm.Placement.GetNodeId() != 1 {
		t.Fatal(vm)
	}
}

// What is given up leaves nothing, whether it has come or not; bytes that come after
// that make nothing ready.
func TestASnapshotThatDoesNotCome(t *testing.T) {
	b := newSnapshotBench(t)
	before := b.disk()
	p := b.bring(func(*blixardv1.AddSnapshotOp) {}).GetSnapshot()
	b.ok(b.drop("s"))
	if r := b.brought(p); r.Error == nil {
		t.Fatal("it is ready")
	}
	b.kept(b.Node(1).Host.SnapshotRevision)
	if b.Snapshot("s") != nil || b.disk() != before || len(b.KeptSnapshots(1)) != 0 {
		t.Fatal(b.Snapshot("s"), b.disk()-before)
	}
}

// Who cannot bring one gives just that one up: not what is ready, nor what has its name
// by then. A retry learns from the state what is left to do.
func TestASnapshotIsGivenUp(t *testing.T) {
	b := newSnapshotBench(t)
	giveUp := func(uid string) *blixardv1.Response {
		return b.request(&blixardv1.Command{Op: &blixardv1.Command_DeleteSnapshot{DeleteSnapshot: &blixardv1.DeleteSnapshotOp{Name: "s", Uid: uid}}})
	}
	first := b.bring(func(*blixardv1.AddSnapshotOp) {}).GetSnapshot()
	if to, ready := b.Bringing(first); to.GetId() != first.NodeId || ready != nil {
		t.Fatal(to, ready)
	}
	if r := giveUp(first.Uid); r.Error != nil || b.Snapshot("s").State != blixardv1.SnapshotState_SNAPSHOT_STATE_DELETING {
		t.Fatal(r.Error)
	}
	b.kept(b.Node(1).Host.SnapshotRevision)
	if to, ready := b.Bringing(first); to != nil || ready != nil {
		t.Fatal(to, ready)
	}
	second := b.bring(func(*blixardv1.AddSnapshotOp) {}).GetSnapshot()
	if to, ready := b.Bringing(first); to != nil || ready != nil {
		t.Fatal(to, ready)
	}
	if r := giveUp(first.Uid); r.Error.GetCode() != blixardv1.ErrorCode_ERROR_CODE_NOT_FOUND || b.Snapshot("s").State != snapCreating {
		t.Fatal("another one is given up")
	}
	if r := b.brought(second); r.Error != nil {
		t.Fatal(r.Error)
	}
	if r := giveUp(second.Uid); r.Error != nil || r.GetSnapshot().State != snapReady || b.Snapshot("s").State != snapReady {
		t.Fatal("what is ready is given up", r)
	}
	if to, ready := b.Bringing(second); to != nil || ready.GetState() != snapReady {
		t.Fatal(to, ready)
	}
}

func TestASnapshotThatNoHostTakes(t *testing.T) {
	b := newSnapshotBench(t)
	before := b.disk()
	for word, change := range map[string]func(*blixardv1.AddSnapshotOp){
		"of QEMU 8, and no host": func(op *blixardv1.AddSnapshotOp) { op.Version = "8" },
		"of QEMU 9, and n1 has":  func(op *blixardv1.AddSnapshotOp) { op.Version, op.Host = "9", b.Node(1).Name },
		"no node":                func(op *blixardv1.AddSnapshotOp) { op.Host = "nobody" },
		"it uses volumes":        func(op *blixardv1.AddSnapshotOp) { op.Spec.Volumes = []*blixardv1.VolumeMount{{Volume: "v"}} },
		"has room":               func(op *blixardv1.AddSnapshotOp) { op.Spec.GetImage().Disks[0].SizeMib = 1 << 25 },
		"MiB of disk free": func(op *blixardv1.AddSnapshotOp) {
			op.Spec.GetImage().Disks[0].SizeMib, op.Host = 1<<25, b.Node(1).Name
		},
		"does not have the artifact": func(op *blixardv1.AddSnapshotOp) { op.Spec.GetImage().Kernel.Digest = strings.Repeat("b", 64) },
	} {
		if r := b.bring(change); r.Error == nil || !strings.Contains(r.Error.Message, word) {
			t.Errorf("%q: %v", word, r.Error)
		}
	}
	if b.disk() != before || b.Snapshot("s") != nil {
		t.Error("something is left")
	}
}
