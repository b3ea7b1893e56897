package cluster

import (
	"encoding/binary"
	"math/bits"
	"strings"

	"github.com/tidwall/btree"
	"google.golang.org/protobuf/proto"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// State is everything that the cluster has agreed on. Apply is the only way it
// changes. It is one ordered table of immutable records, and indexes that are
// derived from it.
type State struct {
	records *btree.Map[string, record]
	meta    *blixardv1.Meta

	// The sum of the records' hashes; kept only once somebody has asked for it.
	hash    uint64
	hashing bool

	// Derived from the records, never stored.
	uids    *btree.Map[string, string]   // uid -> name
	names   *btree.Map[string, uint64]   // node name -> id
	server  *btree.Map[uint64, struct{}] // ids of servers
	placed  *btree.Map[string, struct{}] // node uid
	changes *btree.Map[string, string]   // node assignment_revision uid -> name
	hosts   *btree.Map[string, uint64]   // load id -> id: schedulable hosts, emptiest first
	pending *btree.Map[string, string]   // priority index -> name
	old     *btree.Map[string, string]   // logged time index -> dedupe key
	idle    *btree.Map[string, string]   // unused since digest -> digest
	ready   *btree.Map[string, struct{}] // node uid: runners held ready
	revised *btree.Map[string, string]   // revision key -> key: VMs and nodes, the newest change last
	drained *btree.Map[uint64, struct{}] // ids of nodes that are drained
	leaving *btree.Map[string, string]   // node priority index -> name

	migrating *btree.Map[string, struct{}] // names of VMs in a live move

	free      *btree.Map[string, uint32] // network, first free address -> the last of that run
	addresses *btree.Map[string, string] // network, address -> uid that has it
	macs      *btree.Map[string, string] // mac -> uid that has it
	ports     *btree.Map[string, string] // node, port -> uid that has it
	spaces    *btree.Map[string, uint64] // port space, node -> that node
	devices   *btree.Map[string, string] // node, address of a device -> uid that has it

	volumes   *btree.Map[string, string] // volume's uid -> its name
	kept      *btree.Map[string, string] // node order_revision uid -> name of a volume
	copies    *btree.Map[string, string] // node uid -> name of a volume of which that host has a copy
	users     *btree.Map[string, bool]   // volume's uid, VM's uid -> it only reads
	snapshots *btree.Map[string, string] // node uid -> name, of snapshots of VMs
	ordered   *btree.Map[string, string] // VM's uid, when, uid -> name, of those to be taken
	restores  *btree.Map[string, string] // snapshot's uid, VM's uid -> name, of VMs that are to start from one

	hostCount      int
	events         int
	buried         int
	serversVersion uint64

	// What changed since the last Changes, oldest first; nil in a snapshot.
	dirty []Change
	track bool
}

type record struct {
	msg  proto.Message
	hash uint64 // when the state keeps its hash
}

// Change is one record as an entry left it.
type Change struct {
	Index uint64
	Key   string
	// Record is nil when it was deleted. It must not be changed.
	Record proto.Message
	value  []byte
}

// VM says that the change is one of a VM, and of which name.
func (c *Change) VM() (name string, ok bool) { return strings.CutPrefix(c.Key, vmPrefix) }

// Volume says that the change is one of a volume, and of which name.
func (c *Change) Volume() (name string, ok bool) { return strings.CutPrefix(c.Key, volumePrefix) }

// Node says that the change is one of a node, and of which id.
func (c *Change) Node() (id uint64, ok bool) {
	key, ok := strings.CutPrefix(c.Key, nodePrefix)
	if !ok {
		return 0, false
	}
	return binary.BigEndian.Uint64([]byte(key)), true
}

// Artifact says that the change is one of an artifact, and of which digest.
func (c *Change) Artifact() (digest string, ok bool) { return strings.CutPrefix(c.Key, artifactPrefix) }

// Snapshot says that the change is one of a VM's snapshot, and of which name.
func (c *Change) Snapshot() (name string, ok bool) { return strings.CutPrefix(c.Key, snapshotPrefix) }

// Value is the record as it is stored, encoded when it is first asked for: what
// is changed again soon is never encoded at all. It is nil for a deletion.
func (c *Change) Value() []byte {
	if c.value == nil && c.Record != nil {
		c.value = blixardv1.Encode(c.Record)
	}
	return c.value
}

// New returns the state before the first entry.
func New() *State {
	return &State{
		records: btree.NewMap[string, record](0),
		meta:    &blixardv1.Meta{},
		uids:    btree.NewMap[string, string](0),
		names:   btree.NewMap[string, uint64](0),
		server:  btree.NewMap[uint64, struct{}](0),
		placed:  btree.NewMap[string, struct{}](0),
		changes: btree.NewMap[string, string](0),
		hosts:   btree.NewMap[string, uint64](0),
		pending: btree.NewMap[string, string](0),
		old:     btree.NewMap[string, string](0),
		idle:    btree.NewMap[string, string](0),
		ready:   btree.NewMap[string, struct{}](0),
		revised: btree.NewMap[string, string](0),
		drained: btree.NewMap[uint64, struct{}](0),
		leaving: btree.NewMap[string, string](0), migrating: btree.NewMap[string, struct{}](0),
		free: btree.NewMap[string, uint32](0), addresses: btree.NewMap[string, string](0),
		macs: btree.NewMap[string, string](0), ports: btree.NewMap[string, string](0), spaces: btree.NewMap[string, uint64](0), devices: btree.NewMap[string, string](0),
		volumes: btree.NewMap[string, string](0), kept: btree.NewMap[string, string](0), copies: btree.NewMap[string, string](0), users: btree.NewMap[string, bool](0),
		snapshots: btree.NewMap[string, string](0), ordered: btree.NewMap[string, string](0), restores: btree.NewMap[string, string](0),
		track: true,
	}
}

// Freeze returns the state as it is now, in constant time. It never changes,
// and may be read from any goroutine.
func (s *State) Freeze() *State {
	c := *s
	c.records = s.records.Copy()
	c.uids, c.names, c.server, c.placed = s.uids.Copy(), s.names.Copy(), s.server.Copy(), s.placed.Copy()
	c.changes, c.hosts, c.pending = s.changes.Copy(), s.hosts.Copy(), s.pending.Copy()
	c.old, c.idle, c.ready = s.old.Copy(), s.idle.Copy(), s.ready.Copy()
	c.revised, c.drained, c.leaving = s.revised.Copy(), s.drained.Copy(), s.leaving.Copy()
	c.migrating = s.migrating.Copy()
	c.free, c.addresses, c.macs, c.ports, c.spaces, c.devices = s.free.Copy(), s.addresses.Copy(), s.macs.Copy(), s.ports.Copy(), s.spaces.Copy(), s.devices.Copy()
	c.volumes, c.kept, c.copies, c.users = s.volumes.Copy(), s.kept.Copy(), s.copies.Copy(), s.users.Copy()
	c.snapshots, c.ordered, c.restores = s.snapshots.Copy(), s.ordered.Copy(), s.restores.Copy()
	c.dirty, c.track = nil, false
	return &c
}

const (
	artifactPrefix = "a/"
	dedupePrefix   = "d/"
	eventPrefix    = "e/"
	floorPrefix    = "f/"
	historyPrefix  = "h/"
	metaKey        = "m"
	networkPrefix  = "w/"
	nodePrefix     = "n/"
	removedPrefix  = "r/"
	snapshotPrefix = "s/"
	vmPrefix       = "v/"
	volumePrefix   = "b/"
)

func vmKey(name string) string         { return vmPrefix + name }
func nodeKey(id uint64) string         { return nodePrefix + be(id) }
func historyKey(name string) string    { return historyPrefix + name }
func artifactKey(digest string) string { return artifactPrefix + digest }
func eventKey(index uint64, n int) string {
	return eventPrefix + be(index) + be(uint64(n))[6:]
}

// be is a number as eight bytes whose order is the number's.
func be(n uint64) string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], n)
	return string(b[:])
}

func get[M proto.Message](s *State, key string) (m M) {
	if r, ok := s.records.Get(key); ok {
		return r.msg.(M)
	}
	return m
}

func ascend[M proto.Message](s *State, prefix, after string, f func(M) bool) {
	s.records.Ascend(prefix+after, func(k string, r record) bool {
		if len(k) < len(prefix) || k[:len(prefix)] != prefix {
			return false
		}
		if k == prefix+after {
			return true
		}
		return f(r.msg.(M))
	})
}

// put stores a record, which must not be changed afterwards, and keeps the
// hash and the indexes true.
func (s *State) put(key string, m proto.Message) {
	switch m := m.(type) { // whatever changes says when
	case *blixardv1.VM:
		m.Revision = s.meta.GetApplied()
	case *blixardv1.Node:
		m.Revision = s.meta.GetApplied()
	case *blixardv1.ArtifactRecord:
		m.Revision = s.meta.GetApplied()
	case *blixardv1.ClusterVolume:
		m.Revision = s.meta.GetApplied()
	case *blixardv1.VMSnapshot:
		m.Revision = s.meta.GetApplied()
	}
	c := Change{Index: s.meta.GetApplied(), Key: key, Record: m}
	r := record{msg: m}
	if s.hashing {
		r.hash = recordHash(key, c.Value())
	}
	s.store(key, r)
	if s.track {
		s.dirty = append(s.dirty, c)
	}
}

func (s *State) store(key string, r record) {
	old, _ := s.records.Set(key, r)
	s.hash += r.hash - old.hash
	s.reindex(old.msg, r.msg)
}

func (s *State) del(key string) {
	old, ok := s.records.Delete(key)
	if !ok {
		return
	}
	s.hash -= old.hash
	s.reindex(old.msg, nil)
	if s.track {
		s.dirty = append(s.dirty, Change{Index: s.meta.GetApplied(), Key: key})
	}
}

// Hash is equal for equal states, and (but for chance) only for those. The first
// time it looks at every record. From then on the state keeps it up, which means
// that every record is encoded; a frozen one looks at every record each time,
// unless it was kept when it was frozen.
func (s *State) Hash() uint64 {
	if s.hashing {
		return s.hash
	}
	sum, sums := uint64(0), make(map[string]record, s.records.Len())
	s.records.Scan(func(key string, r record) bool {
		r.hash = recordHash(key, blixardv1.Encode(r.msg))
		sum += r.hash
		if s.track {
			sums[key] = r
		}
		return true
	})
	if s.track {
		// any order: each into its own place
		for key, r := range sums {
			s.records.Set(key, r)
		}
		s.hash, s.hashing = sum, true
	}
	return sum
}

// recordHash is summed over the records, so that the hash of the state follows
// each change in constant time.
func recordHash(key string, b []byte) uint64 {
	h := uint64(len(key))<<32 ^ uint64(len(b))
	for i := range len(key) {
		h = mix(h, uint64(key[i]))
	}
	for len(b) >= 8 {
		h = mix(h, binary.LittleEndian.Uint64(b))
		b = b[8:]
	}
	for _, c := range b {
		h = mix(h, uint64(c))
	}
	// Spread every bit over all, for the sum (SplitMix64's finisher).
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

func mix(h, word uint64) uint64 { return bits.RotateLeft64((h^word)*0x9e3779b97f4a7c15, 29) }

// Changes returns what changed since it was last called, oldest first. The next
// change overwrites it.
func (s *State) Changes() []Change {
	d := s.dirty
	s.dirty = s.dirty[:0]
	return d
}
