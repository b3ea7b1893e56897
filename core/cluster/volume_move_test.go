package cluster

import (
	"strings"
	"testing"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// goingWith is a cluster of three hosts with the VM web, which runs, and its volumes,
// which are ready.
func goingWith(t *testing.T, volumes ...string) (d *driver, from *blixardv1.Node) {
	t.Helper()
	d = disky()
	for _, v := range volumes {
		name, _, _ := strings.Cut(v, ":")
		accepted(t, d.volume(name, 100, ""))
	}
	accepted(t, d.with("web", volumes...))
	from = d.Node(d.VM("web").Placement.NodeId)
	d.inventory(from.Id, 1)
	d.runs("web")
	return d, from
}

func (d *driver) diskOf(node uint64) uint64 { return d.Node(node).Host.GetAllocated().GetDiskMib() }

// comes takes the move of web to its switch.
func (d *driver) comes(t *testing.T) {
	t.Helper()
	d.says(d.VM("web"), false, listening)
	d.says(d.VM("web"), true, handed)
	d.says(d.VM("web"), false, loaded)
	vm := d.VM("web")
	d.gives(vm, vm.Migration.Id, d.term)
	if vm = d.VM("web"); vm.Migration.State != switched {
		t.Fatalf("not switched: %v", vm.Migration)
	}
}

// A volume's place changes with the switch. What its source has stays until the target
// has said that it has all of it, and takes its room until it is gone.
func TestAVolumeMovesWithItsVM(t *testing.T) {
	d, from := goingWith(t, "data")
	uid := d.Volume("data").Uid
	accepted(t, d.migrate("web", ""))
	to := d.VM("web").Migration.Other.NodeId
	if d.diskOf(from.Id) != 100 || d.diskOf(to) != 100 {
		t.Fatalf("its room is %d MiB here and %d there", d.diskOf(from.Id), d.diskOf(to))
	}
	refused(t, d.growTo("data", 200), "is on its way to another host")
	if _, list := d.VolumeOrders(to); len(list) != 1 || !list[0].Arriving || list[0].Copy != d.VM("web").Migration.Id || list[0].Remove {
		t.Fatalf("the target is told %v", list)
	}
	if _, list := d.VolumeOrders(from.Id); len(list) != 1 || list[0].Arriving || list[0].Remove {
		t.Fatalf("the source is told %v", list)
	}
	d.inventory(to, 2)
	if v := d.Volume("data"); v.NodeId != from.Id || len(d.Node(to).Host.OrphanVolumes) > 0 {
		t.Fatalf("%v; orphans %v", v, d.Node(to).Host.OrphanVolumes)
	}

	// It comes to nothing.
	accepted(t, d.cancel("web", false))
	d.removedFrom(d.VM("web"))
	_, list := d.VolumeOrders(to)
	if len(list) != 1 || !list[0].Arriving || !list[0].Remove || d.diskOf(to) != 100 {
		t.Fatalf("the target is told %v, and its room is %d MiB", list, d.diskOf(to))
	}
	if r := d.migrate("web", d.Node(to).Name); !strings.Contains(r.GetError().GetMessage(), "since an earlier move") {
		t.Fatalf("it goes again where something of it is: %v", r.Error)
	}
	early := d.Volume("data").Copies[0].OrderRevision - 1
	d.tellVolumes(to, &blixardv1.VolumeInventory{Revision: early, Sequence: 3}) // of before it heard of that
	if d.diskOf(to) != 100 {
		t.Fatal("what was said before it was ordered counts")
	}
	d.inventory(to, 4)
	if v := d.Volume("data"); len(v.Copies) > 0 || d.diskOf(to) != 0 || d.diskOf(from.Id) != 100 {
		t.Fatalf("%v; room %d and %d", v, d.diskOf(from.Id), d.diskOf(to))
	}

	accepted(t, d.migrate("web", ""))
	to = d.VM("web").Migration.Other.NodeId
	d.comes(t)
	v := d.Volume("data")
	if v.NodeId != to || v.Copy != d.VM("web").Migration.Id || d.diskOf(from.Id) != 100 || d.diskOf(to) != 100 {
		t.Fatalf("%v; room %d and %d", v, d.diskOf(from.Id), d.diskOf(to))
	}
	if a := d.volumeConfigs(d.VM("web"), to); a[0].Volume.Arriving || a[0].Volume.Copy != v.Copy || !a[0].Volume.Made {
		t.Fatalf("the target is told %v", a)
	}
	// Nothing that either host said before it heard of that changes anything, and the
	// source's copy is no orphan.
	d.tellVolumes(to, &blixardv1.VolumeInventory{Revision: v.OrderRevision - 1, Sequence: 5})
	d.tellVolumes(from.Id, &blixardv1.VolumeInventory{Revision: v.OrderRevision, Sequence: 5, Volumes: []*blixardv1.VolumeReport{{Uid: uid, Name: "data", Format: v.Spec.Format, SizeMib: 100}}})
	_, list = d.VolumeOrders(from.Id)
	if v := d.Volume("data"); v.Status.Phase != blixardv1.VolumePhase_VOLUME_PHASE_READY || len(v.Copies) != 1 || v.Copies[0].Removing || len(list) > 0 || len(d.Node(from.Id).Host.OrphanVolumes) > 0 {
		t.Fatalf("%v; the source is told %v", v, list)
	}
	refused(t, d.request(&blixardv1.Command{Op: &blixardv1.Command_RemoveNode{RemoveNode: &blixardv1.RemoveNodeOp{Name: from.Name}}}), "may run there")
	d.runs("web")
	d.removedFrom(d.VM("web"))
	refused(t, d.request(&blixardv1.Command{Op: &blixardv1.Command_RemoveNode{RemoveNode: &blixardv1.RemoveNodeOp{Name: from.Name}}}), "has not removed yet what it has of 1 volume")
	d.inventory(to, 6)
	if _, list = d.VolumeOrders(from.Id); len(list) != 1 || !list[0].Remove || list[0].Arriving || list[0].Copy != 0 {
		t.Fatalf("the source is told %v", list)
	}
	d.inventory(from.Id, 6)
	if v := d.Volume("data"); len(v.Copies) > 0 || d.diskOf(from.Id) != 0 || d.diskOf(to) != 100 {
		t.Fatalf("%v; room %d and %d", v, d.diskOf(from.Id), d.diskOf(to))
	}
	accepted(t, d.migrate("web", from.Name))
}

// Its host is lost for good before it has said that it has it: what was left behind
// stays as long as the record does, and then goes.
func TestAVolumeThatIsLostWhereItCame(t *testing.T) {
	d, from := goingWith(t, "data")
	accepted(t, d.migrate("web", ""))
	to := d.Node(d.VM("web").Migration.Other.NodeId)
	d.comes(t)
	d.removedFrom(d.VM("web"))
	n := copyNode(to)
	d.loseVolumes(&entry{index: d.Revision() + 1, cmd: &blixardv1.Command{}}, n)
	if v := d.Volume("data"); v.Status.Phase != blixardv1.VolumePhase_VOLUME_PHASE_LOST || len(v.Copies) != 1 || v.Copies[0].Removing {
		t.Fatal(v)
	}
	v := d.condemn(&entry{index: d.Revision() + 2, cmd: &blixardv1.Command{}}, d.Volume("data"))
	if v = d.Volume(v.Name); v == nil || !v.Copies[0].Removing {
		t.Fatalf("what %s has is forgotten: %v", from.Name, v)
	}
}

func TestWhyAVolumeStays(t *testing.T) {
	d, _ := goingWith(t, "data:ro")
	refused(t, d.migrate("web", ""), "read-only")
	d, _ = goingWith(t, "data")
	accepted(t, d.growTo("data", 200))
	refused(t, d.migrate("web", ""), "still to grow")
	d, from := goingWith(t, "data")
	for _, id := range d.hostsByID() {
		if v := d.Volume("data"); id != from.Id {
			d.tellVolumes(id, &blixardv1.VolumeInventory{Revision: 1, Sequence: 9, Volumes: []*blixardv1.VolumeReport{{Uid: v.Uid, Name: "data", SizeMib: 100}}})
		}
	}
	refused(t, d.migrate("web", ""), "which the cluster does not know")
	d, from = goingWith(t, "data")
	for i, id := range d.hostsByID() {
		if id != from.Id {
			accepted(t, d.volume("big"+string(rune('a'+i)), 950, d.Node(id).Name))
		}
	}
	refused(t, d.migrate("web", ""), "disk free")
}

// A drain moves live what waits for its host, says so before, and stops it where it is
// only if it cannot go.
func TestADrainMovesAVolume(t *testing.T) {
	d, from := goingWith(t, "data")
	said := d.DrainMoves(false, d.Node(from.Id))
	if len(said) != 1 || said[0].Step != blixardv1.DrainStep_DRAIN_STEP_NEXT || !strings.Contains(said[0].Message, "live") {
		t.Fatalf("it says %v", said)
	}
	d.drainOf(from.Name)
	if vm := d.VM("web"); vm.Migration.GetState() != preparing || vm.Placement.Held || d.Node(from.Id).Drain.Done {
		t.Fatalf("%v", vm)
	}
	// Not a second time in one drain.
	d.says(d.VM("web"), false, broken)
	d.removedFrom(d.VM("web"))
	if vm := d.VM("web"); vm.Migration.GetState() != failed || vm.Placement.Leaving || !d.Node(from.Id).Drain.Done {
		t.Fatalf("%v; %v", vm, d.Node(from.Id).Drain)
	}
	accepted(t, d.request(&blixardv1.Command{Op: &blixardv1.Command_Drain{Drain: &blixardv1.DrainOp{Name: from.Name, StopLocal: true}}}))
	if vm := d.VM("web"); !vm.Placement.Held {
		t.Fatalf("it is not stopped: %v", vm)
	}
	d, from = goingWith(t, "data:ro")
	if said := d.DrainMoves(true, d.Node(from.Id)); said[0].Step != blixardv1.DrainStep_DRAIN_STEP_STOPPING || !strings.Contains(said[0].Message, "read-only") {
		t.Fatalf("it says %v", said)
	}
}
