package cluster

import (
	"slices"
	"strings"

	"github.com/blixard/blixard/core/mutant"
	"github.com/blixard/blixard/core/schedule"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// What Nix builds for a VM is built once: the first host says what it is called,
// and whoever gets the VM, or is to hold it ready, fetches it from there.

func nixBuilt(spec *blixardv1.VMSpec) bool { return spec.GetNixos() != nil || spec.GetFlake() != nil }

// runsBy is the hypervisor of a VM that is placed: what was built says best what it is.
func runsBy(vm *blixardv1.VM) blixardv1.Hypervisor {
	if h := vm.GetRunner().GetHypervisor(); nixBuilt(vm.Spec) && h != blixardv1.Hypervisor_HYPERVISOR_UNSPECIFIED {
		return h
	}
	return vm.Placement.GetHypervisor()
}

// nixStays says why what Nix built for a VM cannot go to another host while it runs, and
// what to do when there is something better than to have it start there.
func nixStays(vm *blixardv1.VM) (why, advice string) {
	r := vm.Runner
	switch {
	case !nixBuilt(vm.Spec):
		return "", ""
	case r == nil || vm.Fresh:
		return "what it needs is being built", "wait until 'blixard vm get " + vm.Name + "' shows that it is"
	case !r.Movable && r.Stays == "":
		return "what was built for it is of before guests could move",
			"build and start it anew: 'blixard vm build " + vm.Name + " --refresh', then 'blixard vm restart " + vm.Name + "'"
	case !r.Movable:
		return r.Stays, ""
	}
	for _, v := range vm.Spec.GetNixos().GetVolumes() {
		if p := v.GetData().GetPath(); strings.HasPrefix(p, "/") {
			return "its volume " + p + " is a file of its host, which stays there", ""
		}
	}
	return "", ""
}

// pinsFor are the pins that a spec which is given now is built with.
func (s *State) pinsFor(spec *blixardv1.VMSpec) *blixardv1.Pins {
	if spec.GetNixos() == nil {
		return nil
	}
	return s.meta.Pins
}

func (s *State) setPins(e *entry, op *blixardv1.SetPinsOp) *blixardv1.Response {
	if err := ValidatePins(op.Pins); err != nil {
		return &blixardv1.Response{Error: err}
	}
	if resp := s.missing(inputs(nil, op.Pins)); resp != nil {
		return resp
	}
	s.refer(e, inputs(nil, op.Pins), +1)
	s.refer(e, inputs(nil, s.meta.Pins), -1)
	s.meta.Pins = op.Pins
	s.event(e, "PinsSet", "", "", "NixOS VMs that are created or updated from now on are built with other inputs")
	return nil
}

// builtBy takes down what a host has built for the VM, the caller's own copy.
// Hosts that build the same may get another path (their modules may be of
// another release): the one that was recorded first counts, unless that host
// had to build because it could not get it.
func (s *State) builtBy(e *entry, vm *blixardv1.VM, node uint64, o *blixardv1.Observation) {
	r := o.Runner
	if r.GetStorePath() == "" || o.BuiltGeneration != vm.SpecGeneration && !mutant.On("OldBuildCounts") {
		return
	}
	if vm.Runner.GetStorePath() != r.StorePath {
		vm.Runner = clone(r)
		vm.Runner.Nodes = []uint64{node}
		vm.Fresh = false
		s.prepare(e, vm)
		return
	}
	s.addHolder(vm, node)
}

func (s *State) addHolder(vm *blixardv1.VM, node uint64) {
	if at, has := slices.BinarySearch(vm.Runner.Nodes, node); !has {
		vm.Runner.Nodes = slices.Insert(vm.Runner.Nodes, at, node)
	}
}

// prepared takes down what a host holds ready.
func (s *State) prepared(e *entry, node uint64, list []*blixardv1.Prepared) {
	for _, p := range list {
		vm := s.VMByUID(p.Uid)
		if vm.GetRunner() == nil || vm.Runner.StorePath != p.StorePath || slices.Contains(vm.Runner.Nodes, node) {
			continue
		}
		vm = clone(vm)
		s.addHolder(vm, node)
		s.put(vmKey(vm.Name), vm)
	}
}

// Unrecorded are those of a host's that the state does not know of.
func (s *State) Unrecorded(node uint64, list []*blixardv1.Prepared) (fresh []*blixardv1.Prepared) {
	for _, p := range list {
		if r := s.VMByUID(p.Uid).GetRunner(); r != nil && r.StorePath == p.StorePath && !slices.Contains(r.Nodes, node) {
			fresh = append(fresh, p)
		}
	}
	return fresh
}

// prepare chooses the hosts that hold the runner of the VM ready, the caller's
// own copy: those that do already, and then those on which it would be placed.
// It is asked when a runner is recorded, when the VM is placed and when its user
// wants more; a host that joins later gets nothing by itself.
func (s *State) prepare(e *entry, vm *blixardv1.VM) {
	var nodes []uint64
	want, here := int(vm.Spec.GetPrebuild()), vm.GetPlacement().GetNodeId()
	for _, id := range vm.PreparedNodes {
		if len(nodes) < want && id != here && s.Node(id).GetHost() != nil {
			nodes = append(nodes, id)
		}
	}
	if vm.Runner != nil && vm.Placement != nil {
		n := need(vm.Spec)
		for h := range s.emptiestFirst(schedule.Need{}) {
			if len(nodes) >= want {
				break
			}
			if h.ID != here && !slices.Contains(nodes, h.ID) && len(schedule.Obstacles(nil, h, n)) == 0 {
				nodes = append(nodes, h.ID)
			}
		}
	}
	slices.Sort(nodes)
	old := vm.PreparedNodes
	vm.PreparedNodes = nodes
	s.tellPrepared(e, vm, slices.Concat(old, nodes))
}

func (s *State) unprepare(e *entry, vm *blixardv1.VM) {
	s.tellPrepared(e, vm, vm.PreparedNodes)
}

// tellPrepared notes for hosts that the list of what they hold ready changed.
func (s *State) tellPrepared(e *entry, vm *blixardv1.VM, nodes []uint64) {
	slices.Sort(nodes)
	for _, id := range slices.Compact(nodes) {
		if s.Node(id).GetHost() == nil {
			continue
		}
		n := clone(s.Node(id))
		n.Host.PrepareRevision = e.index
		s.put(nodeKey(id), n)
	}
}

// Preparations are the runners that a host holds ready for others, by uid.
func (s *State) Preparations(node uint64) (list []*blixardv1.Preparation) {
	prefix := be(node)
	s.ready.Ascend(prefix, func(k string, _ struct{}) bool {
		if k[:8] != prefix {
			return false
		}
		vm := s.VMByUID(k[8:])
		list = append(list, &blixardv1.Preparation{Uid: vm.Uid, Runner: vm.Runner, Addresses: s.holders(vm.Runner, node)})
		return true
	})
	return list
}

// holders are where a runner can be had by a node.
func (s *State) holders(r *blixardv1.Runner, besides uint64) (list []string) {
	for _, id := range r.GetNodes() {
		if n := s.Node(id); n != nil && id != besides {
			list = append(list, n.Address)
		}
	}
	return list
}

// holdersOf are the hosts that have the VM's runner, the emptiest first.
func (s *State) holdersOf(vm *blixardv1.VM) []*schedule.Host {
	var hosts []*schedule.Host
	for _, id := range vm.GetRunner().GetNodes() {
		if n := s.Node(id); n != nil && schedulable(n) {
			hosts = append(hosts, scheduleHost(n, s.overcommit()))
		}
	}
	slices.SortFunc(hosts, func(a, b *schedule.Host) int {
		if a.Key() < b.Key() {
			return -1
		}
		return 1
	})
	return hosts
}

const maxPrebuild = 16

func checkPrebuild(n uint32) *blixardv1.Error {
	if n <= maxPrebuild {
		return nil
	}
	return invalid("spec.prebuild", "more hosts than 16", "give 0 to 16")
}
