package core

import (
	"crypto/rand"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/shim"
)

// A village is a few nodes on a perfect network, with disks that are at once
// durable and hypervisors that obey. What can go wrong is the simulator's.
type village struct {
	t       *testing.T
	now     int64
	nodes   map[uint64]*villager
	request uint64
	replies map[uint64]Reply
	cut     map[uint64]bool
}

type villager struct {
	node   *Node
	disk   [Tables]map[string][]byte
	vms    map[string]vmm.Report
	pages  map[string]shim.Page
	opened recording
}

// recording is how a life of a node began, and all that it was told and said.
type recording struct {
	cfg   Config
	image Image
	at    Time
	lines [][]byte
	said  []string
}

func (v *village) image(w *villager) (img Image) {
	for t := range w.disk {
		var keys []string
		for k := range w.disk[t] {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			img[t] = append(img[t], KV{[]byte(k), w.disk[t][k]})
		}
	}
	return img
}

func (w *villager) write(b Batch) {
	for _, op := range b.Ops {
		t := w.disk[op.Table]
		switch {
		case op.Range:
			for k := range t {
				if k >= string(op.Key) && (len(op.End) == 0 || k < string(op.End)) {
					delete(t, k)
				}
			}
		case op.Value == nil:
			delete(t, string(op.Key))
		default:
			t[string(op.Key)] = op.Value
		}
	}
}

func newVillage(t *testing.T) *village {
	return &village{t: t, now: 1000 * second, nodes: map[uint64]*villager{}, replies: map[uint64]Reply{}, cut: map[uint64]bool{}}
}

func (v *village) time() Time { return Time{Boot: v.now, Wall: v.now} }

func (v *village) add(id uint64, b Batch) {
	w := &villager{vms: map[string]vmm.Report{}, pages: map[string]shim.Page{}}
	for t := range w.disk {
		w.disk[t] = map[string][]byte{}
	}
	w.write(b)
	v.nodes[id] = w
	v.open(id)
}

func (v *village) open(id uint64) {
	w := v.nodes[id]
	w.opened = recording{cfg: Config{Seed: id<<32 + uint64(v.now), BootID: "boot"}, image: v.image(w), at: v.time()}
	n, err := Open(w.opened.cfg, w.opened.image, w.opened.at)
	if err != nil {
		v.t.Fatal(err)
	}
	w.node = n
	inv := Observed{Inventory: true, Facts: &blixardv1.HostFacts{
		Capacity:    &blixardv1.Resources{Vcpus: 4, MemoryMib: 4096, DiskMib: 10000},
		Hypervisors: []*blixardv1.HypervisorFact{{Hypervisor: blixardv1.Hypervisor_HYPERVISOR_PROCESS}},
		HoldsForks:  true,
	}}
	for _, r := range w.vms {
		inv.Reports = append(inv.Reports, r)
	}
	for _, p := range w.pages {
		inv.Pages = append(inv.Pages, p)
	}
	v.step(id, inv)
}

func (v *village) step(id uint64, in Input) {
	w := v.nodes[id]
	if w.node == nil {
		return
	}
	line, err := Encode(v.time(), in)
	if err != nil {
		v.t.Fatal(err)
	}
	out, err := w.node.Step(v.time(), in)
	if err != nil {
		v.t.Fatal(err)
	}
	w.opened.lines = append(w.opened.lines, line)
	w.opened.said = append(w.opened.said, describe(out))
	for _, r := range out.Replies {
		v.replies[r.ID] = r
	}
	for _, m := range out.Messages {
		e := proto.Clone(m.Pack()).(*blixardv1.Envelope)
		if m.State != nil {
			e.Snapshot = encode(m.State.Encode())
		}
		if v.nodes[m.To] != nil && !v.cut[id] && !v.cut[m.To] {
			r, err := Unpack(e)
			if err != nil {
				v.t.Fatal(err)
			}
			v.step(m.To, r)
		}
	}
	for _, a := range out.Actions {
		v.act(id, a)
	}
	if out.Write != nil {
		w.write(*out.Write)
		v.step(id, Wrote{out.Write.Seq})
	}
}

// describe is an output in words that are equal for equal outputs.
func describe(out Output) string {
	s := ""
	if out.Write != nil {
		s = fmt.Sprintf("write %d:", out.Write.Seq)
		for _, op := range out.Write.Ops {
			s += fmt.Sprintf(" %v %x=%x", op.Table, op.Key, op.Value)
		}
	}
	for _, m := range out.Messages {
		s += fmt.Sprintf(" to %d %x", m.To, encode(m.Pack()))
	}
	for _, a := range out.Actions {
		s += fmt.Sprintf(" %v %v %v", a.ID, a.Verb, a.Instance)
	}
	for _, r := range out.Replies {
		s += fmt.Sprintf(" reply %d %x", r.ID, encode(r.Response))
	}
	return s
}

func (v *village) act(id uint64, a vmm.Action) {
	w := v.nodes[id]
	uid := a.Instance.UID
	o := Observed{Done: []vmm.Done{{Action: a.ID, UID: uid}}}
	r := w.vms[uid]
	switch a.Verb {
	case vmm.Start:
		r = vmm.Report{Instance: a.Instance, Liveness: vmm.Alive, Lease: a.Assignment.Lease, LeaseMs: a.Assignment.LeaseMs, Epoch: a.Host.Epoch, Ready: true, RunGeneration: a.Assignment.RunGeneration}
	case vmm.Rebind:
		r.Lease, r.LeaseMs, r.Epoch = a.Assignment.Lease, a.Assignment.LeaseMs, a.Host.Epoch
	case vmm.Stop, vmm.Kill:
		r.Liveness, r.Exit = vmm.Down, &vmm.Exit{Reason: "Exited"}
	case vmm.Remove:
		r = vmm.Report{Instance: a.Instance}
	case vmm.Extend:
		for _, l := range a.Leases {
			p := shim.Page{Host: a.Host, Lease: uint64(l.Length) * milli, Deadline: uint64(l.Deadline)}
			name := shim.PageName(p)
			if old, ok := w.pages[name]; ok && uint64(v.now) >= old.Deadline {
				v.step(id, Observed{Lapsed: a.Host.Epoch})
				continue
			}
			w.pages[name] = p
		}
		return
	}
	if a.Verb != vmm.Build {
		w.vms[uid] = r
		o.Reports = append(o.Reports, r)
	}
	v.step(id, o)
}

// run lets time pass.
func (v *village) run(d int64) {
	for end := v.now + d; v.now < end; {
		v.now += 100 * milli
		for _, id := range v.ids() {
			v.step(id, Tick{})
		}
	}
}

func (v *village) ids() (ids []uint64) {
	for id := range v.nodes {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// do runs a command through a node and waits for the answer.
func (v *village) do(id uint64, cmd *blixardv1.Command) *blixardv1.Response {
	v.t.Helper()
	v.request++
	cmd.RequestId = fmt.Sprintf("%032d", v.request)
	return v.wait(id, Request{Command: cmd}).Response
}

func (v *village) wait(id uint64, r Request) Reply {
	v.t.Helper()
	v.request++
	r.ID = v.request
	v.step(id, r)
	for range 400 {
		if reply, ok := v.replies[r.ID]; ok {
			return reply
		}
		v.run(100 * milli)
	}
	v.t.Fatal("no answer")
	return Reply{}
}

func (v *village) create(id uint64, name string) *blixardv1.VM {
	v.t.Helper()
	resp := v.do(id, &blixardv1.Command{Op: &blixardv1.Command_CreateVm{CreateVm: &blixardv1.CreateVMOp{Name: name, Spec: &blixardv1.VMSpec{
		Source: &blixardv1.VMSpec_Process{Process: &blixardv1.Process{Argv: []string{"/bin/true"}}},
	}}}})
	if resp.Error != nil {
		v.t.Fatal(resp.Error)
	}
	return resp.GetVm()
}

func (v *village) vm(id uint64, name string) *blixardv1.VM {
	v.t.Helper()
	r := v.wait(id, Request{VM: name})
	if r.One == nil {
		v.t.Fatalf("no answer to a read: %v", r.Error)
	}
	return r.One.VM
}

func three(t *testing.T) *village {
	v := newVillage(t)
	id := Identity{ClusterID: "c", Generation: 1, Name: "n1", Address: "a1", Server: true, Host: true}
	b, err := Found(id, nil, v.time())
	if err != nil {
		t.Fatal(err)
	}
	v.add(1, b)
	v.run(5 * second)
	for i := 2; i <= 3; i++ {
		name := fmt.Sprintf("n%d", i)
		resp := v.do(1, &blixardv1.Command{Op: &blixardv1.Command_AddNode{AddNode: &blixardv1.AddNodeOp{Name: name, Address: name, Server: true, Host: true, Level: 1}}})
		if resp.Error != nil {
			t.Fatal(resp.Error)
		}
		id.ID, id.Name = resp.GetNode().Id, name
		b, err := Join(id, v.nodes[1].node.Status().Servers)
		if err != nil {
			t.Fatal(err)
		}
		v.add(id.ID, b)
		v.run(5 * second)
	}
	return v
}

func TestThreeNodesRunVMs(t *testing.T) {
	v := three(t)
	if st := v.nodes[1].node.Status(); len(v.nodes[1].node.server.state.Meta().Voters) != 3 {
		t.Fatalf("not three voters: %+v, %v", st, v.nodes[1].node.server.state.Meta())
	}
	seen := map[uint64]bool{}
	for i := range 6 {
		seen[v.create(v.ids()[i%3], fmt.Sprintf("vm%d", i)).Placement.NodeId] = true
	}
	if len(seen) != 3 {
		t.Fatalf("placed on %v", seen)
	}
	v.run(second)
	for i := range 6 {
		vm := v.vm(v.ids()[i%3], fmt.Sprintf("vm%d", i))
		if vm.Status.Phase != blixardv1.Phase_PHASE_RUNNING {
			t.Fatalf("%s: %v", vm.Name, vm.Status)
		}
	}
	a := v.nodes[v.ids()[0]].node.View()
	for _, id := range v.ids() {
		if b := v.nodes[id].node.View(); a.Revision() != b.Revision() || a.Hash() != b.Hash() {
			t.Errorf("node %d: %d %x, want %d %x", id, b.Revision(), b.Hash(), a.Revision(), a.Hash())
		}
	}
	resp := v.do(v.ids()[2], &blixardv1.Command{Op: &blixardv1.Command_DeleteVm{DeleteVm: &blixardv1.DeleteVMOp{Name: "vm0"}}})
	if resp.Error != nil {
		t.Fatal(resp.Error)
	}
	v.run(2 * second)
	if vm := v.vm(v.ids()[1], "vm0"); vm != nil {
		t.Fatalf("still there: %v", vm)
	}
}

func TestLostHostIsReplaced(t *testing.T) {
	v := three(t)
	v.create(1, "web")
	v.run(2 * second)
	vm := v.vm(1, "web")
	lost := vm.Placement.NodeId
	if vm.Placement.Lease != blixardv1.LeaseClass_LEASE_CLASS_SHORT {
		t.Fatal(vm.Placement)
	}
	v.cut[lost] = true
	other := v.ids()[0]
	if other == lost {
		other = v.ids()[1]
	}
	start := v.now
	for v.vm(other, "web").GetPlacement().GetNodeId() == lost || v.vm(other, "web").GetStatus().GetPhase() != blixardv1.Phase_PHASE_RUNNING {
		v.run(100 * milli)
		if v.now-start > 60*second {
			t.Fatalf("not moved: %v", v.vm(other, "web"))
		}
	}
	t.Logf("moved after %.1f s", float64(v.now-start)/second)
	if v.now-start < 20*second {
		t.Fatal("moved before the window had passed")
	}
	v.cut[lost] = false
	v.run(10 * second)
	if n := v.nodes[other].node.View().Node(lost); n.Host.Epoch != 2 || n.Host.EpochState != blixardv1.EpochState_EPOCH_STATE_ACTIVE {
		t.Fatalf("the host has not returned: %v", n)
	}
	if r := v.nodes[lost].vms[vm.Uid]; r.Liveness != vmm.Absent {
		t.Fatalf("left on the old host: %+v", r)
	}
}

// While a request waits, the same id for another one is refused, and the same
// one again gets the same answer.
func TestReusedRequestIDWhileItWaits(t *testing.T) {
	v := three(t)
	leader := v.nodes[1].node.Status().Leader
	v.cut[leader] = true // nothing is committed for a while
	cordon := func(id uint64, on bool, hash string) Request {
		return Request{ID: id, Command: &blixardv1.Command{RequestId: "00000000-1", PayloadHash: []byte(hash),
			Op: &blixardv1.Command_Cordon{Cordon: &blixardv1.CordonOp{Name: "n1", Cordoned: on}}}}
	}
	v.step(leader, cordon(901, true, "on"))
	v.step(leader, cordon(902, false, "off"))
	v.step(leader, cordon(903, true, "on"))
	if code := v.replies[902].Response.GetError().GetCode(); code != blixardv1.ErrorCode_ERROR_CODE_REQUEST_ID_REUSED {
		t.Fatalf("another payload got %v", code)
	}
	v.cut[leader] = false
	v.run(5 * second)
	for _, id := range []uint64{901, 903} {
		if n := v.replies[id].Response.GetNode(); !n.GetCordoned() {
			t.Fatalf("request %d got %v", id, v.replies[id].Response)
		}
	}
}

// What a node was told, written down and played back, makes it say the same.
func TestReplay(t *testing.T) {
	// Election timeouts are the one thing that Raft draws by itself.
	random := rand.Reader
	defer func() { rand.Reader = random }()
	rand.Reader = zero{}
	v := three(t)
	v.create(1, "web")
	v.run(5 * second)
	for _, id := range v.ids() {
		r := v.nodes[id].opened
		n, err := Open(r.cfg, r.image, r.at)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range r.lines {
			at, in, err := Decode(line)
			if err != nil {
				t.Fatal(err)
			}
			out, err := n.Step(at, in)
			if err != nil {
				t.Fatal(err)
			}
			if got := describe(out); got != r.said[i] {
				t.Fatalf("node %d, input %d (%s): said\n%s\nthen\n%s", id, i, line, r.said[i], got)
			}
		}
		if len(r.lines) < 100 {
			t.Fatalf("only %d inputs", len(r.lines))
		}
	}
}

type zero struct{}

func (zero) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestRestartFromDisk(t *testing.T) {
	v := three(t)
	for i := range 50 {
		v.create(1, fmt.Sprintf("vm%d", i))
	}
	for _, id := range v.ids() {
		v.nodes[id].node = nil
	}
	for _, id := range v.ids() {
		v.open(id)
	}
	v.run(10 * second)
	for i := range 50 {
		if vm := v.vm(1, fmt.Sprintf("vm%d", i)); vm == nil {
			t.Fatalf("vm%d is gone", i)
		}
	}
}
