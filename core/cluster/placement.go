package cluster

import (
	"cmp"
	"iter"
	"slices"

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
	host.Bridges = f.GetBridges()
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
	for _, p := range hostPorts(spec) {
		n.Ports = append(n.Ports, schedulePort(p))
	}
	for _, w := range spec.GetNetworks() {
		n.Bridges = n.Bridges || w.GetNetwork() != ""
	}
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
			s.portsTaken(h, n, "")
			return yield(h)
		})
	}
}

func schedulePort(p *blixardv1.HostPort) schedule.Port {
	return schedule.Port{Number: uint16(p.Port), UDP: p.Protocol == blixardv1.Protocol_PROTOCOL_UDP}
}

// portsTaken tells a host which of the ports that a VM needs another VM has there.
func (s *State) portsTaken(h *schedule.Host, n schedule.Need, uid string) {
	for _, p := range n.Ports {
		key := &blixardv1.HostPort{Port: uint32(p.Number), Protocol: blixardv1.Protocol_PROTOCOL_TCP}
		if p.UDP {
			key.Protocol = blixardv1.Protocol_PROTOCOL_UDP
		}
		if by, taken := s.ports.Get(portKey(h.ID, key)); taken && by != uid && !mutant.On("PortsIgnored") {
			h.Taken = append(h.Taken, schedule.Taken{Port: p, By: s.VMByUID(by).GetName()})
		}
	}
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
	// Where its runner is, nothing needs to be copied.
	id, hv, ok := schedule.Choose(slices.Values(s.holdersOf(vm)), n)
	if !ok {
		id, hv, ok = schedule.Choose(s.emptiestFirst(n), n)
	}
	if !ok {
		vm.Status = &blixardv1.VMStatus{
			Phase: blixardv1.Phase_PHASE_PENDING, Reason: "NoHostFits", ChangeTime: e.time(),
			Message: "no host has room for it now; 'blixard vm explain " + vm.Name + "' says why",
		}
		s.put(vmKey(vm.Name), vm)
		return false
	}
	node := copyNode(s.Node(id))
	vm.Placement = &blixardv1.Placement{
		NodeId: id, Node: node.Name, Epoch: node.Host.Epoch,
		Incarnation: &blixardv1.Incarnation{Generation: s.meta.Generation, Index: e.index},
		Hypervisor:  blixardv1.Hypervisor(hv),
		Vcpus:       uint32(n.MilliCPU / 1000), MemoryMib: n.MemoryMiB, DiskMib: n.DiskMiB, Ports: hostPorts(vm.Spec),
	}
	s.target(vm, node)
	vm.AssignmentRevision = e.index
	vm.Status = &blixardv1.VMStatus{
		Phase: blixardv1.Phase_PHASE_PENDING, Reason: "Placed", ChangeTime: e.time(),
		Message: "placed on " + node.Name + ", which has not reported yet",
	}
	s.hold(node, vm, +1)
	node.Host.Revision = e.index
	s.put(nodeKey(id), node)
	s.prepare(e, vm)
	s.put(vmKey(vm.Name), vm)
	s.event(e, "VMPlaced", vm.Name, node.Name, "placed on %s", node.Name)
	return true
}

// hold accounts the VM's resources to its host, or takes them back.
func (s *State) hold(node *blixardv1.Node, vm *blixardv1.VM, sign int) {
	p, h := vm.Placement, node.Host
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
	var placed []*blixardv1.VM
	s.placed.Scan(func(k string, _ struct{}) bool {
		placed = append(placed, s.VMByUID(k[8:]))
		return true
	})
	for _, vm := range placed {
		node := s.Node(vm.Placement.NodeId)
		want := s.leaseFor(vm, node)
		if want == vm.Placement.TargetLease && s.leaseMs(vm, want) == vm.Placement.TargetLeaseMs {
			continue
		}
		vm, node = clone(vm), clone(node)
		s.target(vm, node)
		s.assign(e, vm, node)
	}
}

// target gives the VM, the caller's own copy, the lease that it should have on its
// host. What is loosened by that, in class or length, counts as loose at once;
// what is tightened, only when the host has acknowledged it.
func (s *State) target(vm *blixardv1.VM, node *blixardv1.Node) {
	p := vm.Placement
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

// tighten takes a host's word for the lease under which the VM, the caller's own
// copy, lives at most. It counts only if the host knew the newest assignment: an
// older one may be loosened again after it was sent.
func tighten(vm *blixardv1.VM, o *blixardv1.Observation) {
	p := vm.Placement
	if o.AssignmentRevision < vm.AssignmentRevision || o.Lease < p.TargetLease {
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

// release ends an instance: what it held is free. A VM that was being deleted
// is gone; another waits for a host. The node is the caller's own copy, and is
// not stored here.
func (s *State) release(e *entry, vm *blixardv1.VM, node *blixardv1.Node, why string) {
	s.hold(node, vm, -1)
	if mutant.On("CreditTwice") && !vm.Run {
		s.hold(node, vm, -1)
	}
	if vm.Placement.Leaving && node.Drain != nil {
		node.Drain = clone(node.Drain)
		node.Drain.Moved++
	}
	vm = copyVM(vm)
	vm.Placement = nil
	s.event(e, "VMReleased", vm.Name, node.Name, "%s", why)
	s.freed()
	if vm.Deleting {
		s.drop(e, vm)
		return
	}
	vm.Status = &blixardv1.VMStatus{
		Phase: blixardv1.Phase_PHASE_PENDING, Reason: "Released", ChangeTime: e.time(),
		Message: why,
	}
	if !vm.Run {
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
		s.meta.PlaceMore, s.meta.PlaceAfter = false, nil
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
		if _, _, ok = schedule.Choose(s.emptiestFirst(n), n); !ok {
			none = append(none, n)
		}
	}
	if ok || vm.GetStatus().GetReason() != "NoHostFits" { // or there is nothing new to say
		s.place(e, copyVM(vm))
	}
	return none
}

// freed says that something waiting may fit now: look at all of it again.
func (s *State) freed() {
	s.meta.PlaceMore, s.meta.PlaceAfter = !mutant.On("NotFreed"), nil
	s.redrain()
}
