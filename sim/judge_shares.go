package sim

import blixardv1 "github.com/blixard/blixard/proto/blixard/v1"

// A VM with shares is placed, and started, only on a machine that allows them, has what
// serves them and a hypervisor that shows them to a guest; and what serves them lives as long as it.
type judgeShares struct{}

const hasShares = "a VM has its shares where it runs"

// entry looks at the VMs that an entry has placed, or given another spec.
func (j *judgeShares) entry(w *World, n *newest) {
	for _, c := range n.changed {
		if len(c.is.GetSpec().GetShares()) == 0 {
			continue
		}
		for _, p := range []*blixardv1.Placement{c.is.GetPlacement(), c.is.GetMigration().GetOther()} {
			m := w.byID(p.GetNodeId())
			renewed := p == c.is.Placement && c.is.SpecGeneration != c.was.GetSpecGeneration() // what a move has left elsewhere never runs
			if m == nil || p.Incarnation.GetIndex() != n.index && !renewed {
				continue
			}
			w.judges.judged["shares"]++
			if !m.serves(c.is.Spec.Shares) {
				w.fail(hasShares, "index %d: %s (spec %d) is placed on %s, which cannot share %s with it (virtiofsd %t, its QEMU %t, folders %v)",
					n.index, c.name, c.is.SpecGeneration, m.Name, c.is.Spec.Shares[0].Source, m.hasVirtiofsd(), m.qemuShares(), m.allows())
			}
		}
	}
}

// forked looks at a guest that begins.
func (j *judgeShares) forked(w *World, g *guest) {
	if len(g.shares) == 0 {
		return
	}
	w.judges.judged["shares"]++
	if !g.m.serves(g.shares) {
		w.fail(hasShares, "%s: %s begins with shares, and nothing here can serve them, or none of it may", g.m.Name, g.instance)
	}
}
