package sim

import (
	"math"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// What was acknowledged to a client is in the state at the end, unless somebody
// asked for what undid it: a VM that was created is there with its uid unless a
// Delete of its name was called, and one that was deleted is not there.
func judgeAcknowledged(w *World, v *cluster.State) {
	deletes := map[string]int64{} // until when one may have happened
	for _, op := range w.history {
		if op.Verb == Delete {
			end := op.Return
			if op.Unknown || end == 0 {
				end = math.MaxInt64
			}
			deletes[op.Name] = max(deletes[op.Name], end)
		}
	}
	for _, op := range w.history {
		if op.Error != nil || op.Return == 0 || op.VM == nil {
			continue
		}
		w.judges.judged["acknowledged"]++
		if op.Revision > v.Revision() {
			w.fail("acknowledged is never lost", "%v: the state ends at %d", op, v.Revision())
		}
		switch vm := v.VMByUID(op.VM.Uid); {
		case op.Verb == Create && vm == nil && deletes[op.Name] < op.Call && !op.VM.Deleting:
			w.fail("acknowledged is never lost", "%v: it is not there, and nobody deleted it", op)
		case op.Verb == Delete && vm != nil && !vm.Deleting:
			w.fail("acknowledged is never lost", "%v: it is there and is not being deleted", op)
		}
	}
}

// explained says that a VM which waits has nowhere to go: no host that may take
// VMs has room for it, by a naive sum.
func explained(v *cluster.State, vm *blixardv1.VM) bool {
	ok := true
	v.Nodes(func(n *blixardv1.Node) bool {
		c, a := n.GetHost().GetFacts().GetCapacity(), n.GetHost().GetAllocated()
		if n.Host == nil || n.Cordoned || n.Host.Suspect {
			return true
		}
		fits := uint64(a.GetVcpus()+vm.Spec.Vcpus)*1000 <= uint64(c.GetVcpus())*uint64(v.Settings().GetVcpuOvercommitMilli()) &&
			a.GetMemoryMib()+vm.Spec.MemoryMib <= c.GetMemoryMib()
		ok = ok && !fits
		return true
	})
	return ok
}
