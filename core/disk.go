package core

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// What the disk holds:
//
//	meta   identity    JSON of Identity: who the node is
//	       servers     a Grant whose servers field says where servers are
//	       hardstate   raftpb.HardState
//	       start       raftpb.SnapshotMetadata: the log begins after this entry
//	log    8 bytes, big endian: the index    raftpb.Entry
//	state  the keys of cluster.State
//
// The applied index, and the Raft configuration as of it, are in the state's own
// Meta record: one batch moves them and the records together.
var (
	keyIdentity  = []byte("identity")
	keyServers   = []byte("servers")
	keyHardState = []byte("hardstate")
	keyStart     = []byte("start")
)

// ErrDisk marks images that a node cannot start from.
var ErrDisk = errors.New("the data directory cannot be used")

func indexKey(index uint64) []byte { return binary.BigEndian.AppendUint64(nil, index) }

// ReadIdentity returns who the disk says the node is; false when it is in no
// cluster yet.
func ReadIdentity(image Image) (Identity, bool, error) {
	for _, kv := range image[Meta] {
		if string(kv.Key) == string(keyIdentity) {
			var id Identity
			if err := json.Unmarshal(kv.Value, &id); err != nil {
				return Identity{}, false, fmt.Errorf("%w: the identity does not decode: %v", ErrDisk, err)
			}
			return id, true, nil
		}
	}
	return Identity{}, false, nil
}

func put(t Table, key, value []byte) Op {
	if value == nil {
		value = []byte{}
	}
	return Op{Table: t, Key: key, Value: value}
}

func putIdentity(id Identity) Op {
	b, err := json.Marshal(id)
	if err != nil {
		panic(err) // strings and numbers
	}
	return put(Meta, keyIdentity, b)
}

func putMessage(t Table, key []byte, m proto.Message) Op {
	return put(t, key, encode(m))
}

// encode is deterministic: what the disk and the network see is the same for
// the same seed.
func encode(m proto.Message) []byte { return blixardv1.Encode(m) }

// Found returns the first batch of the first node of a new cluster.
func Found(id Identity, settings *blixardv1.Settings, now Time) (Batch, error) {
	settings, err := cluster.CompleteSettings(settings)
	if err != nil {
		return Batch{}, err
	}
	if !id.Server {
		return Batch{}, errors.New("the node that founds a cluster must be a server")
	}
	id.ID = cluster.FirstID
	state := cluster.New()
	resp := state.Apply(1, 1, &blixardv1.Command{WallTime: now.Wall, Op: &blixardv1.Command_Init{Init: &blixardv1.InitOp{
		ClusterId: id.ClusterID, Generation: id.Generation, Settings: settings,
		Node: &blixardv1.AddNodeOp{Name: id.Name, Address: id.Address, Server: true, Host: id.Host, Level: cluster.Level},
	}}})
	if resp.Error != nil {
		return Batch{}, fmt.Errorf("%s: %s", resp.Error.Message, resp.Error.Advice)
	}
	state.Reconfigure(2, 1, []uint64{id.ID}, nil)
	return firstBatch(id, state), nil
}

// Restore returns the first batch of the node that founds the next generation of
// a cluster, from the state of a backup, which becomes that of the generation. An
// identity without an id is given a new one; level is what its binary can apply.
// Whatever else the disk holds is gone.
func Restore(id Identity, backup *cluster.State, hostsOff bool, level uint32, now Time) (Identity, Batch, error) {
	if !id.Server {
		return id, Batch{}, errors.New("the node that restores a cluster must be a server")
	}
	was, old := backup.Meta(), id.ID
	index, term := was.Applied+cluster.RestoreGap, was.AppliedTerm+1
	id.ClusterID, id.Generation, id.ID = was.ClusterId, was.Generation+1, cmp.Or(old, index)
	resp := backup.Apply(index, term, &blixardv1.Command{
		LoggedTime: was.LoggedTime, WallTime: now.Wall,
		Op: &blixardv1.Command_Restore{Restore: &blixardv1.RestoreOp{HostsOff: hostsOff, NodeId: old, Node: &blixardv1.AddNodeOp{
			Name: id.Name, Address: id.Address, Server: true, Host: id.Host, Level: level,
		}}},
	})
	if resp.Error != nil {
		return id, Batch{}, fmt.Errorf("%s: %s", resp.Error.Message, resp.Error.Advice)
	}
	backup.Reconfigure(index+1, term, []uint64{id.ID}, nil)
	return id, firstBatch(id, backup), nil
}

// firstBatch is all that a node's disk holds that begins with a state, as the only
// voter. The log begins after it: who joins later gets a snapshot.
func firstBatch(id Identity, state *cluster.State) Batch {
	m := state.Meta()
	b := Batch{Seq: 1, Ops: append(wipe(),
		putIdentity(id),
		putMessage(Meta, keyHardState, &raftpb.HardState{Term: proto.Uint64(m.AppliedTerm), Vote: proto.Uint64(id.ID), Commit: proto.Uint64(m.Applied)}),
		putMessage(Meta, keyStart, startMeta(state)),
	)}
	b.Ops = append(b.Ops, stateOps(state)...)
	return b
}

// wipe takes away whatever a disk holds: of an earlier generation, if anything.
func wipe() []Op {
	return []Op{{Table: Meta, Range: true}, {Table: Log, Range: true}, {Table: State, Range: true}}
}

// Join returns the first batch of a node that a cluster has just admitted.
func Join(id Identity, servers []*blixardv1.Node) (Batch, error) {
	if id.ID == 0 || id.ClusterID == "" {
		return Batch{}, errors.New("the cluster gave no identity")
	}
	return Batch{Seq: 1, Ops: append(wipe(),
		putIdentity(id),
		putMessage(Meta, keyServers, &blixardv1.Grant{Servers: servers}),
	)}, nil
}

// startMeta says that the log begins after what the state has applied.
func startMeta(s *cluster.State) *raftpb.SnapshotMetadata {
	m := s.Meta()
	return &raftpb.SnapshotMetadata{
		Index: proto.Uint64(m.Applied), Term: proto.Uint64(m.AppliedTerm),
		ConfState: &raftpb.ConfState{Voters: m.Voters, Learners: m.Learners},
	}
}

func stateOps(s *cluster.State) (ops []Op) {
	s.Records(func(key string, value []byte) { ops = append(ops, put(State, []byte(key), value)) })
	return ops
}

// disk is what an image means.
type disk struct {
	identity Identity
	servers  []*blixardv1.Node
	hard     *raftpb.HardState
	start    *raftpb.SnapshotMetadata
	entries  []*raftpb.Entry
	state    *cluster.State
}

func readDisk(image Image) (*disk, error) {
	d := &disk{hard: &raftpb.HardState{}, start: &raftpb.SnapshotMetadata{}}
	id, ok, err := ReadIdentity(image)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("%w: it holds no identity", ErrDisk)
	}
	d.identity = id
	for _, kv := range image[Meta] {
		var m proto.Message
		var grant blixardv1.Grant
		switch string(kv.Key) {
		case string(keyServers):
			m = &grant
		case string(keyHardState):
			m = d.hard
		case string(keyStart):
			m = d.start
		default:
			continue
		}
		if err := proto.Unmarshal(kv.Value, m); err != nil {
			return nil, fmt.Errorf("%w: the record %q does not decode: %v", ErrDisk, kv.Key, err)
		}
		if len(grant.Servers) > 0 {
			d.servers = grant.Servers
		}
	}
	d.state, err = cluster.Load(func(yield func(k, v []byte) bool) {
		for _, kv := range image[State] {
			if !yield(kv.Key, kv.Value) {
				return
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDisk, err)
	}
	return d, d.readLog(image[Log])
}

func (d *disk) readLog(log []KV) error {
	next := d.start.GetIndex() + 1
	for _, kv := range log {
		e := &raftpb.Entry{}
		if err := proto.Unmarshal(kv.Value, e); err != nil {
			return fmt.Errorf("%w: an entry of the log does not decode: %v", ErrDisk, err)
		}
		if e.GetIndex() != next || string(kv.Key) != string(indexKey(next)) {
			return fmt.Errorf("%w: the log has entry %d where %d should be", ErrDisk, e.GetIndex(), next)
		}
		d.entries = append(d.entries, e)
		next++
	}
	if applied := d.state.Revision(); applied >= next || applied < d.start.GetIndex() {
		return fmt.Errorf("%w: the state is at entry %d, and the log holds %d to %d", ErrDisk, applied, d.start.GetIndex()+1, next-1)
	}
	return nil
}
