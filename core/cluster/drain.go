package cluster

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core/mutant"
	"github.com/blixard/blixard/core/schedule"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A drain empties a node by planned moves. All of it is in the state: the order
// stands with the node, and each VM that is under way is marked in its placement.
// So it goes on under any leader, and nobody has to remember anything.
//
//	placed ──► leaving ──► released by its host's acknowledgement ──► placed elsewhere
//	  │
//	  ├──► moving: live, where that can be (migrate.go); once, then it leaves
//	  │
//	  └──► held: it waits for its host and cannot go live, so it stays, stopped if
//	       that was asked for
//
// A VM is stopped only when another host could take it as things stand, what is
// under way already included. What nobody can take runs on, and goes as soon as
// somebody can: it is looked at again whenever something is freed. Room is not
// reserved for the seconds of a move. Who loses it to another VM waits for a host
// like any other, in the order of priority.

const (
	// defaultParallel is few: each move stops a VM, and a closure may travel.
	defaultParallel = 2
	maxParallel     = 1000
)

// removes says that a VM's host is to end it and to remove all of it.
func removes(vm *blixardv1.VM) bool { return vm.Deleting || vm.Placement.GetLeaving() }

// over says that a VM which should run has ended, and that its restart policy
// leaves it so.
func over(vm *blixardv1.VM) bool {
	st := vm.GetStatus()
	if !vm.Run || !ended(vm) || vm.Placement.GetHeld() || st.Reason == "BuildFailed" {
		return false
	}
	switch vm.Spec.GetRestart() {
	case blixardv1.RestartPolicy_RESTART_POLICY_NEVER:
		return true
	case blixardv1.RestartPolicy_RESTART_POLICY_ON_FAILURE:
		return st.Phase == blixardv1.Phase_PHASE_STOPPED
	}
	return false
}

// MayDrain says why a drain is refused; nil for one that is not.
func (s *State) MayDrain(op *blixardv1.DrainOp) *blixardv1.Error {
	switch n := s.NodeByName(op.Name); {
	case op.Parallel > maxParallel:
		return invalid("parallel", fmt.Sprintf("%d VMs at a time are too many", op.Parallel), fmt.Sprintf("give 1 to %d", maxParallel))
	case n == nil:
		return noNode(op.Name).Error
	case n.Host == nil:
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, op.Name+" is no host, so there is nothing to drain", "").Error
	}
	return nil
}

func (s *State) drain(e *entry, op *blixardv1.DrainOp) *blixardv1.Response {
	if err := s.MayDrain(op); err != nil {
		return &blixardv1.Response{Error: err}
	}
	old := s.NodeByName(op.Name)
	n := copyNode(old)
	d := &blixardv1.Drain{Parallel: defaultParallel, StartTime: e.time()}
	if old.Drain != nil {
		d = clone(old.Drain)
	}
	if op.Parallel != 0 {
		d.Parallel = op.Parallel
	}
	d.StopLocal = d.StopLocal || op.StopLocal
	if old.Drain != nil && proto.Equal(d, old.Drain) {
		return nodeResponse(old)
	}
	if old.Drain == nil {
		d.Begun = e.index
		s.event(e, "NodeDraining", "", n.Name, "gets no new VM; those on it go to other hosts, %d at a time", d.Parallel)
	}
	n.Drain, n.Cordoned = d, true
	s.put(nodeKey(n.Id), n)
	s.meta.DrainMore = true
	return nodeResponse(n)
}

// restoreNode ends a drain. What is under way goes on: its host may have removed
// it already. What was held starts again, as another run: its end was our doing,
// and no restart policy is asked about that.
func (s *State) restoreNode(e *entry, op *blixardv1.RestoreNodeOp) *blixardv1.Response {
	old := s.NodeByName(op.Name)
	switch {
	case old == nil:
		return noNode(op.Name)
	case old.Drain == nil && old.Cordoned:
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, op.Name+" is cordoned, and not drained", "'blixard node uncordon "+op.Name+"' lets it take VMs again")
	case old.Drain == nil:
		return nodeResponse(old)
	}
	n := copyNode(old)
	n.Drain, n.Cordoned = nil, false
	if n.Host != nil && silent(n) {
		s.event(e, "NodeRestored", "", n.Name, "is not drained any more, and may get VMs again once it is heard of; nothing is moved back")
	} else {
		s.event(e, "NodeRestored", "", n.Name, "may get VMs again; nothing is moved back")
	}
	for _, vm := range s.placedByPriority(n.Id) {
		if other(vm, n.Id) || !vm.Placement.Held || mutant.On("HeldForEver") {
			continue
		}
		vm = copyVM(vm)
		vm.Placement.Held = false
		if vm.Run {
			vm.Placement.Starts++
			s.setPhase(e, vm, blixardv1.Phase_PHASE_PENDING, "Restored", "its host was restored, and starts it again")
		}
		s.assign(e, vm, n)
	}
	s.put(nodeKey(n.Id), n)
	s.freed()
	return nodeResponse(n)
}

// redrain says that something has changed for nodes that are drained.
func (s *State) redrain() { s.meta.DrainMore = s.drained.Len() > 0 && !mutant.On("DrainForgets") }

// drainMore takes drains further. What waits for a host comes first: it does not
// run, and what is drained does.
func (s *State) drainMore(e *entry) {
	if !s.meta.DrainMore || s.meta.PlaceMore || s.meta.Unsettled { // while that lasts, what has left would start nowhere
		return
	}
	s.meta.DrainMore = false
	var r *room
	for _, id := range s.drained.Keys() {
		if n := s.Node(id); n.Host != nil {
			if r == nil {
				r = s.room()
			}
			s.drainNode(e, n, r)
		}
	}
}

// drainNode sends off what may go now. Nothing is ordered of a host that is not
// heard of; but once its fence has released what was on it, its drain is over.
func (s *State) drainNode(e *entry, n *blixardv1.Node, r *room) {
	placed := s.placedByPriority(n.Id)
	under, left := s.underWay(n.Id), 0
	for _, vm := range placed {
		if moving(vm) && other(vm, n.Id) && vm.Migration.State != blixardv1.MigrationState_MIGRATION_STATE_HANDED_OVER { // it was on its way here
			vm = copyVM(vm)
			s.abandon(e, vm, nil, n.Name+" is drained")
			s.put(vmKey(vm.Name), vm)
		}
		if vm.GetMigration().GetOther() != nil {
			under++
		}
	}
	for _, vm := range placed {
		switch s.stepOf(n, s.VM(vm.Name), n.Drain.StopLocal) {
		case blixardv1.DrainStep_DRAIN_STEP_STOPPING:
			s.holdBack(e, n, vm)
		case blixardv1.DrainStep_DRAIN_STEP_NEXT:
			left++
			if silent(n) || under >= int(n.Drain.Parallel) && !mutant.On("DrainUnbounded") || len(s.orders(vm)) > 0 {
				continue // until a snapshot of it that is being taken is taken
			}
			if s.drainLive(e, n, vm, r) {
				under++
				continue
			}
			if waitsForHost(vm) && !mutant.On("DrainMovesLocal") { // live, or not at all
				if left--; n.Drain.StopLocal {
					s.holdBack(e, n, vm)
				}
				continue
			}
			if vm.Run {
				if _, _, ok := r.claim(vm); !ok {
					continue
				}
			}
			under++
			vm = copyVM(vm)
			vm.Placement.Leaving, vm.Placement.Held = true, false
			s.assign(e, vm, copyNode(s.Node(n.Id)))
			s.event(e, "VMMoving", vm.Name, n.Name, "it leaves its host, which is drained")
		}
	}
	if done := under == 0 && left == 0; done != n.Drain.Done {
		m := copyNode(s.Node(n.Id))
		m.Drain = clone(m.Drain)
		m.Drain.Done = done
		s.put(nodeKey(m.Id), m)
		if done {
			s.event(e, "NodeDrained", "", m.Name, "nothing is left on it that could go elsewhere; %d have gone", m.Drain.Moved)
		}
	}
}

// holdBack stops a VM where it is, until the drain is over.
func (s *State) holdBack(e *entry, n *blixardv1.Node, vm *blixardv1.VM) {
	if vm.Placement.Held || silent(n) {
		return
	}
	vm = copyVM(vm)
	vm.Placement.Held = true
	s.assign(e, vm, copyNode(s.Node(n.Id)))
	s.event(e, "VMHeld", vm.Name, n.Name, "it is stopped where it is: its host is drained, and it waits for that")
}

func waitsForHost(vm *blixardv1.VM) bool {
	return vm.Spec.GetOnHostLoss() == blixardv1.OnHostLoss_ON_HOST_LOSS_WAIT
}

// drainLive begins to move a VM live, if that can be, and has not come to nothing
// since the drain began.
func (s *State) drainLive(e *entry, n *blixardv1.Node, vm *blixardv1.VM, r *room) bool {
	if !s.goesLive(n, vm) {
		return false
	}
	h, ok := s.liveTarget(r, vm, nil)
	if ok {
		s.begin(e, vm, s.Node(h.ID), defaultMigrationMs, true)
	}
	return ok
}

func (s *State) goesLive(n *blixardv1.Node, vm *blixardv1.VM) bool {
	m := vm.GetMigration()
	if m.GetState() == blixardv1.MigrationState_MIGRATION_STATE_FAILED && n.GetDrain() != nil && m.Id >= n.Drain.Begun {
		return false
	}
	if why, _ := s.stuck(vm); why != "" {
		return false
	}
	why, _ := s.immovable(vm)
	return why == ""
}

// whyLeft says why a VM has left its host.
func whyLeft(vm *blixardv1.VM) string {
	if leavesOffline(vm) {
		return "to start on another host"
	}
	return "which is drained"
}

// stepOf is what a drain does with a VM of its node, the room elsewhere aside.
func (s *State) stepOf(n *blixardv1.Node, vm *blixardv1.VM, stopLocal bool) blixardv1.DrainStep {
	p := vm.Placement
	phase := vm.GetStatus().GetPhase()
	switch {
	case vm.Deleting, p.GetLeaving(), vm.GetMigration().GetOther() != nil:
		return blixardv1.DrainStep_DRAIN_STEP_MOVING
	case p.Held && phase == blixardv1.Phase_PHASE_STOPPED && waitsForHost(vm), over(vm):
		return blixardv1.DrainStep_DRAIN_STEP_STOPPED
	case !waitsForHost(vm), s.goesLive(n, vm), mutant.On("DrainMovesLocal"):
		return blixardv1.DrainStep_DRAIN_STEP_NEXT
	case vm.Run && (stopLocal || p.Held):
		return blixardv1.DrainStep_DRAIN_STEP_STOPPING
	case !vm.Run && phase == blixardv1.Phase_PHASE_STOPPED:
		return blixardv1.DrainStep_DRAIN_STEP_STOPPED
	}
	return blixardv1.DrainStep_DRAIN_STEP_STAYS
}

// placedByPriority are the VMs of a host in the order in which they would be
// placed: highest priority first, then oldest.
func (s *State) placedByPriority(node uint64) []*blixardv1.VM {
	byKey := map[string]*blixardv1.VM{}
	s.Placed(node, func(vm *blixardv1.VM) bool {
		byKey[pendingKey(vm)] = vm
		return true
	})
	var list []*blixardv1.VM
	for _, k := range slices.Sorted(maps.Keys(byKey)) {
		list = append(list, byKey[k])
	}
	return list
}

// underWay counts the VMs that are leaving a host.
func (s *State) underWay(node uint64) (n int) {
	prefix := be(node)
	s.leaving.Ascend(prefix, func(k, _ string) bool {
		if k[:8] != prefix {
			return false
		}
		n++
		return true
	})
	return n
}

// room is what hosts have left, less what VMs would take that are to be placed:
// those that are under way already, and those that have claimed their part.
type room struct {
	s     *State
	hosts []*schedule.Host // in the order of their keys
	full  []schedule.Need  // needs for which nothing was left
	ports map[uint64][]schedule.Taken
	// devices that were claimed, of a host and a kind
	devices map[uint64]map[string]int
}

// room is what is left beside some nodes.
func (s *State) room(beside ...uint64) *room {
	r := &room{s: s, ports: map[uint64][]schedule.Taken{}, devices: map[uint64]map[string]int{}}
	for h := range s.emptiestFirst(schedule.Need{}) {
		if !slices.Contains(beside, h.ID) {
			r.hosts = append(r.hosts, h)
		}
	}
	s.leaving.Scan(func(_, name string) bool {
		if vm := s.VM(name); vm.Run && !vm.Deleting {
			r.claim(vm)
		}
		return true
	})
	return r
}

// claim takes the room that a VM would be placed in, as place would choose it.
func (r *room) claim(vm *blixardv1.VM) (h *schedule.Host, need schedule.Need, ok bool) {
	need = r.s.needOf(vm)
	if slices.ContainsFunc(r.full, func(f schedule.Need) bool { return need.AtLeast(&f) }) {
		return nil, need, false
	}
	holds := vm.GetRunner().GetNodes()
	if h, ok = r.claimOf(vm, need, func(h *schedule.Host) bool { return slices.Contains(holds, h.ID) }); ok {
		return h, need, true
	}
	if h, ok = r.claimOf(vm, need, func(*schedule.Host) bool { return true }); !ok {
		r.full = append(r.full, need)
	}
	return h, need, ok
}

// claimOf takes the room that a VM needs on the first host that fits and will do.
func (r *room) claimOf(vm *blixardv1.VM, need schedule.Need, will func(*schedule.Host) bool) (h *schedule.Host, ok bool) {
	r.look(need, vm.Uid)
	id, _, ok := schedule.Choose(func(yield func(*schedule.Host) bool) {
		for _, h := range r.hosts {
			if will(h) && !yield(h) {
				return
			}
		}
	}, need)
	if !ok {
		return nil, false
	}
	i := slices.IndexFunc(r.hosts, func(h *schedule.Host) bool { return h.ID == id })
	h = r.hosts[i]
	h.Used = h.Used.Add(need.Resources)
	h.Instances++
	for _, p := range need.Ports {
		r.ports[id] = append(r.ports[id], schedule.Taken{Port: p, By: vm.Name})
	}
	for _, d := range need.Devices {
		if r.devices[id] == nil {
			r.devices[id] = map[string]int{}
		}
		r.devices[id][d.Kind] += d.Count
	}
	for ; i+1 < len(r.hosts) && r.hosts[i+1].Key() < h.Key(); i++ {
		r.hosts[i], r.hosts[i+1] = r.hosts[i+1], r.hosts[i]
	}
	return h, true
}

// look tells the hosts which of the ports and devices that are needed somebody has
// there, or has claimed.
func (r *room) look(need schedule.Need, uid string) {
	for _, h := range r.hosts {
		h.Taken = nil
		r.s.lookAt(h, need, uid)
		if len(need.Ports) > 0 {
			for _, id := range r.s.portsInCommon(h.ID) {
				for _, t := range r.ports[id] {
					if slices.Contains(need.Ports, t.Port) {
						h.Taken = append(h.Taken, t)
					}
				}
			}
		}
		for _, d := range need.Devices {
			h.Devices[d.Kind] -= min(h.Devices[d.Kind], r.devices[h.ID][d.Kind])
		}
	}
}

// DrainMoves says what becomes of each VM of some nodes while they are drained
// together, or would if they were, in the order in which they go from each.
func (s *State) DrainMoves(stopLocal bool, nodes ...*blixardv1.Node) (list []*blixardv1.DrainMove) {
	var beside []uint64
	for _, n := range nodes {
		beside = append(beside, n.Id)
	}
	r := s.room(beside...)
	for _, n := range nodes {
		list = append(list, s.drainMoves(r, n, stopLocal, beside)...)
	}
	return list
}

func (s *State) drainMoves(r *room, n *blixardv1.Node, stopLocal bool, beside []uint64) (list []*blixardv1.DrainMove) {
	lost := ""
	if n.GetHost() != nil && silent(n) {
		lost = "; its host is not heard of" + silentSince(n)
	}
	for _, vm := range s.placedByPriority(n.Id) {
		noRoom := ""
		m := &blixardv1.DrainMove{Vm: vm.Name, From: n.Name, Step: s.stepOf(n, vm, stopLocal || n.GetDrain().GetStopLocal())}
		if m.Step == blixardv1.DrainStep_DRAIN_STEP_NEXT && vm.Run && s.goesLive(n, vm) {
			if h, ok := s.liveTarget(r, vm, nil); ok {
				m.Node, m.Message = s.Node(h.ID).Name, "it would go to "+s.Node(h.ID).Name+" live, without being stopped"+lost
				list = append(list, m)
				continue
			}
			if waitsForHost(vm) {
				m.Step, noRoom = blixardv1.DrainStep_DRAIN_STEP_STAYS, "could go live, but: "+r.whyNot(beside, s.liveNeed(vm), func(to *blixardv1.Node) string { return s.unfit(vm, n, to) })
				if stopLocal || n.GetDrain().GetStopLocal() {
					m.Step = blixardv1.DrainStep_DRAIN_STEP_STOPPING
				}
			}
		}
		switch m.Step {
		case blixardv1.DrainStep_DRAIN_STEP_MOVING:
			switch {
			case vm.Deleting:
				m.Message = "it is being deleted" + lost
			case vm.GetMigration().GetOther() != nil && other(vm, n.Id):
				m.Message = "what is left of it there is being removed" + lost
			case vm.GetMigration().GetOther() != nil:
				m.Node, m.Message = vm.Migration.To, "it goes live to "+vm.Migration.To+", and runs on meanwhile"+lost
			default:
				m.Message = "it is being stopped there" + lost
			}
		case blixardv1.DrainStep_DRAIN_STEP_NEXT:
			if !vm.Run {
				m.Message = "it is stopped, and gets a host when it is started" + lost
				break
			}
			h, need, ok := r.claim(vm)
			if ok {
				m.Node, m.Message = s.Node(h.ID).Name, "it would go to "+s.Node(h.ID).Name+lost
				break
			}
			m.Step, m.Message = blixardv1.DrainStep_DRAIN_STEP_WAITS, r.whyNot(beside, need, nil)+lost
		case blixardv1.DrainStep_DRAIN_STEP_STAYS:
			m.Message = "it waits for its host (on_host_loss), and runs on; --stop-local stops it where it is" + s.notLive(vm, noRoom)
		case blixardv1.DrainStep_DRAIN_STEP_STOPPING:
			m.Message = "it waits for its host, and is stopped where it is until 'blixard node restore " + n.Name + "'" + s.notLive(vm, noRoom) + lost
		case blixardv1.DrainStep_DRAIN_STEP_STOPPED:
			m.Message = "it waits for its host, and is stopped"
			if over(vm) {
				m.Message = "it has ended, and its restart policy leaves it so"
			}
		}
		list = append(list, m)
	}
	return list
}

// notLive says why a VM that waits for its host does not go live; why is known already,
// or "".
func (s *State) notLive(vm *blixardv1.VM, why string) string {
	if why == "" && !vm.Placement.Held && vm.Run {
		if why, _ = s.immovable(vm); why != "" {
			why = "does not go live: " + why
		}
	}
	if why == "" {
		return ""
	}
	return "; it " + why
}

// whyNot says why no host beside some can take a VM, naming a few: what it lacks, and
// what else unfits it (nil: nothing does).
func (r *room) whyNot(beside []uint64, need schedule.Need, unfit func(*blixardv1.Node) string) string {
	left := map[uint64]*schedule.Host{}
	for _, h := range r.hosts {
		left[h.ID] = h
	}
	var why []string
	others := 0
	r.s.Nodes(func(n *blixardv1.Node) bool {
		if n.Host == nil || slices.Contains(beside, n.Id) {
			return true
		}
		if others++; len(why) == 3 {
			return true
		}
		h := left[n.Id]
		if h == nil {
			h = scheduleHost(n, r.s.overcommit())
		}
		why = append(why, n.Name+" "+strings.Join(hinders(h, need, n, unfit), " and "))
		return true
	})
	if others == 0 {
		return "there is no other host"
	}
	text := strings.Join(why, "; ")
	if more := others - len(why); more > 0 {
		text += fmt.Sprintf("; and %d more hosts", more)
	}
	return text
}

// underDrain has a VM's status say why its host ends it: the host does not know.
func (s *State) underDrain(n *blixardv1.Node, vm *blixardv1.VM, st *blixardv1.VMStatus) {
	switch p := vm.Placement; {
	case p.Leaving && st.Phase == blixardv1.Phase_PHASE_DELETING:
		st.Phase, st.Reason = blixardv1.Phase_PHASE_STOPPING, "Moving"
		st.Message = "it leaves " + n.Name + ", which is drained, and starts on another host"
		if leavesOffline(vm) {
			st.Message = "it leaves " + n.Name + ", and starts on another host"
		}
	case p.Held && vm.Run && st.Phase == blixardv1.Phase_PHASE_STOPPED:
		st.Reason, st.Message = "HostDrained", "its host "+n.Name+" is drained, and it waits for that: 'blixard node restore "+n.Name+"' starts it again"
	}
}
