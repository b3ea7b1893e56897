package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core"
	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// The network carries envelopes between machines, by address. Each may be lost,
// late, repeated and overtaken. It never changes one, and never brings one to
// another address than it was sent to. What is delivered is another value than
// what was sent: Raft keeps and changes what it is given. Only the entries' data
// is shared, which nobody may change: that a message arrives as it was sent is
// looked at.
type network struct {
	rand *rand.Rand
	cut  map[link]int   // directed: >0 means that nothing passes
	clog map[link]int64 // nothing arrives before this time
	// narrow are the machines of which little passes, by number.
	narrow map[int]*pipe
	// seen, for a mutant: the last Sync's nonce of each host.
	nonces map[uint64]uint64
	// Of the faults in fault_old.go.
	echo      map[N]time.Duration
	proposals []proposal
	noted     uint64
}

type link struct{ from, to int }

func newNetwork(r *rand.Rand) *network {
	return &network{rand: r, cut: map[link]int{}, clog: map[link]int64{}, narrow: map[int]*pipe{}, nonces: map[uint64]uint64{}, echo: map[N]time.Duration{}}
}

func (w *World) send(from *Machine, msg *core.Message) {
	to := w.byAddress[msg.Address]
	if to == nil { // the sender does not know yet where it is
		w.fired("NoAddress")
		return
	}
	if msg.State != nil {
		b := blixardv1.Encode(mutateSnapshot(from, snapshotOf(msg.State)))
		w.fired("Snapshot")
		w.say(from, fmt.Sprintf("sends a snapshot of %d bytes to %s", len(b), to.Name))
		msg.Envelope.Snapshot = b
	}
	if msg.Raft != nil {
		w.net.note(msg.Raft)
	}
	w.mutateMessage(from, to, msg)
	arrives := w.transmit(from, to, wrap(msg))
	if msg.State != nil {
		n := msg.To << 1
		if arrives {
			n |= 1
		}
		w.push(event{
			at: w.now + between(w.net.rand, 10*time.Millisecond, 3*time.Second), kind: evSnapshotSent,
			m: from, life: from.daemon.life, n: n,
		})
	}
}

// packet is a message under way: encoded, but for Raft's, which are many.
type packet struct {
	encoded []byte
	msg     *core.Message // with a message of Raft
	sum     uint64        // of that
}

// size is about what a packet has on the wire.
func (p *packet) size() int64 {
	if p.msg == nil {
		return int64(len(p.encoded))
	}
	n := 64 + len(p.msg.Envelope.GetSnapshot())
	for _, e := range p.msg.Raft.GetEntries() {
		n += 16 + len(e.Data)
	}
	return int64(n)
}

// pipe passes one packet after the other.
type pipe struct{ perSecond, free int64 }

// through says when a packet that comes now is through, and whether there is room
// for it at all: what waits for longer than mostQueued is dropped at the door.
func (p *pipe) through(now, size int64) (at int64, ok bool) {
	if p.free > now+int64(mostQueued) {
		return 0, false
	}
	p.free = max(p.free, now) + size*int64(time.Second)/p.perSecond
	return p.free, true
}

const mostQueued = 10 * time.Second

func wrap(msg *core.Message) *packet {
	if msg.Raft != nil {
		return &packet{msg: msg, sum: sumOf(msg)}
	}
	return &packet{encoded: blixardv1.Encode(msg.Envelope)}
}

// open is the message as its recipient gets it: its own.
func (p *packet) open() core.Receive {
	if p.msg == nil {
		in := core.Receive{Envelope: &blixardv1.Envelope{}}
		if err := proto.Unmarshal(p.encoded, in.Envelope); err != nil {
			panic("sim: envelope does not unmarshal: " + err.Error())
		}
		return in
	}
	own := &struct { // one allocation
		blixardv1.Envelope
		m raftpb.Message
	}{}
	e, to := p.msg.Envelope, &own.Envelope
	to.ClusterId, to.Generation, to.From, to.To = e.ClusterId, e.Generation, e.From, e.To
	to.Snapshot, to.Level, to.Address = e.Snapshot, e.Level, e.Address
	copyInto(&own.m, p.msg.Raft)
	return core.Receive{Envelope: to, Raft: &own.m}
}

// copyInto makes c a copy of a message of Raft that its recipient may change. Only
// the entries' data is shared.
func copyInto(c, m *raftpb.Message) {
	c.Type, c.To, c.From, c.Term, c.LogTerm, c.Index, c.Commit = m.Type, m.To, m.From, m.Term, m.LogTerm, m.Index, m.Commit
	c.Vote, c.Reject, c.RejectHint, c.Context = m.Vote, m.Reject, m.RejectHint, m.Context
	if m.Snapshot != nil {
		c.Snapshot = proto.CloneOf(m.Snapshot)
	}
	if len(m.Entries) > 0 {
		c.Entries = make([]*raftpb.Entry, len(m.Entries))
		own := make([]raftpb.Entry, len(m.Entries))
		for i, e := range m.Entries {
			own[i].Term, own[i].Index, own[i].Type, own[i].Data = e.Term, e.Index, e.Type, e.Data
			c.Entries[i] = &own[i]
		}
	}
}

// sumOf is a hash over all of a message of Raft.
func sumOf(msg *core.Message) uint64 {
	var t trace
	m := msg.Raft
	t.fold(msg.Envelope.GetFrom()<<32 ^ msg.Envelope.GetTo())
	t.foldBytes(msg.Envelope.Snapshot)
	t.fold(uint64(m.GetType())<<32 ^ m.GetTo()<<16 ^ m.GetFrom())
	t.fold(m.GetTerm())
	t.fold(m.GetLogTerm())
	t.fold(m.GetIndex())
	t.fold(m.GetCommit())
	t.fold(m.GetRejectHint())
	t.fold(m.GetVote())
	if m.GetReject() {
		t.fold(1)
	}
	t.foldBytes(m.Context)
	for _, e := range m.Entries {
		t.fold(uint64(e.GetType())<<60 ^ e.GetTerm())
		t.fold(e.GetIndex())
		t.foldBytes(e.Data)
	}
	if meta := m.GetSnapshot().GetMetadata(); meta != nil {
		t.fold(meta.GetIndex())
		t.fold(meta.GetTerm())
		for _, id := range meta.GetConfState().GetVoters() {
			t.fold(id)
		}
		for _, id := range meta.GetConfState().GetLearners() {
			t.fold(id)
		}
	}
	return t.hash
}

// transmit sends a packet on its way and says whether any copy will arrive, as
// far as can be known now.
func (w *World) transmit(from, to *Machine, p *packet) bool {
	r, mix := w.net.rand, w.mix
	l := link{from.Index, to.Index}
	if w.net.cut[l] > 0 {
		w.film.letter(w.now, from, to, p, w.now, "cut off")
		return false
	}
	way := place{N(from.Index), N(to.Index)}
	if _, lost := w.mishap("Drop", way, mix.Drop, 0, 0); lost {
		w.film.letter(w.now, from, to, p, w.now, "dropped")
		return false
	}
	through := w.now
	if pipe := w.net.narrow[from.Index]; pipe != nil {
		var room bool
		if through, room = pipe.through(w.now, p.size()); !room {
			w.film.letter(w.now, from, to, p, w.now, "dropped")
			return false
		}
	}
	copies := 1
	if _, twice := w.mishap("Duplicate", way, mix.Duplicate, 0, 0); twice {
		copies = 2
	}
	for range copies {
		at := through + between(r, mix.Latency/2, mix.Latency) + tail(r, mix.Latency, 100*mix.Latency)
		if late, ok := w.mishap("Late", way, mix.Late, 100*time.Millisecond, mix.Lateness); ok {
			at += int64(late)
		}
		at = max(at, w.net.clog[l])
		w.film.letter(w.now, from, to, p, at, "")
		w.push(event{at: at, kind: evArrive, m: to, n: uint64(from.Index), ref: p})
		if later := w.net.echoes(from, to, p); later > 0 {
			w.push(event{at: at + int64(later), kind: evArrive, m: to, n: uint64(from.Index), ref: p})
		}
	}
	return true
}

// arrive is a message at its recipient's door.
func (w *World) arrive(to *Machine, from int, p *packet) {
	w.trace.foldBytes(p.encoded)
	w.trace.fold(p.sum)
	if p.msg != nil && sumOf(p.msg) != p.sum {
		w.fail("a message arrives as it was sent", "from n%d to %s: a message of Raft was changed under way", from, to.Name)
	}
	if w.net.cut[link{from, to.Index}] > 0 || to.daemon == nil || to.asleep > w.now {
		w.film.arrived(w.now, to, p, "nobody there")
		return
	}
	w.film.arrived(w.now, to, p, "")
	w.atOnce(event{kind: evReceive, m: to, life: to.daemon.life, ref: p})
}

func snapshotOf(s *cluster.State) *blixardv1.Snapshot { return s.Encode() }

// hangUp: the connections of a process that died are closed, and those whom the
// news reaches take the hint.
func (w *World) hangUp(m *Machine) {
	for _, p := range mutateOrder(w.machines) {
		if p == m || p.daemon == nil || m.id == 0 || w.net.cut[link{m.Index, p.Index}] > 0 {
			continue
		}
		after := between(w.net.rand, w.mix.Latency/2, 2*w.mix.Latency)
		w.push(event{at: w.now + after, kind: evPeerLost, m: p, life: p.daemon.life, n: m.id})
	}
}
