package sim

import (
	"fmt"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
)

// VMs of images have a balloon. A guest may give nothing at all, for want of a
// driver (Greedy), and take back whatever it has given; one that is moved or saved
// has its balloon where it goes on. It may never have more than what it was started
// with.

// boots notes what an instance is started with.
func (d *vmDir) boots(a vmm.Action) {
	d.boot, d.balloon = a.Assignment.GetSpec().GetMemoryMib(), a.Assignment.GetSpec().GetImage() != nil
	d.has = d.boot
	if a.Verb == vmm.Receive || a.Restore.GetMemory() {
		d.has = 0
	}
}

func (d *Daemon) balloonVM(a vmm.Action, dir *vmDir) {
	m := d.m
	if dir == nil || dir.guest == nil || dir.guest.dying || dir.guest.instance != a.Instance {
		d.finish(a.Instance.UID, a.ID, "")
		return
	}
	g := dir.guest
	if dir.handedOver != 0 || g.incoming != 0 || g.sending != nil {
		d.finish(a.Instance.UID, a.ID, "it is not here")
		return
	}
	if d.apiHangs(a) {
		return
	}
	want, err := min(a.Assignment.GetSpec().GetMemoryMib(), g.boot), ""
	if !g.greedy && !g.paused {
		g.has = want
	}
	if g.has != want {
		err = "the guest does not give it"
	}
	m.w.say(m, fmt.Sprintf("VM %s has %d of %d MiB", a.Instance, g.has, g.boot))
	m.w.fired("Balloon")
	dir.has = g.has
	m.notice(dir)
	if err == "" {
		err = m.lost()
	}
	d.finish(a.Instance.UID, a.ID, err)
}

// unballooned says that a guest has other memory than its newest spec leaves it, or
// that something else is said of it.
func unballooned(vm *blixardv1.VM, g *guest) string {
	st := vm.GetStatus()
	if !g.dir.balloon || vm.Paused {
		return ""
	}
	if st.BootedMemoryMib != g.boot || st.MemoryMib != g.has {
		return fmt.Sprintf("is said to have %d of %d MiB, and has %d of %d", st.MemoryMib, st.BootedMemoryMib, g.has, g.boot)
	}
	if want := min(vm.Spec.MemoryMib, g.boot); !g.greedy && g.has != want {
		return fmt.Sprintf("has %d MiB, and should have %d", g.has, want)
	}
	return ""
}

// judgeMemory: what a guest was started with is accounted to its VM on that host for
// as long as it lives, whatever its balloon holds.
type judgeMemory struct{}

const accounted = "what runs is accounted"

// forked looks at a guest that begins.
func (j judgeMemory) forked(w *World, g *guest) {
	n := &w.judges.newest
	if n.vms != nil && !n.meta.GetUnsettled() && n.vm(g.instance.UID) != nil { // or its host may have heard of a change that the backup has not
		j.look(w, g, n.vm(g.instance.UID))
	}
}

// entry looks at the guests of VMs that an entry has changed.
func (j judgeMemory) entry(w *World, n *newest) {
	for _, c := range n.changed {
		if c.is == nil || c.was.GetPlacement().GetMemoryMib() == c.is.Placement.GetMemoryMib() {
			continue
		}
		w.guests(func(g *guest) {
			if g.instance.UID == c.is.Uid {
				j.look(w, g, c.is)
			}
		})
	}
}

func (judgeMemory) look(w *World, g *guest, vm *blixardv1.VM) {
	for _, p := range []*blixardv1.Placement{vm.Placement, vm.GetMigration().GetOther()} {
		if p.GetNodeId() != g.m.id || p.Incarnation.GetIndex() != g.instance.Index || p.Incarnation.GetGeneration() != g.instance.Generation {
			continue
		}
		w.judges.judged["memory"]++
		if g.boot > p.MemoryMib {
			w.fail(accounted, "%s: %s was started with %d MiB, and %d are accounted to %s", g.m.Name, g.instance, g.boot, p.MemoryMib, vm.Name)
		}
	}
}
