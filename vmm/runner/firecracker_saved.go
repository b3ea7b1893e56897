package runner

import (
	"context"
	"encoding/json"
	"net/http"
	"path/filepath"

	"golang.org/x/sys/unix"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/runner/vmdir"
	"github.com/blixard/blixard/vmm/shim"
)

// Firecracker writes the guest's memory into one file and the rest into another. It
// loads them only as the first thing that it is told, and ends when it cannot. Of what
// it was made of, only the taps can be changed then: its disks are where they were,
// which is why their paths are relative (see command).
//
// It maps the memory and reads of it what the guest touches, for as long as the guest
// lives. A snapshot's files are never written again, and one that is deleted takes its
// room until the last guest that came of it has ended.

const (
	firecrackerState  = "state"
	firecrackerMemory = "memory"
	loadFile          = "load.json"
)

func (f firecrackerControl) snapshot(ctx context.Context, folder string) error {
	return f.call(ctx, http.MethodPut, "/snapshot/create", map[string]string{
		"snapshot_type": "Full",
		"snapshot_path": filepath.Join(folder, firecrackerState), "mem_file_path": filepath.Join(folder, firecrackerMemory),
	}, nil)
}

// load leaves the guest paused.
func (f firecrackerControl) load(ctx context.Context, file string) error {
	order, err := vmdir.ReadFile(file, 64<<10)
	if err != nil {
		return err
	}
	return f.call(ctx, http.MethodPut, "/snapshot/load", json.RawMessage(order), nil)
}

// firecrackerLoad is the order to load a snapshot.
type firecrackerLoad struct {
	State  string                `json:"snapshot_path"`
	Memory firecrackerBacking    `json:"mem_backend"`
	Resume bool                  `json:"resume_vm"`
	Nics   []firecrackerOtherTap `json:"network_overrides,omitempty"`
}

type firecrackerBacking struct {
	Type string `json:"backend_type"`
	Path string `json:"backend_path"`
}

type firecrackerOtherTap struct {
	ID  string `json:"iface_id"`
	Tap string `json:"host_dev_name"`
}

// machineName: its vendor promises nothing for another processor, nor for another
// kernel of the host.
func (d *firecracker) machineName(*blixardv1.VMSpec) string {
	var u unix.Utsname
	_ = unix.Uname(&u) // it cannot fail
	return underKVM("x86") + ", Linux " + unix.ByteSliceToString(u.Release[:])
}

func (d *firecracker) revive(ctx context.Context, p place, a *blixardv1.Assignment, i shim.Instance, dir string) (command, error) {
	b, err := d.elfFiles(ctx, p, a, i)
	if err != nil {
		return command{}, err
	}
	j := d.jail(p)
	in := func(name string) string {
		if path := filepath.Join(dir, vmFolder, name); j == nil {
			return path
		} else {
			return j.show(path, filepath.Join("snapshot", name), true)
		}
	}
	if j != nil {
		b = j.of(b)
	}
	order := firecrackerLoad{State: in(firecrackerState), Memory: firecrackerBacking{"File", in(firecrackerMemory)}}
	for i, n := range b.nics {
		order.Nics = append(order.Nics, firecrackerOtherTap{nicID(i), n.tap})
	}
	return d.command(b, j, loadFile, order)
}
