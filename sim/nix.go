package sim

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"

	"github.com/blixard/blixard/core"
	"github.com/blixard/blixard/core/mutant"
	"github.com/blixard/blixard/vmm"
)

// Nix on a machine: a store, and who holds what in it. Both are on the disk, and
// survive the daemon and the power.
//
// A build may be slow, fail, hang until its bound, be killed, or fill the disk;
// what it leaves then is rubbish that nobody holds. The collector (NixCollect)
// deletes whatever is not held, at any time. It may not delete what is held, and
// a build that succeeded has its result held before anybody hears of it.
type nixStore struct {
	paths map[string]bool
	held  map[string][]string // by uid, or preparedFor + uid
}

func newNixStore() nixStore {
	return nixStore{paths: map[string]bool{}, held: map[string][]string{}}
}

// preparedFor is who holds what is held ready for a VM that runs elsewhere.
const preparedFor = "prepared."

// nixBound is when a build that hangs is killed.
const nixBound = 3 * time.Minute

func nixBuilt(a *blixardv1.Assignment) bool {
	return a.GetSpec().GetNixos() != nil || a.GetSpec().GetFlake() != nil
}

// nixPath is what Nix calls the runner of a spec: the same on every machine.
func nixPath(uid string, spec *blixardv1.VMSpec) string {
	b := blixardv1.Encode(&blixardv1.VMSpec{
		Source: spec.Source, Vcpus: spec.Vcpus, MemoryMib: spec.MemoryMib, Hypervisor: spec.Hypervisor,
	})
	sum := sha256.Sum256(append(b, uid...))
	return "/nix/store/" + hex.EncodeToString(sum[:8])
}

func (s *nixStore) hold(who string, paths ...string) {
	if len(paths) == 0 {
		delete(s.held, who)
		return
	}
	s.held[who] = paths
}

// rubbish is what lies in the store and nobody holds.
func (s *nixStore) rubbish() (list []string) {
	kept := map[string]bool{}
	for _, who := range slices.Sorted(maps.Keys(s.held)) {
		for _, p := range s.held[who] {
			kept[p] = true
		}
	}
	for _, p := range slices.Sorted(maps.Keys(s.paths)) {
		if !kept[p] {
			list = append(list, p)
		}
	}
	return list
}

// NixCollect deletes from a machine's store what nobody holds.
type NixCollect struct{ Node N }

func init() { register(NixCollect{}) }

func (NixCollect) draw(d dice) Fault { return NixCollect{d.node()} }

func (f NixCollect) strike(w *World) bool {
	m := w.node(f.Node)
	if m == nil || len(m.nix.paths) == 0 {
		return false
	}
	m.nixCollect()
	return true
}

func (m *Machine) nixCollect() {
	for _, p := range m.nix.rubbish() {
		delete(m.nix.paths, p)
	}
	judgeRoots(m.w, m)
}

// nixTime draws how long a build takes, and how it fails if it does. One whose
// result is here, or at a host that can be reached, builds nothing.
func (d *Daemon) nixTime(a *blixardv1.Assignment) (after int64, err string) {
	m, w := d.m, d.m.w
	if dir, _ := m.dirs.Get(a.Uid); dir != nil && m.nix.paths[dir.nix.Of(a.SpecGeneration)] {
		return between(m.rand, 100*time.Microsecond, 5*time.Millisecond), ""
	}
	if d.nixReach(a.GetRunner(), a.GetRunnerAddresses()) {
		return between(m.rand, 10*time.Millisecond, 5*time.Second), ""
	}
	after = between(m.rand, time.Second, 20*time.Second)
	slow, _ := w.mishap("BuildSlow", m.place(), w.mix.BuildSlow, 0, 40*time.Second)
	after += int64(slow)
	for _, f := range []struct{ name, err string }{
		{"BuildFails", "error: attribute 'luck' missing"},
		{"NixKilled", "nix was killed"},
		{"NixFull", "there is no room on the disk"},
		{"NixHangs", "the build took longer than it may"},
	} {
		if _, fails := w.mishap(f.name, m.place(), w.mix.BuildFails, 0, 0); fails {
			if f.name == "NixHangs" {
				after = int64(nixBound)
			}
			return after, f.err
		}
	}
	return after, ""
}

// nixReach says whether a runner is here, or where it can be copied from.
func (d *Daemon) nixReach(r *blixardv1.Runner, addresses []string) bool {
	if r == nil || d.m.nix.paths[r.StorePath] {
		return r != nil
	}
	for _, m := range d.m.w.machines {
		if m != d.m && m.daemon != nil && !m.daemon.paused && m.nix.paths[r.StorePath] && slices.Contains(addresses, m.address()) &&
			d.m.w.net.cut[link{m.Index, d.m.Index}] == 0 && d.m.w.net.cut[link{d.m.Index, m.Index}] == 0 {
			return true
		}
	}
	return false
}

// nixObtain has the runner of an assignment in the store: it is here, is copied,
// or is built, in this order.
func (d *Daemon) nixObtain(a *blixardv1.Assignment) *blixardv1.Runner {
	m := d.m
	dir, _ := m.dirs.Get(a.Uid)
	path := ""
	switch {
	case dir != nil && m.nix.paths[dir.nix.Of(a.SpecGeneration)]:
		path = dir.nix.Of(a.SpecGeneration)
	case d.nixReach(a.Runner, a.RunnerAddresses):
		path = a.Runner.StorePath
	default:
		path = nixPath(a.Uid, a.Spec)
		m.w.evaluations++
	}
	m.nix.paths[path] = true
	r := &blixardv1.Runner{StorePath: path, ClosureBytes: 1 << 20, Hypervisor: a.Spec.GetHypervisor()}
	if r.Movable = r.Hypervisor == blixardv1.Hypervisor_HYPERVISOR_QEMU; !r.Movable {
		r.Stays = "it is none that is moved"
	}
	return r
}

// nixDir makes the directory of a VM that was never started here, as a build does.
func (d *Daemon) nixDir(a vmm.Action) {
	if _, ok := d.m.dirs.Get(a.Instance.UID); ok {
		return
	}
	dir := newDir(a.Instance)
	dir.start.Instance.Attempt = 0
	d.m.dirs.Set(dir.uid, dir)
	d.m.notice(dir)
}

// nixEnds is the end of a build.
func (d *Daemon) nixEnds(a vmm.Action, err string) {
	m := d.m
	if err != "" {
		m.nix.paths[nixPath(a.Assignment.Uid, a.Assignment.Spec)+"-"+fmt.Sprint(a.ID)] = true // what is left of it
		d.endBuild(a.Instance.UID, err)
		return
	}
	dir, ok := m.dirs.Get(a.Instance.UID)
	if !ok || !dir.of(a.Instance) {
		d.endBuild(a.Instance.UID, "its directory is gone")
		return
	}
	r := d.nixObtain(a.Assignment)
	dir.nix = dir.nix.Have(r.StorePath, a.Assignment.GetSpecGeneration())
	m.nix.hold(dir.uid, dir.nix.Paths()...)
	if _, now := m.w.mishap("NixCollects", m.place(), m.w.mix.Collects, 0, 0); now {
		m.nixCollect()
	}
	delete(d.builds, a.Instance.UID)
	d.observe(core.Observed{Done: []vmm.Done{{Action: a.ID, UID: a.Instance.UID, Runner: r}}})
}

// nixBoot holds what an attempt is about to run with.
func (d *Daemon) nixBoot(dir *vmDir, a *blixardv1.Assignment) {
	if mutant.On("WaitsWithoutClosure") && a.GetMigration() != nil {
		dir.nix = dir.nix.Boot(a.Runner.GetStorePath(), a.GetSpecGeneration())
		return
	}
	r := d.nixObtain(a)
	dir.nix = dir.nix.Boot(r.StorePath, a.GetSpecGeneration())
	d.m.nix.hold(dir.uid, dir.nix.Paths()...)
}

// prepare takes the list of what is to be held ready, and gets what is missing
// after a while.
func (d *Daemon) prepare(a vmm.Action) {
	d.preparing = a
	wanted := map[string]bool{}
	for _, p := range a.Preparations {
		wanted[preparedFor+p.Uid+p.Runner.GetStorePath()] = true
	}
	for _, who := range slices.Sorted(maps.Keys(d.m.nix.held)) {
		if len(who) > len(preparedFor) && who[:len(preparedFor)] == preparedFor && !wanted[who+d.m.nix.held[who][0]] {
			d.m.nix.hold(who)
		}
	}
	d.prepareLater(between(d.m.rand, time.Millisecond, 5*time.Second))
}

func (d *Daemon) prepareLater(after int64) {
	d.m.w.push(event{at: d.m.w.now + after, kind: evPrepare, m: d.m, life: d.life, n: d.preparing.ID})
}

func (d *Daemon) getReady(order uint64) {
	if order != d.preparing.ID {
		return
	}
	ready, missing := []*blixardv1.Prepared{}, false
	for _, p := range d.preparing.Preparations {
		if !d.nixReach(p.Runner, p.Addresses) {
			missing = true
			continue
		}
		d.m.nix.paths[p.Runner.StorePath] = true
		d.m.nix.hold(preparedFor+p.Uid, p.Runner.StorePath)
		ready = append(ready, &blixardv1.Prepared{Uid: p.Uid, StorePath: p.Runner.StorePath})
		d.m.w.fired("Prepared")
	}
	d.observe(core.Observed{Prepared: ready})
	if missing {
		d.prepareLater(int64(30 * time.Second))
	}
}
