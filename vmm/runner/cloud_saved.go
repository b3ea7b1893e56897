package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/runner/vmdir"
	"github.com/blixard/blixard/vmm/shim"
)

// cloud-hypervisor writes three files: the guest's memory, its devices' state, and
// config.json, which is the machine as it was made, with the paths of its disks and
// the names of its taps. A restore takes the machine from there and asks for nothing,
// so a VM that goes on gets a folder of its own, in its run directory: the machine
// with its own paths, and the rest as links into the snapshot. All is read before the
// restore is answered.

const (
	revivedFolder = "revived"
	cloudConfig   = "config.json"
)

func (c cloudControl) snapshot(ctx context.Context, folder string) error {
	return c.put(ctx, "vm.snapshot", map[string]string{"destination_url": "file://" + folder})
}

// restore leaves the guest paused.
func (c cloudControl) restore(ctx context.Context, folder string) error {
	return c.put(ctx, "vm.restore", map[string]string{"source_url": "file://" + folder})
}

// machineName: it has no machine types.
func (d *cloud) machineName(*blixardv1.VMSpec) string { return underKVM("x86") }

func (d *cloud) revive(ctx context.Context, p place, a *blixardv1.Assignment, i shim.Instance, dir string) (command, error) {
	b, err := d.elfFiles(ctx, p, a, i)
	if err != nil {
		return command{}, err
	}
	if err := b.ownMachineOf(filepath.Join(dir, vmFolder), filepath.Join(p.run, revivedFolder)); err != nil {
		return command{}, fmt.Errorf("make the machine of the snapshot this VM's: %w", err)
	}
	return d.command(b, d.alone(p))
}

// ownMachineOf makes a folder to restore from: of a snapshot, with a VM's own paths.
func (b boot) ownMachineOf(from, to string) error {
	if err := errors.Join(os.RemoveAll(to), os.Mkdir(to, 0o700)); err != nil {
		return err
	}
	files, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, f := range files {
		if f.Name() != cloudConfig {
			if err := os.Symlink(filepath.Join(from, f.Name()), filepath.Join(to, f.Name())); err != nil {
				return err
			}
		}
	}
	text, err := vmdir.ReadFile(filepath.Join(from, cloudConfig), 1<<20)
	if err != nil {
		return err
	}
	machine, err := b.ownMachine(text)
	if err != nil {
		return fmt.Errorf("%s: %w", cloudConfig, err)
	}
	return os.WriteFile(filepath.Join(to, cloudConfig), machine, 0o600)
}

// ownMachine is a machine's description with the paths of this boot in it. What we do
// not know of it stays as it is.
func (b boot) ownMachine(text []byte) ([]byte, error) {
	type object = map[string]json.RawMessage
	var m object
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, err
	}
	set := func(o object, name, value string) { o[name], _ = json.Marshal(value) } // a string always can be
	list := func(name string, most int) (all []object, err error) {
		if text := m[name]; len(text) > 0 && !bytes.Equal(text, []byte("null")) {
			err = json.Unmarshal(text, &all)
		}
		if err == nil && len(all) != most {
			err = fmt.Errorf("it has %d of %s, and the VM has %d", len(all), name, most)
		}
		return all, err
	}
	put := func(name string, all []object) (err error) {
		if len(all) > 0 {
			m[name], err = json.Marshal(all)
		}
		return err
	}

	var payload object
	if err := json.Unmarshal(m["payload"], &payload); err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	set(payload, "kernel", b.kernel)
	if b.initrd != "" {
		set(payload, "initramfs", b.initrd)
	}
	var err error
	if m["payload"], err = json.Marshal(payload); err != nil {
		return nil, err
	}
	disks, err := list("disks", len(b.disks))
	if err != nil {
		return nil, err
	}
	for _, d := range disks {
		var serial string
		if err := json.Unmarshal(d["serial"], &serial); err != nil {
			return nil, fmt.Errorf("a disk's serial: %w", err)
		}
		at := slices.IndexFunc(b.disks, func(own disk) bool { return own.name == serial })
		if at < 0 {
			return nil, fmt.Errorf("it has a disk %.40q, and the VM has none of that name", serial)
		}
		set(d, "path", b.disks[at].path)
	}
	nics, err := list("net", len(b.nics))
	if err != nil {
		return nil, err
	}
	for i, n := range nics {
		set(n, "tap", b.nics[i].tap)
	}
	if err := errors.Join(put("disks", disks), put("net", nics)); err != nil {
		return nil, err
	}
	return json.Marshal(m)
}
