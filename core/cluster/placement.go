package cluster

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/blixard/blixard/core/hypervisor"
	"github.com/blixard/blixard/core/mutant"
	"github.com/blixard/blixard/core/schedule"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// scheduleHost shows a node as placement sees it.
func scheduleHost(n *blixardv1.Node, overcommitMilli uint64) *schedule.Host {
	h := n.GetHost()
	f := h.GetFacts()
	host := loadOf(n, overcommitMilli)
	host.Labels, host.Nix = f.GetLabels(), f.GetNix()
	host.Cordoned, host.Suspect = n.Cordoned, h.GetSuspect()
	host.Away = h.GetEpochState() != blixardv1.EpochState_EPOCH_STATE_ACTIVE || f == nil
	host.NoKVM = f.GetKvm() != nil && !f.Kvm.Usable
	host.Bridges, host.Shares, host.SharesWhy, host.Folders = f.GetBridges(), f.GetShares(), f.GetSharesWhy(), f.GetAllowPaths()
	for _, hv := range f.GetHypervisors() {
		host.Hypervisors = append(host.Hypervisors, schedule.Hypervisor{ID: int32(hv.Hypervisor), Can: uint64(doneBy(hv))})
	}
	return &host
}

// doneBy is what a host's hypervisor does: what the host says, or what its kind
// does where it says nothing.
func doneBy(f *blixardv1.HypervisorFact) hypervisor.Set {
	if len(f.GetCapabilities()) > 0 {
		return hypervisor.Of(f.Capabilities...)
	}
	if k := hypervisor.Get(f.GetHypervisor()); k != nil {
		return k.Can()
	}
	return 0
}

// loadOf is what a host has, and what of it is used.
func loadOf(n *blixardv1.Node, overcommitMilli uint64) schedule.Host {
	h := n.GetHost()
	used, capacity := h.GetAllocated(), h.GetFacts().GetCapacity()
	return schedule.Host{
		ID: n.Id,
		Capacity: schedule.Resources{
			MilliCPU:  uint64(capacity.GetVcpus()) * overcommitMilli,
			MemoryMiB: capacity.GetMemoryMib(),
			DiskMiB:   capacity.GetDiskMib(),
		},
		Used: schedule.Resources{
			MilliCPU:  uint64(used.GetVcpus()) * 1000,
			MemoryMiB: used.GetMemoryMib(),
			DiskMiB:   used.GetDiskMib(),
		},
		Instances: h.GetInstances(),
	}
}

func schedulable(n *blixardv1.Node) bool {
	h := n.GetHost()
	return h != nil && h.Facts != nil && (!n.Cordoned || mutant.On("CordonIgnored")) && !h.Suspect &&
		h.EpochState == blixardv1.EpochState_EPOCH_STATE_ACTIVE
}

// need is what a spec asks of a host.
func need(spec *blixardv1.VMSpec) schedule.Need {
	n := schedule.Need{
		Resources: schedule.Resources{
			MilliCPU:  uint64(spec.GetVcpus()) * 1000,
			MemoryMiB: spec.GetMemoryMib(),
		},
		Require: spec.GetRequire(),
		Nix:     nixBuilt(spec),
	}
	for _, d := range spec.GetImage().GetDisks() {
		n.DiskMiB += d.GetSizeMib()
	}
	n.DiskMiB += nixosDiskMiB(spec.GetNixos())
	n.Devices = devicesOf(spec)
	for _, p := range hostPorts(spec) {
		n.Ports = append(n.Ports, schedulePort(p))
	}
	for _, w := range spec.GetNetworks() {
		n.Bridges = n.Bridges || w.GetNetwork() != ""
	}
	n.Shares, n.Folders = len(spec.GetShares()) > 0, folders(spec)
	wants := wanted(spec)
	for _, c := range wants.List() {
		n.Wants = append(n.Wants, schedule.Want{Bit: uint64(hypervisor.Of(c)), Name: hypervisor.Name(c)})
	}
	for _, k := range kinds(spec, wants) {
		n.Accept = append(n.Accept, choice(k))
	}
	if len(n.Accept) == 0 { // a flake says by itself what runs it
		n.Accept = []schedule.Choice{{ID: int32(spec.GetHypervisor())}}
	}
	return n
}

func choice(k *hypervisor.Kind) schedule.Choice {
	return schedule.Choice{
		ID: int32(k.Hypervisor), Name: k.Name, KVM: k.Answer(blixardv1.Capability_CAPABILITY_EMULATION) != hypervisor.Yes,
	}
}

// needOf is what a VM asks of a host: room for its spec, and for the one that it
// falls back on while that is not built.
func (s *State) needOf(vm *blixardv1.VM) schedule.Need {
	n := need(vm.Spec)
	s.withVolumes(&n, vm.Spec)
	n.Only = vm.Restore.GetNodeId()
	if k := hypervisor.Get(vm.GetRunner().GetHypervisor()); k != nil { // what was built knows best
		n.Accept = []schedule.Choice{choice(k)}
	}
	if f := s.fallback(vm); f != nil {
		was := need(f.Spec)
		n.MilliCPU = max(n.MilliCPU, was.MilliCPU)
		n.MemoryMiB = max(n.MemoryMiB, was.MemoryMiB)
		n.DiskMiB = max(n.DiskMiB, was.DiskMiB)
	}
	return n
}

// emptiestFirst are the hosts that may get a VM, as it sees them.
func (s *State) emptiestFirst(n schedule.Need) iter.Seq[*schedule.Host] {
	return func(yield func(*schedule.Host) bool) {
		overcommit := s.overcommit()
		s.hosts.Scan(func(_ string, id uint64) bool {
			h := scheduleHost(s.Node(id), overcommit)
			s.lookAt(h, n, "")
			return yield(h)
		})
	}
}

// lookAt tells a host what the VM needs of it that is one VM's at a time.
func (s *State) lookAt(h *schedule.Host, n schedule.Need, uid string) {
	s.portsTaken(h, n, uid)
	s.countDevices(h, n, uid)
}

func schedulePort(p *blixardv1.HostPort) schedule.Port {
	return schedule.Port{Number: uint16(p.Port), UDP: p.Protocol == blixardv1.Protocol_PROTOCOL_UDP}
}

// portsTaken tells a host which of the ports that a VM needs another VM has there.
func (s *State) portsTaken(h *schedule.Host, n schedule.Need, uid string) {
	if len(n.Ports) == 0 {
		return
	}
	nodes := s.portsInCommon(h.ID)
	for _, p := range n.Ports {
		key := &blixardv1.HostPort{Port: uint32(p.Number), Protocol: blixardv1.Protocol_PROTOCOL_TCP}
		if p.UDP {
			key.Protocol = blixardv1.Protocol_PROTOCOL_UDP
		}
		for i, id := range nodes {
			by, taken := s.ports.Get(portKey(id, key))
			if !taken || by == uid || mutant.On("PortsIgnored") {
				continue
			}
			t := schedule.Taken{Port: p, By: s.VMByUID(by).GetName()}
			if i > 0 {
				t.Where = s.Node(id).GetName()
			}
			h.Taken = append(h.Taken, t)
			break
		}
	}
}

// choose chooses a host for a VM that has none.
func (s *State) choose(vm *blixardv1.VM, n schedule.Need) (id uint64, hv int32, ok bool) {
	// Where something of it is left, nothing of it can be.
	left := vm.GetMigration().GetOther().GetNodeId()
	beside := func(hosts iter.Seq[*schedule.Host], not uint64) iter.Seq[*schedule.Host] {
		return func(yield func(*schedule.Host) bool) {
			for h := range hosts {
				if h.ID != left && h.ID != not && !yield(h) {
					return
				}
			}
		}
	}
	if leavesOffline(vm) { // where it was told to go, or at least not where it was
		if w := s.Node(vm.Migration.Wanted); w != nil && schedulable(w) {
			h := scheduleHost(w, s.overcommit())
			s.lookAt(h, n, "")
			if id, hv, ok = schedule.Choose(slices.Values([]*schedule.Host{h}), n); ok {
				return id, hv, ok
			}
		}
		if id, hv, ok = schedule.Choose(beside(s.emptiestFirst(n), s.NodeByName(vm.Migration.From).GetId()), n); ok {
			return id, hv, ok
		}
	}
	// Where its runner is, nothing needs to be copied.
	if id, hv, ok = schedule.Choose(beside(slices.Values(s.holdersOf(vm)), 0), n); ok {
		return id, hv, ok
	}
	return schedule.Choose(beside(s.emptiestFirst(n), 0), n)
}

// endOffline ends an offline move of the caller's own copy of a VM: on a node, or,
// when that is nil, because it was stopped meanwhile.
func (s *State) endOffline(e *entry, vm *blixardv1.VM, node *blixardv1.Node) {
	m := clone(vm.Migration)
	m.EndTime = e.time()
	if m.State, m.To, m.Message = blixardv1.MigrationState_MIGRATION_STATE_DONE, node.GetName(), ""; node == nil {
		m.State, m.Message = blixardv1.MigrationState_MIGRATION_STATE_FAILED, "it was stopped meanwhile, and gets a host when it is started"
	} else if m.Wanted != 0 && m.Wanted != node.Id {
		m.Message = "the host that was asked for could not take it any more"
	}
	vm.Migration = m
}

// place gives a waiting VM a host, if one fits, and says so in its status. The
// VM is the caller's own copy, and is stored.
func (s *State) place(e *entry, vm *blixardv1.VM) bool {
	if s.Unsettled(vm) {
		vm.Status = &blixardv1.VMStatus{
			Phase: blixardv1.Phase_PHASE_PENDING, Reason: "Unsettled", ChangeTime: e.time(),
			Message: "the cluster was restored from a backup, and this VM, or one that has its address, may still run where the backup does not know: it is started when the longest lease has surely ended",
		}
		s.put(vmKey(vm.Name), vm)
		return false
	}
	n := s.needOf(vm)
	id, hv, ok := s.choose(vm, n)
	if !ok {
		vm.Status = &blixardv1.VMStatus{
			Phase: blixardv1.Phase_PHASE_PENDING, Reason: "NoHostFits", ChangeTime: e.time(),
			Message: "no host has room for it now; 'blixard vm explain " + vm.Name + "' says why",
		}
		if why := s.nobodyCan(n); why != "" {
			vm.Status.Reason, vm.Status.Message = NoHostCan, why
		}
		if from := s.Node(vm.Restore.GetNodeId()); from != nil && silent(from) {
			vm.Status.Message = "it starts from the snapshot " + vm.Restore.Name + ", which is on " + from.Name + " only, and that is not heard of" + silentSince(from)
		}
		s.put(vmKey(vm.Name), vm)
		return false
	}
	node := copyNode(s.Node(id))
	vm.Placement = &blixardv1.Placement{
		NodeId: id, Node: node.Name, Epoch: node.Host.Epoch,
		Incarnation: &blixardv1.Incarnation{Generation: s.meta.Generation, Index: e.index},
		Hypervisor:  blixardv1.Hypervisor(hv),
		Vcpus:       uint32(n.MilliCPU / 1000), MemoryMib: n.MemoryMiB, DiskMib: n.DiskMiB, Ports: hostPorts(vm.Spec), Devices: s.giveDevices(vm.Spec, node, nil),
	}
	s.target(vm, vm.Placement, node)
	if leavesOffline(vm) {
		s.endOffline(e, vm, node)
	}
	vm.AssignmentRevision = e.index
	vm.Status = &blixardv1.VMStatus{
		Phase: blixardv1.Phase_PHASE_PENDING, Reason: "Placed", ChangeTime: e.time(),
		Message: "placed on " + node.Name + ", which has not reported yet",
	}
	vm.Placement.DiskMib -= s.withVolumes(&schedule.Need{}, vm.Spec) // they are accounted themselves
	s.hold(node, vm.Placement, +1)
	s.bindVolumes(e, vm, node)
	node.Host.Revision = e.index
	s.put(nodeKey(id), node)
	s.prepare(e, vm)
	s.put(vmKey(vm.Name), vm)
	s.event(e, "VMPlaced", vm.Name, node.Name, "placed on %s", node.Name)
	return true
}

// NoHostCan is the reason of a VM that waits in vain for as long as the hosts are
// what they are.
const NoHostCan = "NoHostCan"

// nobodyCan says what keeps a VM off every host and will not pass by waiting; "" when
// some host may take it one day, or has not yet said what it is.
func (s *State) nobodyCan(n schedule.Need) string {
	var words []string // each once, as the hosts come
	names := map[string][]string{}
	some := false
	s.Nodes(func(node *blixardv1.Node) bool {
		if node.Host == nil {
			return true
		}
		var why []string
		h := scheduleHost(node, s.overcommit())
		s.portsTaken(h, n, "")
		for _, o := range schedule.Obstacles(nil, h, n) {
			if o.Forever() && !(o.Kind == schedule.Ports && s.VM(o.Have).GetDeleting()) {
				why = append(why, o.String())
			}
		}
		if some = node.Host.Facts == nil || len(why) == 0; some {
			return false
		}
		text := strings.Join(why, " and ")
		if names[text] == nil {
			words = append(words, text)
		}
		names[text] = append(names[text], node.Name)
		return true
	})
	if some || len(words) == 0 {
		return ""
	}
	text := "no host can run it"
	for i, w := range words {
		if i == 3 {
			return text + "; and others"
		}
		text += map[bool]string{true: ": ", false: "; "}[i == 0] + someOf(names[w]) + " " + w
	}
	return text
}

// someOf names the first of many.
func someOf(names []string) string {
	switch n := len(names); {
	case n == 1:
		return names[0]
	case n <= 3:
		return "each of " + strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	default:
		return fmt.Sprintf("each of %s, %s and %d more", names[0], names[1], n-2)
	}
}

// hold accounts a placement's resources to its host, or takes them back.
func (s *State) hold(node *blixardv1.Node, p *blixardv1.Placement, sign int) {
	h := node.Host
	if h.Allocated == nil {
		h.Allocated = &blixardv1.Resources{}
	}
	a := h.Allocated
	if sign > 0 {
		a.Vcpus, a.MemoryMib, a.DiskMib, h.Instances = a.Vcpus+p.Vcpus, a.MemoryMib+p.MemoryMib, a.DiskMib+p.DiskMib, h.Instances+1
		return
	}
	a.Vcpus, a.MemoryMib, a.DiskMib, h.Instances = a.Vcpus-p.Vcpus, a.MemoryMib-p.MemoryMib, a.DiskMib-p.DiskMib, h.Instances-1
}

// leaseFor is the class that a VM should have on a host, as things stand.
func (s *State) leaseFor(vm *blixardv1.VM, node *blixardv1.Node) blixardv1.LeaseClass {
	forks := (vm.Spec.GetProcess() != nil || nixBuilt(vm.Spec)) && !node.GetHost().GetFacts().GetHoldsForks()
	switch {
	case s.hostCount <= 1:
		return blixardv1.LeaseClass_LEASE_CLASS_NONE
	case forks || vm.Spec.GetOnHostLoss() == blixardv1.OnHostLoss_ON_HOST_LOSS_WAIT:
		return blixardv1.LeaseClass_LEASE_CLASS_LONG
	}
	return blixardv1.LeaseClass_LEASE_CLASS_SHORT
}

// leaseMs is the length of a VM's lease of a class; 0 for NONE.
func (s *State) leaseMs(vm *blixardv1.VM, class blixardv1.LeaseClass) uint32 {
	switch class {
	case blixardv1.LeaseClass_LEASE_CLASS_SHORT:
		return cmp.Or(vm.Spec.GetLeaseMs(), s.meta.GetSettings().GetLeaseMs())
	case blixardv1.LeaseClass_LEASE_CLASS_LONG:
		return s.meta.GetSettings().GetLongLeaseMs()
	}
	return 0
}

// retarget gives every placed VM the lease that it should have now.
func (s *State) retarget(e *entry) {
	type on struct {
		node uint64
		uid  string
	}
	var placed []on
	s.placed.Scan(func(k string, _ struct{}) bool {
		placed = append(placed, on{binary.BigEndian.Uint64([]byte(k)), k[8:]})
		return true
	})
	for _, o := range placed {
		vm, node := s.VMByUID(o.uid), s.Node(o.node)
		want, p := s.leaseFor(vm, node), at(vm, o.node)
		if want == p.TargetLease && s.leaseMs(vm, want) == p.TargetLeaseMs {
			continue
		}
		vm, node = clone(vm), clone(node)
		s.target(vm, at(vm, o.node), node)
		s.assignAt(e, vm, node)
	}
}

// target gives a VM's placement, the caller's own copy, the lease that it should
// have on that host. What is loosened by that, in class or length, counts as loose at once;
// what is tightened, only when the host has acknowledged it.
func (s *State) target(vm *blixardv1.VM, p *blixardv1.Placement, node *blixardv1.Node) {
	p.TargetLease = s.leaseFor(vm, node)
	p.TargetLeaseMs = s.leaseMs(vm, p.TargetLease)
	if p.Lease == 0 || p.Lease > p.TargetLease {
		p.Lease = p.TargetLease
	}
	p.LeaseMs = max(p.LeaseMs, p.TargetLeaseMs)
	if mutant.On("ShorterAtOnce") {
		p.LeaseMs = p.TargetLeaseMs
	}
}

// tighten takes a host's word for the lease under which a VM lives there at most;
// the placement is the caller's own copy. It counts only if the host knew the newest
// assignment, of that revision: an older one may be loosened again after it was sent.
func tighten(p *blixardv1.Placement, revision uint64, o *blixardv1.Observation) {
	if o.AssignmentRevision < revision || o.Lease < p.TargetLease {
		return
	}
	p.Lease = p.TargetLease
	if o.LeaseMs <= p.TargetLeaseMs {
		p.LeaseMs = p.TargetLeaseMs
	}
}

// assign stores a VM whose host must hear of a change. Both are the caller's
// own copies.
func (s *State) assign(e *entry, vm *blixardv1.VM, node *blixardv1.Node) {
	vm.AssignmentRevision = e.index
	s.put(vmKey(vm.Name), vm)
	if node != nil {
		node.Host.Revision = e.index
		s.put(nodeKey(node.Id), node)
	}
}

// assignAt stores a VM that one of its hosts must hear of: whichever of the two the
// node is. Both are the caller's own copies.
func (s *State) assignAt(e *entry, vm *blixardv1.VM, node *blixardv1.Node) {
	if !other(vm, node.Id) {
		s.assign(e, vm, node)
		return
	}
	vm.Migration.AssignmentRevision = e.index
	s.put(vmKey(vm.Name), vm)
	node.Host.Revision = e.index
	s.put(nodeKey(node.Id), node)
}

// release ends the instance that has the right to run: what it held is free. A VM that was being deleted
// is gone; another waits for a host. The node is the caller's own copy, and is
// not stored here.
func (s *State) release(e *entry, vm *blixardv1.VM, node *blixardv1.Node, why string) {
	s.hold(node, vm.Placement, -1)
	if mutant.On("CreditTwice") && !vm.Run {
		s.hold(node, vm.Placement, -1)
	}
	if vm.Placement.Leaving && node.Drain != nil {
		node.Drain = clone(node.Drain)
		node.Drain.Moved++
	}
	s.leavesUntaken(e, node, vm)
	vm = copyVM(vm)
	vm.Placement = nil
	if leavesOffline(vm) && !vm.Run {
		s.endOffline(e, vm, nil)
	}
	unmount(vm)
	s.event(e, "VMReleased", vm.Name, node.Name, "%s", why)
	s.freed()
	if vm.Deleting && vm.GetMigration().GetOther() == nil {
		s.drop(e, vm)
		return
	}
	vm.Status = &blixardv1.VMStatus{
		Phase: blixardv1.Phase_PHASE_PENDING, Reason: "Released", ChangeTime: e.time(),
		Message: why,
	}
	switch {
	case vm.Deleting:
		vm.Status.Phase = blixardv1.Phase_PHASE_DELETING
	case !vm.Run:
		vm.Status.Phase = blixardv1.Phase_PHASE_STOPPED
	}
	s.put(vmKey(vm.Name), vm)
}

// placePerEntry bounds how many waiting VMs one entry looks at.
const placePerEntry = 128

// placeMore places what waits, when something has been freed. What one entry
// does not get to is left to the next; the leader sees to it that one comes.
func (s *State) placeMore(e *entry) {
	if !s.meta.PlaceMore {
		return
	}
	var names []string
	after := string(s.meta.PlaceAfter)
	s.pending.Ascend(after, func(k, name string) bool {
		if k == after {
			return true
		}
		names = append(names, name)
		s.meta.PlaceAfter = []byte(k)
		return len(names) < placePerEntry
	})
	var none []schedule.Need // for which no host has room: each VM that is placed leaves less
	for _, name := range names {
		none = s.placeWaiting(e, s.VM(name), none)
	}
	if len(names) < placePerEntry {
		s.meta.PlaceMore, s.meta.PlaceAfter, s.meta.PlaceAgain = s.meta.PlaceAgain, nil, false
	}
}

// placeWaiting places one VM, if a host fits and its need is not as large as one
// for which none does; if none fits, its need is added to those.
func (s *State) placeWaiting(e *entry, vm *blixardv1.VM, none []schedule.Need) []schedule.Need {
	if s.Unsettled(vm) && vm.GetStatus().GetReason() == "Unsettled" {
		return none
	}
	n := s.needOf(vm)
	ok := !slices.ContainsFunc(none, func(m schedule.Need) bool { return n.AtLeast(&m) })
	if ok {
		// One of which something is left somewhere may only not go there.
		if _, _, ok = s.choose(vm, n); !ok && vm.GetMigration().GetOther() == nil {
			none = append(none, n)
		}
	}
	st := vm.GetStatus()
	if ok || st.GetReason() != "NoHostFits" && !(st.GetReason() == NoHostCan && st.GetMessage() == s.nobodyCan(n)) { // or there is nothing new to say
		s.place(e, copyVM(vm))
	}
	return none
}

// freed says that something waiting may fit now: look at all of it again.
func (s *State) freed() {
	s.meta.PlaceMore, s.meta.PlaceAfter = !mutant.On("NotFreed"), nil
	s.redrain()
}
