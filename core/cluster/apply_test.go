package cluster

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// driver applies random commands to a state, and keeps what a dumb observer
// would know of it.
type driver struct {
	*State
	index, term uint64
	now         uint64
	wall        int64
	requests    int
	// alive holds every instance that may be running: "uid node lease". What puts
	// it there is a placement; what takes it out is checked.
	alive map[string]string
	moves moves
	qemu  bool // its hosts have it
}

func newDriver() *driver {
	d := &driver{State: New(), term: 1, alive: map[string]string{}}
	settings, _ := CompleteSettings(nil)
	d.apply(&blixardv1.Command{Op: &blixardv1.Command_Init{Init: &blixardv1.InitOp{
		ClusterId: "c", Generation: 1, Settings: settings,
		Node: &blixardv1.AddNodeOp{Name: "n1", Address: "a", Server: true, Host: true, Level: 1},
	}}})
	return d
}

func (d *driver) apply(cmd *blixardv1.Command) *blixardv1.Response {
	d.index++
	d.now += 1e9
	cmd.LoggedTime, cmd.WallTime = d.now, d.wall
	d.Changes()
	resp := d.Apply(d.index, d.term, cmd)
	for _, c := range d.Changes() {
		if r, ok := c.Record.(interface{ GetRevision() uint64 }); ok && r.GetRevision() != d.index {
			panic(fmt.Sprintf("entry %d changes %q, whose revision stays %d", d.index, c.Key, r.GetRevision()))
		}
	}
	return resp
}

func (d *driver) request(cmd *blixardv1.Command) *blixardv1.Response {
	d.requests++
	cmd.RequestId = fmt.Sprintf("%032d", d.requests)
	return d.apply(cmd)
}

func facts() *blixardv1.HostFacts {
	return &blixardv1.HostFacts{
		Capacity:    &blixardv1.Resources{Vcpus: 2, MemoryMib: 2048, DiskMib: 1000},
		Hypervisors: []*blixardv1.HypervisorFact{{Hypervisor: blixardv1.Hypervisor_HYPERVISOR_PROCESS}},
		HoldsForks:  true,
	}
}

// facts are those of a host of this cluster.
func (d *driver) facts() *blixardv1.HostFacts {
	f := facts()
	if d.qemu {
		f.Hypervisors = append(f.Hypervisors, &blixardv1.HypervisorFact{Hypervisor: blixardv1.Hypervisor_HYPERVISOR_QEMU})
	}
	return f
}

func (d *driver) boot(node uint64) {
	n := d.Node(node)
	d.apply(&blixardv1.Command{Op: &blixardv1.Command_HostBoot{HostBoot: &blixardv1.HostBootOp{
		NodeId: node, BootId: "b", Epoch: n.Host.Epoch, Facts: d.facts(),
	}}})
}

func (d *driver) report(node uint64, list ...*blixardv1.Observation) {
	n := d.Node(node)
	for i, o := range list {
		o.Sequence = n.Host.Sequence + uint64(i) + 1
	}
	d.apply(&blixardv1.Command{Op: &blixardv1.Command_HostReport{HostReport: &blixardv1.HostReportOp{
		NodeId: node, BootId: n.Host.BootId, Epoch: n.Host.Epoch, Observations: list,
	}}})
}

func seen(vm *blixardv1.VM, phase blixardv1.Phase) *blixardv1.Observation {
	return &blixardv1.Observation{
		Uid: vm.Uid, Incarnation: vm.Placement.Incarnation, Attempt: 1, Phase: phase,
		Lease: vm.Placement.TargetLease, LeaseMs: vm.Placement.TargetLeaseMs, AssignmentRevision: vm.AssignmentRevision,
	}
}

func createOp(name string, memory uint64, policy blixardv1.OnHostLoss) *blixardv1.Command {
	return &blixardv1.Command{Op: &blixardv1.Command_CreateVm{CreateVm: &blixardv1.CreateVMOp{Name: name, Spec: &blixardv1.VMSpec{
		MemoryMib: memory, OnHostLoss: policy,
		Source: &blixardv1.VMSpec_Process{Process: &blixardv1.Process{Argv: []string{"/bin/true"}}},
	}}}}
}

// possible lists what the state says may be running.
func (d *driver) possible() map[string]string {
	out := map[string]string{}
	d.VMs("", func(vm *blixardv1.VM) bool {
		for _, at := range sidesOf(vm) {
			if p := at.p; p != nil {
				out[fmt.Sprintf("%s@%d", vm.Uid, p.Incarnation.Index)] = fmt.Sprintf("%d/%v", p.NodeId, p.Lease)
			}
		}
		return true
	})
	return out
}

// step applies one random command, and holds the state to the release rule: an
// instance leaves only by its host's acknowledged removal, by a fence when its
// lease was SHORT, or with its lost host once its window has passed.
func (d *driver) step(t *rapid.T) {
	before := d.possible()
	leaving := d.leaving.Copy()
	hosts := d.hostsByID()
	node := rapid.SampledFrom(hosts).Draw(t, "node")
	was := d.Node(node).Host.EpochState
	name := rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}).Draw(t, "vm")
	vm := d.VM(name)
	released := ""
	switch kind := rapid.SampledFrom([]string{"create", "create", "delete", "power", "report", "removed", "fence", "stale fence", "long fence", "boot", "reboot", "suspect", "cordon", "drain", "drain", "restore", "add", "remove node", "lose node", "retry", "migrate", "migrate", "move", "move", "move", "move", "cancel", "switch", "switch"}).Draw(t, "kind"); kind {
	case "create":
		policy := rapid.SampledFrom([]blixardv1.OnHostLoss{1, 2}).Draw(t, "policy")
		cmd := createOp(name, rapid.Uint64Range(32, 2000).Draw(t, "memory"), policy)
		if rapid.Bool().Draw(t, "image") {
			cmd.GetCreateVm().Spec.Source = &blixardv1.VMSpec_Image{Image: &blixardv1.Image{Kernel: aKernel}}
		}
		d.request(cmd)
	case "migrate", "move", "cancel", "switch":
		released = d.moveStep(t, kind, vm)
	case "delete":
		d.request(&blixardv1.Command{Op: &blixardv1.Command_DeleteVm{DeleteVm: &blixardv1.DeleteVMOp{Name: name}}})
		released = "gone" // allowed only on a host whose long window has passed
	case "power":
		d.request(&blixardv1.Command{Op: &blixardv1.Command_Power{Power: &blixardv1.PowerOp{Name: name, Run: rapid.Bool().Draw(t, "run"), Restart: false}}})
	case "report", "removed":
		if vm.GetPlacement() == nil {
			return
		}
		o := seen(vm, rapid.SampledFrom([]blixardv1.Phase{3, 4, 7, 8}).Draw(t, "phase"))
		if o.Removed = kind == "removed"; o.Removed {
			released = "ack"
		}
		if rapid.Bool().Draw(t, "old") {
			o.AssignmentRevision--
			released = ""
		}
		d.report(vm.Placement.NodeId, o)
	case "fence", "stale fence", "long fence":
		op := &blixardv1.FenceOp{WaitedNs: math.MaxInt64, NodeId: node, Epoch: d.Node(node).Host.Epoch, Term: d.term, Long: kind == "long fence"}
		if kind == "stale fence" {
			op.Term--
		} else {
			released = "fence"
		}
		d.apply(&blixardv1.Command{Op: &blixardv1.Command_Fence{Fence: op}})
	case "boot":
		if h := d.Node(node).Host; h.BootId != "b" && h.EpochState != blixardv1.EpochState_EPOCH_STATE_ACTIVE {
			released = "reboot" // a new incarnation of the same placement
		}
		d.boot(node)
	case "reboot":
		if d.Node(node).Host.EpochState != blixardv1.EpochState_EPOCH_STATE_ACTIVE {
			released = "reboot"
		}
		n := d.Node(node)
		d.apply(&blixardv1.Command{Op: &blixardv1.Command_HostBoot{HostBoot: &blixardv1.HostBootOp{
			NodeId: node, BootId: fmt.Sprint("b", d.index), Epoch: n.Host.Epoch, Facts: d.facts(),
		}}})
	case "suspect":
		d.apply(&blixardv1.Command{Op: &blixardv1.Command_Suspect{Suspect: &blixardv1.SuspectOp{
			NodeId: node, Epoch: d.Node(node).Host.Epoch, Suspect: rapid.Bool().Draw(t, "suspect"),
		}}})
	case "cordon":
		d.request(&blixardv1.Command{Op: &blixardv1.Command_Cordon{Cordon: &blixardv1.CordonOp{
			Name: d.Node(node).Name, Cordoned: rapid.Bool().Draw(t, "cordoned"),
		}}})
	case "drain":
		parallel := uint32(rapid.IntRange(0, 3).Draw(t, "parallel"))
		d.request(&blixardv1.Command{Op: &blixardv1.Command_Drain{Drain: &blixardv1.DrainOp{
			Name: d.Node(node).Name, Parallel: parallel, StopLocal: rapid.Bool().Draw(t, "local"),
		}}})
	case "restore":
		d.request(&blixardv1.Command{Op: &blixardv1.Command_RestoreNode{RestoreNode: &blixardv1.RestoreNodeOp{Name: d.Node(node).Name}}})
	case "add":
		if len(hosts) < 4 {
			d.request(&blixardv1.Command{Op: &blixardv1.Command_AddNode{AddNode: &blixardv1.AddNodeOp{
				Name: fmt.Sprint("h", d.index), Address: "a", Host: true, Level: 1,
			}}})
		}
	case "remove node":
		if node != FirstID {
			d.request(&blixardv1.Command{Op: &blixardv1.Command_RemoveNode{RemoveNode: &blixardv1.RemoveNodeOp{Name: d.Node(node).Name}}})
		}
	case "lose node":
		if r := d.lose(d.Node(node).Name); r.GetError() == nil {
			released = "lost"
		}
	case "retry":
		if d.requests > 0 {
			hash := d.Hash()
			cmd := createOp(name, 64, 1)
			cmd.RequestId = fmt.Sprintf("%032d", d.requests)
			cmd.PayloadHash = []byte("another")
			if r := d.apply(cmd); r.GetError().GetCode() != blixardv1.ErrorCode_ERROR_CODE_REQUEST_ID_REUSED {
				t.Fatalf("a reused request id got %v (hash before %x)", r, hash)
			}
		}
	}
	d.bounded(t, leaving.Keys())
	d.switched(t)
	after := d.possible()
	for who, where := range before {
		if _, still := after[who]; still {
			continue
		}
		short := strings.HasSuffix(where, "SHORT")
		switch released {
		case "ack", "gone", "reboot":
		case "lost":
			long := strings.HasSuffix(where, "LONG")
			if !strings.HasPrefix(where, fmt.Sprint(node, "/")) || was < blixardv1.EpochState_EPOCH_STATE_FENCED ||
				long && was < blixardv1.EpochState_EPOCH_STATE_FENCED_LONG {
				t.Fatalf("%s, which was %s, was released with the lost %d, which was %v", who, where, node, was)
			}
		case "fence":
			if !short && d.VMByUID(who[:strings.IndexByte(who, '@')]) != nil {
				t.Fatalf("a fence released %s, which was %s", who, where)
			}
		default:
			t.Fatalf("%s (%s) was released by what releases nothing", who, where)
		}
	}
}

// bounded holds drains to their bound: whoever has begun to leave was allowed to
// by the number of those under way.
func (d *driver) bounded(t *rapid.T, before []string) {
	fresh := map[uint64]bool{}
	d.leaving.Scan(func(k, name string) bool {
		if !slices.Contains(before, k) && !leavesOffline(d.VM(name)) {
			fresh[d.VM(name).Placement.NodeId] = true
		}
		return true
	})
	for id := range fresh {
		if n, bound := d.underWay(id), int(d.Node(id).Drain.GetParallel()); n > bound {
			t.Fatalf("%d are leaving %d, of which %d may", n, id, bound)
		}
	}
}

func (d *driver) lose(name string) *blixardv1.Response {
	return d.request(&blixardv1.Command{Op: &blixardv1.Command_RemoveNode{RemoveNode: &blixardv1.RemoveNodeOp{Name: name, Lost: true}}})
}

func (d *driver) hostsByID() (ids []uint64) {
	d.Nodes(func(n *blixardv1.Node) bool {
		if n.Host != nil {
			ids = append(ids, n.Id)
		}
		return true
	})
	return ids
}

// ledger recomputes what is held from the VMs alone.
func (d *driver) ledger(t *rapid.T) {
	type sums struct{ vcpus, memory, disk, n uint64 }
	held := map[uint64]sums{}
	d.VMs("", func(vm *blixardv1.VM) bool {
		for _, at := range sidesOf(vm) {
			p := at.p
			if p == nil {
				continue
			}
			h := held[p.NodeId]
			held[p.NodeId] = sums{h.vcpus + uint64(p.Vcpus), h.memory + p.MemoryMib, h.disk + p.DiskMib, h.n + 1}
			if d.Node(p.NodeId) == nil {
				t.Fatalf("%s is placed on a node that is gone", vm.Name)
			}
		}
		return true
	})
	d.Nodes(func(n *blixardv1.Node) bool {
		a := n.GetHost().GetAllocated()
		got := sums{uint64(a.GetVcpus()), a.GetMemoryMib(), a.GetDiskMib(), uint64(n.GetHost().GetInstances())}
		if got != held[n.Id] {
			t.Fatalf("%s: the ledger says %v, the VMs %v", n.Name, got, held[n.Id])
		}
		if c := n.GetHost().GetFacts().GetCapacity(); got.memory > c.GetMemoryMib() || got.vcpus*1000 > uint64(c.GetVcpus())*d.overcommit() {
			t.Fatalf("%s holds %v of %v", n.Name, got, c)
		}
		return true
	})
}

// rebuilt loads the state from its own records: everything derived must be the same.
func (d *driver) rebuilt(t *rapid.T) {
	fresh, err := Load(func(yield func(k, v []byte) bool) {
		for _, r := range d.Encode().Records {
			if !yield(r.Key, r.Value) {
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if fresh.Hash() != d.Hash() || fresh.hostCount != d.hostCount || fresh.events != d.events || !slices.Equal(fresh.drained.Keys(), d.drained.Keys()) {
		t.Fatalf("rebuilt: hash %x, %d hosts, %d events; was %x, %d, %d", fresh.Hash(), fresh.hostCount, fresh.events, d.Hash(), d.hostCount, d.events)
	}
	for name, pair := range map[string][2][]string{
		"uids": {d.uids.Keys(), fresh.uids.Keys()}, "placed": {d.placed.Keys(), fresh.placed.Keys()},
		"changes": {d.changes.Keys(), fresh.changes.Keys()}, "hosts": {d.hosts.Keys(), fresh.hosts.Keys()}, "leaving": {d.leaving.Keys(), fresh.leaving.Keys()},
		"migrating": {d.migrating.Keys(), fresh.migrating.Keys()},
		"pending":   {d.pending.Keys(), fresh.pending.Keys()}, "revised": {d.revised.Keys(), fresh.revised.Keys()}, "old": {d.old.Keys(), fresh.old.Keys()}, "names": {d.names.Keys(), fresh.names.Keys()},
		"volumes": {d.volumes.Keys(), fresh.volumes.Keys()}, "kept": {d.kept.Keys(), fresh.kept.Keys()}, "copies": {d.copies.Keys(), fresh.copies.Keys()}, "users": {d.users.Keys(), fresh.users.Keys()},
	} {
		if !slices.Equal(pair[0], pair[1]) {
			t.Fatalf("index %s: %q, rebuilt %q", name, pair[0], pair[1])
		}
	}
	if !slices.Equal(d.users.Values(), fresh.users.Values()) {
		t.Fatalf("who reads is %v, rebuilt %v", d.users.Values(), fresh.users.Values())
	}
}

func TestWhateverHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := newDriver()
		d.qemu = true
		d.boot(FirstID)
		d.apply(&blixardv1.Command{Op: &blixardv1.Command_Announce{Announce: &blixardv1.AnnounceOp{Digest: aKernel.Digest, Size: 1, NodeId: 1}}})
		if rapid.Bool().Draw(t, "two") {
			d.moves.begin(t, d)
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			d.step(t)
			d.ledger(t)
		}
		d.rebuilt(t)
	})
}

// A VM that has ended for good and is started again does not go on saying that
// it has ended.
func TestStartForgetsTheEnd(t *testing.T) {
	d := newDriver()
	d.boot(FirstID)
	d.request(createOp("a", 64, 1))
	d.report(FirstID, seen(d.VM("a"), blixardv1.Phase_PHASE_FAILED))
	generation := d.VM("a").RunGeneration
	start := func() *blixardv1.VM {
		return d.request(&blixardv1.Command{Op: &blixardv1.Command_Power{Power: &blixardv1.PowerOp{Name: "a", Run: true}}}).GetVm()
	}
	if vm := start(); vm.Status.Phase != blixardv1.Phase_PHASE_PENDING || vm.RunGeneration != generation+1 {
		t.Fatalf("%v", vm)
	}
	if vm := start(); vm.RunGeneration != generation+1 {
		t.Fatalf("started twice: %v", vm)
	}
}

func TestFrozenStaysFrozen(t *testing.T) {
	d := newDriver()
	d.boot(FirstID)
	d.request(createOp("a", 64, 1))
	f := d.Freeze()
	hash, vm := f.Hash(), proto.Clone(f.VM("a"))
	d.request(&blixardv1.Command{Op: &blixardv1.Command_DeleteVm{DeleteVm: &blixardv1.DeleteVMOp{Name: "a"}}})
	d.request(createOp("b", 64, 1))
	if f.Hash() != hash || !proto.Equal(f.VM("a"), vm) || f.VM("b") != nil || f.Revision() == d.Revision() {
		t.Fatal("a frozen state has changed")
	}
}

func TestARetryGetsTheFirstAnswer(t *testing.T) {
	d := newDriver()
	d.boot(FirstID)
	first := d.request(createOp("a", 64, 1))
	again := createOp("a", 64, 1)
	again.RequestId = fmt.Sprintf("%032d", d.requests)
	if second := d.apply(again); !proto.Equal(first, second) {
		t.Fatalf("first %v, then %v", first, second)
	}
	other := createOp("a", 64, 1)
	other.Principal, other.RequestId = "somebody else", again.RequestId
	if r := d.apply(other); r.GetError().GetCode() != blixardv1.ErrorCode_ERROR_CODE_ALREADY_EXISTS {
		t.Fatalf("another principal's request with the same id got %v", r)
	}
	d.now += 2 * 600 * 1e9 // the window passes
	d.request(createOp("b", 64, 1))
	late := createOp("a", 64, 1)
	late.RequestId = again.RequestId
	if r := d.apply(late); r.GetError().GetCode() != blixardv1.ErrorCode_ERROR_CODE_REQUEST_ID_EXPIRED {
		t.Fatalf("a retry past the window got %v", r)
	}
}

// A cluster of one binds nothing; a second host tightens, once the first has said so.
func TestLeaseTightensByAcknowledgement(t *testing.T) {
	d := newDriver()
	d.boot(FirstID)
	d.request(createOp("a", 64, 1))
	if l := d.VM("a").Placement.Lease; l != blixardv1.LeaseClass_LEASE_CLASS_NONE {
		t.Fatal(l)
	}
	stale := seen(d.VM("a"), 4)
	d.request(&blixardv1.Command{Op: &blixardv1.Command_AddNode{AddNode: &blixardv1.AddNodeOp{Name: "n2", Address: "a", Host: true, Level: 1}}})
	p := d.VM("a").Placement
	if p.Lease != blixardv1.LeaseClass_LEASE_CLASS_NONE || p.TargetLease != blixardv1.LeaseClass_LEASE_CLASS_SHORT {
		t.Fatalf("tightened without asking: %v", p)
	}
	stale.Lease = blixardv1.LeaseClass_LEASE_CLASS_SHORT
	d.report(FirstID, stale)
	if l := d.VM("a").Placement.Lease; l != blixardv1.LeaseClass_LEASE_CLASS_NONE {
		t.Fatalf("an acknowledgement of an older assignment counted: %v", l)
	}
	d.report(FirstID, seen(d.VM("a"), 4))
	if l := d.VM("a").Placement.Lease; l != blixardv1.LeaseClass_LEASE_CLASS_SHORT {
		t.Fatalf("not tightened: %v", l)
	}
	d.request(&blixardv1.Command{Op: &blixardv1.Command_RemoveNode{RemoveNode: &blixardv1.RemoveNodeOp{Name: "n2"}}})
	if l := d.VM("a").Placement.Lease; l != blixardv1.LeaseClass_LEASE_CLASS_NONE {
		t.Fatalf("loosening did not count at once: %v", l)
	}
}

// Delta by delta, a host comes to know the same as by all at once.
func TestDeltasAddUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := newDriver()
		d.boot(FirstID)
		known := map[string]*blixardv1.Assignment{}
		var at uint64
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			d.step(t)
			if rapid.Bool().Draw(t, "skip") {
				continue
			}
			to, list := d.Assignments(FirstID, at)
			for _, a := range list {
				known[a.Uid] = a
			}
			at = to
		}
		to, list := d.Assignments(FirstID, at)
		for _, a := range list {
			known[a.Uid] = a
		}
		all, full := d.Assignments(FirstID, 0)
		if all != to {
			t.Fatalf("delta ends at %d, full at %d", to, all)
		}
		for _, a := range full {
			if !proto.Equal(known[a.Uid], a) {
				t.Fatalf("by deltas %v, at once %v", known[a.Uid], a)
			}
		}
	})
}

func BenchmarkPlace(b *testing.B) {
	for _, hosts := range []int{100, 1000} {
		b.Run(fmt.Sprint(hosts, "-hosts"), func(b *testing.B) {
			d := newDriver()
			d.boot(FirstID)
			for i := range hosts - 1 {
				r := d.request(&blixardv1.Command{Op: &blixardv1.Command_AddNode{AddNode: &blixardv1.AddNodeOp{Name: fmt.Sprint("h", i), Address: "a", Host: true, Level: 1}}})
				f := facts()
				f.Capacity = &blixardv1.Resources{Vcpus: 1 << 20, MemoryMib: 1 << 40, DiskMib: 1 << 40}
				d.apply(&blixardv1.Command{Op: &blixardv1.Command_HostBoot{HostBoot: &blixardv1.HostBootOp{NodeId: r.GetNode().Id, BootId: "b", Facts: f}}})
			}
			b.ResetTimer()
			i := 0
			for b.Loop() {
				i++
				if r := d.request(createOp(fmt.Sprint("vm", i), 64, 1)); r.GetVm().GetPlacement() == nil {
					b.Fatal(r)
				}
				d.Changes()
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
		})
	}
}
