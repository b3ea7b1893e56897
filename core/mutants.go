package core

import (
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// What planted bugs need that is more than a condition (see core/mutant). Nothing
// of it is in a program of production.

// reconfigureEarly uses changes of the configuration when they are appended.
func (s *server) reconfigureEarly(entries []*raftpb.Entry) {
	for _, e := range entries {
		var cc raftpb.ConfChangeV2
		if e.GetType() == raftpb.EntryConfChangeV2 && proto.Unmarshal(e.GetData(), &cc) == nil {
			s.raft.ApplyConfChange(&cc)
		}
	}
}

// goneEarly says that a change which is not committed has removed a server.
func (l *leader) goneEarly(id uint64) bool {
	gone := true
	l.raft.WithProgress(func(peer uint64, _ raft.ProgressType, _ progress) { gone = gone && peer != id })
	return gone
}
