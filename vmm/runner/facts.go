package runner

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/guest/tsc"
	"github.com/blixard/blixard/vmm/runner/kvm"
)

// discover finds out what this machine can do.
func (h *Host) discover() (*blixardv1.HostFacts, error) {
	capacity, err := h.capacity()
	if err != nil {
		return nil, err
	}
	h.holds = pidNamespaces()
	h.drivers = map[blixardv1.Hypervisor]driver{}
	facts := &blixardv1.HostFacts{
		Capacity: capacity, Labels: h.cfg.Labels, Version: h.cfg.Version, Machine: machineID(),
		HoldsForks: h.holds, Level: max(h.cfg.Level, 1),
	}
	if q, err := h.findQEMU(); err != nil {
		h.cfg.Log.Warn("no QEMU on this host", "err", err)
	} else if h.cfg.allows(blixardv1.Hypervisor_HYPERVISOR_QEMU) {
		h.cfg.Log.Info("QEMU is here", "version", q.version, "kvm", q.machine.kvm, "why", q.why)
		h.drivers[blixardv1.Hypervisor_HYPERVISOR_QEMU] = q
		facts.Hypervisors = append(facts.Hypervisors, &blixardv1.HypervisorFact{
			Hypervisor: blixardv1.Hypervisor_HYPERVISOR_QEMU, Version: q.version, Kvm: q.machine.kvm,
		})
	}
	if h.cfg.allows(blixardv1.Hypervisor_HYPERVISOR_PROCESS) {
		h.drivers[blixardv1.Hypervisor_HYPERVISOR_PROCESS] = process{pidNamespace: h.holds}
		facts.Hypervisors = append(facts.Hypervisors, &blixardv1.HypervisorFact{
			Hypervisor: blixardv1.Hypervisor_HYPERVISOR_PROCESS, Version: processVersion,
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
	err := filepath.WalkDir(h.at.states(), func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // it is only an estimate
		}
		if info, err := d.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				bytes += uint64(st.Blocks) * 512
			}
		}
		return nil
	})
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

// pidNamespaces says whether we may make a PID namespace: by making one.
func pidNamespaces() bool {
	cmd := exec.Command("/proc/self/nothing")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
	// The clone comes before the exec, which fails here.
	return errors.Is(cmd.Run(), fs.ErrNotExist)
}

func (h *Host) findQEMU() (*qemu, error) {
	name := h.cfg.QEMU
	if name == "" {
		name = "qemu-system-x86_64"
	}
	program, err := exec.LookPath(name)
	if err != nil {
		return nil, err
	}
	if program, err = filepath.Abs(program); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(h.ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --version: %w", program, err)
	}
	line, _, _ := bytes.Cut(out, []byte("\n"))
	version := strings.TrimPrefix(string(line), "QEMU emulator version ")
	q := &qemu{store: h.cfg.Store, version: version, log: h.cfg.Log.Debug, warn: h.cfg.Log.Warn, machine: machine{program: program}}
	if h.cfg.NoKVM {
		q.why = "KVM is not wanted"
	} else {
		a := kvm.Usable(h.at.run, h.boot)
		q.machine.kvm, q.why = a.Usable, a.Why
	}
	if !q.machine.kvm {
		if q.machine.tscKHz, err = tsc.KHz(); err != nil {
			h.cfg.Log.Warn("guests may hang at boot on a busy host", "err", err)
		}
	}
	return q, nil
}
