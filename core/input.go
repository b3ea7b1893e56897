package core

import (
	"go.etcd.io/raft/v3/raftpb"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/shim"
)

// Input is something that happened to a node. Inputs are plain data and can be
// written down and read back: see Encode and Decode.
type Input interface{ input() }

// Tick says that Config.Tick has passed. A late or a missing one is harmless;
// only now counts.
type Tick struct{}

// Receive brings one message. A node takes it over: it may change it, and keep
// what it has been given.
type Receive struct {
	Envelope *blixardv1.Envelope
	// Raft is the Raft message that the envelope brought: see Unpack. Undecoded in
	// the envelope, it is ignored.
	Raft *raftpb.Message
}

// PeerLost says that the process of a peer closed its connections: it is dead
// or restarting. It is a hint, and makes followers of a dead leader campaign.
type PeerLost struct{ Peer uint64 }

// SnapshotSent says what became of a Message with State.
type SnapshotSent struct {
	To uint64
	OK bool
}

// Wrote says that batches up to Seq are durable.
type Wrote struct{ Seq uint64 }

// Observed brings what the real side of the VM manager saw.
type Observed struct {
	// Inventory is set on the first one in a life of the daemon: Reports is
	// then everything that was found on this host. Nothing is ordered before it.
	Inventory bool
	Reports   []vmm.Report
	Done      []vmm.Done
	// Facts, when set, replaces what is known of this host.
	Facts *blixardv1.HostFacts
	// Lapsed, when not 0, is an epoch of which a lease page was found to have
	// passed when it was to be extended.
	Lapsed uint64
	// Prepared, when not nil, is all that the host holds ready of what
	// vmm.Prepare asked for.
	Prepared []*blixardv1.Prepared
	// Kept, when not 0, is the revision of a vmm.KeepList that was carried out, and
	// Missing are those on it that are not there whole.
	Kept    uint64
	Missing []string
	// Pages are, with Inventory, the lease pages that were found.
	Pages []shim.Page
	// Volumes, when set, are all that this host has; its sequence is ours to give.
	Volumes *blixardv1.VolumeInventory
}

// Request brings one question or order of a client. It is answered by exactly
// one Reply with its ID, at the latest Timeout after it came.
type Request struct {
	// ID is chosen by the adapter, unique in one life of the process.
	ID uint64
	// Timeout in nanoseconds; 0 means 30 s.
	Timeout int64
	// Command, when set, is a mutation: request_id, principal, payload_hash and
	// op are filled in.
	Command *blixardv1.Command
	// Stale: a read of this node's own copy. Otherwise, without Command, a
	// linearizable read.
	Stale bool
	// VM, of a read without After, is the name of the one VM that is asked for: the
	// answer is Reply.One, not a view of everything.
	VM string `json:",omitempty"`
	// After, when not 0: a read of this node's own copy, once that is of a later
	// revision, or as it is when Timeout has passed.
	After uint64
}

func (Tick) input()         {}
func (Receive) input()      {}
func (PeerLost) input()     {}
func (SnapshotSent) input() {}
func (Wrote) input()        {}
func (Observed) input()     {}
func (Request) input()      {}
