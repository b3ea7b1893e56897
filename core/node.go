package core

import (
	"cmp"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"

	"github.com/blixard/blixard/core/cluster"
	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

type progress = tracker.Progress

const (
	milli  = 1_000_000
	second = 1_000 * milli
)

// Time is one reading of a node's clocks.
type Time struct {
	// Boot is Clock.Now: BOOTTIME in nanoseconds. Everything is decided by it.
	Boot int64
	// Wall is Clock.Wall: Unix nanoseconds, for show only.
	Wall int64
}

// Identity is who a node is: decided once, kept on its disk, never changed.
type Identity struct {
	ClusterID  string
	Generation uint64
	// ID is the node's id in the cluster and, of a server, in Raft.
	ID      uint64
	Name    string
	Address string
	Server  bool
	Host    bool
}

// Config is what a node is told at its start, besides what its disk holds.
type Config struct {
	// Tick is how often Tick inputs come, in nanoseconds; 0 means 100 ms.
	Tick int64
	// ElectionTicks without a leader start an election (10 by default, 3 to
	// 100); a leader is heard of every HeartbeatTicks (1).
	ElectionTicks, HeartbeatTicks int
	// KeepEntries is how long a tail of the log stays in memory and on disk for
	// followers that are behind; beyond it they get a snapshot. 0 means 10,000.
	KeepEntries uint64
	// Seed makes nonces differ between two lives of the process: from the
	// operating system's randomness in production, from the simulator's in it.
	Seed uint64
	// BootID is the kernel's.
	BootID string
	// Level is the highest Settings.level that this binary can apply; 0 means
	// cluster.Level. Only tests of upgrades say otherwise.
	Level uint32
	// Servers are where a host that is no server first looks for one, and are
	// replaced by what the cluster says.
	Servers []*blixardv1.Node
}

// Node is one member of a cluster as one deterministic machine.
type Node struct {
	cfg     Config
	id      Identity
	server  *server // nil: no server
	host    *host   // nil: no host
	servers []*blixardv1.Node
	keeper  writer // of a node that is no server
	counts  Counts

	// Of the step under way.
	now  Time
	out  Output
	self []*blixardv1.Envelope // messages of one part to the other
}

// Open makes a node from what its disk holds: the image must carry an identity.
func Open(cfg Config, image Image, now Time) (*Node, error) {
	cfg.Tick = cmp.Or(cfg.Tick, 100*milli)
	cfg.ElectionTicks = cmp.Or(cfg.ElectionTicks, 10)
	cfg.HeartbeatTicks = cmp.Or(cfg.HeartbeatTicks, 1)
	cfg.KeepEntries = cmp.Or(cfg.KeepEntries, keepEntries)
	cfg.Level = cmp.Or(cfg.Level, cluster.Level)
	d, err := readDisk(image)
	if err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, id: d.identity, servers: cfg.Servers, now: now}
	if len(d.servers) > 0 {
		n.servers = d.servers
	}
	if n.id.Server {
		if n.server, err = newServer(n, d); err != nil {
			return nil, err
		}
	}
	if n.id.Host {
		n.host = newHost(n)
	}
	return n, nil
}

// Step takes one input and returns what is to be done about it. It never
// blocks, takes no lock, starts no goroutine and reads no clock. After an error
// the node is done: it must be opened again from its disk.
func (n *Node) Step(now Time, in Input) (Output, error) {
	n.now, n.out = now, Output{}
	if err := n.take(in); err != nil {
		return n.out, err
	}
	for {
		if n.server != nil {
			if err := n.server.pump(); err != nil {
				return n.out, err
			}
			if l := n.server.leading; l != nil {
				if l.migrations() {
					if err := n.server.pump(); err != nil {
						return n.out, err
					}
				}
				l.push()
			}
		} else if !n.keeper.busy && len(n.keeper.extra) > 0 {
			n.out.Write = n.keeper.batch(nil)
		}
		if n.host != nil {
			n.host.talk()
		}
		if len(n.self) == 0 {
			return n.out, nil
		}
		e := n.self[0]
		n.self = n.self[1:]
		n.receive(Receive{Envelope: e})
	}
}

func (n *Node) take(in Input) error {
	switch in := in.(type) {
	case Tick:
		if n.server != nil {
			n.server.tick()
		}
		if n.host != nil {
			n.host.tick()
		}
	case Receive:
		n.receive(in)
	case PeerLost:
		if n.server != nil {
			n.server.lost(in.Peer)
		}
	case SnapshotSent:
		if n.server != nil {
			status := raft.SnapshotFinish
			if !in.OK {
				status = raft.SnapshotFailure
			}
			n.server.raft.ReportSnapshot(in.To, status)
		}
	case Wrote:
		if n.server != nil {
			return n.server.wrote(in.Seq)
		}
		if in.Seq >= n.keeper.seq {
			n.keeper.busy = false
		}
	case Observed:
		if n.host != nil {
			n.host.observed(in)
		}
	case Request:
		if n.server == nil {
			n.refuse(in.ID, blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "this node is no server", "ask a server")
			return nil
		}
		n.server.request(in)
	}
	return nil
}

// receive takes a message, if it is for this node of this cluster.
func (n *Node) receive(in Receive) {
	e := in.Envelope
	if e.GetClusterId() != n.id.ClusterID || e.Generation != n.id.Generation || e.To != n.id.ID {
		return
	}
	if n.server != nil && n.server.leading != nil {
		n.server.leading.runs(e.From, e.Level)
	}
	if in.Raft != nil {
		if n.server != nil {
			n.server.receive(e, in.Raft)
		}
		return
	}
	switch body := e.Body.(type) {
	case *blixardv1.Envelope_Sync:
		if n.server != nil && body.Sync.GetNodeId() == e.From {
			n.server.sync(body.Sync)
		}
	case *blixardv1.Envelope_Forward:
		if n.server != nil {
			n.server.forwarded(body.Forward)
		}
	case *blixardv1.Envelope_Grant:
		if n.host != nil {
			n.host.grant(e.From, body.Grant)
		}
	}
}

// send addresses a message; one to ourselves is taken in this same step.
func (n *Node) send(m Message) {
	e := m.Envelope
	e.ClusterId, e.Generation, e.From, e.To = n.id.ClusterID, n.id.Generation, n.id.ID, m.To
	e.Level = n.cfg.Level
	if m.To == n.id.ID {
		n.self = append(n.self, e)
		return
	}
	n.out.Messages = append(n.out.Messages, m)
}

// address is where a node listens, as far as is known here.
func (n *Node) address(id uint64) string {
	if n.server != nil {
		for _, s := range n.server.serverList() {
			if s.Id == id {
				return s.Address
			}
		}
		if node := n.server.state.Node(id); node != nil {
			return node.Address
		}
		if address := n.server.heard[id]; address != "" && !mutant.On("AnswersOnlyTheKnown") {
			return address
		}
	}
	for _, s := range n.servers {
		if s.Id == id {
			return s.Address
		}
	}
	return ""
}

// keepServers remembers where the servers are, across restarts too.
func (n *Node) keepServers(list []*blixardv1.Node) {
	if slices.EqualFunc(list, n.servers, func(a, b *blixardv1.Node) bool {
		return a.Id == b.Id && a.Name == b.Name && a.Address == b.Address && a.Server == b.Server
	}) {
		return
	}
	n.servers = list
	if n.server == nil { // a server has them in its state
		n.keeper.extra = append(n.keeper.extra, putMessage(Meta, keyServers, &blixardv1.Grant{Servers: list}))
	}
}

// Resign hands the leadership over before a planned stop, if this node leads.
func (n *Node) Resign() {
	if n.server != nil && n.server.leading != nil {
		n.server.leading.handOver()
	}
}

// View is the applied state, frozen, in constant time; nil on a node that is
// no server.
func (n *Node) View() *cluster.State {
	if n.server == nil {
		return nil
	}
	return n.server.view()
}

// State is the applied state itself, nil on a node that is no server: to be read
// between two steps, and not to be kept beyond.
func (n *Node) State() *cluster.State {
	if n.server == nil {
		return nil
	}
	return n.server.state
}

// Leads returns the term that the node leads; 0 when it does not.
func (n *Node) Leads() uint64 {
	if n.server == nil || n.server.leading == nil {
		return 0
	}
	if !n.server.writer.busy {
		return n.server.leading.term
	}
	// Raft may have stepped down while the disk is busy: then we do not lead.
	b := n.server.raft.BasicStatus()
	if b.Lead != n.id.ID || b.GetTerm() != n.server.leading.term {
		return 0
	}
	return b.GetTerm()
}

// Status is what a node knows of itself without asking anyone.
type Status struct {
	Identity  Identity
	Leader    uint64 // 0: none known
	Term      uint64
	Committed uint64
	Applied   uint64
	Leading   bool
	// Quorum: a leader is known. A leader that loses its quorum steps down within
	// two election timeouts.
	Quorum bool
	// Servers as last heard of.
	Servers []*blixardv1.Node
	// Of a host.
	Epoch   uint64
	Granted bool   // its short lease has not passed
	Removed bool   // the cluster has removed it
	Refusal string // why the newest answer granted nothing; empty: it did, or none came

	Counts Counts
}

// Status may be called between two steps.
func (n *Node) Status() Status {
	st := Status{Identity: n.id, Servers: n.servers, Counts: n.counts}
	if s := n.server; s != nil {
		b := s.raft.BasicStatus()
		st.Leader, st.Term, st.Committed, st.Applied = b.Lead, b.GetTerm(), b.GetCommit(), s.state.Revision()
		st.Leading, st.Quorum = n.Leads() != 0, b.Lead != 0
		st.Servers = s.serverList()
	}
	if h := n.host; h != nil {
		st.Epoch, st.Removed = h.epoch, h.removed
		if n.now.Boot-h.answered < 3*refusedGap {
			st.Refusal = h.refusal
		}
		if h.settings != nil {
			st.Granted = h.leases[h.settings.LeaseMs] > n.now.Boot && !h.removed
		}
		if n.server == nil {
			st.Leader, st.Quorum = h.hint, st.Granted
		}
	}
	return st
}
