package sim

import (
	"fmt"
	"slices"

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

func (w *World) mutateMessage(from, to *Machine, msg *core.Message) {
	if s := msg.Envelope.GetSync(); s != nil {
		w.net.nonces[s.NodeId] = s.Nonce
	}
	if msg.Raft != nil && mutant.On("Misheard") && to.Index == 3 {
		misheard(msg.Raft)
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
func misheard(m *raftpb.Message) {
	m.Entries = slices.Clone(m.Entries)
	for i, e := range m.Entries {
		cmd := &blixardv1.Command{}
		if proto.Unmarshal(e.Data, cmd) != nil || cmd.GetCreateVm() == nil {
			continue
		}
		cmd.GetCreateVm().Spec.MemoryMib++
		m.Entries[i] = proto.CloneOf(e)
		m.Entries[i].Data, _ = canonical.Marshal(cmd)
	}
}
