package runner

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/blixard/blixard/core"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/runner/shims"
	"github.com/blixard/blixard/vmm/runner/vmdir"
	"github.com/blixard/blixard/vmm/shim"
)

func TestLimitsOfAVM(t *testing.T) {
	spec := &blixardv1.VMSpec{Vcpus: 2, MemoryMib: 1024}
	a := &blixardv1.Assignment{Spec: spec}
	if l := limitsOf(a, false); l.MemoryBytes != 1280<<20 || l.CPUs != 250 || l.Weight != 200 || l.Processes != 1026 {
		t.Errorf("%+v", l)
	}
	if l := limitsOf(a, true); l.MemoryBytes != 2304<<20 {
		t.Errorf("emulated: %+v", l)
	}
	if l := limitsOf(&blixardv1.Assignment{Spec: &blixardv1.VMSpec{}}, false); l.MemoryBytes != 768<<20 || l.CPUs != 150 {
		t.Errorf("what is left out: %+v", l)
	}
}

// A VM is in a cgroup of its own, over restarts of the daemon; one that was started
// without is taken up and ended as it always was; nothing is left.
func TestAVMHasACgroup(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	if b.h.cgroups == nil {
		t.Skip("this host has no cgroups for us: ", b.await("inventory", func(o core.Observed) bool { return o.Inventory }).Facts.Isolation.BoundsWhy)
	}
	in := func(uid string) string {
		t.Helper()
		st := shimState(t, b.h.at.runOf(uid))
		text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(st.VM.PID), "cgroup"))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	a, i := program("1-5", "sleep 100 & setsid sleep 100 & echo up; wait"), instance("1-5", 1)
	b.must(vmm.Start, i, a)
	b.ready(i)
	if text := in("1-5"); !strings.Contains(text, "/1.7.1\n") || !strings.Contains(text, "blixard.") {
		t.Errorf("it is in %s", text)
	}
	st := shimState(t, b.h.at.runOf("1-5"))
	text, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(st.Shim.PID), "cgroup"))
	if !strings.Contains(string(text), "/shims\n") {
		t.Errorf("its shim is in %s", text)
	}
	b.cfg.Cgroup = "none"
	b.reopen()
	old := instance("1-6", 1)
	b.must(vmm.Start, old, program("1-6", "sleep 100 & wait"))
	b.ready(old)
	if text := in("1-6"); strings.Contains(text, "/1.7.1\n") {
		t.Errorf("without cgroups it is in %s", text)
	}
	b.cfg.Cgroup = ""
	b.reopen()
	b.ready(i)
	b.ready(old)
	cgroup := st.Cgroup
	b.must(vmm.Kill, i, a)
	b.exit(i, Killed)
	b.must(vmm.Kill, old, nil)
	b.exit(old, Killed)
	if !shims.Dead(b.h.at.runOf("1-5")) {
		t.Error("it is not dead")
	}
	second := instance("1-5", 2)
	b.must(vmm.Start, second, a)
	b.ready(second)
	if text := in("1-5"); !strings.Contains(text, "/1.7.2\n") {
		t.Errorf("the second attempt is in %s", text)
	}
	b.must(vmm.Kill, second, nil)
	b.must(vmm.Remove, second, nil)
	b.must(vmm.Remove, old, nil)
	if _, err := os.Stat(filepath.Dir(cgroup)); err == nil {
		t.Errorf("%s is left", filepath.Dir(cgroup))
	}
	b.h.Close()
	if _, err := os.Stat(filepath.Dir(filepath.Dir(cgroup))); err == nil {
		t.Error("the daemon's cgroup is left")
	}
	b.h = nil
}

// What was named must be there.
func TestANamedCgroupMustBe(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.h.Close()
	b.h = nil
	b.cfg.Cgroup = t.TempDir()
	if h, err := New(b.cfg); err == nil {
		h.Close()
		t.Error("a folder that is no cgroup was taken")
	} else if !strings.Contains(err.Error(), "cgroup2") {
		t.Error(err)
	}
}

// shimState is what the shim of a run directory has written down.
func shimState(t *testing.T, run string) (st shim.State) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(run, vmdir.StateFile))
	if err == nil {
		err = json.Unmarshal(b, &st)
	}
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// A real guest reads its disks as fast as they may be read.
// It is alone: it measures time.
func TestADiskIsAsFastAsItMayBe(t *testing.T) {
	b := newGuestBench(t)
	a, i := b.image("1-5", "blixard.tick=1s"), instance("1-5", 1)
	a.Spec.GetImage().Disks = []*blixardv1.Disk{
		{Name: "free", SizeMib: 6}, {Name: "bytes", SizeMib: 6, Limit: &blixardv1.DiskLimit{BytesPerSecond: 2 << 20}},
	}
	b.must(vmm.Start, i, a)
	b.ready(i)
	read := func(device string) time.Duration {
		t.Helper()
		begin := time.Now()
		answer, err := b.h.Exec(t.Context(), "1-5", &blixardv1.ExecRequest{Argv: []string{"cat", device}, TimeoutMs: 60_000})
		if err != nil || answer.GetExitCode() != 0 {
			t.Fatalf("cat %s: %v, %v", device, answer.GetExitCode(), err)
		}
		return time.Since(begin)
	}
	read("/dev/vda")
	for n := 1; ; n++ {
		free, bound := read("/dev/vda"), read("/dev/vdb")
		t.Logf("6 MiB: %v, and %v with 2 MiB/s", free, bound)
		if bound < 2500*time.Millisecond {
			t.Fatalf("6 MiB took %v with 2 MiB/s", bound)
		}
		if free <= bound/2 {
			break
		}
		if n == 5 { // the machine does much else, but not all the time
			t.Fatalf("6 MiB took %v without a limit, and %v with 2 MiB/s", free, bound)
		}
	}
	b.must(vmm.Kill, i, a)
}
