package sim

import (
	"slices"

	"google.golang.org/protobuf/proto"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A spec generation is one spec for ever. What is recorded as built for it, and
// what of Nix's runs as it, is what Nix makes of that spec; a rollback gives back
// the spec before. And a VM is stopped for a newer spec only when that was asked
// for and is built.
//
// The judge keeps the specs that it saw: no two that people write are equal.
type judgeSpecs struct {
	had map[specOf]*blixardv1.VMSpec
	// history is, by uid, what the VM can go back to, the newest last.
	history map[string][]*blixardv1.VMSpec
	newest  map[string]uint32 // spec generation, by uid
	// restart is the newest generation, by uid, for which a restart was asked.
	restart map[string]uint32
}

type specOf struct {
	uid        string
	generation uint32
}

// mostHistory is how many specs a VM can go back.
const mostHistory = 5

func newJudgeSpecs() judgeSpecs {
	return judgeSpecs{map[specOf]*blixardv1.VMSpec{}, map[string][]*blixardv1.VMSpec{}, map[string]uint32{}, map[string]uint32{}}
}

// entry looks at what one entry has changed.
func (j *judgeSpecs) entry(w *World, n *newest) {
	for _, c := range n.changed {
		if c.is == nil || c.was != nil && c.was.Uid != c.is.Uid {
			j.forget(c.was.GetUid())
		}
		if c.is != nil {
			j.take(w, n, c.is)
		}
	}
}

// anew takes over a state of which not every entry was seen.
func (j *judgeSpecs) anew(w *World, n *newest) {
	*j = newJudgeSpecs()
	for _, vm := range sorted(n.vms) {
		j.take(w, n, vm)
		j.restart[vm.Uid] = vm.SpecGeneration
	}
}

func (j *judgeSpecs) forget(uid string) {
	for generation := range j.newest[uid] {
		delete(j.had, specOf{uid, generation + 1})
	}
	delete(j.history, uid)
	delete(j.newest, uid)
	delete(j.restart, uid)
}

func (j *judgeSpecs) take(w *World, n *newest, vm *blixardv1.VM) {
	at, before := specOf{vm.Uid, vm.SpecGeneration}, specOf{vm.Uid, vm.SpecGeneration - 1}
	switch old := j.had[at]; {
	case old != nil:
		if !proto.Equal(old, vm.Spec) {
			w.fail("a spec generation is one spec", "index %d: spec %d of %s was another", n.index, vm.SpecGeneration, vm.Name)
		}
	case j.had[before] != nil:
		j.follow(w, n, vm, j.had[before])
	case len(j.history[vm.Uid]) > 0:
		delete(j.history, vm.Uid) // one is missing, and what can be gone back to is not known
	}
	j.had[at], j.newest[vm.Uid] = vm.Spec, vm.SpecGeneration
	if vm.RestartWhenBuilt {
		j.restart[vm.Uid] = vm.SpecGeneration
	}
	if vm.Runner == nil || vm.Spec.GetNixos() == nil {
		return
	}
	w.judges.judged["specs"]++
	if want := nixPath(vm.Uid, vm.Spec); vm.Runner.StorePath != want {
		w.fail("what is built is what the spec says", "index %d: spec %d of %s is recorded as %s, and Nix makes %s of it",
			n.index, vm.SpecGeneration, vm.Name, vm.Runner.StorePath, want)
	}
}

// follow takes over a spec that comes after another: one of those before it is
// what a rollback gives back, and is no longer what can be gone back to.
func (j *judgeSpecs) follow(w *World, n *newest, vm *blixardv1.VM, last *blixardv1.VMSpec) {
	list := j.history[vm.Uid]
	if i := slices.IndexFunc(list, func(s *blixardv1.VMSpec) bool { return proto.Equal(s, vm.Spec) }); i >= 0 {
		w.judges.judged["specs"]++
		if i != len(list)-1 {
			w.fail("a rollback gives back the spec before", "index %d: spec %d of %s is the one %d before the last", n.index, vm.SpecGeneration, vm.Name, len(list)-1-i)
		}
		list = slices.Delete(list, i, i+1)
	}
	list = append(list, last)
	j.history[vm.Uid] = list[max(0, len(list)-mostHistory):]
}

func (j *judgeSpecs) forked(w *World, g *guest) {
	spec := j.had[specOf{g.instance.UID, g.dir.spec}]
	if g.runner == "" || spec.GetNixos() == nil {
		return
	}
	w.judges.judged["specs"]++
	if want := nixPath(g.instance.UID, spec); g.runner != want {
		w.fail("what is built is what the spec says", "%s: %s runs %s as spec %d, and Nix makes %s of that",
			g.m.Name, g.instance, g.runner, g.dir.spec, want)
	}
}

// mayRenew says that what runs may be stopped for a newer spec: one was asked
// for, and, where Nix has to build it, is built here.
func (j *judgeSpecs) mayRenew(vm *blixardv1.VM, d *vmDir) bool {
	if vm.SpecGeneration == d.spec || j.restart[vm.Uid] <= d.spec {
		return false
	}
	return vm.Spec.GetNixos() == nil || d.nix.Generation > d.spec
}
