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
	said map[string][]said // by uid: every policy that its user has wanted, oldest first
}

// said is the policy of a spec, and of those after it until the next.
type said struct {
	generation uint32
	policy     blixardv1.RestartPolicy
}

// entry takes down what users want.
func (j *judgePolicy) entry(n *newest) {
	for _, c := range n.changed {
		j.wants(c.is)
	}
}

// anew takes over a state of which not every entry was seen.
func (j *judgePolicy) anew(n *newest) {
	for _, vm := range sorted(n.vms) {
		j.wants(vm)
	}
}

func (j *judgePolicy) wants(vm *blixardv1.VM) {
	if vm == nil {
		return
	}
	list := j.said[vm.Uid]
	if s := (said{vm.SpecGeneration, vm.GetSpec().GetRestart()}); len(list) == 0 || list[len(list)-1].policy != s.policy {
		j.said[vm.Uid] = append(list, s)
	}
}

// allows says that a policy that was wanted since a spec would have had what ended
// started again.
func (j *judgePolicy) allows(uid string, since uint32, good bool) bool {
	list := j.said[uid]
	for i, s := range list {
		if until := i + 1; (until == len(list) || list[until].generation > since) && !forbids(s.policy, good) {
			return true
		}
	}
	return false
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
	// A spec that stands in for one that is not built is started as that one says: which
	// of those since the host has been told of nobody knows.
	if vm.GetSpecGeneration() > g.dir.spec && j.allows(g.instance.UID, g.dir.spec+1, o.good) {
		return
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
