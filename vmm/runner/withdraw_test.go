package runner

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/runner/shims"
	"github.com/blixard/blixard/vmm/runner/vmdir"
	"github.com/blixard/blixard/vmm/shim"
)

// A daemon is killed after it has spawned a shim, and before that shim has come
// to its lock. The next daemon reports that nothing runs: so the shim, when it
// wakes, must find no order.
func TestAShimThatComesLateFindsNoOrder(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	i := instance("1-9", 1)
	witness := filepath.Join(t.TempDir(), "ran")
	a := program("1-9", "echo >"+witness+"; sleep 60")
	a.Lease = blixardv1.LeaseClass_LEASE_CLASS_NONE
	b.must(vmm.Start, i, a)
	b.ready(i)
	run := b.h.at.runOf(i.UID)
	order, err := os.ReadFile(filepath.Join(run, vmdir.StartFile))
	if err != nil {
		t.Fatal(err)
	}
	// As the killed daemon left it: an order, a record, and nothing that lives.
	b.h.Close()
	_ = shims.Sweep(run)
	for !shims.Dead(run) {
		time.Sleep(10 * time.Millisecond)
	}
	os.Remove(witness)
	for _, f := range []string{"shim.json", "exit.json"} {
		os.Remove(filepath.Join(run, f))
	}
	if err := os.WriteFile(filepath.Join(run, vmdir.StartFile), order, 0o600); err != nil {
		t.Fatal(err)
	}
	b.open()
	if r := b.down(i); r.Instance != i {
		t.Fatalf("%+v", r)
	}
	soon, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	late := exec.CommandContext(soon, os.Args[0], "-dir", run) // this test binary is a shim by its first argument
	late.Args[0] = "blixard-shim"
	err = late.Run()
	if late.ProcessState.ExitCode() != shim.CodeStart {
		t.Errorf("the late shim ended with %d (%v), want %d", late.ProcessState.ExitCode(), err, shim.CodeStart)
	}
	if _, err := os.Stat(witness); err == nil {
		t.Fatal("the late shim has started what was reported as not running")
	}
}
