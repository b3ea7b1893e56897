package runner

import (
	"fmt"
	"strings"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/guest/agent"
	"github.com/blixard/blixard/vmm/shim"
)

// machineType is what guests see. It can be migrated, and has no version: only an
// equal QEMU has the same.
const machineType = "microvm,acpi=on,pit=off,pic=off"

// q35Type has PCI Express, without what no guest of ours has a use for.
const q35Type = "q35,acpi=on,vmport=off,smbus=off,sata=off"

// onQ35 says that a spec is one of a PC. What VFIO passes through is a PCI device, and
// is made for machines that have such a bus from the beginning.
func onQ35(spec *blixardv1.VMSpec) bool {
	return spec.GetMachine() == blixardv1.Machine_MACHINE_Q35 || spec.GetMachine() == 0 && len(spec.GetDevices()) > 0
}

// model is the machine's type.
func (b boot) model() string {
	switch {
	case b.q35:
		return q35Type
	case len(b.devices) > 0:
		return machineType + ",pcie=on"
	}
	return machineType
}

// virtio is how QEMU calls a virtio device on this machine.
func (b boot) virtio(device string) string {
	if b.q35 {
		return "virtio-" + device + "-pci"
	}
	return "virtio-" + device + "-device"
}

// machine is what is the same for every VM of a host.
type machine struct {
	program string
	kvm     bool
	tscKHz  int  // under emulation; 0: not known
	open    bool // it cannot confine itself: it was built without seccomp
}

// sandbox has QEMU give up what a guest that broke into it could use: starting
// programs, other users' rights, priorities, and system calls that nobody needs.
const sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

// boot is one start of one VM, everything checked and in place.
type boot struct {
	name      string
	instance  shim.Instance
	vcpus     uint32
	memoryMib uint64
	kernel    string
	initrd    string // optional
	cmdline   string // the user's
	disks     []disk
	nics      []nic
	devices   []string // PCI addresses of the host
	shares    []share
	place     place
	q35       bool // QEMU: a PC with PCI
}

type disk struct {
	name, path string
	readOnly   bool
	format     string // raw or qcow2
	bytes      int64  // as the guest sees it
	// Of what it reads and writes in a second, in bytes and in operations; 0: none.
	rate, ops uint64
}

// memoryBackend is QEMU's name of the guest's memory, where it is shared.
const memoryBackend = "mem"

func (b boot) sharedMemory() string {
	if len(b.shares) == 0 {
		return ""
	}
	return ",memory-backend=" + memoryBackend
}

// drive is QEMU's name of a boot's disk.
func drive(i int) string { return fmt.Sprintf("d%d", i) }

// argv is QEMU's command line. Whatever a user can say is either a word of its
// own or stands in QEMU's comma syntax with its commas doubled.
//
// pit and pic are off, and the guest is told its counter's frequency and to
// trust it: an idle guest then takes a tenth of what it would, and hardly one hangs in
// the calibration of its timers on a busy host (bootWatch finds that one).
func (m machine) argv(b boot) ([]string, error) {
	cmdline, err := m.cmdline(b)
	if err != nil {
		return nil, err
	}
	accel := "tcg"
	if m.kvm {
		accel = "kvm"
	}
	socket := func(name string) string { return escape(b.place.socket(name)) + ",server=on,wait=off" }
	argv := []string{
		m.program,
		"-name", "guest=" + escape(b.name),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-M", b.model() + b.sharedMemory(),
		"-accel", accel, "-cpu", "max",
		"-smp", fmt.Sprint(b.vcpus), "-m", m.memory(b),
		"-qmp", "unix:" + socket(qmpSocket),
		"-chardev", "socket,id=con,path=" + socket(consoleSocket) + ",logfile=" + escape(b.place.console) + ",logappend=on",
		"-serial", "chardev:con",
		"-device", b.virtio("serial") + ",id=vs",
		"-chardev", "socket,id=ag,path=" + socket(agentSocket),
		"-device", "virtserialport,bus=vs.0,chardev=ag,name=" + agent.Port,
		"-device", b.virtio("rng"),
		"-device", "isa-debug-exit,iobase=0xf4,iosize=0x04",
	}
	if !b.q35 {
		argv = append(argv, "-global", "virtio-mmio.force-legacy=false")
	}
	if !m.open {
		argv = append(argv, "-sandbox", sandbox)
	}
	if m.balloon(b) > 0 {
		argv = append(argv, "-device", b.virtio("balloon")+",deflate-on-oom=on")
	}
	for i, d := range b.disks {
		access := ""
		if d.readOnly {
			access = ",read-only=on"
		}
		if d.rate > 0 {
			access += fmt.Sprintf(",throttling.bps-total=%d", d.rate)
		}
		if d.ops > 0 {
			access += fmt.Sprintf(",throttling.iops-total=%d", d.ops)
		}
		argv = append(argv,
			"-drive", fmt.Sprintf("id=%s,file=%s,if=none,format=%s,cache=writeback,discard=unmap%s", drive(i), escape(d.path), d.format, access),
			"-device", fmt.Sprintf("%s,drive=%s,serial=%s", b.virtio("blk"), drive(i), escape(d.name)))
	}
	for i, n := range b.nics {
		device := fmt.Sprintf("%s,netdev=n%d,mac=%s", b.virtio("net"), i, n.mac)
		if b.q35 {
			device += ",romfile=" // nobody boots from it
		}
		argv = append(argv, "-netdev", n.netdev(fmt.Sprintf("n%d", i)), "-device", device)
	}
	if len(b.shares) > 0 {
		// Whoever serves a share reads and writes where the guest says.
		argv = append(argv, "-object", "memory-backend-memfd,id="+memoryBackend+",share=on,"+m.memory(b))
	}
	for i, s := range b.shares {
		device := "vhost-user-fs-device"
		if b.q35 {
			device = "vhost-user-fs-pci"
		}
		argv = append(argv,
			"-chardev", fmt.Sprintf("socket,id=fs%d,path=%s", i, escape(s.socket)),
			"-device", fmt.Sprintf("%s,chardev=fs%d,tag=%s", device, i, escape(s.tag)))
	}
	for _, address := range b.devices {
		argv = append(argv, "-device", "vfio-pci,host="+address)
	}
	argv = append(argv, "-kernel", b.kernel)
	if b.initrd != "" {
		argv = append(argv, "-initrd", b.initrd)
	}
	return append(argv, "-append", cmdline), nil
}

// memory is how much QEMU gives the guest: under emulation two pages more than asked.
// QEMU before 9.0 forgets, while a guest moves, to have its emulated processor notice
// again what it writes, and loses those writes, but only of a block of memory that is
// a multiple of 64 pages long (its commit "physmem: Fix migration dirty bitmap
// coherency with TCG memory access").
func (m machine) memory(b boot) string {
	kib := b.memoryMib * 1024
	if !m.kvm {
		kib += 8
	}
	return fmt.Sprintf("size=%dK", kib)
}

// transports is how many virtio devices microvm takes; q35 has more slots.
const transports = 24

// balloon is the memory of a guest that gets a balloon: one whose devices leave a place
// for it.
func (m machine) balloon(b boot) uint64 {
	const others = 2 // the agent's port, and the source of random numbers
	if !b.q35 && others+len(b.disks)+len(b.nics)+len(b.shares) >= transports {
		return 0
	}
	return b.balloon()
}

// cmdline is the kernel's. mitigations and address randomisation protect a guest from its
// own programs; under emulation they cost half of the boot.
func (m machine) cmdline(b boot) (string, error) {
	words := []string{"console=ttyS0", "quiet", "panic=-1", "reboot=t"}
	if !m.kvm {
		words = append(words, "nokaslr", "mitigations=off", "cryptomgr.notests")
		if m.tscKHz > 0 {
			words = append(words, fmt.Sprintf("tsc_early_khz=%d", m.tscKHz), "tsc=reliable")
		}
	}
	return b.commandLine(words...)
}

// escape makes a value safe inside QEMU's comma syntax.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }
