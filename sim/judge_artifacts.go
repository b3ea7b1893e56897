package sim

import (
	"time"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// What the specs of VMs need, those they can go back to included, is known to the
// cluster and counted; and nothing is forgotten before it was needed by nobody for
// an hour.
//
// It counts by itself, after every entry that touches an artifact.
type judgeArtifacts struct {
	kept map[string]*blixardv1.ArtifactRecord // by digest, as last seen
}

// keptFor is how long an artifact is kept that nobody needs.
const keptFor = time.Hour

func (j *judgeArtifacts) look(w *World, v *cluster.State) {
	kept := map[string]*blixardv1.ArtifactRecord{}
	v.Artifacts(func(a *blixardv1.ArtifactRecord) bool {
		kept[a.Digest] = a
		return true
	})
	if len(kept) == 0 && len(j.kept) == 0 {
		return
	}
	w.judges.judged["artifacts"]++
	needed := map[string]uint32{}
	need := func(spec *blixardv1.VMSpec, pins *blixardv1.Pins) {
		if k := spec.GetImage().GetKernel(); k != nil {
			needed[k.Digest]++
		}
		for _, m := range spec.GetNixos().GetModules() {
			if f := m.GetFile(); f != nil {
				needed[f.Digest]++
			}
		}
		if l := pins.GetLock(); l != nil {
			needed[l.Digest]++
		}
	}
	v.VMs("", func(vm *blixardv1.VM) bool {
		need(vm.Spec, vm.Pins)
		for _, g := range v.History(vm.Name) {
			need(g.Spec, g.Pins)
		}
		return true
	})
	v.Snapshots(func(p *blixardv1.VMSnapshot) bool {
		need(p.Spec, nil)
		return true
	})
	need(nil, v.Meta().GetPins())
	for _, a := range sorted(kept) {
		if a.References != needed[a.Digest] {
			w.fail("what VMs need is known", "index %d: artifact %.8s counts %d needs, and there are %d", v.Revision(), a.Digest, a.References, needed[a.Digest])
		}
	}
	for _, a := range sorted(j.kept) {
		idle := time.Duration(v.Meta().LoggedTime - a.UnusedSince)
		if kept[a.Digest] == nil && (a.References > 0 || a.Name != "" || needed[a.Digest] > 0 || idle < keptFor) {
			w.fail("what VMs need is known", "index %d: artifact %.8s is forgotten; it had %d needs, for %v", v.Revision(), a.Digest, a.References, idle)
		}
	}
	j.kept = kept
}
