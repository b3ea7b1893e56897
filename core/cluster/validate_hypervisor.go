package cluster

import (
	"fmt"
	"slices"
	"strings"

	"github.com/blixard/blixard/core/hypervisor"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// want is something that a spec wants of a hypervisor, and the field that does.
type want struct {
	capability blixardv1.Capability
	field      string
}

// wantsOf are all the things that a spec wants of what runs it, in the order in
// which they are complained about.
func wantsOf(s *blixardv1.VMSpec) (list []want) {
	add := func(c blixardv1.Capability, field string) { list = append(list, want{c, field}) }
	switch {
	case s.GetImage() != nil:
		add(blixardv1.Capability_CAPABILITY_IMAGE, "spec.hypervisor")
	case s.GetProcess() != nil:
		add(blixardv1.Capability_CAPABILITY_PROGRAM, "spec.hypervisor")
	case nixBuilt(s):
		add(blixardv1.Capability_CAPABILITY_NIXOS, "spec.hypervisor")
	}
	if len(s.GetImage().GetDisks()) > 0 {
		add(blixardv1.Capability_CAPABILITY_VOLUMES, "spec.image.disks")
	}
	if len(s.GetVolumes()) > 0 {
		add(blixardv1.Capability_CAPABILITY_VOLUMES, "spec.volumes")
	}
	if len(s.GetNixos().GetVolumes()) > 0 {
		add(blixardv1.Capability_CAPABILITY_VOLUMES, "spec.nixos.volumes")
	}
	if len(s.GetNixos().GetShares()) > 0 {
		add(blixardv1.Capability_CAPABILITY_SHARES, "spec.nixos.shares")
	}
	if len(s.GetShares()) > 0 {
		add(blixardv1.Capability_CAPABILITY_SHARES, "spec.shares")
	}
	if s.GetMachine() != 0 {
		add(blixardv1.Capability_CAPABILITY_MACHINE_TYPES, "spec.machine")
	}
	if s.GetWarm() {
		add(blixardv1.Capability_CAPABILITY_WARM_START, "spec.warm")
	}
	if s.GetHealth().GetAgent() != nil && !nixBuilt(s) { // what Nix builds has none, whoever runs it
		add(blixardv1.Capability_CAPABILITY_AGENT, "spec.health.agent")
	}
	if len(s.GetDevices()) > 0 {
		add(blixardv1.Capability_CAPABILITY_DEVICES, "spec.devices")
	}
	for i, n := range s.GetNixos().GetNetworks() {
		switch n.GetKind().(type) {
		case *blixardv1.Network_Tap:
			add(blixardv1.Capability_CAPABILITY_NETWORKS, fmt.Sprintf("spec.nixos.networks[%d].tap", i))
		case *blixardv1.Network_User:
			add(blixardv1.Capability_CAPABILITY_USER_NETWORK, fmt.Sprintf("spec.nixos.networks[%d].user", i))
		}
	}
	for i, n := range s.GetNetworks() {
		switch n.GetKind().(type) {
		case *blixardv1.Interface_Network:
			add(blixardv1.Capability_CAPABILITY_NETWORKS, fmt.Sprintf("spec.networks[%d].network", i))
		case *blixardv1.Interface_User:
			add(blixardv1.Capability_CAPABILITY_USER_NETWORK, fmt.Sprintf("spec.networks[%d].user", i))
		}
	}
	return list
}

func wanted(s *blixardv1.VMSpec) (all hypervisor.Set) {
	for _, w := range wantsOf(s) {
		all |= hypervisor.Of(w.capability)
	}
	return all
}

// kinds are the hypervisors that may run a spec: the one that it names, or all
// that can. Of a flake that names none there are none: it says so when it is built.
func kinds(s *blixardv1.VMSpec, wants hypervisor.Set) []*hypervisor.Kind {
	if k := hypervisor.Get(s.GetHypervisor()); k != nil {
		return []*hypervisor.Kind{k}
	}
	if s.GetFlake() != nil {
		return nil
	}
	return hypervisor.Able(wants)
}

// checkWarm refuses to start from a saved boot what has something that goes on between
// its starts: what its memory knew of that would not be so any more.
func checkWarm(s *blixardv1.VMSpec) *blixardv1.Error {
	const field = "spec.warm"
	const advice = "leave it out, or keep its data where its network leads"
	switch {
	case !s.GetWarm():
		return nil
	case s.GetImage() == nil:
		return invalid(field, "only an image can start from its saved boot", "leave it out")
	case len(s.GetVolumes()) > 0:
		return invalid(field, "a VM with volumes cannot start from its saved boot: what is on them goes on, and its memory does not know", advice)
	case len(s.GetShares()) > 0:
		return invalid(field, "a VM with shared folders cannot start from its saved boot: what is in them goes on, and its memory does not know", advice)
	case len(s.GetDevices()) > 0:
		return invalid(field, "a VM with PCI devices cannot start from its saved boot: what is in them is not saved", advice)
	}
	for _, d := range s.GetImage().GetDisks() {
		if !d.GetReadOnly() {
			return invalid(field, fmt.Sprintf("a VM that writes a disk (%s) cannot start from its saved boot: what is on it goes on, and its memory does not know", d.GetName()), "make the disk read-only, or leave it out")
		}
	}
	return nil
}

// checkHypervisor refuses what the hypervisor that a spec names does not do.
func checkHypervisor(s *blixardv1.VMSpec) *blixardv1.Error {
	h := s.GetHypervisor()
	if h == blixardv1.Hypervisor_HYPERVISOR_UNSPECIFIED && s.GetNixos() != nil {
		h = blixardv1.Hypervisor_HYPERVISOR_CLOUD_HYPERVISOR // see completeNixos
	}
	if s.GetMachine() != 0 && s.GetImage() == nil {
		return invalid("spec.machine", "only an image under QEMU has machine types to choose from", "leave it out")
	}
	able := hypervisor.Able(wanted(s))
	k := hypervisor.Get(h)
	if n := s.GetVcpus(); k != nil && n > k.MaxVCPUs {
		return invalid("spec.vcpus", fmt.Sprintf("%s takes at most %d, not %d", k.Name, k.MaxVCPUs, n), "use fewer, or another hypervisor")
	}
	advice := "there is none that does all that this spec wants: leave something out"
	if len(able) > 0 {
		advice = "use " + hypervisor.Names(able) + ", or leave it out"
	}
	left := hypervisor.Able(0) // who does what it wants up to here
	if k != nil {
		left = []*hypervisor.Kind{k}
	}
	for _, w := range wantsOf(s) {
		var why []string
		left = slices.DeleteFunc(left, func(k *hypervisor.Kind) bool {
			no := k.Why(w.capability)
			if no != "" {
				why = append(why, no)
			}
			return no != ""
		})
		if len(left) == 0 {
			return invalid(w.field, strings.Join(why, ", and "), advice)
		}
	}
	return nil
}
