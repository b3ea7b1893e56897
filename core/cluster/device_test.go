package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func withDevices(spec *blixardv1.VMSpec, needs ...string) *blixardv1.VMSpec {
	for _, n := range needs {
		d := &blixardv1.DeviceRequest{}
		fmt.Sscanf(strings.Replace(n, "=", " ", 1), "%s %d", &d.Kind, &d.Count)
		spec.Devices = append(spec.Devices, d)
	}
	return spec
}

// A device of a host is one VM's: it is given with the placement, an update that runs
// gives it back, and so does the end of the VM.
func TestDevicesArePlaced(t *testing.T) {
	d := plugged("10.1.0.0/24")
	has := func(vm string) (list []string) {
		for _, x := range d.VM(vm).GetPlacement().GetDevices() {
			list = append(list, x.Address)
		}
		return list
	}
	want := func(vm string, list ...string) {
		t.Helper()
		if !slices.Equal(has(vm), list) {
			t.Errorf("%s has %v, want %v", vm, has(vm), list)
		}
	}
	create := func(vm string, needs ...string) *blixardv1.Error {
		return d.request(&blixardv1.Command{Op: &blixardv1.Command_CreateVm{CreateVm: &blixardv1.CreateVMOp{Name: vm, Spec: withDevices(imageSpec(), needs...)}}}).GetError()
	}
	update := func(vm string, needs ...string) *blixardv1.Error {
		return d.request(&blixardv1.Command{Op: &blixardv1.Command_UpdateVm{UpdateVm: &blixardv1.UpdateVMOp{Name: vm, Spec: withDevices(imageSpec(), needs...)}}}).GetError()
	}
	declare := func(addresses ...string) {
		f := clone(d.Node(1).Host.Facts)
		f.Devices = nil
		for _, a := range addresses {
			kind, address, _ := strings.Cut(a, "=")
			f.Devices = append(f.Devices, &blixardv1.Device{Kind: kind, Address: address})
		}
		d.apply(&blixardv1.Command{Op: &blixardv1.Command_HostReport{HostReport: &blixardv1.HostReportOp{NodeId: 1, BootId: d.Node(1).Host.BootId, Epoch: d.Node(1).Host.Epoch, Facts: f}}})
	}
	if err := create("none", "gpu=1"); err != nil {
		t.Fatal(err)
	}
	want("none")
	if x, _ := d.Explain("none"); x.Verdicts[0].Reasons[0] != "has 0 devices gpu free of the 1 needed" {
		t.Error(x.Verdicts[0].Reasons)
	}
	declare("gpu=0000:01:00.0", "nic=0000:02:00.0", "gpu=0000:03:00.0", "gpu=0000:04:00.0")
	want("none", "0000:01:00.0") // it waited for that
	for _, err := range []*blixardv1.Error{create("two", "nic", "gpu=2"), create("more", "gpu")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	want("two", "0000:02:00.0", "0000:03:00.0", "0000:04:00.0")
	want("more")
	if x, _ := d.Explain("two"); !x.Verdicts[0].Fits {
		t.Error("its own devices are in its way: ", x.Verdicts[0].Reasons)
	}
	if err := update("none", "gpu=2"); err == nil || !strings.Contains(err.Message, "has 1 devices gpu free of the 2 needed") {
		t.Error(err)
	}
	// What it may still run with stays its own until it runs with the new spec, and
	// the host is told only of what the spec asks for.
	if err := update("two", "gpu"); err != nil {
		t.Fatal(err)
	}
	want("two", "0000:03:00.0", "0000:02:00.0", "0000:04:00.0")
	want("more")
	if a := d.assignment(d.VM("two"), 1); len(a.Devices) != 1 || a.Devices[0].Address != "0000:03:00.0" {
		t.Error(a.Devices)
	}
	declare("gpu=0000:01:00.0", "nic=0000:02:00.0") // a daemon that was told of fewer takes none away
	o := seen(d.VM("two"), blixardv1.Phase_PHASE_RUNNING)
	o.SpecGeneration = 2
	d.report(1, o)
	want("two", "0000:03:00.0")
	declare("gpu=0000:01:00.0", "nic=0000:02:00.0", "gpu=0000:03:00.0", "gpu=0000:04:00.0")
	want("more", "0000:04:00.0")
	if why, _ := d.immovable(d.VM("more")); !strings.Contains(why, "PCI devices") {
		t.Errorf("a VM with a device goes live: %q", why)
	}
	for _, vm := range []string{"none", "two", "more"} {
		d.drop(vm)
	}
	if d.devices.Len() != 0 {
		t.Errorf("%d devices are left", d.devices.Len())
	}

	for needs, want := range map[string]string{
		"gpu=17": "too many", "GPU": "", "gpu gpu=2": "twice", "a b c d e f g h i": "9 kinds",
	} {
		if err := create("bad", strings.Fields(needs)...); err == nil || !strings.Contains(err.Message, want) {
			t.Errorf("%s: %v", needs, err)
		}
	}
	spec := withDevices(imageSpec(), "gpu")
	spec.Hypervisor = blixardv1.Hypervisor_HYPERVISOR_FIRECRACKER
	if err := ValidateVM("a", spec); err == nil || !strings.Contains(err.Message, "cannot pass PCI devices through") {
		t.Error(err)
	}
	for _, bad := range []*blixardv1.Device{{Kind: "gpu", Address: "65:00.0"}, {Kind: "gpu", Address: "0000:65:00.8"}, {Kind: "a b", Address: "0000:65:00.0"}, {Kind: "gpu", Address: "0000:65:00.0,x=y"}} {
		if ValidateDevice(bad) == nil {
			t.Errorf("%v is valid", bad)
		}
	}
}
