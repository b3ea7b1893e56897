package core

import (
	"math"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// leader is what a server knows and does while it leads. All of it is volatile:
// a new leader starts with nothing, and waits the full window before it fences.
type leader struct {
	*server
	term    uint64
	elected int64

	logged   uint64 // the last logged time, and when on our clock it was that
	loggedAt int64

	hosts   map[uint64]*hostView
	touched map[uint64]struct{} // hosts whose record changed in this step
	conf    int64               // when a change of the configuration was last proposed
	chores  int64               // when placing or collecting was last proposed
	settled int64               // when the end of the wait after a restore was last looked for
	leveled map[uint64]int64    // when a node's level was last proposed
	moves   map[uint64]int64    // when the switch, or the end, of a migration was last proposed, by its id
}

// hostView is what a leader remembers of a host.
type hostView struct {
	heard    int64  // last Sync
	granted  int64  // last grant
	fencing  uint64 // epoch for which a fence was proposed in this term
	long     bool   // it was the long one
	proposed int64  // when a fence or its being suspect was last proposed
	booted   int64  // when an epoch for it was last proposed; not to hold up the fence before it
	current  uint64 // the epoch that granted is about
	toldAt   int64  // when a report was last proposed
	reported uint64 // highest sequence in a proposed report, and of which epoch
	epoch    uint64
	revision uint64 // that the host is believed to have
	id       uint64
	volumes  uint64 // revision of the orders for its volumes, likewise

	strangers map[string]int64 // other boots than the epoch's, and when each was first heard
	cloned    int64            // when one of them was last proposed to be a clone
}

// proposeHostAgain is how long a proposal about a host may take to be applied
// before it is made again.
const proposeHostAgain = second

func newLeader(s *server, term uint64) *leader {
	return &leader{
		server: s, term: term, elected: s.now.Boot,
		logged: s.state.Meta().LoggedTime, loggedAt: s.now.Boot,
		hosts: map[uint64]*hostView{}, touched: map[uint64]struct{}{}, leveled: map[uint64]int64{}, moves: map[uint64]int64{},
	}
}

func (l *leader) host(id uint64) *hostView {
	v := l.hosts[id]
	if v == nil {
		v = &hostView{id: id, heard: l.elected, granted: l.elected}
		l.hosts[id] = v
	}
	return v
}

// loggedTime is the last one plus what has passed since.
func (l *leader) loggedTime() uint64 {
	if mutant.On("LoggedTimeIsWallTime") {
		return uint64(l.now.Wall)
	}
	return l.logged + uint64(l.now.Boot-l.loggedAt)
}

// propose appends a command to the log, and says whether Raft has taken it. Who
// waits for one that was dropped proposes again.
func (l *leader) propose(cmd *blixardv1.Command) bool {
	return l.proposed(l.raft.Propose(encode(stamped(cmd, l.loggedTime(), l.now.Wall))))
}

// stamped is the command with the times of its proposal. Its client's adapter may
// be reading the one that it gave us.
func stamped(cmd *blixardv1.Command, logged uint64, wall int64) *blixardv1.Command {
	return &blixardv1.Command{
		LoggedTime: logged, WallTime: wall,
		RequestId: cmd.RequestId, Principal: cmd.Principal, PayloadHash: cmd.PayloadHash, Op: cmd.Op,
	}
}

// applied keeps our logged time from falling behind what is in the log.
func (l *leader) applied(cmd *blixardv1.Command) {
	if t := cmd.GetLoggedTime(); t > l.loggedTime() {
		l.logged, l.loggedAt = t, l.now.Boot
	}
}

// tick does what is due: look after hosts, the configuration, and chores.
func (l *leader) tick() {
	settings := l.state.Settings()
	if settings == nil {
		return
	}
	l.state.Nodes(func(n *blixardv1.Node) bool {
		if n.Host != nil && n.Host.Epoch != 0 {
			l.watch(settings, n)
		}
		return true
	})
	l.configure()
	l.settle()
	l.runs(l.id.ID, l.cfg.Level)
	if l.now.Boot-l.chores >= second && (l.state.Meta().PlaceMore || l.state.CollectDue(l.loggedTime())) {
		l.chores = l.now.Boot
		if l.state.Meta().PlaceMore {
			l.propose(&blixardv1.Command{Op: &blixardv1.Command_Place{Place: &blixardv1.PlaceOp{}}})
		} else {
			l.propose(&blixardv1.Command{Op: &blixardv1.Command_Collect{Collect: &blixardv1.CollectOp{}}})
		}
	}
}

// watch suspects a host that is silent, and fences it when its window has passed.
func (l *leader) watch(settings *blixardv1.Settings, n *blixardv1.Node) {
	v, h := l.host(n.Id), n.Host
	if v.current != h.Epoch {
		// A grant may have been under way when the epoch began: count from now.
		v.current, v.granted = h.Epoch, l.now.Boot
	}
	if l.now.Boot-v.proposed < proposeHostAgain {
		return
	}
	silent := l.now.Boot - v.heard
	switch h.EpochState {
	case blixardv1.EpochState_EPOCH_STATE_ACTIVE:
		if l.ungranted(v, n, false) && !(mutant.On("FencesWhomItHeard") && v.heard == l.elected) ||
			mutant.On("NewLeaderFencesAtOnce") && v.heard == l.elected {
			l.fence(v, n, false)
		} else if !h.Suspect && silent >= 3*int64(settings.RenewMs)*milli {
			l.suspect(v, n, true)
		}
	case blixardv1.EpochState_EPOCH_STATE_FENCED:
		if l.ungranted(v, n, true) {
			l.fence(v, n, true)
		}
	}
}

// ungranted says that a host was granted nothing for its whole window. The least
// window is asked first: the host's own looks at all that is placed there.
func (l *leader) ungranted(v *hostView, n *blixardv1.Node, long bool) bool {
	silent := l.now.Boot - v.granted
	return silent >= l.state.LeastWindow(long) && silent >= l.state.WindowOf(n, long)
}

// fence proposes the end of an epoch. From here on the epoch is granted nothing
// in this term; in another, the entry is ignored unless it was appended in this.
func (l *leader) fence(v *hostView, n *blixardv1.Node, long bool) {
	v.fencing, v.long, v.proposed = n.Host.Epoch, long, l.now.Boot
	waited := l.now.Boot - v.granted
	if mutant.On("NewLeaderFencesAtOnce") {
		waited = math.MaxInt64
	}
	l.propose(&blixardv1.Command{Op: &blixardv1.Command_Fence{Fence: &blixardv1.FenceOp{
		NodeId: n.Id, Epoch: n.Host.Epoch, Term: l.term, Long: long, WaitedNs: waited,
	}}})
}

func (l *leader) suspect(v *hostView, n *blixardv1.Node, suspect bool) {
	v.proposed = l.now.Boot
	l.propose(&blixardv1.Command{Op: &blixardv1.Command_Suspect{Suspect: &blixardv1.SuspectOp{
		NodeId: n.Id, Epoch: n.Host.Epoch, Suspect: suspect,
	}}})
}

// settle ends the wait after a restore, when this leader has seen all of it.
func (l *leader) settle() {
	waited := l.now.Boot - l.elected
	if !l.state.Meta().Unsettled || l.now.Boot-l.settled < proposeHostAgain {
		return
	}
	if l.settled = l.now.Boot; waited < l.state.SettledAfter() { // which looks at every host
		return
	}
	l.propose(&blixardv1.Command{Op: &blixardv1.Command_Settle{Settle: &blixardv1.SettleOp{Term: l.term, WaitedNs: waited}}})
}

// configureAgain is how long one change of the configuration is waited for.
const configureAgain = 500 * milli

// configure brings the Raft configuration towards what the state says of its
// servers, one simple change at a time.
func (l *leader) configure() {
	if l.now.Boot-l.conf < configureAgain {
		return
	}
	meta := l.state.Meta()
	var change *raftpb.ConfChangeSingle
	l.state.Servers(func(n *blixardv1.Node) bool {
		in := slices.Contains(meta.Voters, n.Id) || slices.Contains(meta.Learners, n.Id)
		switch {
		case n.Server == blixardv1.ServerState_SERVER_STATE_JOINING && !in:
			change = conf(raftpb.ConfChangeAddLearnerNode, n.Id)
		case n.Server == blixardv1.ServerState_SERVER_STATE_LEARNER && l.caughtUp(n.Id):
			change = conf(raftpb.ConfChangeAddNode, n.Id)
		case n.Server == blixardv1.ServerState_SERVER_STATE_LEAVING && l.spared(n.Id, n.Revision) && !(mutant.On("ConfChangeEarly") && l.goneEarly(n.Id)):
			// One that is not in yet is removed too: that ends it in the state, and an
			// entry that would add it.
			change = conf(raftpb.ConfChangeRemoveNode, n.Id)
		}
		return change == nil
	})
	if change == nil {
		return
	}
	l.conf = l.now.Boot
	if change.GetType() == raftpb.ConfChangeRemoveNode && change.GetNodeId() == l.id.ID && l.handOver() {
		return
	}
	_ = l.raft.ProposeConfChange(&raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{change}})
}

func conf(t raftpb.ConfChangeType, id uint64) *raftpb.ConfChangeSingle {
	return &raftpb.ConfChangeSingle{Type: &t, NodeId: &id}
}

// spared says that a server may go: those voters who remain and answer are a
// quorum without it. So the last voter stays until another can vote, and a
// healthy one until a dead one that leaves too has gone, or is back. To answer is
// to have the entry that says it leaves: a message of somebody who is dead by now
// may still come late.
func (l *leader) spared(id, leaving uint64) bool {
	rest, answer := 0, 0
	l.raft.WithProgress(func(peer uint64, t raft.ProgressType, pr progress) {
		if peer == id || t != raft.ProgressTypePeer {
			return
		}
		rest++
		if pr.RecentActive && pr.Match >= leaving || peer == l.id.ID {
			answer++
		}
	})
	return answer > rest/2
}

// caughtUp says that a learner has (nearly) all of the log and answers. Raft
// counts one that was just added as active: that it has something shows that it
// was ever there.
func (l *leader) caughtUp(id uint64) (ok bool) {
	l.raft.WithProgress(func(peer uint64, _ raft.ProgressType, pr progress) {
		if peer == id {
			ok = pr.RecentActive && pr.Match > 0 && pr.Match+64 >= l.raft.BasicStatus().GetCommit()
		}
	})
	return ok
}

// handOver asks the voter that has most of the log to lead; false when there is none.
func (l *leader) handOver() bool {
	var best, match uint64
	l.raft.WithProgress(func(peer uint64, t raft.ProgressType, pr progress) {
		if peer != l.id.ID && t == raft.ProgressTypePeer && pr.RecentActive && pr.Match >= match && (best == 0 || pr.Match > match) {
			best, match = peer, pr.Match
		}
	})
	if best != 0 {
		l.raft.TransferLeader(best)
	}
	return best != 0
}
