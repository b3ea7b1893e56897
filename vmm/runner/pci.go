package runner

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// PCI devices that a VM gets to itself, by VFIO: the kernel's IOMMU keeps what the
// device writes inside the guest that has it. Linux,
// Documentation/driver-api/vfio.rst.

// pciBus is where the kernel shows them, and vfioFiles where it hands them out.
type pciBus struct{ devices, vfioFiles string }

var thisBus = pciBus{"/sys/bus/pci/devices", "/dev/vfio"}

// able are those of some devices that can be given away, in the order of their
// addresses; of the others it says why not. A group of the IOMMU is given away as a
// whole, so the second device of one is not for another VM.
func (b pciBus) able(list []*blixardv1.Device, not func(*blixardv1.Device, error)) (able []*blixardv1.Device) {
	list = slices.Clone(list)
	slices.SortFunc(list, func(x, y *blixardv1.Device) int { return strings.Compare(x.Address, y.Address) })
	groups := map[string]string{}
	for _, d := range list {
		group, err := b.group(d.Address)
		if other := groups[group]; err == nil && other != "" {
			err = fmt.Errorf("it is in the IOMMU group %s, as %s is, and a group goes to one VM as a whole: name one of them", group, other)
		}
		if err != nil {
			not(d, err)
			continue
		}
		groups[group] = d.Address
		able = append(able, d)
	}
	return able
}

// group is the IOMMU group of a device that a VM can have.
func (b pciBus) group(address string) (string, error) {
	dir := filepath.Join(b.devices, address)
	if _, err := os.Stat(dir); err != nil {
		return "", fmt.Errorf("there is no such device: 'lspci -D' lists them: %w", err)
	}
	driver, err := os.Readlink(filepath.Join(dir, "driver"))
	if errors.Is(err, os.ErrNotExist) {
		driver, err = "no driver", nil
	}
	if err != nil {
		return "", err
	}
	if name := filepath.Base(driver); name != "vfio-pci" {
		return "", fmt.Errorf("%s has it, not vfio-pci: bind it with 'driverctl set-override %s vfio-pci', or at boot", name, address)
	}
	group, err := os.Readlink(filepath.Join(dir, "iommu_group"))
	if err != nil {
		return "", fmt.Errorf("it is in no IOMMU group, so nothing would keep it inside a guest: turn the IOMMU on in the firmware and with intel_iommu=on: %w", err)
	}
	number := filepath.Base(group)
	if err := unix.Access(filepath.Join(b.vfioFiles, number), unix.R_OK|unix.W_OK); err != nil {
		return "", fmt.Errorf("%s: %w: the daemon's user must be allowed to open it", filepath.Join(b.vfioFiles, number), err)
	}
	return number, nil
}

// given are the addresses of an assignment's devices. What this host does not give
// away is no VM's, whatever it is told.
func given(ours []*blixardv1.Device, a *blixardv1.Assignment) (list []string, err error) {
	for _, d := range a.GetDevices() {
		if !slices.ContainsFunc(ours, func(o *blixardv1.Device) bool { return o.Address == d.Address }) {
			return nil, fmt.Errorf("the device %.40q is not one that this host gives to VMs: its daemon was started without it, or it could not be given away (see its log)", d.Address)
		}
		list = append(list, d.Address)
	}
	return list, nil
}
