// Package kvm says whether this machine's hardware virtualisation is of use.
//
// # The model
//
// A /dev/kvm that opens proves nothing: small cloud machines have one that is
// served by emulation. Real guests then print their first line and hang, and a
// hypervisor that is told "KVM, or else emulate" hangs with them. Even a tiny
// guest that only halts runs well there. What differs is speed, a thousandfold.
// So a guest of two instructions counts down from a million in long mode:
//
//	native      0.55 ms
//	emulated    1000 ms
//
// KVM is usable if it ends within 50 ms. The guest runs in a process of its own,
// because a call into a bad KVM may not return; that process is killed at 500 ms.
//
// # The process
//
// It is our own executable under another name. This package's init sees the name
// and runs the guest instead of the program: every program that imports us can
// be asked, test binaries included, and none of them can forget to ask.
package kvm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/blixard/blixard/vmm/runner/vmdir"
)

const (
	name     = "blixard-kvm-probe"
	device   = "/dev/kvm"
	patience = 500 * time.Millisecond
	fast     = 50 * time.Millisecond
)

func init() {
	if len(os.Args) > 0 && os.Args[0] == name {
		took, err := count()
		if err != nil {
			fmt.Fprint(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Print(int64(took))
		os.Exit(0)
	}
}

// Answer is what a probe found.
type Answer struct {
	Usable bool `json:"usable"`
	// Why not, or how fast, in words.
	Why string `json:"why"`
	// Boot is the kernel's boot id for which this holds.
	Boot string `json:"boot"`
}

const cache = "kvm.json"

// Usable gives the answer of this boot, kept in dir, or probes. It takes at most
// about a second.
func Usable(dir, boot string) Answer {
	if b, err := vmdir.ReadFile(filepath.Join(dir, cache), 4096); err == nil {
		var a Answer
		if json.Unmarshal(b, &a) == nil && a.Boot == boot {
			return a
		}
	}
	a := Probe()
	a.Boot = boot
	// A cache that cannot be written costs a probe next time.
	_ = vmdir.WriteJSON(dir, cache, a)
	return a
}

// Probe runs the counting guest.
func Probe() Answer {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return Answer{Why: err.Error()}
	}
	f.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var out, complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = []string{name}
	cmd.Env = []string{}
	cmd.Stdout, cmd.Stderr = &out, &complaint
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = patience
	err = cmd.Run()
	var took time.Duration
	switch {
	case ctx.Err() != nil:
		return Answer{Why: fmt.Sprintf("%s is there, but a loop of a million turns did not end in %v: it is emulated", device, patience)}
	case err != nil:
		return Answer{Why: fmt.Sprintf("%s is there, but runs no guest: %v: %s", device, err, complaint.Bytes())}
	}
	if _, err := fmt.Sscan(out.String(), (*int64)(&took)); err != nil {
		return Answer{Why: "the probe said nothing"}
	}
	if took > fast {
		return Answer{Why: fmt.Sprintf("%s is there, but a loop of a million turns took %v: it is emulated", device, took)}
	}
	return Answer{Usable: true, Why: fmt.Sprintf("a loop of a million turns took %v", took)}
}
