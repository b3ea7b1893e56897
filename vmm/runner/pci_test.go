package runner

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Only a device that VFIO has, in a group of the IOMMU of its own, can be given away;
// of the others it is said why not.
func TestDevicesThatCanBeGiven(t *testing.T) {
	root := t.TempDir()
	b := pciBus{filepath.Join(root, "devices"), filepath.Join(root, "vfio")}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(b.vfioFiles, 0o755))
	add := func(address, driver, group string, file bool) {
		dir := filepath.Join(b.devices, address)
		must(os.MkdirAll(dir, 0o755))
		if driver != "" {
			must(os.Symlink("../../../bus/pci/drivers/"+driver, filepath.Join(dir, "driver")))
		}
		if group != "" {
			must(os.Symlink("../../../kernel/iommu_groups/"+group, filepath.Join(dir, "iommu_group")))
		}
		if file {
			must(os.WriteFile(filepath.Join(b.vfioFiles, group), nil, 0o600))
		}
	}
	add("0000:01:00.0", "vfio-pci", "7", true)
	add("0000:01:00.1", "vfio-pci", "7", true)
	add("0000:02:00.0", "nvidia", "8", true)
	add("0000:03:00.0", "", "9", true)
	add("0000:04:00.0", "vfio-pci", "", false)
	add("0000:05:00.0", "vfio-pci", "11", false)
	add("0000:07:00.0", "vfio-pci", "13", true)
	var list []*blixardv1.Device
	for _, a := range []string{"0000:07:00.0", "0000:06:00.0", "0000:05:00.0", "0000:04:00.0", "0000:03:00.0", "0000:02:00.0", "0000:01:00.1", "0000:01:00.0"} {
		list = append(list, &blixardv1.Device{Kind: "gpu", Address: a})
	}
	why := map[string]string{}
	var able []string
	for _, d := range b.able(list, func(d *blixardv1.Device, err error) { why[d.Address] = err.Error() }) {
		able = append(able, d.Address)
	}
	if want := []string{"0000:01:00.0", "0000:07:00.0"}; !slices.Equal(able, want) {
		t.Errorf("able: %v, want %v", able, want)
	}
	for address, want := range map[string]string{
		"0000:01:00.1": "as 0000:01:00.0 is", "0000:02:00.0": "nvidia has it", "0000:03:00.0": "no driver has it",
		"0000:04:00.0": "no IOMMU group", "0000:05:00.0": "must be allowed to open it", "0000:06:00.0": "no such device",
	} {
		if !strings.Contains(why[address], want) {
			t.Errorf("%s: %q does not say %q", address, why[address], want)
		}
	}
}

func TestDevicesOnTheCommandLine(t *testing.T) {
	ours := []*blixardv1.Device{{Kind: "gpu", Address: "0000:01:00.0"}, {Kind: "nic", Address: "0000:02:00.0"}}
	a := &blixardv1.Assignment{Devices: ours}
	list, err := given(ours, a)
	if err != nil {
		t.Fatal(err)
	}
	p := place{run: t.TempDir(), state: t.TempDir()}
	b := boot{name: "a", vcpus: 1, memoryMib: 64, kernel: "/k", place: p, devices: list}
	argv, err := machine{program: "qemu"}.argv(b)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Join(argv, " ")
	if !strings.Contains(line, "-M "+machineType+",pcie=on ") || !strings.Contains(line, "-device vfio-pci,host=0000:01:00.0 -device vfio-pci,host=0000:02:00.0") {
		t.Error(line)
	}
	if argv, err = (&cloud{program: "ch"}).argv(b); err != nil {
		t.Fatal(err)
	}
	if line = strings.Join(argv, " "); !strings.Contains(line, "--device path=/sys/bus/pci/devices/0000:01:00.0 path=/sys/bus/pci/devices/0000:02:00.0") {
		t.Error(line)
	}
	b.devices = nil
	argv, _ = machine{program: "qemu"}.argv(b)
	if line = strings.Join(argv, " "); strings.Contains(line, "pcie") {
		t.Error("a VM without devices has a bus: ", line)
	}
	for want, spec := range map[bool]*blixardv1.VMSpec{
		true:  {Devices: []*blixardv1.DeviceRequest{{Kind: "gpu"}}},
		false: {Devices: []*blixardv1.DeviceRequest{{Kind: "gpu"}}, Machine: blixardv1.Machine_MACHINE_MICROVM},
	} {
		if onQ35(spec) != want {
			t.Errorf("%v is on a PC: %t", spec, !want)
		}
	}
	// Whatever the cluster says, a host gives only what its daemon was told to.
	if _, err := given(ours[:1], a); err == nil || !strings.Contains(err.Error(), "not one that this host gives") {
		t.Error(err)
	}
	if _, err := given(ours, &blixardv1.Assignment{Devices: []*blixardv1.Device{{Address: "0000:01:00.0,x"}}}); err == nil {
		t.Error("a strange address was taken")
	}
}
