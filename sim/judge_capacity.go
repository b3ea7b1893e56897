package sim

import (
	"slices"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// At every index, what is placed on a host, added up VM by VM, is at most what
// the machine really has, and is what the state's own ledger says.
type judgeCapacity struct {
	// since is, by the index that placed an instance, the oldest spec generation
	// that its VM had from then on.
	since map[uint64]uint32
}

func (j *judgeCapacity) seen(w *World, v *cluster.State) {
	type sum struct{ vcpus, memory, disk, n uint64 }
	used := map[uint64]*sum{}
	v.VMs("", func(vm *blixardv1.VM) bool {
		p := vm.GetPlacement()
		if p == nil {
			return true
		}
		s := used[p.NodeId]
		if s == nil {
			s = &sum{}
			used[p.NodeId] = s
		}
		runs := vm.GetStatus().GetSpecGeneration()
		for _, spec := range j.mayRun(v, vm) {
			if p.Vcpus < spec.Vcpus || p.MemoryMib < spec.MemoryMib || runs == vm.SpecGeneration && (p.Vcpus != spec.Vcpus || p.MemoryMib != spec.MemoryMib) {
				w.fail("what is accounted is what was asked", "VM %s asks for %d vcpus and %d MiB in a spec that may run, accounted are %d and %d",
					vm.Name, spec.Vcpus, spec.MemoryMib, p.Vcpus, p.MemoryMib)
			}
		}
		s.vcpus += uint64(p.Vcpus)
		s.memory += p.MemoryMib
		s.disk += p.DiskMib
		s.n++
		return true
	})
	factor := uint64(v.Settings().GetVcpuOvercommitMilli())
	v.Nodes(func(n *blixardv1.Node) bool {
		u, h := used[n.Id], n.GetHost()
		delete(used, n.Id)
		if u == nil {
			u = &sum{}
		}
		a := h.GetAllocated()
		if uint64(a.GetVcpus()) != u.vcpus || a.GetMemoryMib() != u.memory || a.GetDiskMib() != u.disk || uint64(h.GetInstances()) != u.n {
			w.fail("the ledger is the sum of the VMs", "index %d, %s: the ledger says %d vcpus, %d MiB, %d VMs; placed are %d, %d, %d",
				v.Revision(), n.Name, a.GetVcpus(), a.GetMemoryMib(), h.GetInstances(), u.vcpus, u.memory, u.n)
		}
		if u.n == 0 {
			return true
		}
		w.judges.judged["capacity"]++
		m := w.machineOf(n.Id)
		c := m.capacity
		if u.vcpus*1000 > uint64(c.Vcpus)*factor || u.memory > c.MemoryMib || u.disk > c.DiskMib {
			w.fail("capacity is never exceeded", "index %d, %s: placed are %d vcpus, %d MiB memory, %d MiB disk; it has %d (x %d/1000), %d, %d",
				v.Revision(), n.Name, u.vcpus, u.memory, u.disk, c.Vcpus, factor, c.MemoryMib, c.DiskMib)
		}
		return true
	})
	for id := range used {
		w.fail("a VM is placed on a member", "index %d: a VM is placed on %d, which is no node", v.Revision(), id)
	}
}

// mayRun are the specs that a VM may run with: its newest; the one that it runs
// with, or that came between; and the last that was built, when the newest is not.
func (j *judgeCapacity) mayRun(v *cluster.State, vm *blixardv1.VM) []*blixardv1.VMSpec {
	at := vm.Placement.Incarnation.GetIndex()
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
