//go:build linux && amd64

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// mountAll mounts what it can. A guest without one of these is still worth
// having on the console.
func mountAll() error {
	var errs []error
	for _, m := range []struct{ kind, dir string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/run"},
	} {
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			errs = append(errs, fmt.Errorf("mount %s: %w", m.dir, err))
		}
	}
	return errors.Join(errs...)
}

// openConsole opens the console with blocking writes. Without any it returns
// what PID 1 was started with, which may be nothing.
func openConsole() *console {
	for _, path := range []string{"/dev/console", "/dev/ttyS0"} {
		if fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0); err == nil {
			return &console{os.NewFile(uintptr(fd), path)}
		}
	}
	return &console{os.Stdout}
}

// loadModules loads every module in dir in the order of the names, which is
// the order that the packer chose. One that fails does not stop the rest: a
// module for hardware that is not there may refuse to load.
func loadModules(dir string) []error {
	paths, err := filepath.Glob(filepath.Join(dir, "*.ko"))
	if err != nil {
		return []error{err}
	}
	var errs []error
	for _, p := range paths { // sorted
		if err := loadModule(p); err != nil {
			errs = append(errs, fmt.Errorf("load %s: %w", filepath.Base(p), err))
		}
	}
	return errs
}

func loadModule(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = unix.FinitModule(fd, "", 0)
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENODEV) {
		return nil // built in, or nothing for it to drive
	}
	return err
}
