package sim

import (
	"math"

	"github.com/blixard/blixard/core/cluster"
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
	judgeKept(w, v)
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

// judgeKept: a snapshot that was ordered or brought is listed as that unless somebody
// called a delete of its name, or its host is a member no more.
func judgeKept(w *World, v *cluster.State) {
	drops := map[string]int64{}
	for _, op := range w.history {
		if op.Verb == DropSnapshot {
			end := op.Return
			if op.Unknown || end == 0 {
				end = math.MaxInt64
			}
			drops[op.Name] = max(drops[op.Name], end)
		}
	}
	for _, op := range w.history {
		p := op.Snapshot
		if op.Verb != TakeSnapshot && op.Verb != BringBack || op.Error != nil || op.Return == 0 || p == nil || drops[op.Name] >= op.Call || v.Node(p.NodeId).GetHost() == nil {
			continue
		}
		w.judges.judged["acknowledged"]++
		if now := v.Snapshot(p.Name); now.GetUid() != p.Uid {
			w.fail("acknowledged is never lost", "%v: the snapshot %s is not there, and nobody deleted it", op, p.Uid)
		}
	}
}
