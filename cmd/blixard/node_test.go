package main

import (
	"slices"
	"testing"

	"github.com/blixard/blixard/core/hypervisor"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func TestANodeSaysWhatItRunsVMsWith(t *testing.T) {
	// All that we do with a QEMU, but for two things that this one lacks.
	can := slices.DeleteFunc(hypervisor.Get(blixardv1.Hypervisor_HYPERVISOR_QEMU).Can().List(), func(c blixardv1.Capability) bool {
		return c == blixardv1.Capability_CAPABILITY_MIGRATE || c == blixardv1.Capability_CAPABILITY_QCOW2
	})
	notes := hostNotes(&blixardv1.HostFacts{
		Nix: true,
		Kvm: &blixardv1.KVM{Why: "/dev/kvm is not there"},
		Hypervisors: []*blixardv1.HypervisorFact{
			{Hypervisor: blixardv1.Hypervisor_HYPERVISOR_QEMU, Version: "7.2.22", Capabilities: can},
			{Hypervisor: blixardv1.Hypervisor_HYPERVISOR_FIRECRACKER, Version: "1.16.1"},
			{Hypervisor: blixardv1.Hypervisor_HYPERVISOR_PROCESS, Version: "process: no isolation"},
		},
	})
	want := []string{
		"KVM is not usable: /dev/kvm is not there",
		"QEMU 7.2.22, emulates; this one has no migrate, qcow2",
		"cloud-hypervisor: not here",
		"Firecracker 1.16.1, of no use without KVM",
		"process no isolation",
		"VMs cannot be plugged into networks here: the daemon may not make bridges and taps (CAP_NET_ADMIN, /dev/net/tun), or the users of VMs may not open /dev/net/tun: its log says which",
		"Nix is here: NixOS systems and flakes can be built",
	}
	if !slices.Equal(notes, want) {
		t.Errorf("got\n%q\nwant\n%q", notes, want)
	}
	if hostNotes(nil) != nil {
		t.Error("a node that is no host has hypervisors")
	}
}
