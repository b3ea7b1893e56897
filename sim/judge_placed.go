package sim

import "github.com/blixard/blixard/core/cluster"

// A live VM is where the newest state has placed it: nothing is released, and no
// name given away, while something of it lives; and nothing is started where it
// is not placed any more.
type judgePlaced struct {
	newest *cluster.State
}

// seen looks at every guest when the state has moved.
func (j *judgePlaced) seen(w *World, v *cluster.State) {
	if j.newest != nil && v.Revision() <= j.newest.Revision() {
		return
	}
	j.newest = v
	w.guests(func(g *guest) { j.look(w, g, "lives") })
}

func (j *judgePlaced) forked(w *World, g *guest) { j.look(w, g, "is started") }

func (j *judgePlaced) look(w *World, g *guest, what string) {
	if j.newest == nil {
		return
	}
	if w.givenUp[g.m.called] {
		return // a person has said that its machine is off, and erred
	}
	w.judges.judged["placed"]++
	i := g.instance
	vm := j.newest.VMByUID(i.UID)
	switch p := vm.GetPlacement(); {
	case vm == nil:
		w.fail("a live VM is where it is placed", "index %d: %s %s on %s, and the state has no such VM", j.newest.Revision(), i, what, g.m.Name)
	case p == nil:
		w.fail("a live VM is where it is placed", "index %d: %s %s on %s, and %s is placed nowhere", j.newest.Revision(), i, what, g.m.Name, vm.Name)
	case w.byID(p.NodeId) != g.m || p.Incarnation.GetIndex() != i.Index || p.Incarnation.GetGeneration() != i.Generation:
		w.fail("a live VM is where it is placed", "index %d: %s %s on %s, and %s is placed on node %d by entry %d",
			j.newest.Revision(), i, what, g.m.Name, vm.Name, p.NodeId, p.Incarnation.GetIndex())
	}
}

// wants says that the newest state wants just this to run here: no other run of
// it, and no other spec.
func (j *judgePlaced) wants(w *World, m *Machine, d *vmDir) bool {
	if j.newest == nil {
		return false
	}
	i := d.guest.instance
	vm := j.newest.VMByUID(i.UID)
	p := vm.GetPlacement()
	return p != nil && vm.Run && !vm.Deleting && vm.RunGeneration == d.gen && vm.SpecGeneration == d.spec && w.byID(p.NodeId) == m &&
		p.Incarnation.GetIndex() == i.Index && p.Incarnation.GetGeneration() == i.Generation
}
