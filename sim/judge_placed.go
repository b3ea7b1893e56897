package sim

import (
	"maps"
	"slices"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A live VM is where the newest state has placed it: nothing is released, and no
// name given away, while something of it lives; and nothing is started where it
// is not placed any more. It is placed on no host that is cordoned, suspect,
// without an epoch, or lacks a label that it must have; nor while one of a higher
// priority that needs no more waits.
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
		for _, p := range []*blixardv1.Placement{c.is.GetPlacement(), c.is.GetMigration().GetOther()} {
			if p != nil && p.Incarnation.GetIndex() == n.index {
				j.chosen(w, n, c.is, p)
			}
		}
	}
}

// chosen looks at a VM that the last entry has placed.
func (j *judgePlaced) chosen(w *World, n *newest, vm *blixardv1.VM, p *blixardv1.Placement) {
	node := n.nodes[p.NodeId]
	h := node.GetHost()
	why := ""
	switch {
	case node.GetCordoned():
		why = "is cordoned"
	case h.GetSuspect():
		why = "is suspect"
	case h.GetEpochState() != blixardv1.EpochState_EPOCH_STATE_ACTIVE || h.GetEpoch() != p.Epoch:
		why = "has no epoch, or another one"
	}
	for _, k := range slices.Sorted(maps.Keys(vm.Spec.Require)) {
		if v := vm.Spec.Require[k]; h.GetFacts().GetLabels()[k] != v {
			why = "lacks the label " + k + "=" + v
		}
	}
	j.inTurn(w, n, vm)
	if why != "" {
		w.fail("a VM is placed where it may be", "index %d: %s is placed on %s, which %s", n.index, vm.Name, node.GetName(), why)
	}
}

// inTurn: nobody who needs no more, and whose priority is higher, waits on. Only
// programs are compared, which any host can run.
func (j *judgePlaced) inTurn(w *World, n *newest, vm *blixardv1.VM) {
	if vm.Spec.GetProcess() == nil || n.meta.GetPlaceMore() {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(n.waiting)) {
		o := n.waiting[name]
		if o.Spec.GetProcess() != nil && o.Spec.Priority > vm.Spec.Priority &&
			o.Spec.Vcpus <= vm.Spec.Vcpus && o.Spec.MemoryMib <= vm.Spec.MemoryMib && len(o.Spec.Require) == 0 {
			w.fail("a higher priority is placed first", "index %d: %s (priority %d) is placed on %s, and %s (priority %d), which needs no more, waits",
				n.index, vm.Name, vm.Spec.Priority, vm.Placement.Node, o.Name, o.Spec.Priority)
		}
	}
}

func (j *judgePlaced) of(w *World, uid string) {
	for _, g := range w.running[uid] {
		j.look(w, g, "lives")
	}
}

// all looks at every guest.
func (j *judgePlaced) all(w *World) {
	w.guests(func(g *guest) {
		if g.runs() {
			j.look(w, g, "lives")
		}
	})
}

func (j *judgePlaced) forked(w *World, g *guest) { j.look(w, g, "is started") }

func (j *judgePlaced) look(w *World, g *guest, what string) {
	n := &w.judges.newest
	if n.vms == nil || n.meta.GetUnsettled() { // after a restore nobody knows what lives where
		return
	}
	if g.orphan || w.givenUp[g.m.called] && g.dir.looser().class == blixardv1.LeaseClass_LEASE_CLASS_NONE {
		return // nothing ends it; or a person has said that its machine is off, and erred
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
// it, and no other spec before it is stopped by itself.
func (j *judgePlaced) wants(w *World, m *Machine, d *vmDir) bool {
	i := d.guest.instance
	vm := w.judges.newest.vm(i.UID)
	p := vm.GetPlacement()
	return p != nil && vm.Run && !vm.Deleting && !p.Leaving && !p.Held && asked(vm) == d.gen && !w.judges.specs.mayRenew(vm, d) && w.byID(p.NodeId) == m &&
		p.Incarnation.GetIndex() == i.Index && p.Incarnation.GetGeneration() == i.Generation
}

// asked counts the runs that were asked for, by a VM's user or for its host's sake.
func asked(vm *blixardv1.VM) uint32 { return vm.GetRunGeneration() + vm.GetPlacement().GetStarts() }
