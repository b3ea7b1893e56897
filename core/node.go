package core

import (
	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
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
	// Seed makes nonces differ between two lives of the process: from the
	// operating system's randomness in production, from the simulator's in it.
	Seed uint64
	// BootID is the kernel's.
	BootID string
	// Address replaces the one in the identity when the node has moved.
	Address string
	// Servers are where a host that is no server first looks for one, and are
	// replaced by what the cluster says.
	Servers []*blixardv1.Node
}

// Open makes a node from what its disk holds: the image must carry an identity.
func Open(cfg Config, image Image, now Time) (*Node, error) { panic("being written") }

// ReadIdentity returns who the disk says the node is; false when it is in no
// cluster yet.
func ReadIdentity(image Image) (Identity, bool, error) { panic("being written") }

// Found returns the first batch of the first node of a new cluster.
func Found(id Identity, settings *blixardv1.Settings, now Time) (Batch, error) {
	panic("being written")
}

// Join returns the first batch of a node that a cluster has just admitted.
func Join(id Identity, servers []*blixardv1.Node) (Batch, error) { panic("being written") }

// Node is one member of a cluster as one deterministic machine.
type Node struct{}

// Step takes one input and returns what is to be done about it. It never
// blocks, takes no lock, starts no goroutine and reads no clock.
func (n *Node) Step(now Time, in Input) (Output, error) { panic("being written") }

// View is the applied state, frozen, in constant time; nil on a node that is
// no server.
func (n *Node) View() *cluster.State { panic("being written") }

// Status is what a node knows of itself without asking anyone.
type Status struct {
	Identity  Identity
	Leader    uint64 // 0: none known
	Term      uint64
	Committed uint64
	Applied   uint64
	Leading   bool
	// Quorum: this server leads with a quorum, or has heard from a leader within
	// the election timeout.
	Quorum bool
	// Servers as last heard of.
	Servers []*blixardv1.Node
	// Of a host.
	Epoch   uint64
	Granted bool // its lease has not passed
}

// Status may be called between two steps.
func (n *Node) Status() Status { panic("being written") }
