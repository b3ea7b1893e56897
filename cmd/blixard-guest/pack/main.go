// Command pack makes the initramfs of our guest.
//
//	go run ./cmd/blixard-guest/pack -kernel-dir DIR -o initrd
//	go run ./cmd/blixard-guest/pack -vmlinuz vmlinuz -vmlinux vmlinux
//
// The second form takes the ELF kernel out of a compressed one. Both can be
// asked for at once.
//
// DIR is any folder with one kernel's modules below it: lib/modules/VERSION,
// or an unpacked kernel package. Unless -init names a program that is already
// built, it builds cmd/blixard-guest with the Go toolchain, static and
// without paths, so that the same source gives the same bytes.
package main

import (
	"bytes"
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/blixard/blixard/vmm/guest"
)

const initPackage = "github.com/blixard/blixard/cmd/blixard-guest"

func main() {
	var o options
	flag.StringVar(&o.kernelDir, "kernel-dir", "", "folder with the kernel's modules below it")
	flag.StringVar(&o.init, "init", "", "the program to run as /init; built from "+initPackage+" when not given")
	flag.StringVar(&o.out, "o", "", "where to write the initramfs")
	flag.StringVar(&o.vmlinuz, "vmlinuz", "", "a compressed kernel (bzImage)")
	flag.StringVar(&o.vmlinux, "vmlinux", "", "where to write the same kernel as ELF")
	flag.Parse()
	initrd, kernel := o.out != "" && o.kernelDir != "", o.vmlinux != "" && o.vmlinuz != ""
	if !initrd && !kernel || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if initrd {
		check(packInitrd(o))
	}
	if kernel {
		check(unpackKernel(o))
	}
}

type options struct{ kernelDir, init, out, vmlinuz, vmlinux string }

func check(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "pack: %v\n", err)
		os.Exit(1)
	}
}

func packInitrd(o options) error {
	modules, err := guest.FindModules(os.DirFS(o.kernelDir))
	if err != nil {
		return fmt.Errorf("%s: %w", o.kernelDir, err)
	}
	program, err := initProgram(o.init)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := guest.Write(&b, guest.Files(program, modules)); err != nil {
		return err
	}
	fmt.Printf("%s: %d bytes, %d modules, sha256 %x\n", o.out, b.Len(), len(modules), sha256.Sum256(b.Bytes()))
	return replace(o.out, b.Bytes())
}

func unpackKernel(o options) error {
	image, err := os.ReadFile(o.vmlinuz)
	if err != nil {
		return err
	}
	elf, err := guest.Vmlinux(image)
	if err != nil {
		return fmt.Errorf("%s: %w", o.vmlinuz, err)
	}
	fmt.Printf("%s: %d bytes, sha256 %x\n", o.vmlinux, len(elf), sha256.Sum256(elf))
	return replace(o.vmlinux, elf)
}

func initProgram(given string) ([]byte, error) {
	if given != "" {
		return os.ReadFile(given)
	}
	dir, err := os.MkdirTemp("", "blixard-guest-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	built := filepath.Join(dir, "init")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", built, initPackage)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("build %s: %w", initPackage, err)
	}
	return os.ReadFile(built)
}

// replace writes the file as a whole or not at all: a VM may be starting from
// the one that is there.
func replace(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".tmp-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // fails once it has been renamed, as it should
	if _, err := tmp.Write(data); err != nil {
		return err
	}
	if err := tmp.Chmod(0o644); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
