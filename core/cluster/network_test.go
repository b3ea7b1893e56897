package cluster

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

var aKernel = &blixardv1.Artifact{Digest: strings.Repeat("a", 64), Size: 1}

// plugged is a cluster of one host that can do all, with a kernel and a network.
func plugged(cidr string) *driver {
	d := newDriver()
	f := facts()
	f.Capacity, f.Bridges = &blixardv1.Resources{Vcpus: 64, MemoryMib: 1 << 20, DiskMib: 1 << 20}, true
	f.Hypervisors = append(f.Hypervisors, &blixardv1.HypervisorFact{Hypervisor: blixardv1.Hypervisor_HYPERVISOR_QEMU})
	d.apply(&blixardv1.Command{Op: &blixardv1.Command_HostBoot{HostBoot: &blixardv1.HostBootOp{NodeId: 1, BootId: "b", Facts: f}}})
	d.request(&blixardv1.Command{Op: &blixardv1.Command_Announce{Announce: &blixardv1.AnnounceOp{Digest: aKernel.Digest, Size: 1, NodeId: 1}}})
	d.network("lan", &blixardv1.NetworkSpec{Cidr: cidr})
	return d
}

func (d *driver) network(name string, spec *blixardv1.NetworkSpec) *blixardv1.Response {
	return d.request(&blixardv1.Command{Op: &blixardv1.Command_CreateNetwork{CreateNetwork: &blixardv1.CreateNetworkOp{Name: name, Spec: spec}}})
}

func imageSpec(list ...*blixardv1.Interface) *blixardv1.VMSpec {
	return &blixardv1.VMSpec{
		MemoryMib: 64, Source: &blixardv1.VMSpec_Image{Image: &blixardv1.Image{Kernel: aKernel}}, Networks: list,
	}
}

func on(network string) *blixardv1.Interface {
	return &blixardv1.Interface{Kind: &blixardv1.Interface_Network{Network: network}}
}

func user(ports ...uint32) *blixardv1.Interface {
	i := &blixardv1.Interface{Kind: &blixardv1.Interface_User{User: &blixardv1.UserInterface{}}}
	for _, p := range ports {
		i.Ports = append(i.Ports, &blixardv1.PortForward{HostPort: p, GuestPort: 80})
	}
	return i
}

func (d *driver) vm(name string, list ...*blixardv1.Interface) *blixardv1.Response {
	return d.request(&blixardv1.Command{Op: &blixardv1.Command_CreateVm{CreateVm: &blixardv1.CreateVMOp{Name: name, Spec: imageSpec(list...)}}})
}

func (d *driver) drop(name string) {
	d.request(&blixardv1.Command{Op: &blixardv1.Command_DeleteVm{DeleteVm: &blixardv1.DeleteVMOp{Name: name}}})
	if vm := d.VM(name); vm != nil {
		o := seen(vm, blixardv1.Phase_PHASE_DELETING)
		o.Removed = true
		d.report(vm.Placement.NodeId, o)
	}
}

func (d *driver) addressOf(vm string, i int) string {
	list := d.VM(vm).GetAttachments()
	if i >= len(list) {
		return ""
	}
	return list[i].Address
}

// Addresses are given, kept and given back as a map would have it, and what is
// derived is what a state loaded from its records has.
func TestAddressesAreGivenOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := plugged("10.0.0.0/28") // 13 of them
		model := map[string][]string{}
		name := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "g", "h"})
		steps := rapid.IntRange(1, 40).Draw(t, "steps")
		for range steps {
			vm := name.Draw(t, "vm")
			fixed := fmt.Sprintf("10.0.0.%d", rapid.IntRange(0, 15).Draw(t, "fixed"))
			taken := map[string]bool{"10.0.0.0": true, "10.0.0.1": true, "10.0.0.15": true}
			for _, list := range model {
				for _, a := range list {
					taken[a] = true
				}
			}
			lowest := func() string {
				for i := 2; i < 15; i++ {
					if a := fmt.Sprintf("10.0.0.%d", i); !taken[a] {
						taken[a] = true
						return a
					}
				}
				return ""
			}
			switch rapid.SampledFrom([]string{"one", "two", "fixed", "delete", "delete", "asked"}).Draw(t, "what") {
			case "one", "two":
				list := []*blixardv1.Interface{on("lan")}
				want := []string{lowest()}
				if rapid.Bool().Draw(t, "second") {
					list, want = append(list, on("lan")), append(want, lowest())
				}
				err := d.vm(vm, list...).GetError()
				ok := model[vm] == nil && want[len(want)-1] != ""
				if (err == nil) != ok {
					t.Fatalf("%s: %v, want %v", vm, err, want)
				}
				if ok {
					model[vm] = want
				}
			case "fixed":
				w := on("lan")
				w.Address = fixed
				err := d.vm(vm, w).GetError()
				ok := model[vm] == nil && !taken[fixed]
				if (err == nil) != ok {
					t.Fatalf("%s: %v, taken %v", fixed, err, taken)
				}
				if ok {
					model[vm] = []string{fixed}
				}
			case "asked": // a deletion that nobody has acknowledged
				if d.VM(vm) != nil {
					d.request(&blixardv1.Command{Op: &blixardv1.Command_DeleteVm{DeleteVm: &blixardv1.DeleteVMOp{Name: vm}}})
				}
			case "delete":
				d.drop(vm)
				delete(model, vm)
			}
			held := map[string][]string{}
			d.Addresses("lan", func(a, vm string) bool {
				held[vm] = append(held[vm], a)
				return true
			})
			for vm, list := range model {
				if got := slices.Sorted(slices.Values(held[vm])); !slices.Equal(got, slices.Sorted(slices.Values(list))) {
					t.Fatalf("%s has %v, want %v", vm, got, list)
				}
			}
			if len(held) != len(model) {
				t.Fatalf("held %v, want %v", held, model)
			}
		}
		loaded := reload(t, d.State)
		if a, b := runsOf(d.State), runsOf(loaded); !slices.Equal(a, b) {
			t.Fatalf("free %v, loaded %v", a, b)
		}
		for vm := range maps.Clone(model) {
			d.drop(vm)
		}
		if got := runsOf(d.State); !slices.Equal(got, []string{"10.0.0.2-10.0.0.14"}) {
			t.Fatalf("leaked: %v", got)
		}
	})
}

func reload(t *rapid.T, s *State) *State {
	snapshot := s.Encode()
	slices.Reverse(snapshot.Records) // any order will do
	loaded, err := Load(func(yield func(k, v []byte) bool) {
		for _, r := range snapshot.Records {
			if !yield(r.Key, r.Value) {
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}

func runsOf(s *State) (list []string) {
	s.runs("lan", func(first, last uint32) bool {
		list = append(list, addressText(first)+"-"+addressText(last))
		return true
	})
	return list
}

// A gateway in the middle is given to nobody, whichever comes first: the network
// or, when a state is loaded, a VM.
func TestTheGatewayIsNobodys(t *testing.T) {
	d := plugged("10.9.0.0/24")
	d.network("mid", &blixardv1.NetworkSpec{Cidr: "10.1.0.0/29", Gateway: "10.1.0.3"})
	for i, want := range []string{"10.1.0.1", "10.1.0.2", "10.1.0.4", "10.1.0.5", "10.1.0.6"} {
		vm := fmt.Sprint("v", i)
		if err := d.vm(vm, on("mid")).GetError(); err != nil || d.addressOf(vm, 0) != want {
			t.Errorf("%s: %v %v", want, d.addressOf(vm, 0), err)
		}
	}
	if err := d.vm("more", on("mid")).GetError(); err.GetCode() != blixardv1.ErrorCode_ERROR_CODE_EXHAUSTED {
		t.Error(err)
	}
	if size, used := d.NetworkUse("mid"); size != 5 || used != 5 {
		t.Errorf("%d of %d", used, size)
	}
}

// An address stays the VM's through everything but its end.
func TestAnAddressIsKept(t *testing.T) {
	d := plugged("10.1.0.0/24")
	d.vm("a", on("lan"))
	d.vm("b", on("lan"))
	mac := d.VM("b").Attachments[0].Mac
	update := func(list ...*blixardv1.Interface) *blixardv1.Error {
		return d.request(&blixardv1.Command{Op: &blixardv1.Command_UpdateVm{UpdateVm: &blixardv1.UpdateVMOp{Name: "b", Spec: imageSpec(list...)}}}).GetError()
	}
	if err := update(); err != nil { // none at all
		t.Fatal(err)
	}
	if err := d.vm("c", on("lan")).GetError(); err != nil || d.addressOf("c", 0) != "10.1.0.4" {
		t.Errorf("%v %v: what b had may be what it runs with", d.addressOf("c", 0), err)
	}
	if err := update(on("lan"), on("lan")); err != nil || d.addressOf("b", 0) != "10.1.0.3" || d.addressOf("b", 1) != "10.1.0.5" || d.VM("b").Attachments[0].Mac != mac {
		t.Errorf("%v %v", d.VM("b").Attachments, err)
	}
	pinned := on("lan")
	pinned.Address = "10.1.0.3"
	if err := update(on("lan"), pinned); err != nil || d.addressOf("b", 0) != "10.1.0.5" || d.addressOf("b", 1) != "10.1.0.3" {
		t.Errorf("%v %v: what is pinned chooses first", d.VM("b").Attachments, err)
	}
	pinned.Address = "10.1.0.2"
	if err := update(pinned); err == nil || !strings.Contains(err.Message, "the VM a has") {
		t.Error(err)
	}
	for _, run := range []bool{false, true} {
		d.request(&blixardv1.Command{Op: &blixardv1.Command_Power{Power: &blixardv1.PowerOp{Name: "b", Run: run}}})
		if d.addressOf("b", 1) != "10.1.0.3" {
			t.Error(d.VM("b").Attachments)
		}
	}
	_, list := d.Assignments(1, 0)
	for _, a := range list {
		if a.Name == "b" && (len(a.Interfaces) != 2 || a.Interfaces[1].Address != "10.1.0.3/24" || a.Interfaces[1].Gateway != "10.1.0.1") {
			t.Errorf("%v", a.Interfaces)
		}
	}
	if err := d.request(&blixardv1.Command{Op: &blixardv1.Command_DeleteNetwork{DeleteNetwork: &blixardv1.DeleteNetworkOp{Name: "lan"}}}).GetError(); err == nil || !strings.Contains(err.Message, "4 addresses") {
		t.Error(err)
	}
	for _, vm := range []string{"a", "b", "c"} {
		d.drop(vm)
	}
	if err := d.request(&blixardv1.Command{Op: &blixardv1.Command_DeleteNetwork{DeleteNetwork: &blixardv1.DeleteNetworkOp{Name: "lan"}}}).GetError(); err != nil || d.free.Len() != 0 || d.addresses.Len() != 0 || d.macs.Len() != 0 {
		t.Error(err, d.free.Len(), d.addresses.Len(), d.macs.Len())
	}
}

// A VM cannot gather addresses without end.
func TestUpdatesGatherNoEndOfAddresses(t *testing.T) {
	d := plugged("10.1.0.0/24")
	d.vm("a")
	for i := range 100 {
		w := on("lan")
		w.Address = fmt.Sprintf("10.1.0.%d", i+10)
		err := d.request(&blixardv1.Command{Op: &blixardv1.Command_UpdateVm{UpdateVm: &blixardv1.UpdateVMOp{Name: "a", Spec: imageSpec(w)}}}).GetError()
		if i < mostAttachments && err != nil || i >= mostAttachments && (err == nil || !strings.Contains(err.Message, "at most 32")) {
			t.Fatal(i, err)
		}
	}
}

func TestMacsAreTheClusters(t *testing.T) {
	d := plugged("10.1.0.0/24")
	w := user()
	w.Mac = "02:00:00:00:00:0A"
	if err := d.vm("a", w).GetError(); err != nil || d.VM("a").Attachments[0].Mac != "02:00:00:00:00:0a" {
		t.Fatal(err, d.VM("a").Attachments)
	}
	if err := d.vm("b", w).GetError(); err == nil || !strings.Contains(err.Message, "the VM a has") {
		t.Error(err)
	}
	// One that is derived makes way for one that somebody has.
	free := d.newMac("1-77", 0, nil)
	w.Mac = free
	d.vm("b", w)
	if again := d.newMac("1-77", 0, nil); again == free {
		t.Error("given twice")
	}
}

// A port of a host leads to one VM, and is free when that is gone.
func TestPortsArePlaced(t *testing.T) {
	d := plugged("10.1.0.0/24")
	where := func(vm string) uint64 { return d.VM(vm).GetPlacement().GetNodeId() }
	d.vm("a", user(8080, 8081))
	udp := user(8080)
	udp.Ports[0].Protocol = blixardv1.Protocol_PROTOCOL_UDP
	d.vm("udp", udp)
	d.vm("b", user(8081))
	if where("a") != 1 || where("udp") != 1 || where("b") != 0 {
		t.Fatal(where("a"), where("udp"), where("b"))
	}
	if x, _ := d.Explain("b"); x.Verdicts[0].Reasons[0] != "leads its port 8081/tcp to the VM a" {
		t.Error(x.Verdicts[0].Reasons)
	}
	if x, _ := d.Explain("a"); !x.Verdicts[0].Fits {
		t.Error("its own ports are in its way: ", x.Verdicts[0].Reasons)
	}
	update := func(vm string, ports ...uint32) *blixardv1.Error {
		return d.request(&blixardv1.Command{Op: &blixardv1.Command_UpdateVm{UpdateVm: &blixardv1.UpdateVMOp{Name: vm, Spec: imageSpec(user(ports...))}}}).GetError()
	}
	d.vm("c", user(9000))
	if err := update("c", 8081); err == nil || !strings.Contains(err.Message, "leads its port 8081/tcp to the VM a") {
		t.Error(err)
	}
	if err := update("a", 8080); err != nil {
		t.Fatal(err)
	}
	if where("b") != 0 {
		t.Error("a may run with what it had")
	}
	o := seen(d.VM("a"), blixardv1.Phase_PHASE_RUNNING)
	o.SpecGeneration = 2
	d.report(1, o)
	if where("b") != 1 {
		t.Error("a runs with its new spec, and b still waits")
	}
	for _, vm := range []string{"a", "b", "c", "udp"} {
		d.drop(vm)
	}
	if d.ports.Len() != 0 {
		t.Errorf("%d ports are left", d.ports.Len())
	}
}

// Nodes of one machine have one set of ports.
func TestPortsOfOneMachineArePlacedOnce(t *testing.T) {
	d := plugged("10.1.0.0/24")
	second := func(space string) {
		n := d.NodeByName("n2")
		f := clone(d.Node(1).Host.Facts)
		f.PortSpace = space
		d.apply(&blixardv1.Command{Op: &blixardv1.Command_HostBoot{HostBoot: &blixardv1.HostBootOp{NodeId: n.Id, BootId: "b", Epoch: n.Host.Epoch, Facts: f}}})
		d.apply(&blixardv1.Command{Op: &blixardv1.Command_HostReport{HostReport: &blixardv1.HostReportOp{NodeId: n.Id, BootId: "b", Epoch: d.Node(n.Id).Host.Epoch, Facts: f}}})
	}
	f := clone(d.Node(1).Host.Facts)
	f.PortSpace = "here"
	d.apply(&blixardv1.Command{Op: &blixardv1.Command_HostReport{HostReport: &blixardv1.HostReportOp{NodeId: 1, BootId: "b", Epoch: d.Node(1).Host.Epoch, Facts: f}}})
	d.request(&blixardv1.Command{Op: &blixardv1.Command_AddNode{AddNode: &blixardv1.AddNodeOp{Name: "n2", Address: "n2:1", Host: true, Level: Level}}})
	d.vm("a", user(8080))
	second("here")
	d.vm("b", user(8080))
	const why = "no host can run it: n1 leads its port 8080/tcp to the VM a; n2 has its ports in common with n1, which leads port 8080/tcp to the VM a"
	if st := d.VM("b").Status; d.VM("b").Placement != nil || st.Reason != NoHostCan || st.Message != why {
		t.Fatal(d.VM("b").Placement, st)
	}
	d.vm("other", user(8081))
	if d.VM("other").GetPlacement() == nil {
		t.Error("another port is taken, too")
	}
	// What is being deleted gives its port up by itself.
	d.request(&blixardv1.Command{Op: &blixardv1.Command_DeleteVm{DeleteVm: &blixardv1.DeleteVMOp{Name: "a"}}})
	d.vm("c", user(8080))
	if st := d.VM("c").Status; d.VM("c").Placement != nil || st.Reason != "NoHostFits" {
		t.Error(st)
	}
	second("there")
	if d.VM("b").GetPlacement().GetNode() != "n2" {
		t.Error("it does not go where the port is another one:", d.VM("b").Status)
	}
}

// A live move has a VM on both hosts at once: not where both have the same ports.
func TestNoLiveMoveWithinTheSamePorts(t *testing.T) {
	d := plugged("10.1.0.0/24")
	d.request(&blixardv1.Command{Op: &blixardv1.Command_AddNode{AddNode: &blixardv1.AddNodeOp{Name: "n2", Address: "n2:1", Host: true, Level: Level}}})
	d.boot(d.NodeByName("n2").Id)
	space := func(name, space string) {
		n := d.NodeByName(name)
		f := clone(d.Node(1).Host.Facts)
		f.PortSpace = space
		d.apply(&blixardv1.Command{Op: &blixardv1.Command_HostReport{HostReport: &blixardv1.HostReportOp{NodeId: n.Id, BootId: n.Host.BootId, Epoch: n.Host.Epoch, Facts: f}}})
	}
	space("n1", "here")
	space("n2", "here")
	d.vm("a", user(8080))
	d.vm("b", user())
	d.runs("a")
	d.runs("b")
	from, to := d.VM("a").Placement.Node, "n2"
	if from == to {
		to = "n1"
	}
	want := " has its ports in common with " + from + ", which leads port 8080/tcp to it until it has left"
	for _, name := range []string{"", to} {
		if r := d.migrate("a", name); !strings.Contains(r.GetError().GetMessage(), want) {
			t.Errorf("to %q: %v", name, r)
		}
	}
	if r := d.migrate("b", ""); r.Error != nil {
		t.Error("one without a port stays:", r.Error)
	}
	space(to, "there")
	if r := d.migrate("a", ""); r.Error != nil {
		t.Error("to other ports:", r.Error)
	}
}

func TestNetworksNeedAHostThatCan(t *testing.T) {
	d := plugged("10.1.0.0/24")
	f := facts()
	f.Capacity, f.Hypervisors = &blixardv1.Resources{Vcpus: 8, MemoryMib: 4096, DiskMib: 1000}, []*blixardv1.HypervisorFact{{Hypervisor: blixardv1.Hypervisor_HYPERVISOR_QEMU}}
	n := d.Node(1)
	d.apply(&blixardv1.Command{Op: &blixardv1.Command_HostReport{HostReport: &blixardv1.HostReportOp{NodeId: 1, BootId: n.Host.BootId, Epoch: n.Host.Epoch, Facts: f}}})
	d.vm("a", on("lan"))
	if x, _ := d.Explain("a"); len(x.Verdicts[0].Reasons) != 1 || !strings.Contains(x.Verdicts[0].Reasons[0], "cannot plug VMs into networks") {
		t.Error(x.Verdicts[0].Reasons)
	}
	if d.vm("b", user()); d.VM("b").Placement == nil {
		t.Error("a user interface needs no bridge")
	}
}

func TestBadNetworksAreRefusedInWords(t *testing.T) {
	for want, spec := range map[string]*blixardv1.NetworkSpec{
		"spec.cidr":    {Cidr: "10.1.0.1/24"},
		"is no range":  {Cidr: "fd00::/64"},
		"out of range": {Cidr: "10.0.0.0/31"},
		"not for VMs":  {Cidr: "127.0.0.0/8"},
		"spec.gateway": {Cidr: "10.1.0.0/24", Gateway: "10.1.0.255"},
		"spec.bridge":  {Cidr: "10.1.0.0/24", Bridge: "a/b"},
		"spec.dns[0]":  {Cidr: "10.1.0.0/24", Dns: []string{"x"}},
	} {
		if err := ValidateNetwork("lan", spec); err == nil || !strings.Contains(err.Field+" "+err.Message, want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	pinned := user()
	pinned.Address = "10.0.2.15"
	forwarded := on("lan")
	forwarded.Ports = user(80).Ports
	for want, list := range map[string][]*blixardv1.Interface{
		"plugged into nothing": {{}},
		"has its address":      {pinned},
		"only to a user":       {forwarded},
		"leads to two":         {user(80, 80)},
		"no port":              {user(0)},
		"no address of one":    {{Kind: user().Kind, Mac: "01:00:00:00:00:01"}},
		"too many":             slices.Repeat([]*blixardv1.Interface{user()}, 9),
		"a second user":        {user(), user()},
	} {
		if err := ValidateVM("a", imageSpec(list...)); err == nil || !strings.Contains(err.Message, want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	s := imageSpec(user())
	s.Hypervisor = blixardv1.Hypervisor_HYPERVISOR_FIRECRACKER
	if err := ValidateVM("a", s); err == nil || !strings.Contains(err.Message, "Firecracker has no user network") {
		t.Error(err)
	}
	d := plugged("10.1.0.0/24")
	if err := d.network("more", &blixardv1.NetworkSpec{Cidr: "10.1.0.128/25", Bridge: d.Network("lan").Spec.Bridge}).GetError(); err == nil || !strings.Contains(err.Message, "overlaps") {
		t.Error(err)
	}
	if err := d.vm("a", on("wan")).GetError(); err == nil || !strings.Contains(err.Message, "no network named") {
		t.Error(err)
	}
}

// Two networks of one range, on whatever bridges, and one that a host is itself
// plugged into, would make a host send to one what is for the other.
func TestNetworksThatOverlap(t *testing.T) {
	d := plugged("10.1.0.0/24")
	f := facts()
	f.Subnets = []string{"192.168.7.0/24", "no range"}
	n := d.Node(FirstID)
	d.apply(&blixardv1.Command{Op: &blixardv1.Command_HostReport{HostReport: &blixardv1.HostReportOp{NodeId: n.Id, BootId: n.Host.BootId, Epoch: n.Host.Epoch, Facts: f}}})
	for i, c := range []struct {
		cidr, bridge, why string
	}{
		{"10.1.0.128/25", "", "overlaps the network lan (10.1.0.0/24"},
		{"10.0.0.0/8", "br9", "overlaps the network lan (10.1.0.0/24"},
		{"192.168.7.0/24", "", "overlaps 192.168.7.0/24, of which the host n1 has an address"},
		{"192.168.0.0/16", "", "overlaps 192.168.7.0/24"},
		{"192.168.7.64/26", "br0", ""}, // the operator's, which may be that very range
		{"10.2.0.0/24", "", ""},
	} {
		e := d.network(fmt.Sprint("other", i), &blixardv1.NetworkSpec{Cidr: c.cidr, Bridge: c.bridge}).GetError()
		if (e == nil) != (c.why == "") || e != nil && (!strings.Contains(e.Message, c.why) || e.Advice == "") {
			t.Errorf("%s on %q: %v", c.cidr, c.bridge, e)
		}
	}
}

func TestProgramsAndFlakesHaveNoNetworks(t *testing.T) {
	for want, spec := range map[string]*blixardv1.VMSpec{
		"host's own network": {Source: &blixardv1.VMSpec_Process{Process: &blixardv1.Process{Argv: []string{"/bin/true"}}}},
		"by itself":          {Source: &blixardv1.VMSpec_Flake{Flake: &blixardv1.Flake{From: &blixardv1.Flake_Ref{Ref: "github:a/b"}}}},
	} {
		spec.Networks = []*blixardv1.Interface{on("lan")}
		if e := checkInterfaces(spec); !strings.Contains(e.GetMessage(), want) {
			t.Errorf("%q: %v", want, e)
		}
	}
}
