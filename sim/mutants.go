package sim

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"go.etcd.io/raft/v3/raftpb"
)

// Mutants are bugs that are planted on purpose, to see that a judge finds them.
// A judge that cannot fail is no judge. They live in the simulated world, in
// what surrounds the code of production; that code carries none.
var Mutants = []Mutant{
	{"NoTimer", "the kernel's timer does not ring, so a stopped shim outlives its deadline", []string{"never two copies"}, true},
	{"LateGrant", "a Grant counts for the newest Sync, whatever Sync it answers", []string{"never two copies"}, true},
	{"NoDedupe", "every attempt of a client has a request id of its own", []string{"histories are linearizable"}, false},
	{"StaleRead", "linearizable reads are answered from the server's own copy", []string{"histories are linearizable"}, false},
	{"EarlyAck", "the disk says durable before it is", []string{"nothing panics", "a node stops only when its disk does", "a node opens what its disk holds", "acknowledged is never lost", "histories are linearizable", "equal state at equal index", "one leader a term"}, false},
	{"BigFacts", "hosts claim twice the memory that they have", []string{"capacity is never exceeded"}, false},
	{"Misheard", "one server gets other log entries than the rest", []string{"equal state at equal index"}, false},
	{"KillLies", "a kill is reported as done while the VM lives", []string{"desired equals observed", "never two copies"}, false},
	{"DeadIsAlive", "a dead VM is reported as alive", []string{"desired equals observed"}, false},
}

// Mutant is one planted bug, and what may catch it.
type Mutant struct {
	Name   string
	What   string
	Caught []string
	// Story: it needs several things to go wrong at once, so a story tells it
	// (see the tests); seeds find it rarely.
	Story bool
}

func (w *World) mutateRequest(in *core.Request) {
	switch {
	case w.mutant == "NoDedupe" && in.Command != nil && in.Command.GetAddNode() == nil:
		in.Command.RequestId = in.Command.RequestId[:24] + fmt.Sprintf("%012x", w.attempts)
	case w.mutant == "StaleRead" && in.Command == nil:
		in.Stale = true
	}
}

func (w *World) mutateEnvelope(from, to *Machine, env *blixardv1.Envelope) {
	switch b := env.GetBody().(type) {
	case *blixardv1.Envelope_Sync:
		w.net.nonces[b.Sync.NodeId] = b.Sync.Nonce
	case *blixardv1.Envelope_Raft:
		if w.mutant == "Misheard" && to.Index == 3 {
			b.Raft = misheard(b.Raft)
		}
	}
}

// mutateArrival changes a message at its recipient.
func (w *World) mutateArrival(env *blixardv1.Envelope) {
	if g := env.GetGrant(); w.mutant == "LateGrant" && g.GetNonce() != 0 {
		g.Nonce = w.net.nonces[g.NodeId]
	}
}

// mutateFacts changes what a host says of itself.
func (w *World) mutateFacts(f *blixardv1.HostFacts) *blixardv1.HostFacts {
	if w.mutant == "BigFacts" {
		f = proto.CloneOf(f)
		f.Capacity.MemoryMib *= 2
	}
	return f
}

// misheard changes what the entries of a message create.
func misheard(raw []byte) []byte {
	m := &raftpb.Message{}
	if proto.Unmarshal(raw, m) != nil {
		return raw
	}
	for _, e := range m.Entries {
		cmd := &blixardv1.Command{}
		if proto.Unmarshal(e.Data, cmd) != nil || cmd.GetCreateVm() == nil {
			continue
		}
		cmd.GetCreateVm().Spec.MemoryMib++
		e.Data, _ = canonical.Marshal(cmd)
	}
	out, err := canonical.Marshal(m)
	if err != nil {
		return raw
	}
	return out
}
