package sim

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core"
	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"go.etcd.io/raft/v3/raftpb"
)

// Bugs that are planted in the world: lies of what surrounds the code of
// production. Each is a question to package mutant, here or in the part that
// lies; package sim/mutants lists them all, with those that are planted in the
// code of production itself.

func (w *World) mutateRequest(in *core.Request) {
	switch {
	case mutant.On("NoDedupe") && in.Command != nil && in.Command.GetAddNode() == nil:
		in.Command.RequestId = in.Command.RequestId[:24] + fmt.Sprintf("%012x", w.attempts)
	case mutant.On("StaleRead") && in.Command == nil:
		in.Stale = true
	}
}

func (w *World) mutateEnvelope(from, to *Machine, env *blixardv1.Envelope) {
	switch b := env.GetBody().(type) {
	case *blixardv1.Envelope_Sync:
		w.net.nonces[b.Sync.NodeId] = b.Sync.Nonce
	case *blixardv1.Envelope_Raft:
		if mutant.On("Misheard") && to.Index == 3 {
			b.Raft = misheard(b.Raft)
		}
	}
}

// mutateArrival changes a message at its recipient.
func (w *World) mutateArrival(env *blixardv1.Envelope) {
	if g := env.GetGrant(); mutant.On("LateGrant") && g.GetNonce() != 0 {
		g.Nonce = w.net.nonces[g.NodeId]
	}
}

// mutateFacts changes what a host says of itself.
func (w *World) mutateFacts(f *blixardv1.HostFacts) *blixardv1.HostFacts {
	if mutant.On("BigFacts") {
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
