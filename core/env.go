package core

import (
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
)

// Env carries out what a node decides. No call waits for its effect: what
// happened comes back later, as an Input.
type Env struct {
	Clock      Clock
	Disk       Disk
	Network    Network
	Hypervisor Hypervisor
	Clients    Clients
}

// Clock says how long this machine has been up, in nanoseconds, sleep
// included: CLOCK_BOOTTIME. It never goes back, and its rate is within
// Settings.drift_ppm of real time.
type Clock interface {
	Now() int64
	// Wall is Unix time in nanoseconds, for show only. It may jump.
	Wall() int64
}

// Disk writes batches, in order, each whole or not at all, and reports each by
// Wrote once it will survive a loss of power. What was not reported may or may
// not be there after a crash, but never batch n+1 without batch n. An error is
// final: the node stops.
type Disk interface {
	Write(Batch)
}

// Network sends messages. Each may be lost, late, repeated or overtaken.
type Network interface {
	Send(Message)
}

// Hypervisor carries out the VM manager's orders on this host, at least once
// each, in order for each VM.
type Hypervisor interface {
	Do(vmm.Action)
}

// Clients hands out answers. One whose client has gone is dropped.
type Clients interface {
	Reply(Reply)
}

// Table is one of the disk's ordered key spaces.
type Table uint8

const (
	// Meta holds the identity, the hard state and the log's bounds.
	Meta Table = iota
	// Log holds entries by index.
	Log
	// State holds the applied state.
	State
	Tables = 3
)

func (t Table) String() string { return [...]string{"meta", "log", "state"}[t] }

// Op changes one key, or a range of keys, of one table.
type Op struct {
	Table Table
	// Key is at most 1 KiB.
	Key []byte
	// Value is stored under Key; nil deletes Key. An empty value is a value.
	Value []byte
	// End, when set, makes this a deletion of [Key, End); an empty End is the
	// end of the table.
	End   []byte
	Range bool
}

// Batch is one atomic, durable change. Its operations take effect in order.
type Batch struct {
	// Seq ascends by one from 1 in one life of the process.
	Seq uint64
	Ops []Op
}

// KV is one record of an Image.
type KV struct{ Key, Value []byte }

// Image is everything that a disk holds, by table, in the order of the keys.
type Image [Tables][]KV

// Message is one envelope and where it goes.
type Message struct {
	To uint64
	// Address is where the recipient listens, as far as the sender knows.
	Address  string
	Envelope *blixardv1.Envelope
	// Raft is set when Envelope is to carry a Raft message: it is put there by
	// Pack, outside of the loop. Its entries are shared with the log and with
	// other messages, so it may be read at any time, and never changed.
	Raft *raftpb.Message
	// State is set when Envelope carries a Raft snapshot: the frozen state, to be
	// encoded into Envelope.snapshot by the network, outside of the loop. The
	// network reports what became of it by SnapshotSent.
	State *cluster.State
}

// Pack puts the Raft message, encoded, into the envelope, and returns that: what
// the network sends.
func (m Message) Pack() *blixardv1.Envelope {
	if m.Raft != nil {
		m.Envelope.Body = &blixardv1.Envelope_Raft{Raft: encode(m.Raft)}
	}
	return m.Envelope
}

// Unpack makes an Input of an envelope that came, with its Raft message decoded.
func Unpack(e *blixardv1.Envelope) (Receive, error) {
	in := Receive{Envelope: e}
	if b, ok := e.GetBody().(*blixardv1.Envelope_Raft); ok {
		in.Raft = &raftpb.Message{}
		if err := proto.Unmarshal(b.Raft, in.Raft); err != nil {
			return in, fmt.Errorf("decode a message of Raft: %w", err)
		}
		e.Body = nil
	}
	return in, nil
}
