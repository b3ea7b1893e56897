package guest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"path"
	"strings"
)

// Module is a kernel module, not compressed.
type Module struct {
	Name string // as in its file's name, without .ko
	Data []byte
}

// loadOrder has every module after those it needs. We carry the list rather
// than read modules.dep, because a kernel package that was unpacked and not
// installed has none.
var loadOrder = []string{
	"virtio_ring", "virtio",
	"virtio_mmio",                                                  // QEMU microvm, Firecracker
	"virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", // q35, cloud-hypervisor
	"virtio_console",  // the agent's port
	"button", "evdev", // the power button
	"virtio_blk",
	"failover", "net_failover", "virtio_net",
	"virtio_balloon",
	"virtio-rng",
	"vsock", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport",
	"fuse", "virtiofs",
	"pvpanic", "pvpanic-mmio", "pvpanic-pci",
}

// ErrNoModules is a folder without a single module that we know.
var ErrNoModules = errors.New("no virtio module found")

// FindModules finds, anywhere below dir, the modules that a guest needs, in
// load order. Modules that are missing are left out, as they may be built in.
// Compressed ones (.ko.xz, .ko.zst) are unpacked here, since only newer
// kernels can do it themselves.
func FindModules(dir fs.FS) ([]Module, error) {
	paths := map[string]string{} // module name -> path
	err := fs.WalkDir(dir, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		// Modules name themselves with either of - and _ over the years.
		if base, _, ok := strings.Cut(path.Base(p), ".ko"); ok && d.Type().IsRegular() {
			if key := canonical(base); paths[key] == "" { // the first one, in WalkDir's sorted order
				paths[key] = p
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find kernel modules: %w", err)
	}
	var found []Module
	for _, name := range loadOrder {
		p, ok := paths[canonical(name)]
		if !ok {
			continue
		}
		data, err := readModule(dir, p)
		if err != nil {
			return nil, fmt.Errorf("read kernel module %s: %w", p, err)
		}
		found = append(found, Module{Name: name, Data: data})
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("find kernel modules: %w: want a folder such as lib/modules/6.1.0-1-cloud-amd64", ErrNoModules)
	}
	return found, nil
}

func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

func readModule(dir fs.FS, p string) ([]byte, error) {
	data, err := fs.ReadFile(dir, p)
	if err != nil {
		return nil, err
	}
	switch path.Ext(p) {
	case ".ko":
	case ".xz":
		data, err = unpack("xz", data)
	case ".zst":
		data, err = unpack("zstd", data)
	case ".gz":
		data, err = unpack("gzip", data)
	default:
		err = fmt.Errorf("cannot unpack a %s file: want .ko, .ko.gz, .ko.xz or .ko.zst", path.Ext(p))
	}
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(data, []byte("\x7fELF")) {
		return nil, errors.New("not an ELF file")
	}
	return data, nil
}

// unpack runs the distribution's own program: every machine that has such
// modules has it, and a library for each would be more than we need.
func unpack(program string, data []byte) ([]byte, error) {
	cmd := exec.Command(program, "-d", "-c")
	cmd.Stdin = bytes.NewReader(data)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return nil, fmt.Errorf("unpack it: the program %s is needed: install it, or use a kernel with plain .ko modules", program)
		}
		return nil, fmt.Errorf("unpack it with %s: %w: %s", program, err, bytes.TrimSpace(complaint.Bytes()))
	}
	return out.Bytes(), nil
}
