package main

import (
	"slices"
	"testing"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func TestANodeSaysWhatItRunsVMsWith(t *testing.T) {
	notes := hostNotes(&blixardv1.HostFacts{
		Nix: true,
		Kvm: &blixardv1.KVM{Why: "/dev/kvm is not there"},
		Hypervisors: []*blixardv1.HypervisorFact{
			{Hypervisor: blixardv1.Hypervisor_HYPERVISOR_QEMU, Version: "7.2.22", Capabilities: []blixardv1.Capability{
				blixardv1.Capability_CAPABILITY_IMAGE, blixardv1.Capability_CAPABILITY_NIXOS, blixardv1.Capability_CAPABILITY_EMULATION,
				blixardv1.Capability_CAPABILITY_POWER_BUTTON, blixardv1.Capability_CAPABILITY_PAUSE, blixardv1.Capability_CAPABILITY_SNAPSHOT,
				blixardv1.Capability_CAPABILITY_VOLUMES, blixardv1.Capability_CAPABILITY_NETWORKS,
				blixardv1.Capability_CAPABILITY_USER_NETWORK,
			}},
			{Hypervisor: blixardv1.Hypervisor_HYPERVISOR_FIRECRACKER, Version: "1.16.1"},
			{Hypervisor: blixardv1.Hypervisor_HYPERVISOR_PROCESS, Version: "process: no isolation"},
		},
	})
	want := []string{
		"KVM is not usable: /dev/kvm is not there",
		"QEMU 7.2.22, emulates; this one has no migrate, shares, balloon, devices, qcow2, machine types",
		"cloud-hypervisor: not here",
		"Firecracker 1.16.1, of no use without KVM",
		"process no isolation",
		"VMs cannot be plugged into networks here: the daemon may not make bridges and taps (CAP_NET_ADMIN, /dev/net/tun)",
		"Nix is here: NixOS systems and flakes can be built",
	}
	if !slices.Equal(notes, want) {
		t.Errorf("got\n%q\nwant\n%q", notes, want)
	}
	if hostNotes(nil) != nil {
		t.Error("a node that is no host has hypervisors")
	}
}
