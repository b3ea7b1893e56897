package rpc

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core"
)

// Peers is the channel between nodes; it implements core.Network.
//
// For each node that this one sends to there is one connection, which carries
// frames one way: what the other answers comes on a connection of its own.
// A connection begins as an HTTP/1.1 Upgrade on the API's port.
//
//	Send ─► queue (bounded, drops its oldest) ─► one goroutine ─► connection
//
// Whatever is queued goes in one write. While there is no connection, what is
// sent is lost: Raft and the hosts send again, and what is stale helps nobody.
// A snapshot is encoded and sent on a connection of its own, so that heartbeats
// pass it.
//
// When an established connection ends, the goroutine dials again at once. If
// nobody listens there any more, the process is gone, and the node is told
// PeerLost: that makes the death of a leader a matter of milliseconds.
type Peers struct {
	cfg    PeersConfig
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu   sync.Mutex
	self core.Identity
	out  map[uint64]*peer
	in   map[net.Conn]struct{}
}

// PeersConfig is what the channel is made of.
type PeersConfig struct {
	TLS *TLS
	// Deliver takes Receive, PeerLost and SnapshotSent. It is called from many
	// goroutines and may block: that holds back the sender.
	Deliver func(core.Input)
	// Log may be nil.
	Log *slog.Logger
}

const (
	peerPath    = "/blixard.peer/v1"
	headCluster = "Blixard-Cluster"
	headFrom    = "Blixard-From"
	headTo      = "Blixard-To"
	headBulk    = "Blixard-Bulk"
	upgradeName = "blixard-peer-v1"

	maxQueue     = 4096
	maxQueued    = 64 << 20 // bytes
	dialTimeout  = 2 * time.Second
	writeTimeout = 5 * time.Second
	firstBackoff = 20 * time.Millisecond
	lastBackoff  = 500 * time.Millisecond
	// idlePeer ends the goroutine and the connection of a node that nothing is
	// sent to.
	idlePeer = 5 * time.Minute
	// maxSnapshot bounds an encoded state.
	maxSnapshot = 2 << 30
)

// NewPeers makes the channel. Nothing goes in or out before Identify.
func NewPeers(cfg PeersConfig) *Peers {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Peers{
		cfg: cfg, ctx: ctx, cancel: cancel,
		out: map[uint64]*peer{}, in: map[net.Conn]struct{}{},
	}
}

// Identify says who this node is, once it is in a cluster.
func (p *Peers) Identify(id core.Identity) {
	p.mu.Lock()
	p.self = id
	p.mu.Unlock()
}

func (p *Peers) identity() core.Identity {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.self
}

// Send sends one message, or loses it. It never blocks.
func (p *Peers) Send(m core.Message) {
	if m.State != nil {
		p.start(func() { p.sendSnapshot(m) })
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.self.ClusterID == "" || p.ctx.Err() != nil || m.Address == "" || m.To == p.self.ID {
		return
	}
	o := p.out[m.To]
	if o != nil && o.address != m.Address {
		o.cancel()
		o = nil
	}
	if o == nil {
		o = newPeer(p, m.To, m.Address)
		p.out[m.To] = o
		p.wg.Go(o.run)
	}
	o.queue.push(m)
}

// start runs f unless the channel is closed; Close waits for it.
func (p *Peers) start(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() == nil {
		p.wg.Go(f)
	}
}

// Close ends every connection, and waits for the goroutines.
func (p *Peers) Close() {
	p.mu.Lock()
	p.cancel()
	for c := range p.in {
		c.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

// forget drops a peer whose goroutine ends because nothing is sent to it.
func (p *Peers) forget(o *peer) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !o.queue.empty() {
		return false
	}
	if p.out[o.id] == o {
		delete(p.out, o.id)
	}
	return true
}

// queue holds what waits for a connection.
type queue struct {
	mu    sync.Mutex
	list  []core.Message
	bytes int
	ready chan struct{} // one token: something was pushed
}

// weigh is about what a message will take. It runs in the node's loop.
func weigh(m core.Message) int {
	if m.Raft == nil {
		return proto.Size(m.Envelope)
	}
	n := 64
	for _, e := range m.Raft.Entries {
		n += len(e.Data) + 32
	}
	return n
}

func (q *queue) push(m core.Message) {
	q.mu.Lock()
	q.list = append(q.list, m)
	q.bytes += weigh(m)
	for len(q.list) > 1 && (len(q.list) > maxQueue || q.bytes > maxQueued) {
		q.bytes -= weigh(q.list[0])
		q.list[0] = core.Message{}
		q.list = q.list[1:]
	}
	q.mu.Unlock()
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// take empties the queue.
func (q *queue) take() []core.Message {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.list
	q.list, q.bytes = nil, 0
	return l
}

func (q *queue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.list) == 0
}

// nodeOnly refuses whoever is no node of the cluster's CA.
func nodeOnly(w http.ResponseWriter, r *http.Request, t *TLS) bool {
	if t == nil || r.TLS != nil && len(r.TLS.PeerCertificates) > 0 && isNode(r.TLS.PeerCertificates[0]) {
		return true
	}
	http.Error(w, "this path is for nodes: the certificate must have the extended key usage serverAuth", http.StatusForbidden)
	return false
}
