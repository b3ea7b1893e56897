package sim

import "github.com/blixard/blixard/core/cluster"

// The level of the cluster never goes back, is never above what the binary of any
// member can apply or once could, and no server applies anything beyond its own.
type judgeLevels struct {
	level uint32            // of the newest state
	known map[uint64]uint32 // by node: the highest that a binary of it could apply
}

// runs takes what a node's binary can apply.
func (j *judgeLevels) runs(id uint64, level uint32) { j.known[id] = max(j.known[id], level) }

// entry looks at what one entry has led to.
func (j *judgeLevels) entry(w *World, n *newest) {
	is, was := n.meta.GetSettings().GetLevel(), j.level
	if is == was {
		return
	}
	j.level = is
	if was == 0 {
		return
	}
	w.judges.judged["levels"]++
	if is < was {
		w.fail("a level never goes back", "index %d: from %d to %d", n.index, was, is)
	}
	for id, known := range j.known {
		if n.nodes[id] != nil && known < is {
			w.fail("a level is raised when every member knows it", "index %d: to %d, and no binary of node %d knew more than %d", n.index, is, id, known)
		}
	}
}

// applied looks at a server after a step that has applied something.
func (j *judgeLevels) applied(w *World, m *Machine, v *cluster.State) {
	if level := v.Settings().GetLevel(); level > m.level {
		w.fail("no server applies beyond its level", "%s goes on at index %d at level %d, and its binary knows %d", m.Name, v.Revision(), level, m.level)
	}
}
