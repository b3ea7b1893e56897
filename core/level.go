package core

import (
	"errors"
	"fmt"

	"github.com/blixard/blixard/core/cluster"
	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A cluster is upgraded node by node. Every node says in each of its messages what
// its binary can apply; the leader writes that down where the state does not know
// it; and Apply raises the level when the last member can follow. Until then the
// newer binaries do what the older ones do.

// ErrBehind marks a server whose binary cannot apply what its cluster agreed on.
// It applies nothing from there on: a guess would be another state.
var ErrBehind = errors.New("this binary is older than its cluster")

func (s *server) behind(state *cluster.State) error {
	if level := state.Settings().GetLevel(); level > s.cfg.Level && !mutant.On("BehindGoesOn") {
		return fmt.Errorf("%w: the cluster is at level %d, and this blixard knows only %d; start the newer one again, as the other members did", ErrBehind, level, s.cfg.Level)
	}
	return nil
}

// runs hears from a node what its binary can apply.
func (l *leader) runs(id uint64, level uint32) {
	n := l.state.Node(id)
	if n == nil || level == 0 || n.Level == level || l.now.Boot-l.leveled[id] < proposeHostAgain && l.leveled[id] != 0 {
		return
	}
	l.leveled[id] = l.now.Boot
	l.propose(&blixardv1.Command{Op: &blixardv1.Command_Level{Level: &blixardv1.LevelOp{NodeId: id, Level: level}}})
}
