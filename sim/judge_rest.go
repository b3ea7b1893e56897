package sim

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Once all is healed, a write succeeds within writesWithin, and within
// restsWithin the world is at rest: every VM that should run, and has a host or
// could have one, runs exactly once, where the state says, and is reported so;
// nothing else lives; no directory is left of what is gone; every server has every
// entry, and the cluster is at the level that its members know.
const writesWithin = 30 * time.Second

// settling is how long messages from before the healing may still come: those of a leader
// that is cut off or stands still keep others from choosing another one.
func (w *World) settling() time.Duration {
	if w.mix.Late == 0 {
		return 0
	}
	return w.mix.Lateness
}

// restsWithin is the long window, after which the last lost epoch is replaced,
// twice, because the leader that counts it may be a new one, and what backoff,
// a slow boot, a stop's grace and a hung boot's end may take.
func restsWithin(s *blixardv1.Settings) time.Duration { return leasesWithin(s) + 11*time.Minute }

// leasesWithin is how long a host that is there, and hears and is heard, may have
// no lease.
func leasesWithin(s *blixardv1.Settings) time.Duration {
	return 2*time.Duration(cluster.Window(s, s.LongLeaseMs)) + time.Minute
}

// placedWithin is how long a VM may wait while a host would take it.
const placedWithin = time.Minute

// judgeRest lets the healed world run until it rests.
func judgeRest(w *World) {
	w.judges.judged["rest"]++
	if w.writes("healed") {
		w.comesToRest("desired equals observed", "healing")
	}
}

// comesToRest lets the world run until all rests that can. Some of that must come
// about sooner than all of it.
func (w *World) comesToRest(promise, healing string) {
	var why []string
	limit, wanting := cmp.Or(w.cfg.Patience, restsWithin(w.settings)), wanting{}
	for deadline := w.now + int64(limit); w.now < deadline && !w.over(); w.RunFor(time.Second) {
		if why = w.unrest(); len(why) == 0 {
			w.say(nil, "all rests that can")
			return
		}
		if long := wanting.look(w); long != "" {
			w.fail(promise, "%s\n%s", long, w.describeNodes())
		}
	}
	w.fail(promise, "%v after %s:\n  %s\n%s", limit, healing, strings.Join(why, "\n  "), w.describeNodes())
}

// wanting is since when something has been missing that must not be missing for as
// long as other things may.
type wanting map[string]int64

// look says what has been missing for too long without a break.
func (s wanting) look(w *World) (long string) {
	leader := w.Leader()
	if leader == nil {
		return ""
	}
	v := leader.daemon.node.View()
	seen := map[string]bool{}
	missing := func(what string, limit time.Duration) {
		seen[what] = true
		since, ok := s[what]
		if !ok {
			s[what], since = w.now, w.now
		}
		if long == "" && time.Duration(w.now-since) > limit {
			long = fmt.Sprintf("for %v %s", limit, what)
		}
	}
	for _, m := range w.machines {
		n := v.Node(m.id)
		if !m.member || !m.Host || n == nil || m.keeper.busy || slices.Contains(w.rest, m) {
			continue
		}
		if m.daemon == nil || !m.daemon.node.Status().Granted || n.Host.GetSuspect() || n.Host.GetEpochState() != blixardv1.EpochState_EPOCH_STATE_ACTIVE {
			missing(fmt.Sprintf("%s (boot %d) has no lease", m.Name, m.boots), leasesWithin(w.settings))
		}
	}
	v.VMs("", func(vm *blixardv1.VM) bool {
		if vm.Run && !vm.Deleting && vm.Placement == nil && !w.explained(v, vm, true) {
			missing(fmt.Sprintf("VM %s (%s) waits, and a host has room", vm.Name, vm.Uid), placedWithin)
		}
		return true
	})
	maps.DeleteFunc(s, func(what string, _ int64) bool { return !seen[what] })
	return long
}

// writes makes a VM, and says whether that came about as soon as is promised.
func (w *World) writes(name string) bool {
	op := w.Do(&Operation{Verb: Create, Name: name, Spec: &blixardv1.VMSpec{
		Vcpus: 1, MemoryMib: 32, Hypervisor: blixardv1.Hypervisor_HYPERVISOR_PROCESS,
		Source: &blixardv1.VMSpec_Process{Process: &blixardv1.Process{Argv: []string{"/bin/vm"}}},
	}})
	if !w.over() && (op.Unknown || op.Error != nil || time.Duration(op.Return-op.Call) > writesWithin+w.settling()) {
		w.fail("writes succeed after healing", "%v after %v: %v\n%s", op, time.Duration(w.now-op.Call), op.Error, w.describeNodes())
	}
	return !w.over()
}

// unrest says everything that is not as it should be, but for what is the matter
// of machines that stay broken, and of keepers who are not done while some do.
func (w *World) unrest() (why []string) {
	leader := w.Leader()
	if leader == nil {
		return []string{"there is no leader"}
	}
	v := leader.daemon.node.View()
	expected := map[string]bool{} // uids that may have a directory
	v.VMs("", func(vm *blixardv1.VM) bool {
		expected[vm.Uid] = true
		var s string
		switch host := w.byID(vm.GetPlacement().GetNodeId()); {
		case slices.Contains(w.rest, host):
			s = w.unrestOfBroken(v, vm, host)
		case len(w.rest) > 0 && (host == nil && vm.Placement != nil || host != nil && host.keeper.busy):
		default:
			s = w.unrestOf(v, vm)
		}
		if s != "" {
			why = append(why, fmt.Sprintf("VM %s (%s): %s", vm.Name, vm.Uid, s))
		}
		return true
	})
	why = append(why, w.volumesUnrest(v)...)
	if w.chores > 0 && len(w.rest) == 0 {
		why = append(why, fmt.Sprintf("%d keepers are not done", w.chores))
	}
	least := ^uint32(0)
	v.Nodes(func(n *blixardv1.Node) bool {
		if m := w.byID(n.Id); m != nil {
			least = min(least, m.level)
		}
		return true
	})
	if level := v.Settings().GetLevel(); level != least && len(w.rest) == 0 {
		why = append(why, fmt.Sprintf("the cluster is at level %d, and every member knows %d", level, least))
	}
	for _, m := range w.machines {
		if slices.Contains(w.rest, m) || len(w.rest) > 0 && m.keeper.busy {
			continue
		}
		if m.Server && m.member && v.Node(m.id) != nil && m.Applied() != v.Revision() {
			why = append(why, fmt.Sprintf("%s has applied %d of %d entries", m.Name, m.Applied(), v.Revision()))
		}
		why = append(why, w.nixLeaks(v, m)...)
		why = append(why, w.snapshotUnrest(v, m)...)
		m.dirs.Scan(func(uid string, d *vmDir) bool {
			if m.member && v.Node(m.id) == nil { // removed: it keeps its files, and runs nothing
				if d.alive() {
					why = append(why, fmt.Sprintf("%s was removed and runs %s", m.Name, uid))
				}
				return true
			}
			vm := v.VMByUID(uid)
			if !expected[uid] || vm.GetPlacement().GetNodeId() != m.id {
				why = append(why, fmt.Sprintf("%s has files of %s, which is not placed there", m.Name, uid))
			}
			return true
		})
	}
	return why
}

func (w *World) unrestOf(v *cluster.State, vm *blixardv1.VM) string {
	n, where := w.Live(vm.Uid)
	st := vm.GetStatus()
	at := func(what string) string {
		return fmt.Sprintf("%s; phase %s (%s: %s), live %v", what, st.GetPhase(), st.GetReason(), st.GetMessage(), where)
	}
	switch {
	case vm.Deleting:
		return at("is still being deleted")
	case vm.GetMigration().GetOther() != nil:
		return at("is still in a move")
	case w.undrained(v, vm) != "":
		return at(w.undrained(v, vm))
	case !vm.Run, vm.Placement.GetHeld():
		if n != 0 || st.GetPhase() != blixardv1.Phase_PHASE_STOPPED {
			return at("is stopped by its user, or for its host's drain")
		}
	case vm.Placement == nil:
		if !w.explained(v, vm, false) {
			return at("waits, and a host has room")
		}
	case n == 0 && slices.ContainsFunc(vm.Spec.Volumes, func(m *blixardv1.VolumeMount) bool { return w.overtaken(v.Volume(m.Volume)) }):
	case n == 0 && vm.Restore.GetClone() && st.GetPhase() == blixardv1.Phase_PHASE_FAILED &&
		v.Snapshot(vm.Restore.Name).GetState() != blixardv1.SnapshotState_SNAPSHOT_STATE_READY: // its snapshot went
	case vm.Spec.Restart != blixardv1.RestartPolicy_RESTART_POLICY_ALWAYS && n == 0:
		if p := st.GetPhase(); p != blixardv1.Phase_PHASE_STOPPED && p != blixardv1.Phase_PHASE_FAILED || st.GetReason() == interrupted {
			return at("has ended")
		}
	default:
		host := w.byID(vm.Placement.NodeId)
		phase := blixardv1.Phase_PHASE_RUNNING
		if vm.Paused {
			phase = blixardv1.Phase_PHASE_PAUSED
		}
		if n != 1 || host == nil || where[0] != host.Name || st.GetPhase() != phase {
			return at(fmt.Sprintf("should be %v on %s", phase, name(host)))
		}
		d, _ := host.dirs.Get(vm.Uid)
		if d.guest.paused != vm.Paused {
			return at(fmt.Sprintf("paused is %t, and should be %t", d.guest.paused, vm.Paused))
		}
		if i := d.guest.instance; i.Index != vm.Placement.Incarnation.GetIndex() || i.Generation != vm.Placement.Incarnation.GetGeneration() {
			return "runs as another incarnation: " + i.String()
		}
		if st.BuiltGeneration != vm.SpecGeneration || vm.RestartWhenBuilt && st.SpecGeneration != vm.SpecGeneration {
			return fmt.Sprintf("its spec %d is not what was built (%d: %s) and runs (%d)", vm.SpecGeneration, st.BuiltGeneration, st.BuildMessage, st.SpecGeneration)
		}
		if why := unballooned(vm, d.guest); why != "" {
			return why
		}
		if vm.Restore != nil && !(vm.Paused && d.guest.frozen) { // or it has not run since, as its user wants it
			return at("is still to go on from a snapshot")
		}
		if h := unwell(vm, d.guest); h != "" {
			return h
		}
		if why := lukewarm(vm, d.guest); why != "" {
			return why
		}
		if d.guest.adrift {
			return "waits for folders that nothing serves"
		}
		if (vm.Spec.GetNixos() != nil) != (vm.Runner != nil) {
			return fmt.Sprintf("its runner is %v", vm.Runner)
		}
	}
	return ""
}

// explained says that a VM which waits has nowhere to go: no host that may take
// VMs and does not stay broken has room for it, by a naive sum. For the moment, a
// host without a lease has none, and there must be room for any of its specs.
func (w *World) explained(v *cluster.State, vm *blixardv1.VM, now bool) bool {
	if now && v.Unsettled(vm) {
		return true
	}
	ok, vcpus, memory := true, vm.Spec.Vcpus, vm.Spec.MemoryMib
	disk, only := uint64(0), []uint64(nil)
	for _, m := range vm.Spec.Volumes {
		switch vol := v.Volume(m.Volume); vol.GetNodeId() {
		case 0:
			disk += vol.GetSpec().GetSizeMib()
		default:
			only = append(only, vol.NodeId)
		}
	}
	if now {
		for _, g := range v.History(vm.Name) {
			vcpus, memory = max(vcpus, g.Spec.Vcpus), max(memory, g.Spec.MemoryMib)
		}
	}
	v.Nodes(func(n *blixardv1.Node) bool {
		c, a := n.GetHost().GetFacts().GetCapacity(), n.GetHost().GetAllocated()
		if vm.Restore != nil && vm.Restore.NodeId != n.Id {
			return true // it starts from what another has
		}
		if n.Host == nil || n.Cordoned || n.Host.Suspect || slices.Contains(w.rest, w.byID(n.Id)) ||
			now && n.Host.EpochState != blixardv1.EpochState_EPOCH_STATE_ACTIVE {
			return true
		}
		fits := uint64(a.GetVcpus()+vcpus)*1000 <= uint64(c.GetVcpus())*uint64(v.Settings().GetVcpuOvercommitMilli()) &&
			a.GetMemoryMib()+memory <= c.GetMemoryMib() && a.GetDiskMib()+disk <= c.GetDiskMib() &&
			!slices.ContainsFunc(only, func(id uint64) bool { return id != n.Id }) && spares(v, n, vm) &&
			(len(vm.Spec.Shares) == 0 || w.byID(n.Id).serves(vm.Spec.Shares))
		ok = ok && !fits
		return true
	})
	return ok
}

// spares says that a host has the ports and the devices that a VM wants, by the records
// of the VMs that are there.
func spares(v *cluster.State, n *blixardv1.Node, vm *blixardv1.VM) bool {
	free := map[string]int{} // devices of a kind
	for _, d := range n.GetHost().GetFacts().GetDevices() {
		free[d.Kind]++
	}
	var ports []uint32
	for _, w := range vm.Spec.Networks {
		for _, p := range w.Ports {
			ports = append(ports, p.HostPort)
		}
	}
	ok := true
	for _, beside := range besideOf(v, n) {
		v.Placed(beside.Id, func(o *blixardv1.VM) bool {
			for _, p := range []*blixardv1.Placement{o.GetPlacement(), o.GetMigration().GetOther()} {
				if p.GetNodeId() != beside.Id {
					continue
				}
				for _, d := range p.Devices {
					if beside == n {
						free[d.Kind]--
					}
				}
				ok = ok && !slices.ContainsFunc(p.Ports, func(h *blixardv1.HostPort) bool { return slices.Contains(ports, h.Port) })
			}
			return true
		})
	}
	for _, d := range vm.Spec.Devices {
		ok = ok && free[d.Kind] >= int(d.Count)
	}
	return ok
}

// besideOf are the nodes of a machine: that one, and those that have its ports too.
func besideOf(v *cluster.State, n *blixardv1.Node) []*blixardv1.Node {
	list, space := []*blixardv1.Node{n}, n.GetHost().GetFacts().GetPortSpace()
	v.Nodes(func(o *blixardv1.Node) bool {
		if space != "" && o.Id != n.Id && o.GetHost().GetFacts().GetPortSpace() == space {
			list = append(list, o)
		}
		return true
	})
	return list
}

// unwell says that what is reported of a VM's health is not so, or was left so.
func unwell(vm *blixardv1.VM, g *guest) string {
	st := vm.GetStatus()
	if vm.Spec.GetHealth() == nil || st.SpecGeneration != vm.SpecGeneration || vm.Paused {
		return ""
	}
	want := blixardv1.HealthState_HEALTH_STATE_HEALTHY
	if g.sick {
		want = blixardv1.HealthState_HEALTH_STATE_UNHEALTHY
		if vm.Spec.Restart != blixardv1.RestartPolicy_RESTART_POLICY_NEVER {
			return "is sick, and runs on"
		}
	}
	if st.Health != want {
		return fmt.Sprintf("is said to be %s, and sick is %t", st.Health, g.sick)
	}
	return ""
}
