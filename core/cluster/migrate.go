package cluster

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/blixard/blixard/core/hypervisor"
	"github.com/blixard/blixard/core/mutant"
	"github.com/blixard/blixard/core/schedule"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A live migration moves a running guest, and with it the right to run.
//
//	source                      state            target
//	runs                        PREPARING        reserved; builds, listens
//	runs, is sent               SENDING          is loaded, paused
//	stopped, for good           HANDED_OVER      loaded, paused
//	──────────────────────────── Switch ───────────────────────────
//	is removed                  SWITCHED         runs
//
// While it lasts the VM has two placements: Placement has the right to run, and
// Migration.other has not. Switch exchanges them, and nothing else does. Each is
// held, and released, like any placement: by its host's acknowledged removal, or
// by its epoch's fence.
//
// Before the hand-over whatever goes wrong, or is asked for, ends the move and lets
// the source run on. After it the source never goes on: what goes wrong then ends
// with a VM that is started anew where it was. Whoever is to be told again what it
// may do is told by the state: no host decides by itself that a move has ended.
//
// An offline move is the one that drains make: the VM is stopped, leaves, and is
// placed again, where it was asked for if that is possible by then.

const (
	defaultMigrationMs = 600_000
	minMigrationMs     = 1000
	maxMigrationMs     = 86_400_000
)

// moving says that a live move is under way that may still end with the VM where
// it was.
func moving(vm *blixardv1.VM) bool {
	m := vm.GetMigration()
	switch m.GetState() {
	case blixardv1.MigrationState_MIGRATION_STATE_PREPARING, blixardv1.MigrationState_MIGRATION_STATE_SENDING, blixardv1.MigrationState_MIGRATION_STATE_HANDED_OVER:
		return true
	}
	return false
}

// leavesOffline says that an offline move is under way.
func leavesOffline(vm *blixardv1.VM) bool {
	return vm.GetMigration().GetState() == blixardv1.MigrationState_MIGRATION_STATE_LEAVING
}

// at is what a VM has on a host: the placement with the right to run, or the other.
func at(vm *blixardv1.VM, node uint64) *blixardv1.Placement {
	if p := vm.GetPlacement(); p != nil && p.NodeId == node {
		return p
	}
	if p := vm.GetMigration().GetOther(); p != nil && p.NodeId == node {
		return p
	}
	return nil
}

// other says that what a VM has on a host has no right to run.
func other(vm *blixardv1.VM, node uint64) bool {
	p := vm.GetMigration().GetOther()
	return p != nil && p.NodeId == node
}

// Migrating calls f for every VM that has a migration under way, by ascending name.
func (s *State) Migrating(f func(*blixardv1.VM) bool) {
	s.migrating.Scan(func(name string, _ struct{}) bool { return f(s.VM(name)) })
}

// tell has a host hear of a change to its assignments. Own is the caller's own copy
// of a node, which is not stored here; nil for none.
func (s *State) tell(e *entry, node uint64, own *blixardv1.Node) {
	if own.GetId() == node && own != nil {
		own.Host.Revision = e.index
		return
	}
	if n := s.Node(node); n.GetHost() != nil {
		n = copyNode(n)
		n.Host.Revision = e.index
		s.put(nodeKey(n.Id), n)
	}
}

// migrate begins a move.
func (s *State) migrate(e *entry, op *blixardv1.MigrateVMOp) *blixardv1.Response {
	vm := s.VM(op.Name)
	if vm == nil {
		return noVM(op.Name)
	}
	if op.TimeoutMs != 0 && (op.TimeoutMs < minMigrationMs || op.TimeoutMs > maxMigrationMs) {
		return &blixardv1.Response{Error: invalid("timeout_ms", fmt.Sprintf("%d ms is no time for a move", op.TimeoutMs), fmt.Sprintf("give %d to %d, or leave it out", minMigrationMs, maxMigrationMs))}
	}
	var to *blixardv1.Node
	if op.To != "" {
		switch to = s.NodeByName(op.To); {
		case to == nil:
			return noNode(op.To)
		case to.Host == nil:
			return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, op.To+" is no host, so it cannot take a VM", "'blixard node list' shows the hosts")
		case to.Id == vm.GetPlacement().GetNodeId():
			return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "the VM "+op.Name+" is on "+op.To+" already", "")
		}
	}
	why, advice := s.stuck(vm)
	if why == "" && !op.Offline {
		why, advice = s.immovable(vm)
	} else if why == "" {
		why, advice = s.bound(vm)
	}
	if why != "" {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "the VM "+op.Name+" cannot be moved"+map[bool]string{false: " live"}[op.Offline]+": "+why, advice)
	}
	if op.Offline {
		return s.migrateOffline(e, vm, to, op.ValidateOnly)
	}
	r := s.room(vm.Placement.NodeId)
	h, ok := s.liveTarget(r, vm, to)
	if !ok {
		return s.nowhere(vm, to, r, s.liveNeed(vm), true)
	}
	vm = s.begin(e, vm, s.Node(h.ID), cmp.Or(op.TimeoutMs, defaultMigrationMs), !op.ValidateOnly)
	return vmResponse(vm)
}

// stuck says why a VM cannot be moved at all as things stand, and what to do.
func (s *State) stuck(vm *blixardv1.VM) (why, advice string) {
	p := vm.Placement
	switch {
	case vm.Deleting:
		return "it is being deleted", ""
	case vm.Restore != nil:
		return "it is just starting from the snapshot " + vm.Restore.Name, "wait until it runs"
	case len(s.orders(vm)) > 0:
		return "a snapshot of it is being taken", "wait until that is there ('blixard snapshot list " + vm.Name + "')"
	case moving(vm), vm.GetMigration().GetOther() != nil, leavesOffline(vm):
		return "it is being moved already, " + s.movingText(vm), "'blixard vm get " + vm.Name + "' shows how far that is, 'blixard vm migrate --cancel " + vm.Name + "' ends it"
	case p == nil && vm.Run:
		return "it has no host yet", "'blixard vm explain " + vm.Name + "' says why"
	case p == nil, !vm.Run:
		return "it is stopped", "'blixard vm start " + vm.Name + "' first"
	case p.Leaving:
		return "it is leaving " + p.Node + " already, which is drained", ""
	case p.Held:
		return "its host " + p.Node + " is drained, and it is kept stopped there", "'blixard node restore " + p.Node + "' first"
	case s.Unsettled(vm):
		return "the cluster was restored from a backup, and is not settled yet", "wait until 'blixard cluster status' says that it is"
	case silent(s.Node(p.NodeId)):
		return "its host " + p.Node + " is not heard of" + silentSince(s.Node(p.NodeId)), "wait until it is, or is fenced"
	}
	return "", ""
}

// bound says why a VM cannot be stopped on its host and started on another.
func (s *State) bound(vm *blixardv1.VM) (why, advice string) {
	if vm.Spec.GetOnHostLoss() == blixardv1.OnHostLoss_ON_HOST_LOSS_WAIT && keepsData(vm.Spec) {
		return "its disks are on " + vm.Placement.Node + ", and it waits for them (on_host_loss)", "with on_host_loss replace it would begin elsewhere with new disks"
	}
	return "", ""
}

// keepsData says that a VM has something on its host that it would miss elsewhere.
func keepsData(spec *blixardv1.VMSpec) bool {
	return slices.ContainsFunc(spec.GetImage().GetDisks(), func(d *blixardv1.Disk) bool { return !d.ReadOnly }) || writesShares(spec.GetShares()) || nixosKeeps(spec.GetNixos()) || len(spec.GetVolumes()) > 0
}

// offline is the advice to whom a live move is refused.
func offline(vm *blixardv1.VM) string {
	return "'blixard vm migrate --offline " + vm.Name + "' stops it here and starts it there"
}

// immovable says why a VM cannot go live, beside where to.
func (s *State) immovable(vm *blixardv1.VM) (why, advice string) {
	offline := offline(vm)
	p, st := vm.Placement, vm.GetStatus()
	kind := hypervisor.Get(runsBy(vm))
	why, advice = nixStays(vm)
	switch {
	case kind == nil:
		return "nobody knows what runs it", offline
	case kind.Why(blixardv1.Capability_CAPABILITY_MIGRATE) != "":
		return kind.Why(blixardv1.Capability_CAPABILITY_MIGRATE), offline
	case why != "":
		return why, cmp.Or(advice, offline)
	case !s.hostMigrates(s.Node(p.NodeId), vm):
		return "the " + kind.Name + " of its host " + p.Node + " does not do it", offline
	case len(vm.Spec.GetDevices())+len(p.Devices) > 0:
		return "it has PCI devices of " + p.Node + ", which stay there", offline
	case len(vm.Spec.Shares) > 0:
		return "it shares folders of " + p.Node + ", whose open files stay there", offline
	case vm.Paused:
		return "it is paused", "'blixard vm resume " + vm.Name + "' first"
	case st.GetPhase() != blixardv1.Phase_PHASE_RUNNING:
		return "it does not run now: it is " + phaseText(st.GetPhase()), "wait until it does, or: " + offline
	case st.SpecGeneration != vm.SpecGeneration && s.sized(vm) == nil:
		return "it runs with an older spec than its newest", "'blixard vm restart " + vm.Name + "' first"
	}
	return s.volumesStay(vm)
}

// fact is a host's own word about one kind of hypervisor.
func fact(n *blixardv1.Node, kind blixardv1.Hypervisor) *blixardv1.HypervisorFact {
	for _, f := range n.GetHost().GetFacts().GetHypervisors() {
		if f.Hypervisor == kind {
			return f
		}
	}
	return nil
}

func (s *State) hostMigrates(n *blixardv1.Node, vm *blixardv1.VM) bool {
	f := fact(n, runsBy(vm))
	if f == nil {
		return nixBuilt(vm.Spec) // it brings its own
	}
	return doneBy(f).Has(hypervisor.Of(blixardv1.Capability_CAPABILITY_MIGRATE))
}

// liveNeed is what a VM that goes live asks of its target: all that it has now, and
// the same hypervisor, which takes it.
func (s *State) liveNeed(vm *blixardv1.VM) schedule.Need {
	n, p := need(vm.Spec), vm.Placement
	n.MilliCPU, n.MemoryMiB, n.DiskMiB = uint64(p.Vcpus)*1000, p.MemoryMib, p.DiskMib+s.volumesSize(vm)
	if k := hypervisor.Get(runsBy(vm)); k != nil {
		n.Accept = []schedule.Choice{choice(k)}
	}
	const migrates = blixardv1.Capability_CAPABILITY_MIGRATE
	n.Wants = append(n.Wants, schedule.Want{Bit: uint64(hypervisor.Of(migrates)), Name: hypervisor.Name(migrates)})
	return n
}

// unlike says why a guest of one host would not go on on another: "" when nothing
// that is known of them says so. What Nix built has its hypervisor with it: the same
// path in the store is the same build on both, whatever else the hosts have.
func unlike(vm *blixardv1.VM, from, to *blixardv1.Node) string {
	a, b := fact(from, vm.Placement.Hypervisor), fact(to, vm.Placement.Hypervisor)
	name := hypervisor.NameOf(vm.Placement.Hypervisor)
	ka, kb := from.GetHost().GetFacts().GetKvm(), to.GetHost().GetFacts().GetKvm()
	brings := nixBuilt(vm.Spec)
	switch {
	case (a == nil || b == nil) && !brings:
		return ""
	case !brings && a.Version != b.Version:
		return fmt.Sprintf("has %s %s, and %s has %s", name, b.Version, from.Name, a.Version)
	case !brings && a.Kvm != b.Kvm, ka != nil && kb != nil && ka.Usable != kb.Usable:
		return "differs from " + from.Name + " in whether KVM is usable"
	}
	return ""
}

// unfit says why a VM would not go on on another host, but for the room: "" when
// nothing is known of that.
func (s *State) unfit(vm *blixardv1.VM, from, to *blixardv1.Node) string {
	return cmp.Or(unlike(vm, from, to), s.hasSome(vm, to), samePorts(vm, from, to))
}

// samePorts says that a VM's ports lead to it on its host for as long as it runs there,
// and so cannot lead to it on another node of that machine, which it would need before.
func samePorts(vm *blixardv1.VM, from, to *blixardv1.Node) string {
	space, ports := from.GetHost().GetFacts().GetPortSpace(), vm.Placement.Ports
	if len(ports) == 0 || space == "" || space != to.GetHost().GetFacts().GetPortSpace() || mutant.On("MoveWithinOneMachine") {
		return ""
	}
	return "has its ports in common with " + from.Name + ", which leads port " + schedulePort(ports[0]).String() + " to it until it has left"
}

// liveTarget chooses where a VM can go live, and claims the room there; to is the
// only host that will do, or nil. A host that has what Nix built comes first.
func (s *State) liveTarget(r *room, vm *blixardv1.VM, to *blixardv1.Node) (*schedule.Host, bool) {
	from, need := s.Node(vm.Placement.NodeId), s.liveNeed(vm)
	fits := func(h *schedule.Host) bool {
		return h.ID != from.Id && (to == nil || h.ID == to.Id) && s.unfit(vm, from, s.Node(h.ID)) == ""
	}
	if holds := vm.GetRunner().GetNodes(); len(holds) > 1 {
		if h, ok := r.claimOf(vm, need, func(h *schedule.Host) bool { return slices.Contains(holds, h.ID) && fits(h) }); ok {
			return h, true
		}
	}
	return r.claimOf(vm, need, fits)
}

// nowhere refuses a move, live or with a stop, for want of a host.
func (s *State) nowhere(vm *blixardv1.VM, to *blixardv1.Node, r *room, need schedule.Need, live bool) *blixardv1.Response {
	const code = blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION
	from := s.Node(vm.Placement.NodeId)
	advice := "make room there, or name another host; 'blixard vm explain " + vm.Name + "' says what each host lacks"
	var unfit func(*blixardv1.Node) string
	if live {
		advice += "; " + offline(vm)
		unfit = func(n *blixardv1.Node) string { return s.unfit(vm, from, n) }
	}
	if to == nil {
		return refuse(code, "no host can take the VM "+vm.Name+" as things stand: "+r.whyNot([]uint64{from.Id}, need, unfit), advice)
	}
	h := scheduleHost(to, s.overcommit())
	s.lookAt(h, need, vm.Uid)
	why := hinders(h, need, to, unfit)
	if len(why) == 0 { // what is on its way there needs the room
		why = append(why, "has no room left beside the VMs that are on their way there")
	}
	return refuse(code, to.Name+" cannot take the VM "+vm.Name+": it "+strings.Join(why, ", and "), advice)
}

// hinders is what a host lacks, and what else unfits it; nil: nothing does.
func hinders(h *schedule.Host, need schedule.Need, n *blixardv1.Node, unfit func(*blixardv1.Node) string) (why []string) {
	for _, o := range schedule.Obstacles(nil, h, need) {
		why = append(why, o.String())
	}
	if unfit != nil {
		if text := unfit(n); text != "" {
			why = append(why, text)
		}
	}
	return why
}

// begin gives a VM a second placement, on the target of its live move, and returns
// it as it is then. What it may not, validating, is stored nowhere.
func (s *State) begin(e *entry, old *blixardv1.VM, to *blixardv1.Node, timeoutMs uint32, store bool) *blixardv1.VM {
	vm, target := copyVM(old), copyNode(to)
	p := vm.Placement
	o := &blixardv1.Placement{
		NodeId: to.Id, Node: to.Name, Epoch: to.Host.Epoch,
		Incarnation: &blixardv1.Incarnation{Generation: s.meta.Generation, Index: e.index},
		Hypervisor:  p.Hypervisor, Vcpus: p.Vcpus, MemoryMib: p.MemoryMib, DiskMib: p.DiskMib, Ports: slices.Clone(p.Ports), Starts: p.Starts,
	}
	s.target(vm, o, target)
	vm.Migration = &blixardv1.Migration{
		Id: e.index, State: blixardv1.MigrationState_MIGRATION_STATE_PREPARING, Other: o, From: p.Node, To: to.Name,
		Attempt: vm.GetStatus().GetAttempt(), Principal: e.cmd.GetPrincipal(), StartTime: e.time(),
		Deadline: s.meta.LoggedTime + uint64(timeoutMs)*1e6, AssignmentRevision: e.index,
		Message: to.Name + " gets ready for it",
	}
	if !store {
		return vm
	}
	s.hold(target, o, +1)
	s.sendVolumes(e, vm, target)
	target.Host.Revision = e.index
	s.put(nodeKey(to.Id), target)
	s.assign(e, vm, copyNode(s.Node(p.NodeId)))
	s.event(e, "VMMigrating", vm.Name, p.Node, "live to %s", to.Name)
	return vm
}

// migrateOffline has a VM leave its host, for another one.
func (s *State) migrateOffline(e *entry, vm *blixardv1.VM, to *blixardv1.Node, validateOnly bool) *blixardv1.Response {
	r := s.room(vm.Placement.NodeId)
	need := s.needOf(vm)
	h, ok := r.claimOf(vm, need, func(h *schedule.Host) bool { return to == nil || h.ID == to.Id })
	if !ok {
		return s.nowhere(vm, to, r, need, false)
	}
	vm = copyVM(vm)
	vm.Placement.Leaving = true
	vm.Migration = &blixardv1.Migration{
		Id: e.index, State: blixardv1.MigrationState_MIGRATION_STATE_LEAVING, Offline: true, From: vm.Placement.Node,
		Wanted: to.GetId(), Principal: e.cmd.GetPrincipal(), StartTime: e.time(), Message: "it is being stopped on " + vm.Placement.Node,
	}
	if validateOnly {
		vm.Migration.To = s.Node(h.ID).Name
		return vmResponse(vm)
	}
	s.assign(e, vm, copyNode(s.Node(vm.Placement.NodeId)))
	s.event(e, "VMMigrating", vm.Name, vm.Placement.Node, "it is stopped, and starts on another host")
	return vmResponse(vm)
}

// cancelMigration ends a move, because somebody says so or because its time is over.
func (s *State) cancelMigration(e *entry, op *blixardv1.CancelMigrationOp) *blixardv1.Response {
	vm := s.VM(op.Name)
	if vm == nil {
		return noVM(op.Name)
	}
	const code = blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION
	m := vm.Migration
	switch {
	case op.Id != 0 && m.GetId() != op.Id:
		return refuse(code, "the VM "+op.Name+" is not in that move any more", "'blixard vm get "+op.Name+"' shows its last one")
	case leavesOffline(vm):
		return refuse(code, "the VM "+op.Name+" has begun to leave "+m.From+", which cannot be taken back", "it starts elsewhere in a moment; 'blixard vm migrate --offline' brings it back")
	case !moving(vm):
		return refuse(code, "the VM "+op.Name+" is in no move that could be cancelled", "'blixard vm get "+op.Name+"' shows its last one")
	case op.Expired:
		if s.meta.LoggedTime < m.Deadline {
			return nil
		}
		vm = copyVM(vm)
		s.abandon(e, vm, nil, "it took longer than it may")
	case m.State == blixardv1.MigrationState_MIGRATION_STATE_HANDED_OVER && !mutant.On("CancelledTooLate"):
		return refuse(code, "the VM "+op.Name+" has left "+m.From+" and is about to run on "+m.To, "wait for it; 'blixard vm migrate --to "+m.From+"' brings it back")
	default:
		vm = copyVM(vm)
		s.abandon(e, vm, nil, "cancelled by its user")
	}
	s.put(vmKey(vm.Name), vm)
	return vmResponse(vm)
}

// abandon ends a live move that has not switched, of the caller's own copy of a VM,
// which is not stored here: the target is to remove what it has, and the source
// goes on, or is started anew. Own is as of tell.
func (s *State) abandon(e *entry, vm *blixardv1.VM, own *blixardv1.Node, why string) {
	m := clone(vm.Migration)
	m.State, m.Message = blixardv1.MigrationState_MIGRATION_STATE_CANCELLING, why
	m.AssignmentRevision = e.index
	vm.Migration = m
	s.abandonVolumes(e, vm)
	s.event(e, "VMNotMigrated", vm.Name, m.From, "not to %s: %s", m.To, why)
	s.tell(e, m.Other.NodeId, own)
	if vm.Placement != nil {
		vm.AssignmentRevision = e.index
		s.tell(e, vm.Placement.NodeId, own)
	}
}

// releaseOther ends what a VM, the caller's own copy, has where it has no right to
// run. The VM is stored; the node is the caller's own copy, and is not.
func (s *State) releaseOther(e *entry, vm *blixardv1.VM, node *blixardv1.Node, why string) {
	m := clone(vm.Migration)
	s.hold(node, m.Other, -1)
	m.Other, m.EndTime = nil, e.time()
	if m.State == blixardv1.MigrationState_MIGRATION_STATE_SWITCHED {
		m.State, m.Message = blixardv1.MigrationState_MIGRATION_STATE_DONE, ""
		if node.Drain != nil {
			node.Drain = clone(node.Drain)
			node.Drain.Moved++
		}
	} else {
		m.State = blixardv1.MigrationState_MIGRATION_STATE_FAILED
	}
	vm.Migration = m
	s.event(e, "VMReleased", vm.Name, node.Name, "%s", why)
	s.freed()
	if vm.Deleting && vm.Placement == nil {
		s.drop(e, vm)
		node.Host.PrepareRevision = s.Node(node.Id).GetHost().GetPrepareRevision() // it may have held ready what was to run there
		return
	}
	s.put(vmKey(vm.Name), vm)
}

// observeMove takes what the host that has the right to run says of a live move;
// the VM and the node are the caller's own copies.
func (s *State) observeMove(e *entry, n *blixardv1.Node, vm *blixardv1.VM, o *blixardv1.Observation) {
	r, m := o.Migration, vm.Migration
	if m.GetState() == blixardv1.MigrationState_MIGRATION_STATE_SWITCHED && m.DowntimeMs == 0 && o.Phase == blixardv1.Phase_PHASE_RUNNING {
		m = clone(m)
		m.DowntimeMs = uint32(max((s.meta.LoggedTime-m.HandedOverAt)/1e6, 1))
		vm.Migration = m
		s.event(e, "VMMigrated", vm.Name, n.Name, "it runs on %s; no guest ran for %d ms", n.Name, m.DowntimeMs)
		return
	}
	if r == nil || !moving(vm) || r.Id != m.Id {
		return
	}
	switch r.Step {
	case blixardv1.MigrationStep_MIGRATION_STEP_FAILED:
		if m.State != blixardv1.MigrationState_MIGRATION_STATE_HANDED_OVER {
			s.abandon(e, vm, n, r.Message)
		}
	case blixardv1.MigrationStep_MIGRATION_STEP_SENDING:
		if m.State == blixardv1.MigrationState_MIGRATION_STATE_SENDING {
			m = clone(m)
			m.Progress, m.Message = r.Progress, "its memory is on its way"
			vm.Migration = m
		}
	case blixardv1.MigrationStep_MIGRATION_STEP_HANDED_OVER:
		if mutant.On("VolumeBeforeSwitch") {
			s.switchVolumes(e, vm, s.Node(m.Other.NodeId))
		}
		if m.State != blixardv1.MigrationState_MIGRATION_STATE_HANDED_OVER {
			m = clone(m)
			m.State, m.HandedOverAt, m.Message = blixardv1.MigrationState_MIGRATION_STATE_HANDED_OVER, s.meta.LoggedTime, "it is stopped on "+m.From+", and goes on on "+m.To
			vm.Migration = m
			s.event(e, "VMHandedOver", vm.Name, n.Name, "its guest is stopped there for good")
		}
	}
}

// observeOther takes what a host says of a VM that has no right to run there; the
// node is the caller's own copy.
func (s *State) observeOther(e *entry, n *blixardv1.Node, old *blixardv1.VM, o *blixardv1.Observation) {
	vm := copyVM(old)
	m := clone(vm.Migration)
	vm.Migration = m
	if o.Removed {
		if o.AssignmentRevision >= m.AssignmentRevision && !moving(vm) {
			s.releaseOther(e, vm, n, "its host has removed it")
		}
		return
	}
	tighten(m.Other, m.AssignmentRevision, o)
	if r := o.Migration; moving(vm) && r.GetId() == m.Id {
		switch r.Step {
		case blixardv1.MigrationStep_MIGRATION_STEP_FAILED:
			s.abandon(e, vm, n, r.Message)
		case blixardv1.MigrationStep_MIGRATION_STEP_LISTENING:
			if m.Loaded {
				s.abandon(e, vm, n, "its guest had come to "+m.To+", and is not there any more")
			} else if m.State == blixardv1.MigrationState_MIGRATION_STATE_PREPARING {
				m.State, m.Message = blixardv1.MigrationState_MIGRATION_STATE_SENDING, m.To+" waits for it"
				vm.AssignmentRevision = e.index
				s.tell(e, vm.Placement.NodeId, n)
			}
		case blixardv1.MigrationStep_MIGRATION_STEP_LOADED:
			m.Loaded = true
		}
	}
	if mutant.On("TargetFreedEarly") && m.State == blixardv1.MigrationState_MIGRATION_STATE_CANCELLING {
		s.releaseOther(e, vm, n, "the move has ended")
		return
	}
	s.put(vmKey(vm.Name), vm)
}

// switchOver gives the right to run to the target: see SwitchOp.
func (s *State) switchOver(e *entry, op *blixardv1.SwitchOp) *blixardv1.Response {
	old := s.VM(op.Name)
	m := old.GetMigration()
	from, to := s.Node(old.GetPlacement().GetNodeId()), s.Node(m.GetOther().GetNodeId())
	ready := m.GetId() == op.Id && m.GetState() == blixardv1.MigrationState_MIGRATION_STATE_HANDED_OVER && m.GetLoaded()
	if !ready && !(mutant.On("SwitchUnchecked") && moving(old)) || op.Term != e.term && !mutant.On("SwitchUnchecked") {
		return nil
	}
	active := func(n *blixardv1.Node, p *blixardv1.Placement, epoch uint64) bool {
		h := n.GetHost()
		return h.GetEpochState() == blixardv1.EpochState_EPOCH_STATE_ACTIVE && h.Epoch == epoch && p.Epoch == epoch
	}
	if !active(from, old.Placement, op.SourceEpoch) || !active(to, m.Other, op.TargetEpoch) {
		return nil
	}
	vm := copyVM(old)
	m = clone(m)
	vm.Placement, m.Other = m.Other, vm.Placement
	m.State, m.AssignmentRevision, m.Message = blixardv1.MigrationState_MIGRATION_STATE_SWITCHED, e.index, from.Name+" removes what is left of it"
	s.switchVolumes(e, vm, to)
	vm.Migration = m
	st := clone(vm.Status)
	st.Phase, st.Reason, st.Message, st.ChangeTime = blixardv1.Phase_PHASE_STARTING, "Switched", "it goes on on "+to.Name, e.time()
	st.Attempt, st.Sequence = 1, 0
	vm.Status = st
	s.event(e, "VMSwitched", vm.Name, to.Name, "it may run on %s, and on %s no more", to.Name, from.Name)
	s.tell(e, from.Id, nil)
	s.prepare(e, vm) // where it runs it is not held ready besides
	s.assign(e, vm, copyNode(s.Node(to.Id)))
	s.redrain() // it may have come to a host that is drained
	return vmResponse(vm)
}

// movingText is how far a move is, in words.
func (s *State) movingText(vm *blixardv1.VM) string {
	m := vm.Migration
	if m.GetOffline() {
		return "offline from " + m.From
	}
	return "live from " + m.GetFrom() + " to " + m.GetTo()
}

// busyMoving refuses what a live move does not go together with.
func (s *State) busyMoving(vm *blixardv1.VM, what string) *blixardv1.Response {
	if !moving(vm) {
		return nil
	}
	return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION,
		"the VM "+vm.Name+" is being moved "+s.movingText(vm)+", and cannot be "+what+" meanwhile",
		"wait for it, or end that by 'blixard vm migrate --cancel "+vm.Name+"'")
}
