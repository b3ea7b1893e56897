package cluster

import (
	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Level is the highest Settings.level that this code can apply. Raise it with
// every change to what Apply does, and do below it what was done before: in a
// rolling upgrade, binaries of two levels apply the same entries.
const Level = 1

// level writes down what a node's binary can apply.
func (s *State) level(e *entry, op *blixardv1.LevelOp) *blixardv1.Response {
	old := s.Node(op.NodeId)
	if old == nil || old.Level == op.Level {
		return nil
	}
	n := clone(old)
	n.Level, n.Revision = op.Level, e.index
	s.put(nodeKey(n.Id), n)
	s.raise(e)
	return nodeResponse(n)
}

// raise takes the cluster to the level that every member can apply. One that is
// lowered later, and applies no more, holds up nobody but itself.
func (s *State) raise(e *entry) {
	least := ^uint32(0)
	s.Nodes(func(n *blixardv1.Node) bool {
		if n.Level < least && !(mutant.On("ServersRaise") && n.Server == blixardv1.ServerState_SERVER_STATE_UNSPECIFIED) {
			least = n.Level
		}
		return true
	})
	if least == ^uint32(0) || least <= s.meta.Settings.GetLevel() {
		return
	}
	s.meta.Settings = clone(s.meta.Settings)
	s.meta.Settings.Level = least
	s.event(e, "LevelRaised", "", "", "every member knows level %d", least)
}
