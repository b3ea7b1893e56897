package core

import (
	"fmt"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func (v *village) createLeased(id uint64, name string, ms uint32) *blixardv1.VM {
	v.t.Helper()
	resp := v.do(id, &blixardv1.Command{Op: &blixardv1.Command_CreateVm{CreateVm: &blixardv1.CreateVMOp{Name: name, Spec: &blixardv1.VMSpec{
		LeaseMs: ms,
		Source:  &blixardv1.VMSpec_Process{Process: &blixardv1.Process{Argv: []string{"/bin/true"}}},
	}}}})
	if resp.Error != nil {
		v.t.Fatal(resp.Error)
	}
	return resp.GetVm()
}

// A VM with a lease of its own length goes; the host's epoch must not go with it.
func TestALengthThatNobodyNeedsEndsNoEpoch(t *testing.T) {
	v := three(t)
	node := v.createLeased(1, "odd", 20_000).Placement.NodeId
	v.run(5 * second)
	if resp := v.do(1, &blixardv1.Command{Op: &blixardv1.Command_DeleteVm{DeleteVm: &blixardv1.DeleteVMOp{Name: "odd"}}}); resp.Error != nil {
		t.Fatal(resp.Error)
	}
	v.run(90 * second)
	if n := v.nodes[1].node.View().Node(node); n.Host.Epoch != 1 || v.nodes[node].node.host.lapsed {
		t.Fatalf("the host's epoch ended: %v", n)
	}
}

// Nor does it go when the daemon starts again meanwhile: the page is still there,
// and the next VM of that length needs it.
func TestARestartedDaemonKeepsUpWhatThereIs(t *testing.T) {
	v := three(t)
	node := v.createLeased(1, "odd", 20_000).Placement.NodeId
	v.run(5 * second)
	if resp := v.do(1, &blixardv1.Command{Op: &blixardv1.Command_DeleteVm{DeleteVm: &blixardv1.DeleteVMOp{Name: "odd"}}}); resp.Error != nil {
		t.Fatal(resp.Error)
	}
	v.run(5 * second)
	v.open(node)
	v.run(60 * second)
	for _, id := range v.ids() {
		if id != node {
			v.do(1, &blixardv1.Command{Op: &blixardv1.Command_Cordon{Cordon: &blixardv1.CordonOp{Name: v.nodes[id].node.id.Name, Cordoned: true}}})
		}
	}
	if on := v.createLeased(1, "again", 20_000).Placement.NodeId; on != node {
		t.Fatalf("it is on %d", on)
	}
	v.run(90 * second)
	if n := v.nodes[1].node.View().Node(node); n.Host.Epoch != 1 || v.nodes[node].node.host.lapsed {
		t.Fatalf("the host's epoch ended: %v", n)
	}
}

// A server that was announced and never came gets no vote: the cluster would
// lose its quorum to it. Nor can the only voter go in its favour.
func TestAServerThatNeverCameDoesNotVote(t *testing.T) {
	v := newVillage(t)
	b, err := Found(Identity{ClusterID: "c", Generation: 1, Name: "n1", Address: "a1", Server: true}, nil, v.time())
	if err != nil {
		t.Fatal(err)
	}
	v.add(1, b)
	v.run(5 * second)
	resp := v.do(1, &blixardv1.Command{Op: &blixardv1.Command_AddNode{AddNode: &blixardv1.AddNodeOp{Name: "n2", Address: "a2", Server: true, Level: 1}}})
	if resp.Error != nil {
		t.Fatal(resp.Error)
	}
	// n2 never comes.
	v.do(1, &blixardv1.Command{Op: &blixardv1.Command_RemoveNode{RemoveNode: &blixardv1.RemoveNodeOp{Name: "n1"}}})
	v.run(5 * second)
	if st := v.nodes[1].node.Status(); !st.Leading {
		t.Fatalf("%+v", st)
	}
}

// A server that is removed before the leader has made it a learner leaves no trace.
func TestAServerThatNeverCameIsForgotten(t *testing.T) {
	v := newVillage(t)
	b, err := Found(Identity{ClusterID: "c", Generation: 1, Name: "n1", Address: "a1", Server: true}, nil, v.time())
	if err != nil {
		t.Fatal(err)
	}
	v.add(1, b)
	v.run(5 * second)
	for i, op := range []*blixardv1.Command{
		{Op: &blixardv1.Command_AddNode{AddNode: &blixardv1.AddNodeOp{Name: "n2", Address: "a2", Server: true, Level: 1}}},
		{Op: &blixardv1.Command_RemoveNode{RemoveNode: &blixardv1.RemoveNodeOp{Name: "n2"}}},
	} {
		op.RequestId = fmt.Sprintf("%032d", 900+i)
		v.step(1, Request{ID: uint64(900 + i), Command: op}) // no time passes between
	}
	v.run(5 * second)
	if n := v.nodes[1].node.View().NodeByName("n2"); n != nil {
		t.Fatalf("still there: %v", n)
	}
}

// What a restarted daemon finds of its machine reaches the state.
func TestNewFactsAreTold(t *testing.T) {
	v := three(t)
	id := v.ids()[1]
	v.open(id)
	f := &blixardv1.HostFacts{
		Capacity:    &blixardv1.Resources{Vcpus: 2, MemoryMib: 2048, DiskMib: 10000},
		Hypervisors: []*blixardv1.HypervisorFact{{Hypervisor: blixardv1.Hypervisor_HYPERVISOR_PROCESS}},
	}
	v.nodes[id].node.host.facts = f // as if its inventory had found this
	v.run(10 * second)
	if n := v.nodes[1].node.View().Node(id); n.Host.Facts.HoldsForks || n.Host.Facts.Capacity.Vcpus != 2 {
		t.Fatalf("the state still has the old facts: %v", n.Host.Facts)
	}
}

// A report that Raft did not take, because the leadership is being handed over,
// is not counted as made: a newer one would make the state take it for old.
func TestADroppedReportIsMadeAgain(t *testing.T) {
	v := three(t)
	v.run(5 * second)
	s := v.nodes[1].node.server
	to := v.ids()[2]
	v.cut[to] = true
	h := s.state.Node(1).Host
	s.leading.raft.TransferLeader(to)
	s.leading.report(s.leading.host(1), h, &blixardv1.Sync{NodeId: 1, BootId: h.BootId, Epoch: h.Epoch, Observations: []*blixardv1.Observation{
		{Uid: "u", Sequence: h.Sequence + 1, Removed: true},
	}})
	if r := s.leading.host(1).reported; r > h.Sequence {
		t.Fatalf("counts as reported up to %d, and the state has %d", r, h.Sequence)
	}
}

// A read that was proven at an index which never comes to this server, because it
// was cut off or removed since, is answered in time like any other.
func TestAProvenReadThatCannotBeServedIsAnswered(t *testing.T) {
	v := three(t)
	v.run(5 * second)
	s := v.nodes[v.ids()[1]].node.server
	s.rounds.done = append(s.rounds.done, confirmed{ask{reads: []read{{id: 77, deadline: v.now + 4*second}}}, s.state.Revision() + 1_000_000})
	v.run(6 * second)
	if r, ok := v.replies[77]; !ok || r.Error.GetCode() != blixardv1.ErrorCode_ERROR_CODE_NO_QUORUM {
		t.Fatalf("answered %t: %v", ok, r.Error)
	}
}

// A voter that has died, of which old messages still come, does not answer: what
// remains without another would be no quorum.
func TestALateMessageIsNoAnswer(t *testing.T) {
	v := three(t)
	v.run(5 * second)
	ids := v.ids()
	leader := v.nodes[ids[0]].node
	if !leader.Status().Leading {
		t.Fatal("another leads")
	}
	term, commit := leader.Status().Term, uint64(1)
	kind := raftpb.MsgHeartbeatResp
	v.cut[ids[2]] = true
	if resp := v.do(ids[0], &blixardv1.Command{Op: &blixardv1.Command_RemoveNode{RemoveNode: &blixardv1.RemoveNodeOp{Name: "n2"}}}); resp.Error != nil {
		t.Fatal(resp.Error)
	}
	for range 20 {
		v.run(second / 2)
		v.step(ids[0], Receive{Envelope: &blixardv1.Envelope{}, Raft: &raftpb.Message{
			Type: &kind, From: &ids[2], To: &ids[0], Term: &term, Commit: &commit,
		}})
	}
	if voters := leader.server.state.Meta().Voters; len(voters) != 3 || !leader.Status().Leading {
		t.Fatalf("n2 was let go, and the voters %v have no quorum", voters)
	}
	// It comes back, and then the other may go.
	v.cut[ids[2]] = false
	v.run(10 * second)
	if voters := leader.server.state.Meta().Voters; len(voters) != 2 {
		t.Fatalf("n2 stays: %v", voters)
	}
}
