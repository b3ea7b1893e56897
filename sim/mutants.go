package sim

import (
	"bytes"
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

// mutateOrder is, for a mutant, any order.
func mutateOrder(list []*Machine) (any []*Machine) {
	if !mutant.On("MapOrder") {
		return list
	}
	set := map[*Machine]bool{}
	for _, m := range list {
		set[m] = true
	}
	for m := range set {
		any = append(any, m)
	}
	return any
}

// Of clients and their adapter.

func (d *Daemon) mutateRequest(in *core.Request) {
	switch {
	case mutant.On("NoDedupe") && in.Command != nil && in.Command.GetAddNode() == nil:
		in.Command.RequestId = in.Command.RequestId[:24] + fmt.Sprintf("%012x", d.m.w.attempts)
	case mutant.On("StaleRead") && in.Command == nil,
		mutant.On("LeaderReadsLocally") && in.Command == nil && d.node.Status().Leading:
		in.Stale = true
	}
}

// mutateReply says which request a reply answers: for a mutant, the oldest of
// its sort.
func (d *Daemon) mutateReply(r core.Reply) core.Reply {
	if mutant.On("AnswersByOrder") {
		for _, q := range sorted(d.waiting) {
			if sort(q.in) == sortOf(r) {
				r.ID = q.in.ID
				break
			}
		}
	}
	return r
}

// sort of answer that a request gets: to a mutation, of one VM, or of everything.
func sort(in core.Request) int {
	switch {
	case in.Command != nil:
		return 0
	case in.VM != "":
		return 1
	}
	return 2
}

func sortOf(r core.Reply) int {
	switch {
	case r.One != nil:
		return 1
	case r.View != nil:
		return 2
	}
	return 0
}

// Of the network.

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

// mutateSnapshot changes what a snapshot carries, but never the index that it
// says it is of.
func mutateSnapshot(from *Machine, s *blixardv1.Snapshot) *blixardv1.Snapshot {
	if mutant.On("NewerSnapshot") {
		old := slices.IndexFunc(s.Records, isMeta)
		newer := from.daemon.node.View().Encode()
		newer.Records[slices.IndexFunc(newer.Records, isMeta)] = s.Records[old]
		return newer
	}
	if mutant.On("SnapshotMissesTable") {
		s.Records = slices.DeleteFunc(s.Records, func(r *blixardv1.Record) bool { return r.Key[0] == 'd' })
	}
	return s
}

func isMeta(r *blixardv1.Record) bool { return string(r.Key) == "m" }

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
		m.Entries[i].Data = blixardv1.Encode(cmd)
	}
}

// Of disks.

// mutateBatch changes what a node writes.
func (m *Machine) mutateBatch(b core.Batch) core.Batch {
	switch {
	case mutant.On("BatchOutOfOrder"):
		b.Ops = slices.Clone(b.Ops)
		slices.Reverse(b.Ops)
	case mutant.On("RestoreMerges"):
		b.Ops = slices.DeleteFunc(slices.Clone(b.Ops), func(op core.Op) bool { return op.Table == core.State && op.Range })
	case mutant.On("VoteForgotten"):
		b.Ops = slices.Clone(b.Ops)
		for i, op := range b.Ops {
			if hard := hardState(op); hard != nil {
				hard.Vote = nil
				b.Ops[i].Value = blixardv1.Encode(hard)
			}
		}
	case mutant.On("AppliedBeyondCommit") && !slices.ContainsFunc(b.Ops, func(op core.Op) bool { return op.Table == core.Log }):
		// No entry, no vote, no term: then, says Raft, the hard state may wait.
		b.Ops = slices.DeleteFunc(slices.Clone(b.Ops), func(op core.Op) bool {
			hard := hardState(op)
			if hard == nil {
				return false
			}
			old := hardState(core.Op{Table: core.Meta, Key: op.Key, Value: m.disk.value(core.Meta, op.Key)})
			return old.GetTerm() == hard.GetTerm() && old.GetVote() == hard.GetVote()
		})
	}
	return b
}

// mutateLoss is what a crash leaves of a batch that was under way: all or
// nothing, says the contract, and this one is nothing.
func mutateLoss(b core.Batch) core.Batch {
	return core.Batch{Ops: slices.DeleteFunc(slices.Clone(b.Ops), func(op core.Op) bool {
		return !(mutant.On("HardStateFirst") && hardState(op) != nil ||
			mutant.On("AppliedApart") && op.Table == core.State && string(op.Key) == "m")
	})}
}

func hardState(op core.Op) *raftpb.HardState {
	if op.Table != core.Meta || !bytes.Equal(op.Key, []byte("hardstate")) {
		return nil
	}
	hard := &raftpb.HardState{}
	if proto.Unmarshal(op.Value, hard) != nil {
		return nil
	}
	return hard
}

// Of hosts.

// mutateFacts changes what a host says of itself.
func (w *World) mutateFacts(f *blixardv1.HostFacts) *blixardv1.HostFacts {
	if mutant.On("BigFacts") {
		f = proto.CloneOf(f)
		f.Capacity.MemoryMib *= 2
	}
	return f
}

// mutateSeed is what nonces begin with: for a mutant, the same in every boot.
func mutateSeed(seed uint64) uint64 {
	if mutant.On("GrantAcrossReboot") {
		return 0
	}
	return seed
}

// Forge puts a command into the log of whoever leads, as if a leader had
// proposed it: for stories in which an old leader's proposal comes late.
func (w *World) Forge(cmd *blixardv1.Command) {
	l := w.Leader()
	if l == nil {
		return
	}
	cmd.PayloadHash = blixardv1.Encode(cmd)
	cmd.RequestId, cmd.Principal = w.operator.uuid(), "an old leader"
	l.daemon.ask(&ask{client: w.operator, request: core.Request{Command: cmd}})
}
