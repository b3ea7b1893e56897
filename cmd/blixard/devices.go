package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// devices reads --device: gpu, gpu=2, or none.
func (c *SpecFlags) devices(s *blixardv1.VMSpec) error {
	if len(c.Device) == 0 {
		return nil
	}
	s.Devices = nil
	if slices.Equal(c.Device, []string{"none"}) {
		return nil
	}
	for _, text := range c.Device {
		kind, count, counted := strings.Cut(text, "=")
		d := &blixardv1.DeviceRequest{Kind: kind}
		if counted {
			n, err := strconv.ParseUint(count, 10, 32)
			if err != nil || n == 0 {
				return usagef("--device %s: want KIND or KIND=COUNT, with a number above 0", text)
			}
			d.Count = uint32(n)
		}
		s.Devices = append(s.Devices, d)
	}
	return nil
}

// deviceNotes say which devices a VM has.
func deviceNotes(vm *blixardv1.VM) (notes []string) {
	for _, d := range vm.GetPlacement().GetDevices() {
		notes = append(notes, fmt.Sprintf("device %s: %s of %s", d.GetKind(), d.GetAddress(), vm.GetPlacement().GetNode()))
	}
	return notes
}
