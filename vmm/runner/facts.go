package runner

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/core/hypervisor"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/guest/tsc"
	"github.com/blixard/blixard/vmm/runner/kvm"
	"github.com/blixard/blixard/vmm/runner/links"
)

// discover finds out what this machine can do.
func (h *Host) discover() (*blixardv1.HostFacts, error) {
	capacity, err := h.capacity()
	if err != nil {
		return nil, err
	}
	h.holds = pidNamespaces()
	h.drivers, h.versions = map[blixardv1.Hypervisor]driver{}, map[blixardv1.Hypervisor]string{}
	facts := &blixardv1.HostFacts{
		Capacity: capacity, Labels: h.cfg.Labels, Version: h.cfg.Version, Machine: machineID(),
		HoldsForks: h.holds, Kvm: h.kvm(), AllowPaths: h.cfg.AllowPaths, PortSpace: portSpace(h.boot),
	}
	h.accelerates = facts.Kvm.Usable
	if facts.Isolation, err = h.isolate(); err != nil {
		return nil, err
	}
	if err := h.plugs(); err != nil {
		h.cfg.Log.Info("VMs cannot be plugged into networks here", "why", err)
	} else {
		facts.Bridges = true
		facts.Subnets, err = links.Subnets()
		h.warn("what this host is plugged into was not found out", err)
	}
	h.devices = thisBus.able(h.cfg.Devices, func(d *blixardv1.Device, why error) {
		h.cfg.Log.Warn("a device cannot be given to VMs", "kind", d.Kind, "address", d.Address, "why", why)
	})
	facts.Devices = h.devices
	if h.sharer, err = h.findSharer(); err != nil {
		facts.SharesWhy, h.sharer = err.Error(), &sharer{cfg: &h.cfg}
		h.cfg.Log.Info("folders cannot be shared with VMs of images here", "why", err)
	} else {
		facts.Shares = true
	}
	for _, k := range hypervisor.Table {
		if !h.cfg.allows(k.Hypervisor) {
			continue
		}
		found, err := h.find(k)
		if err != nil {
			h.cfg.Log.Info("a hypervisor is not here", "hypervisor", k.Name, "why", err)
			continue
		}
		h.cfg.Log.Info("a hypervisor is here", "hypervisor", k.Name, "program", found.program, "version", found.version, "kvm", facts.Kvm.Usable, "why", facts.Kvm.Why)
		if k.Hypervisor == blixardv1.Hypervisor_HYPERVISOR_FIRECRACKER {
			if h.jailer, facts.Isolation.JailerWhy, err = h.findJailer(found); err != nil {
				return nil, err
			}
			if h.jailer != nil {
				facts.Isolation.Jailer = h.jailer.version
			} else {
				h.cfg.Log.Info("Firecracker runs without its jailer", "why", facts.Isolation.JailerWhy)
			}
		}
		if d := h.driverFor(found, facts.Kvm.Usable); d != nil {
			h.drivers[k.Hypervisor], h.versions[k.Hypervisor] = d, found.version
		}
		facts.Hypervisors = append(facts.Hypervisors, &blixardv1.HypervisorFact{
			Hypervisor: k.Hypervisor, Version: found.version, Kvm: facts.Kvm.Usable && k.Program != "",
			// Without a way to other hosts, no guest goes there.
			Capabilities: slices.DeleteFunc(k.Can().List(), func(c blixardv1.Capability) bool {
				return c == blixardv1.Capability_CAPABILITY_MIGRATE && h.cfg.Passage == nil
			}),
		})
	}
	if h.cfg.Nix != nil {
		h.nix = &nixDriver{h: h, builder: h.cfg.Nix, user: h.microvmUser()}
		facts.Nix = true
	}
	return facts, nil
}

func (h *Host) capacity() (*blixardv1.Resources, error) {
	found := &blixardv1.Resources{Vcpus: uint32(runtime.NumCPU())}
	if c := h.cfg.Capacity; c != nil {
		if c.Vcpus > 0 {
			found.Vcpus = c.Vcpus
		}
		found.MemoryMib, found.DiskMib = c.MemoryMib, c.DiskMib
	}
	if found.MemoryMib == 0 {
		total, err := memoryMib()
		if err != nil {
			return nil, err
		}
		found.MemoryMib = total - total/16 // for the system and for us
	}
	if found.DiskMib == 0 {
		free, err := h.diskMib()
		if err != nil {
			return nil, err
		}
		found.DiskMib = free
	}
	return found, nil
}

func memoryMib() (uint64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("this machine's memory: %w", err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var kib uint64
		if n, _ := fmt.Sscanf(lines.Text(), "MemTotal: %d kB", &kib); n == 1 {
			return kib >> 10, nil
		}
	}
	return 0, errors.New("this machine's memory: /proc/meminfo has no MemTotal")
}

// diskMib is what is free and what the VMs' files take already, as that is
// accounted to them.
func (h *Host) diskMib() (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(h.at.states(), &st); err != nil {
		return 0, fmt.Errorf("this machine's disk: %w", err)
	}
	bytes := st.Bavail * uint64(st.Bsize)
	count := func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // it is only an estimate
		}
		if info, err := d.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				bytes += uint64(st.Blocks) * 512
			}
		}
		return nil
	}
	err := errors.Join(filepath.WalkDir(h.at.states(), count), filepath.WalkDir(h.volumes.at, count))
	return (bytes - bytes/20) >> 20, err
}

// machineID tells machines apart by their hardware, not by their disk, which can
// be copied; "" when that cannot be read.
func machineID() string {
	b, err := os.ReadFile("/sys/class/dmi/id/product_uuid")
	id := strings.ToLower(strings.TrimSpace(string(b)))
	if err != nil || len(strings.Trim(id, "0f-")) == 0 {
		return ""
	}
	return hashed(32, "blixard machine", id)
}

// portSpace tells apart the ports that daemons have: one network namespace of one boot.
func portSpace(boot string) string {
	ns, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return ""
	}
	return hashed(32, "blixard ports", boot, ns)
}

// pidNamespaces says whether we may make a PID namespace: by making one.
func pidNamespaces() bool {
	cmd := exec.Command("/proc/self/nothing")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
	// The clone comes before the exec, which fails here.
	return errors.Is(cmd.Run(), fs.ErrNotExist)
}

// kvm says whether hardware virtualisation is of use here.
func (h *Host) kvm() *blixardv1.KVM {
	if h.cfg.NoKVM {
		return &blixardv1.KVM{Why: "KVM is not wanted"}
	}
	a := kvm.Usable(h.at.run, h.boot)
	return &blixardv1.KVM{Usable: a.Usable, Why: a.Why}
}

// found is a hypervisor of this host.
type found struct {
	kind             *hypervisor.Kind
	program, version string
}

// versionPatience is for a program that only has to say its version.
var versionPatience = 10 * time.Second

// find looks for a hypervisor, and has it say its version: what cannot do that
// runs no VM either.
func (h *Host) find(k hypervisor.Kind) (found, error) {
	if k.Program == "" {
		return found{kind: &k, version: processVersion}, nil
	}
	program, err := exec.LookPath(cmp.Or(h.cfg.Programs[k.Hypervisor], k.Program))
	if err != nil {
		return found{}, err
	}
	if program, err = filepath.Abs(program); err != nil {
		return found{}, err
	}
	ctx, cancel := context.WithTimeout(h.ctx, versionPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "--version")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return found{}, fmt.Errorf("%s --version: %w", program, err)
	}
	version := versionIn(string(out))
	if version == "" {
		return found{}, fmt.Errorf("%s --version says no version: %.100q", program, out)
	}
	return found{&k, program, version}, nil
}

// versionIn is what follows the program's own name in its first line: QEMU
// emulator version 7.2.22 (Debian 1:7.2), cloud-hypervisor v53.0, Firecracker v1.16.1.
func versionIn(out string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(out), "\n")
	at := strings.IndexAny(line, "0123456789")
	if at < 0 {
		return ""
	}
	if version := strings.TrimSpace(line[at:]); len(version) <= 100 {
		return strings.ToValidUTF8(version, "?")
	}
	return ""
}

// driverFor makes the driver that boots images with a hypervisor, or programs;
// nil where there is none.
// confines says why QEMU cannot be had under seccomp: by starting one that ends at
// once.
func confines(ctx context.Context, program string) error {
	ctx, cancel := context.WithTimeout(ctx, versionPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-M", "none", "-nodefaults", "-no-user-config", "-display", "none", "-sandbox", sandbox, "-qmp", "stdio")
	cmd.Stdin = strings.NewReader(`{"execute":"qmp_capabilities"}{"execute":"quit"}`)
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, lastLines(string(out), 1, 200))
	}
	return nil
}

func (h *Host) driverFor(f found, kvm bool) driver {
	switch f.kind.Hypervisor {
	case blixardv1.Hypervisor_HYPERVISOR_PROCESS:
		return process{pidNamespace: h.holds}
	case blixardv1.Hypervisor_HYPERVISOR_QEMU:
		q := &qemu{images: images{h.cfg.Store, h.links, h.volumes, h.devices, h.sharer}, log: h.cfg.Log.Debug, warn: h.cfg.Log.Warn, machine: machine{program: f.program, kvm: kvm}}
		if err := confines(h.ctx, f.program); err != nil {
			q.machine.open = true
			h.cfg.Log.Warn("QEMU cannot confine itself here: a guest that breaks out of it can do what this daemon may", "err", err)
		}
		if !kvm {
			var err error
			if q.machine.tscKHz, err = tsc.KHz(); err != nil {
				h.cfg.Log.Warn("guests may hang at boot on a busy host", "err", err)
			}
		}
		return q
	case blixardv1.Hypervisor_HYPERVISOR_CLOUD_HYPERVISOR:
		return &cloud{images{h.cfg.Store, h.links, h.volumes, h.devices, h.sharer}, f.program, h.cfg.Log.Warn}
	case blixardv1.Hypervisor_HYPERVISOR_FIRECRACKER:
		return &firecracker{images{h.cfg.Store, h.links, h.volumes, h.devices, h.sharer}, f.program, h.jailer}
	}
	return nil
}
