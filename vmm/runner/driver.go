package runner

import (
	"context"
	"fmt"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/runner/shims"
	"github.com/blixard/blixard/vmm/shim"
)

// driver knows one kind of hypervisor.
type driver interface {
	// needs lists the artifacts of a spec; what is wrong with it is an error.
	needs(*blixardv1.VMSpec) ([]*blixardv1.Artifact, error)
	// check looks into the artifacts, once they are there.
	check(context.Context, *blixardv1.VMSpec) error
	// prepare makes what one start needs (disks), and says what to execute.
	prepare(context.Context, place, *blixardv1.Assignment, shim.Instance) (command, error)
	// follow watches a live instance: it calls ready once the guest was seen to
	// run. It is ended by close.
	follow(p place, ready func()) session
}

// place is where an instance has its files.
type place struct{ run, state, console string }

// command is what a shim executes, and where its output goes.
type command struct {
	argv, env    []string
	dir, output  string
	pidNamespace bool
}

// session is a driver's connection to one live instance.
type session interface {
	// stop presses the power button. It returns soon, whether the guest heard or not.
	stop(context.Context, *shims.Shim) error
	// ended says how the program's own end is to be understood, once nothing of
	// it lives any more.
	ended(e shim.Exit, ready bool) *vmm.Exit
	// close ends the watching, and nothing else.
	close()
}

func (h *Host) driver(k blixardv1.Hypervisor) (driver, error) {
	d := h.drivers[k]
	if d == nil {
		return nil, fmt.Errorf("this host cannot run VMs with %s", hypervisorName(k))
	}
	return d, nil
}

func hypervisorName(k blixardv1.Hypervisor) string {
	switch k {
	case blixardv1.Hypervisor_HYPERVISOR_QEMU:
		return "QEMU: install qemu-system-x86 and restart the daemon"
	case blixardv1.Hypervisor_HYPERVISOR_PROCESS:
		return "process (a supervised program, no isolation): its configuration does not allow it"
	}
	return k.String()
}
