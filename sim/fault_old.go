package sim

import (
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// What was said long ago is heard again.

func init() { register(Echo{}, Reproposal{}) }

// Echo brings everything that a machine says or hears, but for Raft's messages,
// once more, After later: a Sync, a Grant, an assignment of another epoch, boot or
// leader.
type Echo struct {
	Node       N
	For, After time.Duration
}

func (Echo) draw(d dice) Fault { return Echo{d.node(), d.time(), 2 * d.time()} }

func (f Echo) strike(w *World) bool {
	if w.node(f.Node) == nil || w.net.echo[f.Node] != 0 {
		return false
	}
	w.net.echo[f.Node] = f.After
	w.until(f, f.For, func() { delete(w.net.echo, f.Node) })
	return true
}

// echoes is how much later a packet comes once more; 0: never.
func (n *network) echoes(from, to *Machine, p *packet) time.Duration {
	if p.msg != nil || len(n.echo) == 0 {
		return 0
	}
	return max(n.echo[N(from.Index)], n.echo[N(to.Index)])
}

// Reproposal has the present leader append what an earlier one, or the same one
// earlier, had proposed by itself: a fence, a suspicion, a host's boot or report.
// Back counts from the newest. No node does that; it is what Apply holds out
// against when a leader has proposed and is not yet aware that its term is over.
type Reproposal struct{ Back int }

func (Reproposal) draw(d dice) Fault { return Reproposal{d.IntN(mostProposals)} }

const mostProposals = 64

type proposal struct {
	term uint64
	data []byte
}

// note keeps what leaders propose by themselves.
func (n *network) note(m *raftpb.Message) {
	if m.GetType() != raftpb.MsgApp {
		return
	}
	for _, e := range m.Entries {
		if e.GetIndex() > n.noted && e.GetType() == raftpb.EntryNormal && len(e.Data) > 0 {
			n.noted = e.GetIndex()
			n.proposals = append(n.proposals, proposal{e.GetTerm(), e.Data})
		}
	}
	if extra := len(n.proposals) - 8*mostProposals; extra > 0 {
		n.proposals = n.proposals[extra:]
	}
}

func (f Reproposal) strike(w *World) bool {
	leader := w.Leader()
	if leader == nil || leader.daemon.paused {
		return false
	}
	back := f.Back
	for i := len(w.net.proposals) - 1; i >= 0; i-- {
		old := w.net.proposals[i]
		cmd := &blixardv1.Command{}
		if proto.Unmarshal(old.data, cmd) != nil || cmd.RequestId != "" {
			continue
		}
		if back--; back >= 0 {
			continue
		}
		msg := &core.Message{
			To: leader.id, Address: leader.address(),
			Envelope: &blixardv1.Envelope{ClusterId: w.clusterID, Generation: w.generation, From: leader.id, To: leader.id},
			Raft: &raftpb.Message{
				Type: raftpb.MsgProp.Enum(), From: proto.Uint64(leader.id), To: proto.Uint64(leader.id),
				Entries: []*raftpb.Entry{{Data: old.data}},
			},
		}
		if old.term < w.Term() {
			w.fired("OldLeadersProposal")
		}
		w.push(event{at: w.now, kind: evArrive, m: leader, n: uint64(leader.Index), ref: wrap(msg)})
		return true
	}
	return false
}

// oldWords are what it takes for a host's lease to be judged by words of another
// boot or epoch than the one it is in. Echo, Late, Clog and Pause bring that
// about; a soak must have seen it.
var oldWords = []string{"SyncOfOldBoot", "SyncOfOldEpoch", "GrantOfOldBoot", "GrantOfOldEpoch", "OldLeadersProposal"}

// hears notes when an old word is heard.
func (w *World) hears(m *Machine, env *blixardv1.Envelope) {
	n := &w.judges.newest
	if s := env.GetSync(); s != nil && m.daemon.node.Leads() != 0 {
		if from := w.byID(s.NodeId); from != nil && from.bootID != s.BootId {
			w.fired("SyncOfOldBoot")
		}
		if s.Epoch != 0 && s.Epoch < n.nodes[s.NodeId].GetHost().GetEpoch() {
			w.fired("SyncOfOldEpoch")
		}
	}
	if g := env.GetGrant(); g != nil {
		switch {
		case g.BootId != m.bootID:
			w.fired("GrantOfOldBoot")
		case g.Epoch != 0 && g.Epoch < n.nodes[m.id].GetHost().GetEpoch():
			w.fired("GrantOfOldEpoch")
		}
	}
}
