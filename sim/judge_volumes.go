package sim

import (
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// No volume is open for writing twice; and a VM that waits for its host, because
// its volumes are there, is taken from it only by a person's word that the host is
// lost. It is then left stopped: its owner says whether it starts without them.
//
// A VM's volumes are in its directory: who runs there has them open.
type judgeVolumes struct{}

func (j *judgeVolumes) forked(w *World, g *guest) {
	w.judges.judged["volumes"]++
	for _, o := range g.m.guests {
		if o != g && o.dir == g.dir {
			w.fail("no volume is open twice", "%s: %s and %s run in one directory", g.m.Name, o.instance, g.instance)
		}
	}
}

// entry looks at what one entry has changed.
func (j *judgeVolumes) entry(w *World, n *newest) {
	for _, c := range n.changed {
		was, is := c.was.GetPlacement(), c.is.GetPlacement()
		if was == nil || c.is == nil || c.is.Uid != c.was.Uid || c.is.Deleting || !waits(c.was) || !waits(c.is) {
			continue
		}
		w.judges.judged["volumes"]++
		if is.GetNodeId() == was.NodeId && is.Incarnation.GetIndex() == was.Incarnation.GetIndex() {
			continue
		}
		if m := c.is.GetMigration(); m.GetId() != 0 && is.GetIncarnation().GetIndex() == m.Id { // it has gone live, which only what has no volume can
			continue
		}
		if c.is.Run {
			w.fail("a VM that waits is not taken from its host", "index %d: %s starts without its volumes, on node %d", n.index, c.is.Name, is.GetNodeId())
		}
		if m := w.machineOf(was.NodeId); !w.givenUp[was.Node] && (m == nil || !w.givenUp[m.called]) {
			w.fail("a VM that waits is not taken from its host", "index %d: %s waits for node %d, which nobody gave up, and is not placed there any more",
				n.index, c.is.Name, was.NodeId)
		}
	}
}

func waits(vm *blixardv1.VM) bool {
	return vm.GetSpec().GetOnHostLoss() == blixardv1.OnHostLoss_ON_HOST_LOSS_WAIT
}
