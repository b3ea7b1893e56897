package sim

// A live VM is where the newest state has placed it: nothing is released, and no
// name given away, while something of it lives; and nothing is started where it
// is not placed any more.
type judgePlaced struct{}

// entry looks at the guests of every VM that one entry has changed.
func (j *judgePlaced) entry(w *World, n *newest) {
	for _, c := range n.changed {
		if c.was != nil {
			j.of(w, c.was.Uid)
		}
		if c.is != nil && c.is.Uid != c.was.GetUid() {
			j.of(w, c.is.Uid)
		}
	}
}

func (j *judgePlaced) of(w *World, uid string) {
	for _, m := range w.machines {
		if d, ok := m.dirs.Get(uid); ok && d.guest != nil {
			j.look(w, d.guest, "lives")
		}
	}
}

// all looks at every guest.
func (j *judgePlaced) all(w *World) {
	w.guests(func(g *guest) { j.look(w, g, "lives") })
}

func (j *judgePlaced) forked(w *World, g *guest) { j.look(w, g, "is started") }

func (j *judgePlaced) look(w *World, g *guest, what string) {
	n := &w.judges.newest
	if n.vms == nil {
		return
	}
	if w.givenUp[g.m.called] || g.orphan {
		return // a person has said that its machine is off, and erred; or nothing ends it
	}
	w.judges.judged["placed"]++
	i := g.instance
	vm := n.vm(i.UID)
	switch p := vm.GetPlacement(); {
	case vm == nil:
		w.fail("a live VM is where it is placed", "index %d: %s %s on %s, and the state has no such VM", n.index, i, what, g.m.Name)
	case p == nil:
		w.fail("a live VM is where it is placed", "index %d: %s %s on %s, and %s is placed nowhere", n.index, i, what, g.m.Name, vm.Name)
	case w.byID(p.NodeId) != g.m || p.Incarnation.GetIndex() != i.Index || p.Incarnation.GetGeneration() != i.Generation:
		w.fail("a live VM is where it is placed", "index %d: %s %s on %s, and %s is placed on node %d by entry %d",
			n.index, i, what, g.m.Name, vm.Name, p.NodeId, p.Incarnation.GetIndex())
	}
}

// wants says that the newest state wants just this to run here: no other run of
// it, and no other spec.
func (j *judgePlaced) wants(w *World, m *Machine, d *vmDir) bool {
	i := d.guest.instance
	vm := w.judges.newest.vm(i.UID)
	p := vm.GetPlacement()
	return p != nil && vm.Run && !vm.Deleting && vm.RunGeneration == d.gen && vm.SpecGeneration == d.spec && w.byID(p.NodeId) == m &&
		p.Incarnation.GetIndex() == i.Index && p.Incarnation.GetGeneration() == i.Generation
}
