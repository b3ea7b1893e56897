package cluster

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Encode writes the whole state down.
func (s *State) Encode() *blixardv1.Snapshot {
	out := &blixardv1.Snapshot{Records: make([]*blixardv1.Record, 0, s.records.Len())}
	s.records.Scan(func(k string, r record) bool {
		out.Records = append(out.Records, &blixardv1.Record{Key: []byte(k), Value: blixardv1.Encode(r.msg)})
		return true
	})
	return out
}

// Record calls f for every record, in the order of the keys.
func (s *State) Records(f func(key string, value []byte)) {
	s.records.Scan(func(k string, r record) bool {
		f(k, blixardv1.Encode(r.msg))
		return true
	})
}

// Load makes a state from its records, in any order. The records come from a
// disk or a peer, whose checksums have held: an error means that another
// version wrote them.
func Load(records func(yield func(key, value []byte) bool)) (*State, error) {
	s := New()
	type pair struct {
		key string
		rec record
	}
	var err error
	var list []pair
	for k, v := range records {
		m, e := decode(string(k), v)
		if e != nil {
			err = e
			break
		}
		list = append(list, pair{string(k), record{msg: m}})
		if meta, ok := m.(*blixardv1.Meta); ok {
			s.meta = meta // before the hosts: their order depends on the settings
		}
	}
	if err != nil {
		return nil, err
	}
	for _, p := range list {
		s.store(p.key, p.rec)
	}
	return s, nil
}

func decode(key string, value []byte) (proto.Message, error) {
	var m proto.Message
	switch prefix, _, _ := strings.Cut(key, "/"); prefix + "/" {
	case artifactPrefix:
		m = &blixardv1.ArtifactRecord{}
	case dedupePrefix:
		m = &blixardv1.DedupeRecord{}
	case eventPrefix:
		m = &blixardv1.Event{}
	case floorPrefix:
		m = &blixardv1.DedupeFloor{}
	case historyPrefix:
		m = &blixardv1.History{}
	case metaKey + "/":
		m = &blixardv1.Meta{}
	case removedPrefix:
		m = &blixardv1.Removed{}
	case snapshotPrefix:
		m = &blixardv1.VMSnapshot{}
	case networkPrefix:
		m = &blixardv1.ClusterNetwork{}
	case nodePrefix:
		m = &blixardv1.Node{}
	case volumePrefix:
		m = &blixardv1.ClusterVolume{}
	case vmPrefix:
		m = &blixardv1.VM{}
	default:
		return nil, fmt.Errorf("the state has a record %q that this version does not know; upgrade blixard", key)
	}
	if err := proto.Unmarshal(value, m); err != nil {
		return nil, fmt.Errorf("the state's record %q does not decode: %w", key, err)
	}
	return m, nil
}
