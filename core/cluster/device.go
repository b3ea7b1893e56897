package cluster

import (
	"fmt"
	"regexp"
	"slices"

	"github.com/blixard/blixard/core/mutant"
	"github.com/blixard/blixard/core/schedule"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// PCI devices. A host says which it gives away and of which kind each is; a spec asks
// for so many of a kind; a placement has just those, and nobody else has them until it
// is released. Like ports they are counted by an index over the placements, so that
// nothing else can say that one is free.

const (
	// MaxDevices is how many a host can give.
	MaxDevices     = 256
	maxDeviceKinds = 8 // of a VM
	maxDeviceCount = 16
)

var deviceAddress = regexp.MustCompile(`^[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$`)

// ValidateDevice refuses a device that a host must not report.
func ValidateDevice(d *blixardv1.Device) *blixardv1.Error {
	if err := ValidateName(d.GetKind()); err != nil {
		return invalid("device.kind", err.Message, err.Advice)
	}
	if !deviceAddress.MatchString(d.GetAddress()) {
		return invalid("device.address", fmt.Sprintf("%.40q is no address of a PCI device", d.GetAddress()), "write it as 'lspci -D' does: 0000:65:00.0")
	}
	return nil
}

// checkDevices refuses what no host can give.
func checkDevices(s *blixardv1.VMSpec) *blixardv1.Error {
	list := s.GetDevices()
	if len(list) == 0 {
		return nil
	}
	const field = "spec.devices"
	switch {
	case s.GetImage() == nil:
		return invalid(field, "devices are given to VMs of an image, and the spec has none", "leave them out; a NixOS VM names devices of one certain host in its own modules (microvm.devices), with 'require' for that host's label")
	case len(list) > maxDeviceKinds:
		return invalid(field, fmt.Sprintf("%d kinds of device are too many", len(list)), fmt.Sprintf("use at most %d", maxDeviceKinds))
	}
	for i, d := range list {
		at := fmt.Sprintf("%s[%d]", field, i)
		if err := ValidateName(d.GetKind()); err != nil {
			return invalid(at+".kind", err.Message, err.Advice)
		}
		if n := d.GetCount(); n > maxDeviceCount {
			return invalid(at+".count", fmt.Sprintf("%d are too many", n), fmt.Sprintf("use at most %d", maxDeviceCount))
		}
		if slices.ContainsFunc(list[:i], func(o *blixardv1.DeviceRequest) bool { return o.GetKind() == d.GetKind() }) {
			return invalid(at+".kind", fmt.Sprintf("the kind %s is there twice", d.GetKind()), "say once how many")
		}
	}
	return nil
}

// devicesOf is what a spec needs.
func devicesOf(spec *blixardv1.VMSpec) (list []schedule.Devices) {
	for _, d := range spec.GetDevices() {
		list = append(list, schedule.Devices{Kind: d.Kind, Count: int(max(1, d.GetCount()))})
	}
	return list
}

func deviceKey(node uint64, address string) string { return be(node) + address }

// freeDevices of a kind on a node: those that nobody has.
func (s *State) freeDevices(n *blixardv1.Node, kind string) (list []*blixardv1.Device) {
	all := n.GetHost().GetFacts().GetDevices()
	for i, d := range all[:min(len(all), MaxDevices)] {
		_, taken := s.devices.Get(deviceKey(n.Id, d.Address))
		if d.Kind != kind || taken && !mutant.On("DeviceTwice") || i > 0 && all[i-1].Address == d.Address {
			continue
		}
		list = append(list, d)
	}
	return list
}

// countDevices tells a host how many devices of the kinds that a VM needs it could have
// there.
func (s *State) countDevices(h *schedule.Host, n schedule.Need, uid string) {
	if h.Devices = nil; len(n.Devices) == 0 {
		return
	}
	h.Devices = map[string]int{}
	p := s.VMByUID(uid).GetPlacement()
	for _, d := range n.Devices {
		h.Devices[d.Kind] = len(s.freeDevices(s.Node(h.ID), d.Kind))
		if p.GetNodeId() == h.ID {
			h.Devices[d.Kind] += len(ofKind(p.GetDevices(), d.Kind))
		}
	}
}

func ofKind(devices []*blixardv1.Device, kind string) (list []*blixardv1.Device) {
	for _, d := range devices {
		if d.Kind == kind {
			list = append(list, d)
		}
	}
	return list
}

// giveDevices are the devices that a VM gets on a node: what its spec needs, of those
// that it has there first, and then what it has besides.
func (s *State) giveDevices(spec *blixardv1.VMSpec, n *blixardv1.Node, has []*blixardv1.Device) (list []*blixardv1.Device) {
	for _, d := range devicesOf(spec) {
		able := append(ofKind(has, d.Kind), s.freeDevices(n, d.Kind)...)
		list = append(list, able[:min(d.Count, len(able))]...)
	}
	for _, d := range has {
		if !slices.Contains(list, d) && !mutant.On("DeviceFreedEarly") {
			list = append(list, d)
		}
	}
	return list
}

// devicesFor are those of a placement that its spec asks for.
func devicesFor(vm *blixardv1.VM) (list []*blixardv1.Device) {
	for _, d := range devicesOf(vm.Spec) {
		has := ofKind(vm.GetPlacement().GetDevices(), d.Kind)
		list = append(list, has[:min(d.Count, len(has))]...)
	}
	return list
}

// reindexDevices follows which VM has which device of a host.
func (s *State) reindexDevices(o, n *blixardv1.VM) {
	op, np := o.GetPlacement(), n.GetPlacement()
	for _, d := range op.GetDevices() {
		s.devices.Delete(deviceKey(op.NodeId, d.Address))
	}
	for _, d := range np.GetDevices() {
		s.devices.Set(deviceKey(np.NodeId, d.Address), n.Uid)
	}
}
