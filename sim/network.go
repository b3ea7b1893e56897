package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core"
	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// The network carries envelopes between machines, by address. Each may be lost,
// late, repeated and overtaken. It never changes one, and never brings one to
// another address than it was sent to. What is delivered is another value than
// what was sent: Raft keeps and changes what it is given.
type network struct {
	rand *rand.Rand
	cut  map[link]int   // directed: >0 means that nothing passes
	clog map[link]int64 // nothing arrives before this time
	// seen, for a mutant: the last Sync's nonce of each host.
	nonces map[uint64]uint64
}

type link struct{ from, to int }

func newNetwork(r *rand.Rand) *network {
	return &network{rand: r, cut: map[link]int{}, clog: map[link]int64{}, nonces: map[uint64]uint64{}}
}

var canonical = proto.MarshalOptions{Deterministic: true}

func (w *World) send(from *Machine, msg *core.Message) {
	to := w.byAddress[msg.Address]
	if to == nil { // the sender does not know yet where it is
		w.fired("NoAddress")
		return
	}
	if msg.State != nil {
		b, err := canonical.Marshal(snapshotOf(msg.State))
		if err != nil {
			panic("sim: snapshot does not marshal: " + err.Error())
		}
		w.fired("Snapshot")
		w.say(from, fmt.Sprintf("sends a snapshot of %d bytes to %s", len(b), to.Name))
		msg.Envelope.Snapshot = b
	}
	w.mutateEnvelope(from, to, msg.Envelope)
	b, err := canonical.Marshal(msg.Envelope)
	if err != nil {
		panic("sim: envelope does not marshal: " + err.Error())
	}
	arrives := w.transmit(from, to, b)
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

// transmit sends bytes on their way and says whether any will arrive, as far as
// can be known now.
func (w *World) transmit(from, to *Machine, b []byte) bool {
	r, mix := w.net.rand, w.mix
	l := link{from.Index, to.Index}
	if w.net.cut[l] > 0 {
		return false
	}
	way := place{N(from.Index), N(to.Index)}
	if _, lost := w.mishap("Drop", way, mix.Drop, 0, 0); lost {
		return false
	}
	copies := 1
	if _, twice := w.mishap("Duplicate", way, mix.Duplicate, 0, 0); twice {
		copies = 2
	}
	for range copies {
		at := w.now + between(r, mix.Latency/2, mix.Latency) + tail(r, mix.Latency, 100*mix.Latency)
		if late, ok := w.mishap("Late", way, mix.Late, 100*time.Millisecond, mix.Lateness); ok {
			at += int64(late)
		}
		at = max(at, w.net.clog[l])
		w.push(event{at: at, kind: evArrive, m: to, n: uint64(from.Index), ref: b})
	}
	return true
}

// arrive is a message at its recipient's door.
func (w *World) arrive(to *Machine, from int, b []byte) {
	w.trace.foldBytes(b)
	if w.net.cut[link{from, to.Index}] > 0 || to.daemon == nil {
		return
	}
	w.push(event{at: w.now, kind: evReceive, m: to, life: to.daemon.life, ref: b})
}

func decodeEnvelope(b []byte) *blixardv1.Envelope {
	env := &blixardv1.Envelope{}
	if err := proto.Unmarshal(b, env); err != nil {
		panic("sim: envelope does not unmarshal: " + err.Error())
	}
	return env
}

func snapshotOf(s *cluster.State) *blixardv1.Snapshot { return s.Encode() }

// hangUp: the connections of a process that died are closed, and those whom the
// news reaches take the hint.
func (w *World) hangUp(m *Machine) {
	for _, p := range w.machines {
		if p == m || p.daemon == nil || m.id == 0 || w.net.cut[link{m.Index, p.Index}] > 0 {
			continue
		}
		after := between(w.net.rand, w.mix.Latency/2, 2*w.mix.Latency)
		w.push(event{at: w.now + after, kind: evPeerLost, m: p, life: p.daemon.life, n: m.id})
	}
}
