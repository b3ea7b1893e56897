package sim

import (
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/shim"
)

// A VM that has ended by itself, and whose end was recorded, is started again on
// its host only as its restart policy says, until its user asks for another run or another spec.
type judgePolicy struct {
	over map[string]over   // by uid: the newest end
	runs map[string]uint32 // by uid: the newest run that its user had asked for when it was last started
}

type over struct {
	instance shim.Instance
	run      uint32
	spec     uint32
	asked    uint32
	good     bool // it exited with code 0

	// The spec that its user wanted then. The restart may have been decided by
	// what that says, though its program comes later.
	generation uint32
	policy     blixardv1.RestartPolicy
}

// ended takes a shim's last word.
func (j *judgePolicy) ended(w *World, d *vmDir) {
	if d.told == d.exit.Instance || d.reason == interrupted { // its host wanted its end, perhaps for a newer spec
		delete(j.over, d.uid)
		return
	}
	switch d.exit.Reason {
	case shim.ReasonExited, shim.ReasonSignaled:
		o := over{instance: d.exit.Instance, run: d.gen, spec: d.spec, asked: j.runs[d.uid]}
		o.good = !d.sick && d.exit.Reason == shim.ReasonExited && d.exit.Code == 0
		if n := &w.judges.newest; n.vms != nil {
			vm := n.vm(d.uid)
			o.generation, o.policy = vm.GetSpecGeneration(), vm.GetSpec().GetRestart()
		}
		j.over[d.uid] = o
	}
}

func (j *judgePolicy) forked(w *World, g *guest) {
	o, ok := j.over[g.instance.UID]
	n := &w.judges.newest
	if n.vms == nil {
		return
	}
	// A spec that it falls back on runs as the run before, whatever was asked for:
	// the run that was asked for is still to come.
	vm := n.vm(g.instance.UID)
	asked := asked(vm)
	j.runs[g.instance.UID] = asked
	if !ok || o.asked != asked || asked > o.run || o.instance.Index != g.instance.Index || o.run != g.dir.gen || o.spec != g.dir.spec {
		return
	}
	if vm.GetSpecGeneration() > o.generation+1 {
		return // nobody knows which of the specs between them decided
	}
	w.judges.judged["policy"]++
	// And its host may not have been told of the newest yet.
	if forbids(g.dir.policy, o.good) && forbids(o.policy, o.good) && forbids(vm.GetSpec().GetRestart(), o.good) {
		w.fail("restarts are as the policy says", "%s: %s is started, though run %d of it ended as %s (good: %t) and its policy is %s",
			g.m.Name, g.instance, o.run, o.instance, o.good, o.policy)
	}
}

func forbids(policy blixardv1.RestartPolicy, good bool) bool {
	return policy == blixardv1.RestartPolicy_RESTART_POLICY_NEVER || policy == blixardv1.RestartPolicy_RESTART_POLICY_ON_FAILURE && good
}
