package sim

import (
	"io"
	"log"
	"math/rand/v2"
	"testing"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// BenchmarkRaftAlone is what a laboratory would measure: three RawNodes that run as
// core's do (one write under way, a leader's appends at once), on our queue, with a
// tick of 10 ms and 100 proposals of 100 bytes a second, made at the leader. There
// is nothing else: no state, no client, no encoding, no hash, no judge. It is the
// bound of BenchmarkBareRaft on the machine that runs both.
func BenchmarkRaftAlone(b *testing.B) {
	w := New(Config{Seed: 1, Servers: 1}) // for Raft's entropy
	defer w.Close()
	l := &lab{rand: w.chance.stream("lab")}
	for id := uint64(1); id <= 3; id++ {
		n := &labNode{id: id, log: raft.NewMemoryStorage()}
		err := n.log.ApplySnapshot(&raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
			Index: new(uint64(1)), Term: new(uint64(1)), ConfState: &raftpb.ConfState{Voters: []uint64{1, 2, 3}},
		}})
		if err != nil {
			b.Fatal(err)
		}
		n.raft, err = raft.NewRawNode(&raft.Config{
			ID: id, ElectionTick: 10, HeartbeatTick: 1, Storage: n.log, Applied: 1, MaxSizePerMsg: 1 << 20,
			MaxInflightMsgs: 256, CheckQuorum: true, PreVote: true, DisableProposalForwarding: true, Logger: &raft.DefaultLogger{Logger: log.New(io.Discard, "", 0)},
		})
		if err != nil {
			b.Fatal(err)
		}
		l.nodes = append(l.nodes, n)
		l.queue.push(event{at: int64(id), kind: evTick, n: id})
	}
	l.queue.push(event{kind: evClient})
	l.runFor(10 * time.Second)
	begun, before := coreSeconds(b), l.nodes[0].applied
	b.ResetTimer()
	for range b.N {
		l.runFor(time.Second)
	}
	b.ReportMetric(float64(b.N)/(coreSeconds(b)-begun), "sim-s/core-s")
	b.ReportMetric(float64(l.nodes[0].applied-before)/float64(b.N), "ops/s")
}

type lab struct {
	rand  *rand.Rand
	queue queue
	now   int64
	nodes []*labNode
}

type labNode struct {
	id      uint64
	raft    *raft.RawNode
	log     *raft.MemoryStorage
	ready   *raft.Ready // whose write is under way
	leads   bool
	applied int
}

func (l *lab) runFor(d time.Duration) {
	for end := l.now + int64(d); l.queue.h[0].at <= end; {
		e := l.queue.pop()
		l.now = e.at
		if e.kind == evClient {
			l.queue.push(event{at: l.now + tail(l.rand, 10*time.Millisecond, time.Second), kind: evClient})
			for _, n := range l.nodes {
				if n.leads {
					_ = n.raft.Propose(make([]byte, 100))
					l.pump(n)
				}
			}
			continue
		}
		n := l.nodes[e.n-1]
		switch e.kind {
		case evTick:
			n.raft.Tick()
			l.queue.push(event{at: l.now + int64(10*time.Millisecond), kind: evTick, n: e.n})
		case evReceive:
			_ = n.raft.Step(e.ref.(*raftpb.Message))
		case evDurable:
			rd := n.ready
			n.ready = nil
			l.finish(n, rd)
		}
		l.pump(n)
	}
}

func (l *lab) pump(n *labNode) {
	for n.ready == nil && n.raft.HasReady() {
		rd := n.raft.Ready()
		if rd.SoftState != nil {
			n.leads = rd.RaftState == raft.StateLeader
		}
		if len(rd.Entries) == 0 && !rd.MustSync {
			l.finish(n, &rd)
			continue
		}
		if n.leads {
			l.send(&rd.Messages)
		}
		n.ready = &rd
		l.queue.push(event{at: l.now + between(l.rand, 50*time.Microsecond, time.Millisecond), kind: evDurable, n: n.id})
	}
}

func (l *lab) finish(n *labNode, rd *raft.Ready) {
	_ = n.log.Append(rd.Entries)
	if !raft.IsEmptyHardState(rd.HardState) {
		_ = n.log.SetHardState(rd.HardState)
	}
	l.send(&rd.Messages)
	for _, e := range rd.CommittedEntries {
		if len(e.Data) > 0 {
			n.applied++
		}
		if e.GetIndex()%10_000 == 0 {
			_ = n.log.Compact(e.GetIndex() - 5_000)
		}
	}
	n.raft.Advance(*rd)
}

// send gives each its own copy: Raft changes what it is given.
func (l *lab) send(messages *[]*raftpb.Message) {
	for _, m := range *messages {
		c := &raftpb.Message{}
		copyInto(c, m)
		l.queue.push(event{at: l.now + between(l.rand, 500*time.Microsecond, time.Millisecond), kind: evReceive, n: m.GetTo(), ref: c})
	}
	*messages = nil
}
