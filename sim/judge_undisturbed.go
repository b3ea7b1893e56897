package sim

import (
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/shim"
)

// A host ends no VM that runs as the newest state wants it: neither a restart of
// its daemon, nor an old message, nor an epoch's begin or end is a reason, nor that
// the host stood still: only the VM's own sickness is. And a
// shim moves its timer when it has read that it may.
type judgeUndisturbed struct{}

// ordered looks at an order before it is carried out.
func (j *judgeUndisturbed) ordered(w *World, m *Machine, a vmm.Action) {
	d, ok := m.dirs.Get(a.Instance.UID)
	if !ok || d.guest == nil {
		return
	}
	w.judges.judged["undisturbed"]++
	g := d.guest
	if a.Verb != vmm.Stop && a.Verb != vmm.Kill || !g.ready || d.handedOver != 0 || g.dying || g.instance != a.Instance {
		return
	}
	// Stopped in between, the daemon may believe that it never became ready.
	if w.judges.placed.wants(w, m, d) && !w.pausedSince(m, g.forked) && !g.sick {
		w.fail("no VM is ended that should run", "%s: %s is ordered for %s, and the state at %d wants it to run there",
			m.Name, a.Verb, g.instance, w.judges.newest.index)
	}
}

// rang looks at a shim whose timer rings.
func (j *judgeUndisturbed) rang(s *shimProc) {
	if s.grown && len(s.inbox) == 0 && s.machine.Phase == shim.Running && s.machine.Change == nil {
		s.m.w.fail("no VM is ended that should run", "%s: the timer of %s rings, though its shim has read that the lease goes on", s.m.Name, s.dir.uid)
	}
}
