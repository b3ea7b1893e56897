package runner

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/blixard/blixard/core/hypervisor"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/runner/shims"
	"github.com/blixard/blixard/vmm/shim"
)

// driver knows one kind of hypervisor.
type driver interface {
	// needs lists the artifacts of a spec; what is wrong with it is an error.
	needs(*blixardv1.Assignment) ([]*blixardv1.Artifact, error)
	// build looks into the artifacts, once they are there, and makes what is run
	// of them. It says to log, for people, what it does. The runner is Nix's.
	build(ctx context.Context, a *blixardv1.Assignment, log io.Writer) (*blixardv1.Runner, error)
	// prepare makes what one start needs (disks), and says what to execute. What
	// Nix built is the assignment's runner by then.
	prepare(context.Context, place, *blixardv1.Assignment, shim.Instance) (command, error)
	// follow watches a live instance: it tells once the guest was seen to run, and
	// whenever it was seen to be paused, or to go on, or to wait for a move or to
	// have left by one. It is ended by close.
	follow(p place, tell func(guestState)) session
}

// place is where an instance has its files.
type place struct {
	run, state, console string
	// user is who the hypervisor runs as; nil: the daemon's own.
	user *shim.User
}

// command is what a shim executes, and where its output goes.
type command struct {
	argv, env    []string
	dir, output  string
	pidNamespace bool
	user         *shim.User
	steps        *shim.Steps
	// jailed: it goes into the VM's jail, and becomes the place's user, by itself.
	jailed bool
	// shape of a machine whose guest can be moved while it runs; "": it cannot.
	shape string
	// written are its drives whose disks go with it then, by QEMU's names.
	written []string
	// balloon is the memory that the guest is started with and has a balloon for; 0:
	// it has none.
	balloon uint64 // MiB
}

// session is a driver's connection to one live instance.
type session interface {
	// stop presses the power button, and has a paused guest go on to hear it. It
	// returns soon, whether the guest heard or not.
	stop(context.Context, *shims.Shim) error
	// pause stops the guest where it is, and resume lets it go on. What is so
	// already is no error.
	pause(context.Context) error
	resume(context.Context) error
	// ended says how the program's own end is to be understood, once nothing of
	// it lives any more.
	ended(e shim.Exit, ready bool) *vmm.Exit
	// close ends the watching, and nothing else.
	close()
}

// byNix says that a VM is what Nix builds, whatever runs it.
func byNix(spec *blixardv1.VMSpec) bool { return spec.GetNixos() != nil || spec.GetFlake() != nil }

// driver is the one that starts an assignment.
func (h *Host) driver(a *blixardv1.Assignment) (driver, error) {
	if !byNix(a.GetSpec()) {
		return h.hypervisor(a.GetHypervisor())
	}
	if h.nix == nil {
		return nil, errors.New("this host cannot build NixOS systems: install Nix and restart the daemon")
	}
	return h.nix, nil
}

// driverOf is the one that an instance was started by.
func (h *Host) driverOf(r *record) (driver, error) {
	if r.Nix != nil {
		return &nixDriver{h: h}, nil // what runs can be watched without Nix
	}
	return h.hypervisor(r.Hypervisor)
}

func (h *Host) hypervisor(k blixardv1.Hypervisor) (driver, error) {
	if d := h.drivers[k]; d != nil {
		return d, nil
	}
	switch kind := hypervisor.Get(k); {
	case kind == nil:
		return nil, fmt.Errorf("this host knows no hypervisor %v: upgrade it", k)
	case !h.cfg.allows(k):
		return nil, fmt.Errorf("this host may not run VMs with %s: its configuration does not allow it", kind.Name)
	default:
		return nil, fmt.Errorf("this host has no %s: install %s and restart the daemon", kind.Name, kind.Program)
	}
}
