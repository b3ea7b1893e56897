package hypervisor

import blixardv1 "github.com/blixard/blixard/proto/blixard/v1"

const (
	image       = blixardv1.Capability_CAPABILITY_IMAGE
	nixos       = blixardv1.Capability_CAPABILITY_NIXOS
	program     = blixardv1.Capability_CAPABILITY_PROGRAM
	emulation   = blixardv1.Capability_CAPABILITY_EMULATION
	powerButton = blixardv1.Capability_CAPABILITY_POWER_BUTTON
	pause       = blixardv1.Capability_CAPABILITY_PAUSE
	snapshot    = blixardv1.Capability_CAPABILITY_SNAPSHOT
	migrate     = blixardv1.Capability_CAPABILITY_MIGRATE
	volumes     = blixardv1.Capability_CAPABILITY_VOLUMES
	shares      = blixardv1.Capability_CAPABILITY_SHARES
	networks    = blixardv1.Capability_CAPABILITY_NETWORKS
	userNetwork = blixardv1.Capability_CAPABILITY_USER_NETWORK
	hotplug     = blixardv1.Capability_CAPABILITY_HOTPLUG
	balloon     = blixardv1.Capability_CAPABILITY_BALLOON
	devices     = blixardv1.Capability_CAPABILITY_DEVICES
	qcow2       = blixardv1.Capability_CAPABILITY_QCOW2
	machines    = blixardv1.Capability_CAPABILITY_MACHINE_TYPES
	warm        = blixardv1.Capability_CAPABILITY_WARM_START
	agent       = blixardv1.Capability_CAPABILITY_AGENT
	console     = blixardv1.Capability_CAPABILITY_CONSOLE
)

// Table has every kind, the preferred first: QEMU is the one whose driver has met
// the real program (docs/hypervisors.md). Apply reads it: what changes here
// changes what Apply does.
var Table = complete([]Kind{
	{
		Hypervisor: blixardv1.Hypervisor_HYPERVISOR_QEMU, Name: "QEMU", Program: "qemu-system-x86_64", MaxVCPUs: 256,
		Met: "QEMU 7.2 of Debian 12, emulating (TCG), with a real guest",
		answers: map[blixardv1.Capability]Answer{
			image: Yes, nixos: Yes, emulation: Yes, powerButton: Yes, pause: Yes, snapshot: Yes, migrate: Yes,
			volumes: Yes, qcow2: Yes, shares: Yes, networks: Yes, userNetwork: Yes, hotplug: NotYet, balloon: Yes, devices: Yes, machines: Yes, warm: Yes,
			agent: Yes, console: Yes,
		},
		why: map[blixardv1.Capability]string{
			program: "cannot run spec.process",
		},
	},
	{
		Hypervisor: blixardv1.Hypervisor_HYPERVISOR_CLOUD_HYPERVISOR, Name: "cloud-hypervisor", Program: "cloud-hypervisor", MaxVCPUs: 256,
		Met: "none: only our fake of it, made after v53",
		answers: map[blixardv1.Capability]Answer{
			image: Yes, nixos: Yes, powerButton: Yes, pause: Yes, snapshot: Yes,
			volumes: Yes, qcow2: Yes, shares: Yes, networks: Yes, hotplug: NotYet, balloon: Yes, devices: Yes, warm: NotYet,
			agent: NotYet, console: NotYet,
		},
		why: map[blixardv1.Capability]string{
			emulation: "needs KVM",
			// The right to run goes over only when the source is stopped for good.
			migrate:     "lets the target run before anybody has said that it may",
			userNetwork: "has no user network",
			machines:    "has one machine type",
			program:     "cannot run spec.process",
		},
	},
	{
		Hypervisor: blixardv1.Hypervisor_HYPERVISOR_FIRECRACKER, Name: "Firecracker", Program: "firecracker", MaxVCPUs: 32,
		Met: "none: only our fake of it, made after v1.16",
		answers: map[blixardv1.Capability]Answer{
			image: Yes, nixos: Yes, powerButton: Yes, pause: Yes, snapshot: Yes,
			volumes: Yes, networks: Yes, balloon: Yes, warm: NotYet, agent: NotYet, console: NotYet,
		},
		why: map[blixardv1.Capability]string{
			emulation:   "needs KVM",
			migrate:     "cannot move a running guest",
			qcow2:       "reads raw disks only",
			shares:      "cannot share a folder of its host",
			userNetwork: "has no user network",
			machines:    "has one machine type",
			hotplug:     "cannot change the devices of a running guest",
			devices:     "cannot pass PCI devices through",
			program:     "cannot run spec.process",
		},
	},
	{
		Hypervisor: blixardv1.Hypervisor_HYPERVISOR_PROCESS, Name: "process", MaxVCPUs: 256,
		Met: "the kernel",
		answers: map[blixardv1.Capability]Answer{
			program: Yes, emulation: Yes, powerButton: Yes, pause: Yes,
		},
		why: map[blixardv1.Capability]string{
			balloon:  "runs a program, which has no memory of its own to give back",
			machines: "runs a program, and shows it no machine",
			warm:     "runs a program, which has no boot to save",
			agent:    "runs a program, which has no agent",
			console:  "runs a program, which nobody can type to",
			image:    "runs a program, and the spec has an image",
			nixos:    "runs a program, and the spec has what Nix builds",
		},
	},
})
