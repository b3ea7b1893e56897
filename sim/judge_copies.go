package sim

import "github.com/blixard/blixard/vmm/shim"

// At no instant do two instances of one VM, by uid, live in the process tables
// of all machines together. One that waits for its guest, or was stopped to leave,
// runs none of its code and is not counted.
//
// The count can only rise when a guest is forked, is taken over, or goes on after
// its move has failed, so that is when it is taken, from the tables themselves.
//
// An instance is forked once: the number of an attempt is never used again.
type judgeCopies struct {
	forks map[shim.Instance]bool
}

func (j *judgeCopies) forked(w *World, g *guest) {
	j.runs(w, g)
	if j.forks[g.instance] {
		w.fail("an instance is forked once", "%s: %s runs a second time", g.m.Name, g.instance)
	}
	j.forks[g.instance] = true
	if d := g.dir.shim; d != nil && d.timer == 0 && d.machine.Path != "" {
		w.fail("no fork before the timer stands", "%s: %s", g.m.Name, g.instance)
	}
}

// runs counts when a guest's code begins to run, or goes on.
func (j *judgeCopies) runs(w *World, g *guest) {
	w.judges.judged["copies"]++
	n, where := 0, ""
	w.guests(func(o *guest) {
		if o.instance.UID == g.instance.UID && o.runs() {
			n++
			where += " " + o.m.Name + ":" + o.instance.String()
		}
	})
	if n > 1 {
		w.fail("never two copies", "VM %s has %d live instances:%s", g.instance.UID, n, where)
	}
}
