package sim

import (
	"fmt"
	"slices"
	"strings"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// An address, a mac, a port and a device of a host are one VM's. What a VM was given stays
// its own for as long as anything of it lives; and nothing is in use but what VMs
// have.
//
// The ports of nodes of one machine are one set of ports.
//
// The judge keeps its own account, from the VMs' records alone.
type judgeAddresses struct {
	of  map[string]string   // "lan 10.0.0.2", "02:...", "node 3 port 8080/1" -> uid
	has map[string][]string // the same, by uid
	in  uint32              // addresses of theNetwork that VMs have in the newest state
}

const (
	oneAddress = "an address is one VM's"
	onePort    = "a port leads to one VM"
	stillHas   = "what lives has its address"
	inUse      = "addresses in use are those that VMs have"
)

// heldBy is what a VM's record says that it has.
func (w *World) heldBy(vm *blixardv1.VM) (list []string) {
	for _, a := range vm.GetAttachments() {
		list = append(list, a.Mac)
		if a.Network != "" {
			list = append(list, a.Network+" "+a.Address)
		}
	}
	return append(list, w.portsOf(vm)...)
}

// portsOf are the ports of hosts that a VM has: where it may run, and where its live
// move has something of it.
func (w *World) portsOf(vm *blixardv1.VM) (list []string) {
	for _, at := range []*blixardv1.Placement{vm.GetPlacement(), vm.GetMigration().GetOther()} {
		for _, p := range at.GetPorts() {
			where := fmt.Sprintf("node %d", at.NodeId)
			if m := w.byID(at.NodeId); m != nil && m.portSpace() != "" {
				where = m.portSpace()
			}
			list = append(list, fmt.Sprintf("%s port %d/%d", where, p.Port, p.Protocol))
		}
	}
	for _, d := range vm.GetPlacement().GetDevices() {
		list = append(list, deviceOf(vm, d))
	}
	return list
}

func deviceOf(vm *blixardv1.VM, d *blixardv1.Device) string {
	return fmt.Sprintf("node %d device %s", vm.Placement.NodeId, d.Address)
}

// entry looks at what one entry has changed.
func (j *judgeAddresses) entry(w *World, n *newest) {
	for _, c := range n.changed {
		j.in += addressesOf(c.is) - addressesOf(c.was)
		for _, what := range j.has[c.was.GetUid()] {
			delete(j.of, what)
		}
		delete(j.has, c.was.GetUid())
	}
	last := map[string]int{} // what an entry changes twice is what it leaves
	for i, c := range n.changed {
		last[c.name] = i
	}
	for i, c := range n.changed {
		if last[c.name] == i {
			j.take(w, n, c.is)
		}
	}
	for _, c := range n.changed {
		if c.was == nil || len(c.was.Attachments) == 0 {
			continue
		}
		for _, g := range w.running[c.was.Uid] {
			j.look(w, g)
		}
	}
}

// anew takes over a state of which not every entry was seen.
func (j *judgeAddresses) anew(w *World, n *newest) {
	j.of, j.has, j.in = map[string]string{}, map[string][]string{}, 0
	for _, vm := range sorted(n.vms) {
		j.in += addressesOf(vm)
		j.take(w, n, vm)
	}
	w.guests(func(g *guest) { j.look(w, g) })
}

func (j *judgeAddresses) take(w *World, n *newest, vm *blixardv1.VM) {
	for _, what := range w.heldBy(vm) {
		w.judges.judged["addresses"]++
		if by := j.of[what]; by != "" {
			rule := oneAddress
			if slices.Contains(w.portsOf(vm), what) {
				rule = onePort
			}
			if slices.ContainsFunc(vm.GetPlacement().GetDevices(), func(d *blixardv1.Device) bool { return what == deviceOf(vm, d) }) {
				rule = oneDevice
			}
			w.fail(rule, "index %d: %s is %s's, and was %s's", n.index, what, vm.Uid, by)
		}
		j.of[what], j.has[vm.Uid] = vm.Uid, append(j.has[vm.Uid], what)
	}
}

// addressesOf is how many addresses of theNetwork a VM has.
func addressesOf(vm *blixardv1.VM) (n uint32) {
	for _, a := range vm.GetAttachments() {
		if a.Network == theNetwork {
			n++
		}
	}
	return n
}

// state holds the cluster's own account to the judge's: of the newest state to
// what was followed, of an older one to its VMs.
func (j *judgeAddresses) state(w *World, v *cluster.State) {
	have := j.in
	if n := &w.judges.newest; n.vms == nil || n.index != v.Revision() {
		have = 0
		v.VMs("", func(vm *blixardv1.VM) bool {
			have += addressesOf(vm)
			return true
		})
	}
	if _, used := v.NetworkUse(theNetwork); used != have {
		w.fail(inUse, "index %d: %d addresses of %s are in use, and VMs have %d", v.Revision(), used, theNetwork, have)
	}
}

func (j *judgeAddresses) forked(w *World, g *guest) { j.look(w, g) }

// look holds what a guest was started with to what its VM has.
func (j *judgeAddresses) look(w *World, g *guest) {
	n := &w.judges.newest
	if n.vms == nil || n.meta.GetUnsettled() || g.orphan || w.givenUp[g.m.called] && g.dir.looser().class == blixardv1.LeaseClass_LEASE_CLASS_NONE {
		return // as the judge of what is placed
	}
	for _, i := range g.nets {
		w.judges.judged["addresses"]++
		if by := j.of[i.Mac]; by != g.instance.UID {
			w.fail(stillHas, "index %d: %s lives on %s with %s, which is %q's", n.index, g.instance, g.m.Name, i.Mac, by)
		}
		if i.Network == "" {
			continue
		}
		address, _, _ := strings.Cut(i.Address, "/")
		if by := j.of[i.Network+" "+address]; by != g.instance.UID {
			w.fail(stillHas, "index %d: %s lives on %s with %s, which is %q's", n.index, g.instance, g.m.Name, address, by)
		}
	}
}
