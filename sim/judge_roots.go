package sim

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/blixard/blixard/core/cluster"
)

// What runs, or waits for its guest, has what it was started with in its machine's store,
// held, whatever was collected, built, rolled back or moved meanwhile: it is stopped by it.
func judgeRoots(w *World, m *Machine) {
	m.dirs.Scan(func(uid string, d *vmDir) bool {
		if d.guest == nil || d.guest.runner == "" {
			return true
		}
		w.judges.judged["roots"]++
		if !m.nix.paths[d.guest.runner] {
			w.fail("what runs keeps its root", "%s: %s of %s was collected", m.Name, d.guest.runner, d.guest.instance)
		}
		if !slices.Contains(m.nix.held[uid], d.guest.runner) {
			w.fail("what runs keeps its root", "%s: nobody holds %s of %s", m.Name, d.guest.runner, d.guest.instance)
		}
		return true
	})
}

// nixLeaks says, in a world at rest, whose runners are held that is not there.
func (w *World) nixLeaks(v *cluster.State, m *Machine) (why []string) {
	ready := map[string]bool{}
	for _, p := range v.Preparations(m.id) {
		ready[p.Uid] = true
	}
	for _, who := range slices.Sorted(maps.Keys(m.nix.held)) {
		uid, prepared := strings.CutPrefix(who, preparedFor)
		_, here := m.dirs.Get(uid)
		if prepared && !ready[uid] || !prepared && !here {
			why = append(why, fmt.Sprintf("%s holds runners for %s, which it does not have", m.Name, who))
		}
	}
	return why
}
