package cluster

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"

	"github.com/tidwall/btree"
	"google.golang.org/protobuf/proto"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// State is everything that the cluster has agreed on. Apply is the only way it
// changes. It is one ordered table of immutable records, and indexes that are
// derived from it.
type State struct {
	records *btree.Map[string, record]
	hash    uint64
	meta    *blixardv1.Meta

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

	hostCount int
	events    int

	// What changed since the last Changes, oldest first; nil in a snapshot.
	dirty []Change
	track bool
}

type record struct {
	msg   proto.Message
	bytes []byte
	hash  uint64
}

// Change is one record as an entry left it. A nil Value is a deletion.
type Change struct {
	Index uint64
	Key   []byte
	Value []byte
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
		track:   true,
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
	nodePrefix     = "n/"
	vmPrefix       = "v/"
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

var marshal = proto.MarshalOptions{Deterministic: true}

// put stores a record, which must not be changed afterwards, and keeps the
// hash and the indexes true.
func (s *State) put(key string, m proto.Message) {
	b, err := marshal.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("cluster: record %q does not marshal: %v", key, err))
	}
	s.store(key, record{msg: m, bytes: b, hash: recordHash(key, b)})
	if s.track {
		s.dirty = append(s.dirty, Change{s.meta.GetApplied(), []byte(key), b})
	}
}

func (s *State) store(key string, r record) {
	if old, ok := s.records.Set(key, r); ok {
		s.hash -= old.hash
		s.unindex(old.msg)
	}
	s.hash += r.hash
	s.index(r.msg)
}

func (s *State) del(key string) {
	old, ok := s.records.Delete(key)
	if !ok {
		return
	}
	s.hash -= old.hash
	s.unindex(old.msg)
	if s.track {
		s.dirty = append(s.dirty, Change{s.meta.GetApplied(), []byte(key), nil})
	}
}

// recordHash is summed over the records, so that the hash of the state follows
// each change in constant time.
func recordHash(key string, b []byte) uint64 {
	h := fnv.New64a()
	h.Write([]byte(key))
	h.Write([]byte{0})
	h.Write(b)
	// FNV's high bits are weak under addition: mix them (SplitMix64's finisher).
	x := h.Sum64()
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Changes returns what changed since it was last called, oldest first.
func (s *State) Changes() []Change {
	d := s.dirty
	s.dirty = nil
	return d
}
