// Package guest packs our own guest: the one that the demo runs and that the
// tests boot.
//
// The machine. A microVM starts from two files, a kernel and an initramfs.
// The kernel is a distribution's, unchanged. The initramfs is ours, and is
// the whole of the guest's user space: one static program as /init, and the
// kernel modules that it loads, since distributions build virtio as modules.
//
//	/init                  cmd/blixard-guest
//	/modules/00-NAME.ko    in the order in which they must be loaded
//	/dev /proc /sys ...    empty, mounted by init
//
// Which modules, and in which order, is known here and only here: init loads
// whatever it finds in the order of the names. A kernel that has a module
// built in, or has it not at all, simply has no such file.
//
// The same input gives the same bytes, so an initramfs can be named by its
// sha256, and a host that has it need not fetch it. It is not compressed: the
// guest is 4 MB, which an emulated processor copies faster than it unpacks.
//
// Package boot has the parameters that a host gives such a guest, package
// agent the messages that it exchanges with it.
package guest

import (
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/cavaliergopher/cpio"
)

// File is one entry of an initramfs. A directory has a path that ends in "/"
// and no data. Directories above a file need not be listed.
type File struct {
	Path string // relative to the guest's root, clean
	Exec bool   // mode 0755 rather than 0644
	Data []byte
}

// Errors of Write.
var (
	ErrPath      = errors.New("not a path inside the initramfs")
	ErrDuplicate = errors.New("occurs twice")
)

// Files is the guest's user space: init, and modules in load order.
func Files(init []byte, modules []Module) []File {
	files := []File{
		{Path: "init", Exec: true, Data: init},
		{Path: "dev/"}, {Path: "proc/"}, {Path: "sys/"}, {Path: "run/"}, {Path: "tmp/"},
	}
	for i, m := range modules {
		files = append(files, File{Path: fmt.Sprintf("modules/%02d-%s.ko", i, m.Name), Data: m.Data})
	}
	return files
}

// Write writes files as an initramfs (cpio, "newc"). The bytes depend on
// nothing but the files: not on their order, the clock, or the machine.
func Write(w io.Writer, files []File) error {
	all, err := complete(files)
	if err != nil {
		return fmt.Errorf("pack initramfs: %w", err)
	}
	cw := cpio.NewWriter(w)
	for i, f := range all {
		if err := cw.WriteHeader(header(f, i+1)); err != nil {
			return fmt.Errorf("pack initramfs: %s: %w", f.Path, err)
		}
		if _, err := cw.Write(f.Data); err != nil {
			return fmt.Errorf("pack initramfs: %s: %w", f.Path, err)
		}
	}
	if err := cw.Close(); err != nil {
		return fmt.Errorf("pack initramfs: %w", err)
	}
	return nil
}

func (f File) isDir() bool { return strings.HasSuffix(f.Path, "/") }

func header(f File, inode int) *cpio.Header {
	h := &cpio.Header{Name: strings.TrimSuffix(f.Path, "/"), Inode: int64(inode), Links: 1, Size: int64(len(f.Data))}
	switch {
	case f.isDir():
		h.Mode, h.Links = cpio.TypeDir|0o755, 2
	case f.Exec:
		h.Mode = cpio.TypeReg | 0o755
	default:
		h.Mode = cpio.TypeReg | 0o644
	}
	return h
}

// complete checks every path, adds the directories that are missing, and
// sorts, so that a directory precedes what is in it: the kernel unpacks in
// order and makes no parents.
func complete(files []File) ([]File, error) {
	byName := map[string]File{}
	for _, f := range files {
		if err := check(f); err != nil {
			return nil, fmt.Errorf("%q: %w", f.Path, err)
		}
		name := strings.TrimSuffix(f.Path, "/")
		if _, ok := byName[name]; ok {
			return nil, fmt.Errorf("%q: %w", f.Path, ErrDuplicate)
		}
		byName[name] = f
	}
	for _, f := range files {
		for dir := path.Dir(strings.TrimSuffix(f.Path, "/")); dir != "."; dir = path.Dir(dir) {
			if d, ok := byName[dir]; ok && !d.isDir() {
				return nil, fmt.Errorf("%q: %w: %s is a file", f.Path, ErrPath, dir)
			}
			byName[dir] = File{Path: dir + "/"}
		}
	}
	all := make([]File, 0, len(byName))
	for _, f := range byName {
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return all, nil
}

// check refuses what would leave the guest's root, end the archive early, or
// be cut by the kernel.
func check(f File) error {
	const longest = 4095 // PATH_MAX less its NUL: the kernel skips longer ones
	name := strings.TrimSuffix(f.Path, "/")
	switch {
	case name == "" || name == "." || path.Clean("/" + name)[1:] != name:
		return fmt.Errorf("%w: want it relative and clean", ErrPath)
	case strings.ContainsRune(name, 0):
		return fmt.Errorf("%w: it has a NUL", ErrPath)
	case name == "TRAILER!!!":
		return fmt.Errorf("%w: that name ends an archive", ErrPath)
	case len(name) > longest:
		return fmt.Errorf("%w: %d bytes, at most %d", ErrPath, len(name), longest)
	case f.isDir() && len(f.Data) > 0:
		return fmt.Errorf("%w: a directory with data", ErrPath)
	}
	return nil
}
