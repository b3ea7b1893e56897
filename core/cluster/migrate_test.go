package cluster

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// moves is what a dumb observer knows of live moves.
type moves struct {
	right  map[string]uint64 // who had the right to run, by uid: the index of its incarnation
	handed map[uint64]bool   // migrations that were handed over, in time
	loaded map[uint64]bool
}

// begin sets up two hosts with a VM that could move.
func (m *moves) begin(t *rapid.T, d *driver) {
	d.request(&blixardv1.Command{Op: &blixardv1.Command_AddNode{AddNode: &blixardv1.AddNodeOp{Name: "h", Address: "a", Host: true, Level: 1}}})
	d.boot(d.NodeByName("h").Id)
	d.create(t, "a", 500)
}

// create makes an image VM, which runs.
func (d *driver) create(t interface{ Fatal(...any) }, name string, memory uint64) {
	spec := imageSpec()
	spec.MemoryMib, spec.OnHostLoss = memory, 1
	if r := d.request(&blixardv1.Command{Op: &blixardv1.Command_CreateVm{CreateVm: &blixardv1.CreateVMOp{Name: name, Spec: spec}}}); r.Error != nil {
		t.Fatal(r.Error)
	}
	d.runs(name)
}

// runs has a VM's host report that it does.
func (d *driver) runs(name string) {
	vm := d.VM(name)
	o := seen(vm, blixardv1.Phase_PHASE_RUNNING)
	o.SpecGeneration = vm.SpecGeneration
	d.report(vm.Placement.NodeId, o)
}

func (d *driver) migrate(name, to string) *blixardv1.Response {
	return d.request(&blixardv1.Command{Principal: "alice", Op: &blixardv1.Command_MigrateVm{MigrateVm: &blixardv1.MigrateVMOp{Name: name, To: to}}})
}

func (d *driver) cancel(name string, expired bool) *blixardv1.Response {
	op := &blixardv1.CancelMigrationOp{Name: name, Expired: expired}
	return d.request(&blixardv1.Command{Op: &blixardv1.Command_CancelMigration{CancelMigration: op}})
}

// says is a host's report of one side of a VM's move.
func (d *driver) says(vm *blixardv1.VM, source bool, step blixardv1.MigrationStep) {
	node, o := d.side(vm, source)
	o.Migration = &blixardv1.MigrationReport{Id: vm.Migration.Id, Step: step, Message: "for a reason"}
	d.report(node, o)
}

// side is what the host of one side of a move would report.
func (d *driver) side(vm *blixardv1.VM, source bool) (node uint64, o *blixardv1.Observation) {
	if source {
		o := seen(vm, blixardv1.Phase_PHASE_RUNNING)
		o.SpecGeneration = vm.SpecGeneration
		return vm.Placement.NodeId, o
	}
	p := vm.Migration.Other
	return p.NodeId, &blixardv1.Observation{
		Uid: vm.Uid, Incarnation: p.Incarnation, Attempt: 1, Phase: blixardv1.Phase_PHASE_STARTING,
		Lease: p.TargetLease, LeaseMs: p.TargetLeaseMs, AssignmentRevision: vm.Migration.AssignmentRevision,
	}
}

func (d *driver) gives(vm *blixardv1.VM, id, term uint64) *blixardv1.Response {
	return d.apply(&blixardv1.Command{Op: &blixardv1.Command_Switch{Switch: &blixardv1.SwitchOp{
		Name: vm.GetName(), Id: id, Term: term,
		SourceEpoch: d.Node(vm.GetPlacement().GetNodeId()).GetHost().GetEpoch(), TargetEpoch: d.Node(vm.GetMigration().GetOther().GetNodeId()).GetHost().GetEpoch(),
	}}})
}

// moveStep applies one random command of a move, and says what it may release.
func (d *driver) moveStep(t *rapid.T, kind string, vm *blixardv1.VM) (released string) {
	if d.moves.handed == nil {
		d.moves.handed, d.moves.loaded = map[uint64]bool{}, map[uint64]bool{}
	}
	m := vm.GetMigration()
	switch {
	case vm == nil:
	case kind == "migrate":
		if p := vm.Placement; p != nil && rapid.Bool().Draw(t, "runs") {
			d.runs(vm.Name)
		}
		op := &blixardv1.MigrateVMOp{Name: vm.Name, Offline: rapid.IntRange(0, 3).Draw(t, "offline") == 0, ValidateOnly: rapid.IntRange(0, 5).Draw(t, "validate") == 0}
		d.request(&blixardv1.Command{Op: &blixardv1.Command_MigrateVm{MigrateVm: op}})
	case kind == "cancel":
		d.cancel(vm.Name, rapid.Bool().Draw(t, "expired"))
	case kind == "switch":
		id := m.GetId() - uint64(rapid.IntRange(0, 1).Draw(t, "old"))
		term := d.term - uint64(rapid.IntRange(0, 1).Draw(t, "term"))
		before := vm.Placement.GetIncarnation().GetIndex()
		d.gives(vm, id, term)
		if now := d.VM(vm.Name).Placement.GetIncarnation().GetIndex(); now != before && (id != m.GetId() || term != d.term || !d.moves.handed[id] || !d.moves.loaded[id]) {
			t.Fatalf("%s was switched by what switches nothing", vm.Name)
		}
	case kind == "move" && m.GetOther() != nil:
		source := rapid.Bool().Draw(t, "source") && vm.Placement != nil
		node, o := d.side(vm, source)
		was := m.State
		step := rapid.SampledFrom([]blixardv1.MigrationStep{0, 1, 2, 3, 4, 5}).Draw(t, "step")
		o.Migration = &blixardv1.MigrationReport{Id: m.Id - uint64(rapid.IntRange(0, 4).Draw(t, "id")/4), Step: step}
		if !source && step == 0 {
			o.Removed, released = true, "ack"
		}
		if n := d.Node(node); o.Migration.Id == m.Id && moving(vm) && n.Host.EpochState == blixardv1.EpochState_EPOCH_STATE_ACTIVE && was != blixardv1.MigrationState_MIGRATION_STATE_CANCELLING {
			d.moves.handed[m.Id] = d.moves.handed[m.Id] || source && step == blixardv1.MigrationStep_MIGRATION_STEP_HANDED_OVER
			d.moves.loaded[m.Id] = d.moves.loaded[m.Id] || !source && step == blixardv1.MigrationStep_MIGRATION_STEP_LOADED
		}
		if o.Removed && moving(vm) {
			released = "" // what the cluster has not asked for says nothing
		}
		d.report(node, o)
	}
	return released
}

// switched holds every VM to this: the right to run passes from a placement to the
// other by a Switch, or it ends with its placement. And who has it not, may not run.
func (d *driver) switched(t *rapid.T) {
	right := map[string]uint64{}
	d.VMs("", func(vm *blixardv1.VM) bool {
		at, m := vm.Placement.GetIncarnation().GetIndex(), vm.Migration
		right[vm.Uid] = at
		if was := d.moves.right[vm.Uid]; at != was && at == m.GetId() && m.GetId() != 0 && (!d.moves.handed[at] || !d.moves.loaded[at]) {
			t.Fatalf("%s has the right to run as %d, which was not handed over and loaded", vm.Name, at)
		}
		mayRun := 0
		d.Nodes(func(n *blixardv1.Node) bool {
			_, list := d.Assignments(n.Id, 0)
			for _, a := range list {
				if a.Uid != vm.Uid || a.Remove {
					continue
				}
				mayRun++
				if a.Migration.GetRole() == blixardv1.MigrationRole_MIGRATION_ROLE_TARGET {
					mayRun--
					if a.Run || a.Incarnation.Index != a.Migration.Id {
						t.Fatalf("the target of %s may run: %v", vm.Name, a)
					}
				}
			}
			return true
		})
		if mayRun > 1 {
			t.Fatalf("%s may run on %d hosts", vm.Name, mayRun)
		}
		if p, o := vm.Placement, m.GetOther(); p != nil && o != nil && p.NodeId == o.NodeId {
			t.Fatalf("%s has two placements on %s", vm.Name, p.Node)
		}
		if !moving(vm) && m.GetOther() == nil && m.GetState() == blixardv1.MigrationState_MIGRATION_STATE_CANCELLING {
			t.Fatalf("the move of %s has nothing left, and does not end", vm.Name)
		}
		return true
	})
	d.moves.right = right
}

// underway is a cluster of three hosts with the VM web on n1, which is on its way to n2.
func underway(t *testing.T) (*driver, *blixardv1.VM) {
	d := newDriver()
	d.qemu = true
	d.boot(FirstID)
	for _, name := range []string{"n2", "n3"} {
		d.request(&blixardv1.Command{Op: &blixardv1.Command_AddNode{AddNode: &blixardv1.AddNodeOp{Name: name, Address: name + ":1", Host: true, Level: 1}}})
		d.boot(d.NodeByName(name).Id)
	}
	d.apply(&blixardv1.Command{Op: &blixardv1.Command_Announce{Announce: &blixardv1.AnnounceOp{Digest: aKernel.Digest, Size: 1, NodeId: 1}}})
	for _, n := range []string{"n2", "n3"} {
		d.cordonOf(n, true)
	}
	d.create(t, "web", 500)
	for _, n := range []string{"n2", "n3"} {
		d.cordonOf(n, false)
	}
	if r := d.migrate("web", "n2"); r.Error != nil {
		t.Fatal(r.Error)
	}
	return d, d.VM("web")
}

func (d *driver) cordonOf(name string, cordoned bool) {
	d.request(&blixardv1.Command{Op: &blixardv1.Command_Cordon{Cordon: &blixardv1.CordonOp{Name: name, Cordoned: cordoned}}})
}

// assigned is what a host would be told of web.
func (d *driver) assigned(node string) *blixardv1.Assignment {
	_, list := d.Assignments(d.NodeByName(node).Id, 0)
	for _, a := range list {
		if a.Name == "web" {
			return a
		}
	}
	return nil
}

func (d *driver) expect(t *testing.T, on string, state blixardv1.MigrationState) *blixardv1.VM {
	t.Helper()
	vm := d.VM("web")
	if vm.GetPlacement().GetNode() != on || vm.GetMigration().GetState() != state {
		t.Fatalf("it is on %q, %v: %s; want on %q, %v", vm.GetPlacement().GetNode(), vm.GetMigration().GetState(), vm.GetMigration().GetMessage(), on, state)
	}
	return vm
}

const (
	preparing  = blixardv1.MigrationState_MIGRATION_STATE_PREPARING
	sending    = blixardv1.MigrationState_MIGRATION_STATE_SENDING
	handedOver = blixardv1.MigrationState_MIGRATION_STATE_HANDED_OVER
	switched   = blixardv1.MigrationState_MIGRATION_STATE_SWITCHED
	done       = blixardv1.MigrationState_MIGRATION_STATE_DONE
	cancelling = blixardv1.MigrationState_MIGRATION_STATE_CANCELLING
	failed     = blixardv1.MigrationState_MIGRATION_STATE_FAILED

	listening = blixardv1.MigrationStep_MIGRATION_STEP_LISTENING
	loaded    = blixardv1.MigrationStep_MIGRATION_STEP_LOADED
	handed    = blixardv1.MigrationStep_MIGRATION_STEP_HANDED_OVER
	broken    = blixardv1.MigrationStep_MIGRATION_STEP_FAILED
)

// removedFrom has a host acknowledge that nothing of web's other side is left.
func (d *driver) removedFrom(vm *blixardv1.VM) {
	node, o := d.side(vm, false)
	o.Removed = true
	d.report(node, o)
}

func TestALiveMigration(t *testing.T) {
	d, vm := underway(t)
	held := func(node string) uint64 { return d.NodeByName(node).Host.GetAllocated().GetMemoryMib() }
	if held("n1") != 500 || held("n2") != 500 {
		t.Fatalf("both hosts hold it while it moves, not %d and %d", held("n1"), held("n2"))
	}
	if a := d.assigned("n2"); a.Run || a.Remove || a.Migration.GetRole() != blixardv1.MigrationRole_MIGRATION_ROLE_TARGET || a.Migration.PeerAddress != "a" {
		t.Fatalf("the target is told %v", a)
	}
	if a := d.assigned("n1"); !a.Run || a.Migration.GetSend() || a.Migration.GetPeerAddress() != "n2:1" {
		t.Fatalf("the source is told %v", a)
	}
	d.says(vm, false, listening)
	vm = d.expect(t, "n1", sending)
	if a := d.assigned("n1"); !a.Migration.GetSend() {
		t.Fatalf("the source is told %v", a)
	}
	d.says(vm, true, handed)
	vm = d.expect(t, "n1", handedOver)
	if d.gives(vm, vm.Migration.Id, d.term); d.VM("web").Placement.Node != "n1" {
		t.Fatal("switched before it was loaded")
	}
	d.says(vm, false, loaded)
	vm = d.expect(t, "n1", handedOver)
	for _, op := range []struct{ id, term uint64 }{{vm.Migration.Id - 1, d.term}, {vm.Migration.Id, d.term - 1}, {vm.Migration.Id, d.term + 1}} {
		if d.gives(vm, op.id, op.term); d.VM("web").Placement.Node != "n1" {
			t.Fatalf("switched by %v", op)
		}
	}
	if r := d.cancel("web", false); r.Error == nil {
		t.Fatal("a move past its hand-over was cancelled")
	}
	d.gives(vm, vm.Migration.Id, d.term)
	vm = d.expect(t, "n2", switched)
	if a := d.assigned("n2"); !a.Run || a.Migration != nil || a.Incarnation.Index != vm.Migration.Id {
		t.Fatalf("the target is told %v", a)
	}
	if a := d.assigned("n1"); !a.Remove {
		t.Fatalf("the source is told %v", a)
	}
	d.runs("web")
	vm = d.expect(t, "n2", switched)
	if vm.Migration.DowntimeMs == 0 || held("n1") != 500 {
		t.Fatalf("downtime %d ms, n1 holds %d", vm.Migration.DowntimeMs, held("n1"))
	}
	d.removedFrom(vm)
	if vm = d.expect(t, "n2", done); vm.Migration.Other != nil || held("n1") != 0 || held("n2") != 500 {
		t.Fatalf("%v; n1 holds %d, n2 %d", vm.Migration, held("n1"), held("n2"))
	}
}

// What was resized goes on as what it was started as, on another host, too; the newest
// spec is told there when it has the right to run. Any other change is not left behind.
func TestAResizedVMMoves(t *testing.T) {
	d, vm := underway(t)
	d.cancel("web", false)
	d.removedFrom(d.VM("web"))
	d.runs("web")
	update := func(change func(*blixardv1.VMSpec)) {
		t.Helper()
		spec := clone(d.VM("web").Spec)
		change(spec)
		if r := d.request(&blixardv1.Command{Op: &blixardv1.Command_UpdateVm{UpdateVm: &blixardv1.UpdateVMOp{Name: "web", Spec: spec}}}); r.Error != nil {
			t.Fatal(r.Error)
		}
	}
	update(func(s *blixardv1.VMSpec) { s.MemoryMib, s.Vcpus = 300, 2 })
	if r := d.migrate("web", "n2"); r.Error != nil {
		t.Fatal(r.Error)
	}
	if a, is := d.assigned("n2"), d.assigned("n1"); a.Spec.MemoryMib != 500 || a.Spec.GetVcpus() == 2 || a.SpecGeneration != 1 || is.Spec.MemoryMib != 300 || is.SpecGeneration != 2 {
		t.Fatalf("the target is told %v, the source %v", a, is)
	}
	if held := d.NodeByName("n2").Host.GetAllocated(); held.GetMemoryMib() != 500 || held.GetVcpus() != 2 {
		t.Errorf("the target holds %v for it", held)
	}
	source := func(step blixardv1.MigrationStep) {
		vm = d.VM("web")
		node, o := d.side(vm, true)
		o.SpecGeneration, o.Migration = 1, &blixardv1.MigrationReport{Id: vm.Migration.Id, Step: step}
		d.report(node, o)
	}
	d.says(d.VM("web"), false, listening)
	source(handed)
	d.says(d.VM("web"), false, loaded)
	vm = d.expect(t, "n1", handedOver)
	d.gives(vm, vm.Migration.Id, d.term)
	vm = d.expect(t, "n2", switched)
	if a := d.assigned("n2"); a.Spec.MemoryMib != 300 || a.SpecGeneration != 2 {
		t.Fatalf("where it runs %v is told", a)
	}
	d.removedFrom(vm)
	o := seen(d.VM("web"), blixardv1.Phase_PHASE_RUNNING)
	o.SpecGeneration = 1
	d.report(d.VM("web").Placement.NodeId, o)
	update(func(s *blixardv1.VMSpec) { s.Restart = blixardv1.RestartPolicy_RESTART_POLICY_NEVER })
	if r := d.migrate("web", "n3"); !strings.Contains(r.GetError().GetMessage(), "an older spec than its newest") {
		t.Errorf("with another policy: %v", r.GetError())
	}
}

// Before the hand-over each of these ends the move, and the VM stays; what the
// target holds is free only when it says so, or is fenced.
func TestWhatEndsAMigration(t *testing.T) {
	fence := func(d *driver, node string) {
		n := d.NodeByName(node)
		d.apply(&blixardv1.Command{Op: &blixardv1.Command_Fence{Fence: &blixardv1.FenceOp{NodeId: n.Id, Epoch: n.Host.Epoch, Term: d.term, WaitedNs: 1 << 60}}})
	}
	power := func(run, restart bool) func(*driver, *blixardv1.VM) {
		return func(d *driver, vm *blixardv1.VM) {
			d.request(&blixardv1.Command{Op: &blixardv1.Command_Power{Power: &blixardv1.PowerOp{Name: "web", Run: run, Restart: restart}}})
		}
	}
	for name, c := range map[string]struct {
		do   func(*driver, *blixardv1.VM)
		on   string
		then blixardv1.MigrationState
	}{
		"its user":        {func(d *driver, vm *blixardv1.VM) { d.cancel("web", false) }, "n1", cancelling},
		"its time":        {func(d *driver, vm *blixardv1.VM) { d.now += 601e9; d.cancel("web", true) }, "n1", cancelling},
		"not its time":    {func(d *driver, vm *blixardv1.VM) { d.cancel("web", true) }, "n1", sending},
		"its source":      {func(d *driver, vm *blixardv1.VM) { d.says(vm, true, broken) }, "n1", cancelling},
		"its target":      {func(d *driver, vm *blixardv1.VM) { d.says(vm, false, broken) }, "n1", cancelling},
		"source's fence":  {func(d *driver, vm *blixardv1.VM) { fence(d, "n1") }, "n3", cancelling},
		"target's fence":  {func(d *driver, vm *blixardv1.VM) { fence(d, "n2") }, "n1", failed},
		"a stop":          {power(false, false), "n1", cancelling},
		"a restart":       {power(true, true), "n1", cancelling},
		"a start":         {power(true, false), "n1", sending},
		"target's drain":  {func(d *driver, vm *blixardv1.VM) { d.drainOf("n2") }, "n1", cancelling},
		"source's drain":  {func(d *driver, vm *blixardv1.VM) { d.drainOf("n1") }, "n1", sending},
		"target's cordon": {func(d *driver, vm *blixardv1.VM) { d.cordonOf("n2", true) }, "n1", sending},
	} {
		t.Run(name, func(t *testing.T) {
			d, vm := underway(t)
			d.says(vm, false, listening)
			c.do(d, d.VM("web"))
			vm = d.expect(t, c.on, c.then)
			if c.then != cancelling {
				return
			}
			if a := d.assigned("n2"); !a.GetRemove() {
				t.Fatalf("the target is told %v", a)
			}
			if a := d.assigned(c.on); a.Remove || a.Migration != nil {
				t.Fatalf("where it stays its host is told %v", a)
			}
			if held := d.NodeByName("n2").Host.Allocated.MemoryMib; held != 500 {
				t.Fatalf("the target holds %d before it has acknowledged", held)
			}
			d.gives(vm, vm.Migration.Id, d.term)
			d.expect(t, c.on, cancelling)
			d.removedFrom(vm)
			d.expect(t, c.on, failed)
			if held := d.NodeByName("n2").Host.Allocated.MemoryMib; held != 0 {
				t.Fatalf("the target holds %d", held)
			}
		})
	}
}

func (d *driver) drainOf(name string) {
	d.request(&blixardv1.Command{Op: &blixardv1.Command_Drain{Drain: &blixardv1.DrainOp{Name: name}}})
}

// After the hand-over the target's end, or the source's fence, is the end of the
// move, and a Switch that comes later does nothing.
func TestWhatEndsAHandOver(t *testing.T) {
	d, vm := underway(t)
	d.says(vm, false, listening)
	d.says(d.VM("web"), true, handed)
	d.says(d.VM("web"), true, broken) // its source said its last word before
	d.expect(t, "n1", handedOver)
	d.says(d.VM("web"), false, loaded)
	d.says(d.VM("web"), false, broken)
	vm = d.expect(t, "n1", cancelling)
	d.gives(vm, vm.Migration.Id, d.term)
	d.expect(t, "n1", cancelling)
}

// A VM that is deleted in the middle of its move is gone when both hosts have
// removed it, whoever is first.
func TestDeletedInItsMove(t *testing.T) {
	for _, first := range []string{"target", "source"} {
		t.Run(first, func(t *testing.T) {
			d, _ := underway(t)
			d.request(&blixardv1.Command{Op: &blixardv1.Command_DeleteVm{DeleteVm: &blixardv1.DeleteVMOp{Name: "web"}}})
			vm := d.expect(t, "n1", cancelling)
			source := seen(vm, blixardv1.Phase_PHASE_DELETING)
			source.Removed = true
			at := vm.Placement.NodeId
			if first == "target" {
				d.removedFrom(vm)
			} else {
				d.report(at, source)
			}
			if d.VM("web") == nil {
				t.Fatal("gone while something of it is left")
			}
			if first == "target" {
				d.report(at, source)
			} else {
				d.removedFrom(vm)
			}
			if d.VM("web") != nil {
				t.Fatal("nothing of it is left, and it is there")
			}
		})
	}
}

// What cannot go live says why, and what can be done.
func TestWhyNotLive(t *testing.T) {
	for want, change := range map[string]func(*driver){
		"it is paused": func(d *driver) {
			d.request(&blixardv1.Command{Op: &blixardv1.Command_Pause{Pause: &blixardv1.PauseOp{Name: "web", Paused: true}}})
		},
		"it is stopped": func(d *driver) {
			d.request(&blixardv1.Command{Op: &blixardv1.Command_Power{Power: &blixardv1.PowerOp{Name: "web"}}})
		},
		"it does not run now: it is failed": func(d *driver) {
			vm := d.VM("web")
			d.report(vm.Placement.NodeId, seen(vm, blixardv1.Phase_PHASE_FAILED))
		},
		"n2 cannot take the VM web: it is cordoned": func(d *driver) { d.cordonOf("n2", true) },
		"has QEMU 8, and n1 has ": func(d *driver) {
			n, f := d.NodeByName("n2"), d.facts()
			f.Hypervisors[1].Version = "8"
			d.apply(&blixardv1.Command{Op: &blixardv1.Command_HostReport{HostReport: &blixardv1.HostReportOp{NodeId: n.Id, BootId: n.Host.BootId, Epoch: n.Host.Epoch, Facts: f}}})
		},
		"has no migrate in its QEMU": func(d *driver) {
			n, f := d.NodeByName("n2"), d.facts()
			f.Hypervisors[1].Capabilities = []blixardv1.Capability{blixardv1.Capability_CAPABILITY_IMAGE}
			d.apply(&blixardv1.Command{Op: &blixardv1.Command_HostReport{HostReport: &blixardv1.HostReportOp{NodeId: n.Id, BootId: n.Host.BootId, Epoch: n.Host.Epoch, Facts: f}}})
		},
		"has begun to leave": func(d *driver) {
			d.request(&blixardv1.Command{Op: &blixardv1.Command_MigrateVm{MigrateVm: &blixardv1.MigrateVMOp{Name: "web", Offline: true}}})
			if r := d.cancel("web", false); !strings.Contains(r.GetError().GetMessage(), "has begun to leave") {
				t.Errorf("a cancel says %v", r.Error)
			}
		},
	} {
		d, vm := underway(t)
		d.cancel("web", false)
		d.removedFrom(d.VM("web"))
		d.runs("web")
		change(d)
		if want == "has begun to leave" {
			continue
		}
		r := d.migrate(vm.Name, "n2")
		if !strings.Contains(r.GetError().GetMessage(), want) || r.Error.Advice == "" {
			t.Errorf("want %q, got %v", want, r.Error)
		}
	}
	// A program. A disk that is written to goes with its VM, and its room is taken before.
	d, _ := underway(t)
	d.request(createOp("prog", 64, 1))
	o := seen(d.VM("prog"), blixardv1.Phase_PHASE_RUNNING)
	o.SpecGeneration = 1
	d.report(d.VM("prog").Placement.NodeId, o)
	if r := d.migrate("prog", ""); !strings.Contains(r.GetError().GetMessage(), "process has no migrate") {
		t.Errorf("a program: %v", r.Error)
	}
	spec := imageSpec()
	spec.GetImage().Disks = []*blixardv1.Disk{{Name: "data", SizeMib: 1}}
	d.request(&blixardv1.Command{Op: &blixardv1.Command_CreateVm{CreateVm: &blixardv1.CreateVMOp{Name: "db", Spec: spec}}})
	d.runs("db")
	r := d.migrate("db", "")
	if to := d.NodeByName(d.VM("db").GetMigration().GetTo()); r.Error != nil || to.Host.Allocated.DiskMib != 1 {
		t.Fatalf("a disk: %v; %v is held", r.Error, to.GetHost().GetAllocated())
	}
	d.cancel("db", false)
	node, gone := d.side(d.VM("db"), false)
	gone.Removed = true
	d.report(node, gone)
	if r := d.request(&blixardv1.Command{Op: &blixardv1.Command_MigrateVm{MigrateVm: &blixardv1.MigrateVMOp{Name: "db", Offline: true}}}); !strings.Contains(r.GetError().GetMessage(), "it waits for them") {
		t.Errorf("a disk, offline: %v", r.Error)
	}
}

// An offline move is placed where it was asked for, and else elsewhere.
func TestAnOfflineMove(t *testing.T) {
	for _, full := range []bool{false, true} {
		t.Run(fmt.Sprint(full), func(t *testing.T) {
			d, _ := underway(t)
			d.cancel("web", false)
			d.removedFrom(d.VM("web"))
			r := d.request(&blixardv1.Command{Op: &blixardv1.Command_MigrateVm{MigrateVm: &blixardv1.MigrateVMOp{Name: "web", To: "n3", Offline: true}}})
			if r.Error != nil {
				t.Fatal(r.Error)
			}
			d.expect(t, "n1", blixardv1.MigrationState_MIGRATION_STATE_LEAVING)
			want := "n3"
			if full {
				d.cordonOf("n3", true)
				want = "n2"
			}
			vm := d.VM("web")
			o := seen(vm, blixardv1.Phase_PHASE_DELETING)
			o.Removed = true
			d.report(vm.Placement.NodeId, o)
			if vm = d.expect(t, want, done); vm.Migration.To != want {
				t.Fatalf("it says that it went to %s", vm.Migration.To)
			}
		})
	}
}

// A drain moves live what can go so, and stops it only when that has come to nothing.
func TestADrainMovesLive(t *testing.T) {
	d, _ := underway(t)
	d.cancel("web", false)
	d.removedFrom(d.VM("web"))
	d.runs("web")
	d.drainOf("n1")
	vm := d.expect(t, d.VM("web").Placement.Node, preparing)
	if vm.Placement.Leaving {
		t.Fatal("it is stopped")
	}
	if m := d.DrainMoves(false, d.NodeByName("n1")); len(m) != 1 || m[0].Step != blixardv1.DrainStep_DRAIN_STEP_MOVING || m[0].Node != vm.Migration.To {
		t.Fatalf("it shows %v", m)
	}
	d.says(vm, false, broken)
	d.removedFrom(d.VM("web"))
	if vm = d.expect(t, "n1", failed); !vm.Placement.Leaving {
		t.Fatal("it does not leave after its live move has failed")
	}
}

// A guest that was handed over is not thrown away because its target is drained: it
// gets there, and leaves with the rest.
func TestADrainOfTheTargetAfterTheHandOver(t *testing.T) {
	d, vm := underway(t)
	d.says(vm, false, listening)
	d.says(d.VM("web"), true, handed)
	d.drainOf("n2")
	vm = d.expect(t, "n1", handedOver)
	if d.NodeByName("n2").Drain.Done {
		t.Error("the drain is done, and a guest is on its way there")
	}
	d.says(vm, false, loaded)
	vm = d.VM("web")
	d.gives(vm, vm.Migration.Id, d.term)
	d.expect(t, "n2", switched)
	if d.NodeByName("n2").Drain.Done {
		t.Error("the drain is done, and the guest is there")
	}
}

// A target that waits anew has lost the guest that had come.
func TestAGuestThatHadCome(t *testing.T) {
	d, vm := underway(t)
	d.says(vm, false, listening)
	d.says(d.VM("web"), false, loaded)
	d.says(d.VM("web"), false, listening)
	d.expect(t, "n1", cancelling)
}

// An offline move ends with the wish that its VM runs.
func TestAStopEndsAnOfflineMove(t *testing.T) {
	d, _ := underway(t)
	d.cancel("web", false)
	d.removedFrom(d.VM("web"))
	if r := d.request(&blixardv1.Command{Op: &blixardv1.Command_MigrateVm{MigrateVm: &blixardv1.MigrateVMOp{Name: "web", Offline: true}}}); r.Error != nil {
		t.Fatal(r.Error)
	}
	for _, n := range []string{"n1", "n2", "n3"} {
		d.cordonOf(n, true)
	}
	vm := d.VM("web")
	o := seen(vm, blixardv1.Phase_PHASE_DELETING)
	o.Removed = true
	d.report(vm.Placement.NodeId, o)
	d.expect(t, "", blixardv1.MigrationState_MIGRATION_STATE_LEAVING)
	if r := d.request(&blixardv1.Command{Op: &blixardv1.Command_Power{Power: &blixardv1.PowerOp{Name: "web"}}}); r.Error != nil {
		t.Fatal(r.Error)
	}
	if leavesOffline(d.VM("web")) {
		t.Error("it is stopped, and still on its way")
	}
}
