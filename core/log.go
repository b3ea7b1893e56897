package core

import (
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core/cluster"
	"github.com/blixard/blixard/core/mutant"
)

const (
	// Applied state is written lazily. flushBytes caps what of it goes into one
	// batch, so that it never holds up the append behind it.
	flushBytes = 256 << 10
	// Before flushAfter it does not ride with a batch: what changes often, and
	// what is gone again, is then encoded and written once or never. Much that
	// waits (flushMany changes) rides at once.
	flushAfter = 100 * milli
	flushMany  = 2048
	// After flushEvery it gets a batch of its own.
	flushEvery = 500 * milli
	// keepEntries is Config.KeepEntries where nobody says otherwise.
	keepEntries = 10_000
)

// storage is Raft's view of the log: all of it in memory, so that no read made
// inside a step waits for a disk.
type storage struct {
	*raft.MemoryStorage
	server *server
}

// Snapshot is cut from the state in memory. Its records travel beside the
// message: see Message.State.
func (s *storage) Snapshot() (*raftpb.Snapshot, error) {
	state := s.server.state
	meta := startMeta(state)
	s.server.frozen = &frozen{index: meta.GetIndex(), state: state.Freeze()}
	return &raftpb.Snapshot{Metadata: meta}, nil
}

// frozen is the state of the newest snapshot that Raft asked for, kept because
// more may be applied before its message leaves.
type frozen struct {
	index uint64
	state *cluster.State
}

// writer builds batches and knows what of them is durable.
type writer struct {
	seq    uint64
	busy   bool              // a batch is under way
	dirty  []cluster.Change  // applied, not yet in a batch, oldest first
	hard   *raftpb.HardState // Raft's own, and so not to be changed
	since  int64             // when the oldest of dirty was applied
	sent   uint64            // applied index of the batch under way or done
	stable uint64            // applied index that is durable
	start  uint64            // the log on disk begins after this entry
	cut    uint64            // the batch under way moves start here; 0: not
	extra  []Op              // to go with the next batch
	keep   uint64            // entries of the log's tail
}

// applied takes over what Apply changed.
func (w *writer) applied(now int64, changes []cluster.Change) {
	if len(w.dirty) == 0 {
		w.since = now
	}
	w.dirty = append(w.dirty, changes...)
}

// append adds a Ready's entries: what the log had from the first of them on is
// overwritten.
func (w *writer) append(ops []Op, entries []*raftpb.Entry, last uint64) []Op {
	if len(entries) == 0 {
		return ops
	}
	if first := entries[0].GetIndex(); first <= last {
		ops = append(ops, Op{Table: Log, Key: indexKey(first), Range: true})
	}
	for _, e := range entries {
		ops = append(ops, putMessage(Log, indexKey(e.GetIndex()), e))
	}
	return ops
}

// flush adds a piece of the applied state, if it is time, that ends with a whole
// entry. Of a key that changed often in it, only the last value is written.
func (w *writer) flush(now int64, ops []Op) []Op {
	if len(w.dirty) == 0 || now-w.since < flushAfter && len(w.dirty) < flushMany {
		return ops
	}
	for n := len(w.dirty); ; {
		n = w.whole(n)
		piece, fits := w.piece(n)
		if !fits && w.whole(n/2) < n {
			n /= 2
			continue
		}
		w.sent = w.dirty[n-1].Index
		if w.dirty = w.dirty[n:]; len(w.dirty) == 0 {
			w.dirty = nil
		}
		return append(ops, piece...)
	}
}

// whole is the end of the entry that the change before n is part of.
func (w *writer) whole(n int) int {
	for n = max(n, 1); n < len(w.dirty) && w.dirty[n].Index == w.dirty[n-1].Index; n++ {
	}
	return n
}

// piece is the last value of each key among the n oldest changes; false: it is
// more than one batch should take.
func (w *writer) piece(n int) (ops []Op, fits bool) {
	newest := make(map[string]int, n)
	for i := range w.dirty[:n] {
		newest[w.dirty[i].Key] = i
	}
	bytes := 0
	for i := range w.dirty[:n] {
		c := &w.dirty[i]
		if newest[c.Key] != i {
			continue
		}
		v := c.Value()
		if bytes += len(c.Key) + len(v); bytes > flushBytes {
			return ops, false
		}
		ops = append(ops, Op{Table: State, Key: []byte(c.Key), Value: v})
	}
	return ops, true
}

// due says that applied state has waited long enough for a batch of its own.
func (w *writer) due(now int64) bool {
	return len(w.extra) > 0 || len(w.dirty) > 0 && now-w.since >= flushEvery
}

// batch closes a batch. Whatever is in it, the hard state goes along, with a
// commit index that is not behind the applied state (etcd#10217).
func (w *writer) batch(ops []Op) *Batch {
	ops = append(ops, w.extra...)
	w.extra = nil
	if w.hard != nil {
		ops = append(ops, putMessage(Meta, keyHardState, &raftpb.HardState{
			Term: w.hard.Term, Vote: w.hard.Vote, Commit: proto.Uint64(max(w.hard.GetCommit(), w.sent)),
		}))
	}
	w.seq++
	w.busy = true
	return &Batch{Seq: w.seq, Ops: ops}
}

// trim cuts the log on disk when much more than the tail is kept, never beyond
// what is durably applied.
func (w *writer) trim(ops []Op, log *raft.MemoryStorage) []Op {
	if w.stable < w.start+2*w.keep {
		return ops
	}
	cut := w.stable - w.keep
	if mutant.On("CutBeyondDurable") {
		cut, _ = log.LastIndex()
	}
	term, err := log.Term(cut)
	if err != nil {
		return ops
	}
	w.cut = cut
	meta := &raftpb.SnapshotMetadata{Index: proto.Uint64(cut), Term: proto.Uint64(term)}
	return append(ops,
		Op{Table: Log, Key: indexKey(0), End: indexKey(cut + 1), Range: true},
		putMessage(Meta, keyStart, meta))
}
