package sim

import (
	"fmt"
	"time"

	"github.com/blixard/blixard/core/cluster"
)

// A machine's binary is of this release, or of the next one: which can apply one
// Level more, and says so. What the next release does at that level is what this
// one does; what it must not do below it, a planted bug does.

func init() { register(Upgrade{}, Rolling{}) }

const nextLevel = cluster.Level + 1

// Upgrade restarts a daemon as the next release or, with Newer 0, as this one: a
// binary that is put back after the cluster was raised does not start, until
// somebody upgrades it again.
type Upgrade struct {
	Node  N
	Newer int
}

func (Upgrade) draw(d dice) Fault { return Upgrade{d.node(), pick(d.Rand, 0, 0, 1)} }

func (f Upgrade) strike(w *World) bool {
	m := w.node(f.Node)
	if m == nil || m.level == cluster.Level+uint32(f.Newer) {
		return false
	}
	m.runs(cluster.Level + uint32(f.Newer))
	return true
}

// Rolling upgrades one machine after another within a time, all but Skip: n0 is
// none. While one is behind, the cluster stays at its level.
type Rolling struct {
	Skip N
	For  time.Duration
}

func (Rolling) draw(d dice) Fault {
	return Rolling{N(max(0, d.IntN(2*d.machines)-d.machines+1)), d.time() / 2}
}

func (f Rolling) strike(w *World) bool {
	if w.judges.levels.level >= nextLevel {
		return false
	}
	for i, m := range w.machines {
		if m.N() == f.Skip {
			continue
		}
		at := w.now + int64(f.For)*int64(i)/int64(len(w.machines))
		w.push(event{at: at, kind: evChore, m: m, ref: func() {
			if w.phase == safety && m.level < nextLevel {
				m.runs(nextLevel)
			}
		}})
	}
	return true
}

// runs installs a binary, and restarts the daemon if there is one.
func (m *Machine) runs(level uint32) {
	m.level = level
	m.w.say(m, fmt.Sprintf("binary knows level %d", level))
	if m.daemon != nil {
		m.stopDaemon(true)
		m.restartDaemon(between(m.rand, 100*time.Millisecond, 2*time.Second))
	}
}

// behind: the binary is older than the cluster, and does not start. Somebody, or
// systemd, tries again and again.
func (m *Machine) behind() {
	m.w.fired("Behind")
	m.w.say(m, "binary is older than the cluster: no daemon")
	if m.w.phase == healed { // it was put back before, and the level is raised, if only by an entry that nobody has applied yet
		m.level = nextLevel
	}
	m.restartDaemon(between(m.rand, 5*time.Second, 10*time.Second))
}
