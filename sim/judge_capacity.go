package sim

import (
	"slices"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// At every index, what is placed on a host, added up VM by VM, is at most what
// the machine really has, and is what the state's own ledger says.
//
// The judge keeps its own sums.
type judgeCapacity struct {
	vms   map[string]held // by name
	used  map[uint64]held // by node
	moved []uint64        // nodes that the entry has touched
	asked []string        // VMs that the step has touched
	// since is, by incarnation, the oldest spec generation that its VM had from
	// then on.
	since map[incarnation]uint32
}

type incarnation struct {
	uid   string
	index uint64 // one entry may place many
}

// held is what a VM holds on a node, or all VMs there together.
type held struct {
	node                    uint64
	vcpus, memory, disk, vm uint64
}

func (h held) plus(o held) held {
	return held{h.node, h.vcpus + o.vcpus, h.memory + o.memory, h.disk + o.disk, h.vm + o.vm}
}

func (h held) minus(o held) held {
	return held{h.node, h.vcpus - o.vcpus, h.memory - o.memory, h.disk - o.disk, h.vm - o.vm}
}

// entry judges every node that one entry has touched.
func (j *judgeCapacity) entry(w *World, n *newest, v *cluster.State) {
	j.moved = append(j.moved[:0], n.moved...)
	for _, c := range n.changed {
		j.place(c.name, c.is)
		j.asked = append(j.asked, c.name)
	}
	for _, id := range j.moved {
		j.judge(w, n, v, id)
	}
}

// anew adds up everything, and judges all of it.
func (j *judgeCapacity) anew(w *World, n *newest, v *cluster.State) {
	*j = judgeCapacity{vms: map[string]held{}, used: map[uint64]held{}, since: j.since}
	v.VMs("", func(vm *blixardv1.VM) bool {
		j.place(vm.Name, vm)
		j.asked = append(j.asked, vm.Name)
		return true
	})
	v.Nodes(func(node *blixardv1.Node) bool {
		j.touch(node.Id)
		return true
	})
	for _, id := range j.moved { // where anything is placed, and every member
		j.judge(w, n, v, id)
	}
	j.judgeAsked(w, v)
}

// place takes over where a VM is and what it holds there, and where its live move
// has something of it; nil: it is gone.
func (j *judgeCapacity) place(name string, vm *blixardv1.VM) {
	j.holds(name, vm.GetPlacement())
	j.holds(name+"/other", vm.GetMigration().GetOther())
}

func (j *judgeCapacity) holds(name string, p *blixardv1.Placement) {
	was, is := j.vms[name], held{}
	if p != nil {
		is = held{p.NodeId, uint64(p.Vcpus), p.MemoryMib, p.DiskMib, 1}
	}
	if was == is {
		return
	}
	if was.vm > 0 {
		j.used[was.node] = j.used[was.node].minus(was)
		if j.used[was.node].vm == 0 {
			delete(j.used, was.node)
		}
		delete(j.vms, name)
		j.touch(was.node)
	}
	if is.vm > 0 {
		u := j.used[is.node]
		u.node = is.node
		j.used[is.node] = u.plus(is)
		j.vms[name] = is
		j.touch(is.node)
	}
}

func (j *judgeCapacity) touch(node uint64) {
	if !slices.Contains(j.moved, node) {
		j.moved = append(j.moved, node)
	}
}

// judge compares what is placed on a node with its ledger and with the machine.
func (j *judgeCapacity) judge(w *World, n *newest, v *cluster.State, id uint64) {
	node, u := n.nodes[id], j.used[id]
	if node == nil {
		if u.vm > 0 {
			w.fail("a VM is placed on a member", "index %d: a VM is placed on %d, which is no node", n.index, id)
		}
		return
	}
	h := node.GetHost()
	for _, p := range n.snapshots {
		if p.NodeId == id {
			u.disk += p.DiskMib
		}
	}
	a := h.GetAllocated()
	if h == nil && u.vm == 0 {
		return // no host any more: its volumes are lost
	}
	for _, name := range n.volumesOn(id) { // accounted beside VMs
		u.disk += n.volumes[name].Spec.SizeMib
	}
	for _, c := range n.copiesOn(id) {
		u.disk += c.SizeMib
	}
	if uint64(a.GetVcpus()) != u.vcpus || a.GetMemoryMib() != u.memory || a.GetDiskMib() != u.disk || uint64(h.GetInstances()) != u.vm {
		w.fail("the ledger is the sum of the VMs", "index %d, %s: the ledger says %d vcpus, %d MiB, %d VMs; placed are %d, %d, %d",
			n.index, node.Name, a.GetVcpus(), a.GetMemoryMib(), h.GetInstances(), u.vcpus, u.memory, u.vm)
	}
	if u.vm == 0 && u.disk == 0 {
		return
	}
	w.judges.judged["capacity"]++
	factor, c := uint64(v.Settings().GetVcpuOvercommitMilli()), w.machineOf(id).capacity
	if u.vcpus*1000 > uint64(c.Vcpus)*factor || u.memory > c.MemoryMib || u.disk > c.DiskMib {
		w.fail("capacity is never exceeded", "index %d, %s: placed are %d vcpus, %d MiB memory, %d MiB disk; it has %d (x %d/1000), %d, %d",
			n.index, node.Name, u.vcpus, u.memory, u.disk, c.Vcpus, factor, c.MemoryMib, c.DiskMib)
	}
}

// judgeAsked compares what is accounted to the VMs that a step has touched with
// the specs that they may run with, in the state that it led to.
func (j *judgeCapacity) judgeAsked(w *World, v *cluster.State) {
	for _, name := range j.asked {
		vm := v.VM(name)
		p := vm.GetPlacement()
		if p == nil {
			continue
		}
		runs := vm.GetStatus().GetSpecGeneration()
		for _, spec := range j.mayRun(v, vm) {
			if p.Vcpus < spec.Vcpus || p.MemoryMib < spec.MemoryMib || runs == vm.SpecGeneration && (p.Vcpus != spec.Vcpus || p.MemoryMib != spec.MemoryMib) {
				w.fail("what is accounted is what was asked", "VM %s asks for %d vcpus and %d MiB in a spec that may run, accounted are %d and %d",
					vm.Name, spec.Vcpus, spec.MemoryMib, p.Vcpus, p.MemoryMib)
			}
		}
	}
}

// mayRun are the specs that a VM may run with: its newest; the one that it runs
// with, or that came between; and the last that was built, when the newest is not.
func (j *judgeCapacity) mayRun(v *cluster.State, vm *blixardv1.VM) []*blixardv1.VMSpec {
	at := incarnation{vm.Uid, vm.Placement.Incarnation.GetIndex()}
	since, ok := j.since[at]
	if !ok || vm.SpecGeneration < since {
		since = vm.SpecGeneration
		j.since[at] = since
	}
	list, runs := []*blixardv1.VMSpec{vm.Spec}, vm.GetStatus().GetSpecGeneration()
	if runs == vm.SpecGeneration {
		return list
	}
	built := vm.Runner != nil || vm.Spec.GetNixos() == nil
	for _, g := range slices.Backward(v.History(vm.Name)) {
		if runs != 0 && (g.SpecGeneration == runs || g.SpecGeneration >= max(runs, since)) || !built && g.Runner != nil {
			list = append(list, g.Spec)
		}
		built = built || g.Runner != nil
	}
	return list
}
