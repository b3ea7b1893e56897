// Command pack makes the initramfs of our guest.
//
//	go run ./cmd/blixard-guest/pack -kernel-dir DIR -o initrd
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
	kernelDir := flag.String("kernel-dir", "", "folder with the kernel's modules below it (required)")
	initPath := flag.String("init", "", "the program to run as /init; built from "+initPackage+" when not given")
	out := flag.String("o", "", "where to write the initramfs (required)")
	flag.Parse()
	if *kernelDir == "" || *out == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*kernelDir, *initPath, *out); err != nil {
		fmt.Fprintf(os.Stderr, "pack: %v\n", err)
		os.Exit(1)
	}
}

func run(kernelDir, initPath, out string) error {
	modules, err := guest.FindModules(os.DirFS(kernelDir))
	if err != nil {
		return fmt.Errorf("%s: %w", kernelDir, err)
	}
	program, err := initProgram(initPath)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := guest.Write(&b, guest.Files(program, modules)); err != nil {
		return err
	}
	if err := replace(out, b.Bytes()); err != nil {
		return err
	}
	fmt.Printf("%s: %d bytes, %d modules, sha256 %x\n", out, b.Len(), len(modules), sha256.Sum256(b.Bytes()))
	return nil
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
