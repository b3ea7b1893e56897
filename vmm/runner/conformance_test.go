package runner

import (
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/blixard/blixard/core/hypervisor"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/runner/kvm"
	"github.com/blixard/blixard/vmm/shim"
)

// The conformance suite tells the same stories of every driver, over the host's
// own orders and reports. A driver is a rig: something to start, whose guest
// says on its console
//
//	up name=NAME uid=UID attempt=N
//	tick 1 ...
//
// and behaves as it is told. What a hypervisor's kind cannot do is left out by
// the table of core/hypervisor, and nothing else is.

// rig is one driver under test.
type rig struct {
	*bench
	kind *hypervisor.Kind
	// vm is an assignment of a guest that behaves in a way: "", deaf, exit, exit=7,
	// panic or reboot.
	vm func(uid, behave string) *blixardv1.Assignment
	// ends are how a guest's behaviours are understood: for each, the reason and the
	// code. Those that are not there, the driver cannot bring about.
	ends map[string]vmm.Exit
	// socket is where the hypervisor answers, in a VM's run directory; "": nowhere.
	socket string
	// counts says that it counts what its guest reads of its disks and writes to them.
	counts bool
	// agent says that the guest can be asked.
	agent bool
	// real says that a guest really runs.
	real bool
	// button is what the guest calls its power button.
	button string
}

// story is something that every driver must tell alike.
type story struct {
	name  string
	wants []blixardv1.Capability
	tell  func(*testing.T, rig)
}

var conformance = []story{
	{"boot and console", nil, tellBoot},
	{"power button", []blixardv1.Capability{blixardv1.Capability_CAPABILITY_POWER_BUTTON}, tellButton},
	{"deaf guest and kill", nil, tellDeaf},
	{"how guests end", nil, tellEnds},
	{"crash", nil, tellCrash},
	{"killed shim", nil, tellKilledShim},
	{"hypervisor that hangs", nil, tellHang},
	{"stale socket", nil, tellStale},
	{"pause and resume", []blixardv1.Capability{blixardv1.Capability_CAPABILITY_PAUSE}, tellPause},
	{"paused and stopped", []blixardv1.Capability{blixardv1.Capability_CAPABILITY_PAUSE, blixardv1.Capability_CAPABILITY_POWER_BUTTON}, tellPausedStop},
	{"balloon", []blixardv1.Capability{blixardv1.Capability_CAPABILITY_BALLOON}, tellBalloon},
	{"snapshot and restore", []blixardv1.Capability{blixardv1.Capability_CAPABILITY_SNAPSHOT}, tellSnapshot},
	{"stats", nil, tellStats},
	{"volume", []blixardv1.Capability{blixardv1.Capability_CAPABILITY_IMAGE, blixardv1.Capability_CAPABILITY_VOLUMES}, tellVolume},
	{"volumes of the cluster", []blixardv1.Capability{blixardv1.Capability_CAPABILITY_IMAGE, blixardv1.Capability_CAPABILITY_VOLUMES}, tellVolumes},
	{"user network", []blixardv1.Capability{blixardv1.Capability_CAPABILITY_IMAGE, blixardv1.Capability_CAPABILITY_USER_NETWORK}, tellUserNetwork},
	{"network", []blixardv1.Capability{blixardv1.Capability_CAPABILITY_IMAGE, blixardv1.Capability_CAPABILITY_NETWORKS}, tellNetwork},
}

// machineMatters are the stories that are told again on another machine of the same
// hypervisor.
var machineMatters = []string{"power button", "how guests end", "pause and resume", "snapshot and restore", "network"}

func TestConformance(t *testing.T) {
	t.Parallel()
	rigs := map[string]func(*testing.T) rig{
		"process": processRig, "qemu": qemuRig, "qemu/q35": q35Rig, "cloud-hypervisor": cloudRig, "firecracker": firecrackerRig, "firecracker/jailed": jailedRig,
	}
	for _, name := range slices.Sorted(maps.Keys(rigs)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, s := range conformance {
				if name == "qemu/q35" && !slices.Contains(machineMatters, s.name) {
					continue
				}
				t.Run(s.name, func(t *testing.T) {
					t.Parallel()
					r := rigs[name](t)
					for _, c := range s.wants {
						if r.kind.Answer(c) != hypervisor.Yes {
							t.Skip(r.kind.Why(c))
						}
					}
					s.tell(t, r)
				})
			}
		})
	}
}

func processRig(t *testing.T) rig {
	const script = `trap '%s' TERM; echo "up name=$BLIXARD_NAME uid=$BLIXARD_UID attempt=$BLIXARD_ATTEMPT"; %s; n=0; while :; do n=$((n+1)); echo "tick $n "; sleep 0.05; done`
	return rig{
		bench: newBench(t), kind: hypervisor.Get(blixardv1.Hypervisor_HYPERVISOR_PROCESS), button: "power button",
		vm: func(uid, behave string) *blixardv1.Assignment {
			onTerm, first := `echo "power button, shutting down"; exit 0`, ":"
			switch word, code, _ := strings.Cut(behave, "="); word {
			case "deaf":
				onTerm = `echo "power button, ignored"`
			case "exit":
				first = "exit " + code
			}
			return program(uid, fmt.Sprintf(script, onTerm, first))
		},
		ends: map[string]vmm.Exit{"exit": {Reason: Exited}, "exit=7": {Reason: Exited, Code: 7}},
	}
}

func qemuRig(t *testing.T) rig {
	b := newGuestBench(t)
	return rig{
		bench: b.bench, kind: hypervisor.Get(blixardv1.Hypervisor_HYPERVISOR_QEMU), button: "power button",
		socket: qmpSocket, counts: true, agent: true, real: true,
		vm: func(uid, behave string) *blixardv1.Assignment {
			cmdline := "blixard.tick=50ms"
			if behave != "" {
				cmdline += " blixard.behave=" + behave
			}
			return b.image(uid, cmdline)
		},
		ends: map[string]vmm.Exit{
			"exit": {Reason: Exited}, "exit=7": {Reason: Exited, Code: 7},
			"panic": {Reason: Panicked, Code: 1}, "reboot": {Reason: Crashed, Code: 1},
		},
	}
}

// q35Rig is QEMU's other machine: PCI devices instead of MMIO, and another reset.
func q35Rig(t *testing.T) rig {
	r := qemuRig(t)
	vm := r.vm
	r.vm = func(uid, behave string) *blixardv1.Assignment {
		a := vm(uid, behave)
		a.Spec.Machine = blixardv1.Machine_MACHINE_Q35
		return a
	}
	maps.DeleteFunc(r.ends, func(behave string, _ vmm.Exit) bool { return behave != "reboot" })
	return r
}

func cloudRig(t *testing.T) rig {
	r := otherRig(t, blixardv1.Hypervisor_HYPERVISOR_CLOUD_HYPERVISOR, fakeBench)
	r.counts = true
	r.ends = map[string]vmm.Exit{
		"exit": {Reason: Exited}, "panic": {Reason: Panicked, Code: 1}, "reboot": {Reason: Crashed, Code: 1},
	}
	return r
}

func firecrackerRig(t *testing.T) rig { return firecrackerRigOn(t, fakeBench) }

func firecrackerRigOn(t *testing.T, fake func(*testing.T, blixardv1.Hypervisor) *bench) rig {
	r := otherRig(t, blixardv1.Hypervisor_HYPERVISOR_FIRECRACKER, fake)
	r.button = "ctrl-alt-del"
	// To power off and to reset are one there.
	r.ends = map[string]vmm.Exit{"exit": {Reason: Exited}, "panic": {Reason: Panicked, Code: 1}, "reboot": {Reason: Exited}}
	return r
}

// jailedRig is Firecracker in its jailer, which must be root.
func jailedRig(t *testing.T) rig {
	if os.Geteuid() != 0 {
		t.Skip("only root can use Firecracker's jailer")
	}
	r := firecrackerRigOn(t, jailBench)
	if r.h.jailer == nil { // the real one
		t.Skip("Firecracker's jailer cannot be used here")
	}
	return r
}

// otherRig is a hypervisor that needs KVM: the real one where it is and KVM is
// usable, with the real guest, and otherwise the fake.
func otherRig(t *testing.T, h blixardv1.Hypervisor, fake func(*testing.T, blixardv1.Hypervisor) *bench) rig {
	k := hypervisor.Get(h)
	r := rig{kind: k, button: "power button", socket: apiSocket}
	var kernel, initrd *blixardv1.Artifact
	if program, err := exec.LookPath(k.Program); err == nil && kvm.Probe().Usable {
		b := newGuestBench(t)
		r.bench, kernel, initrd, r.real = b.bench, b.kernel, b.initrd, true
		t.Logf("the real %s", program)
	} else {
		r.bench = fake(t, h)
		kernel = r.put([]byte("\x7fELF, and the rest is of no importance"))
		initrd = r.put([]byte("an initrd"))
	}
	r.vm = func(uid, behave string) *blixardv1.Assignment {
		cmdline := "blixard.tick=50ms"
		if behave != "" {
			cmdline += " blixard.behave=" + behave
		}
		a := program(uid, "")
		a.Hypervisor = h
		a.Spec = &blixardv1.VMSpec{MemoryMib: 128, Vcpus: 1, Source: &blixardv1.VMSpec_Image{Image: &blixardv1.Image{
			Kernel: kernel, Initrd: initrd, Cmdline: cmdline,
		}}}
		return a
	}
	return r
}

// fakeBench has this very program as the hypervisor: see package fakevmm.
func fakeBench(t *testing.T, h blixardv1.Hypervisor) *bench {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	fake := filepath.Join(t.TempDir(), hypervisor.Get(h).Program)
	if err := os.Link(self, fake); err != nil { // a link to it would lead through folders that only we may pass
		t.Fatal(err)
	}
	b := newBench(t, func(c *Config) { c.Programs, c.Jailer = map[blixardv1.Hypervisor]string{h: fake}, noJailer })
	if b.h.drivers[h] == nil {
		t.Fatal("the host has not found the fake")
	}
	return b
}

// A guest comes up, is heard on its console, and is the same when the daemon
// has gone and come back.
func tellBoot(t *testing.T, r rig) {
	i, a := instance("c-boot", 1), r.vm("c-boot", "")
	r.must(vmm.Build, i, a)
	r.must(vmm.Start, i, a)
	if got := r.ready(i); got.Paused || got.Liveness != vmm.Alive {
		t.Errorf("%+v", got)
	}
	r.awaitConsole(i.UID, "up name=vm-c-boot uid=c-boot attempt=1")
	r.awaitConsole(i.UID, "tick 3 ")
	before := r.state(i).VM
	r.reopen()
	r.ready(i)
	if r.state(i).VM != before {
		t.Error("the guest was disturbed")
	}
	ticks := r.ticks(i.UID)
	r.awaitTicks(i.UID, ticks+3)
	r.must(vmm.Kill, i, nil)
	r.exit(i, Killed)
	r.must(vmm.Remove, i, nil)
	if left, _ := os.ReadDir(r.h.at.runOf(i.UID)); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func tellButton(t *testing.T, r rig) {
	i, a := instance("c-button", 1), r.vm("c-button", "")
	r.must(vmm.Start, i, a)
	r.awaitConsole(i.UID, "tick 1 ")
	r.must(vmm.Stop, i, a)
	if e := r.exit(i, Exited); e.Code != 0 {
		t.Error(e)
	}
	r.awaitConsole(i.UID, r.button+", shutting down")
	// What has ended hears nothing any more, and that is no failure.
	r.must(vmm.Stop, i, a)
	r.must(vmm.Pause, i, a)
	r.must(vmm.Kill, i, a)
	r.must(vmm.Remove, i, nil)
}

func tellDeaf(t *testing.T, r rig) {
	i, a := instance("c-deaf", 1), r.vm("c-deaf", "deaf")
	r.must(vmm.Start, i, a)
	r.awaitConsole(i.UID, "tick 1 ")
	r.must(vmm.Stop, i, a)
	r.awaitConsole(i.UID, r.button+", ignored")
	ticks := r.ticks(i.UID)
	r.awaitTicks(i.UID, ticks+3) // it goes on
	r.must(vmm.Kill, i, nil)
	if e := r.exit(i, Killed); e.Code != 137 {
		t.Error(e)
	}
	r.must(vmm.Remove, i, nil)
}

// Each end is told apart: exit codes, a panic, a reset.
func tellEnds(t *testing.T, r rig) {
	for _, behave := range slices.Sorted(maps.Keys(r.ends)) {
		want := r.ends[behave]
		i := instance("c-end-"+strings.ReplaceAll(behave, "=", "-"), 1)
		r.must(vmm.Start, i, r.vm(i.UID, behave))
		if e := r.exit(i, want.Reason); e.Code != want.Code {
			t.Errorf("%s: code %d, want %d", behave, e.Code, want.Code)
		}
		r.must(vmm.Remove, i, nil)
	}
}

// The hypervisor dies, by no order of ours; the next attempt runs.
func tellCrash(t *testing.T, r rig) {
	i, a := instance("c-crash", 1), r.vm("c-crash", "")
	r.must(vmm.Start, i, a)
	r.ready(i)
	kill9(t, r.hypervisor(i))
	if e := r.exit(i, Crashed); e.Code != 137 {
		t.Error(e)
	}
	i.Attempt = 2
	r.must(vmm.Start, i, a)
	r.ready(i)
	r.awaitConsole(i.UID, "attempt=2")
	r.must(vmm.Kill, i, nil)
	r.exit(i, Killed)
	r.must(vmm.Remove, i, nil)
}

func tellKilledShim(t *testing.T, r rig) {
	i, a := instance("c-shim", 1), r.vm("c-shim", "")
	r.must(vmm.Start, i, a)
	r.ready(i)
	pid := r.hypervisor(i)
	kill9(t, r.state(i).Shim.PID)
	if got := r.down(i); got.Exit != nil {
		t.Errorf("%+v", got.Exit)
	}
	if b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat"); err == nil && !strings.Contains(string(b), ") Z ") {
		t.Errorf("the hypervisor outlives its shim: %s", b)
	}
	r.must(vmm.Remove, i, nil)
}

// A hypervisor that stands still answers nobody. What is asked of it fails in
// time, others are not held up, and a kill works.
func tellHang(t *testing.T, r rig) {
	if r.socket == "" {
		t.Skip("it has no socket that could hang")
	}
	i, a := instance("c-hang", 1), r.vm("c-hang", "")
	r.must(vmm.Start, i, a)
	r.ready(i)
	freeze(t, r.hypervisor(i))
	begin := time.Now()
	for _, verb := range []vmm.Verb{vmm.Stop, vmm.Pause} {
		if err := r.do(verb, i, a); err == nil {
			t.Errorf("%v of a frozen hypervisor succeeded", verb)
		}
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
	begin = time.Now()
	if u := r.usage(i.UID); u == nil || u.MemoryBytes == 0 || u.Disks || time.Since(begin) > 5*time.Second {
		t.Errorf("%+v after %v", u, time.Since(begin))
	}
	r.reopen() // nor is a daemon held up that starts meanwhile
	r.report("alive", i, func(v vmm.Report) bool { return v.Liveness == vmm.Alive && !v.Ready })
	r.must(vmm.Kill, i, nil)
	r.exit(i, Killed)
	r.must(vmm.Remove, i, nil)
}

// A socket that an attempt before has left, or that somebody else listens on, is
// in nobody's way.
func tellStale(t *testing.T, r rig) {
	if r.socket == "" {
		t.Skip("it has no socket that could be stale")
	}
	i, a := instance("c-stale", 1), r.vm("c-stale", "")
	run := r.h.at.runOf(i.UID)
	if err := os.MkdirAll(run, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(run, r.socket), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	r.must(vmm.Start, i, a)
	r.ready(i)
	r.awaitConsole(i.UID, "tick 1 ")
	kill9(t, r.hypervisor(i))
	r.exit(i, Crashed) // and leaves its own
	i.Attempt = 2
	r.must(vmm.Start, i, a)
	r.ready(i)
	r.must(vmm.Kill, i, nil)
	r.exit(i, Killed)
	r.must(vmm.Remove, i, nil)
}

// A paused guest does nothing, whoever looks; it goes on where it was.
func tellPause(t *testing.T, r rig) {
	i, a := instance("c-pause", 1), r.vm("c-pause", "")
	r.must(vmm.Start, i, a)
	r.ready(i)
	r.awaitConsole(i.UID, "tick 2 ")
	for range 2 { // twice is once
		r.must(vmm.Pause, i, a)
	}
	r.report("paused", i, func(v vmm.Report) bool { return v.Ready && v.Paused })
	r.still(t, i.UID)
	r.reopen()
	if v := r.ready(i); !v.Paused {
		r.report("paused, after the daemon", i, func(v vmm.Report) bool { return v.Ready && v.Paused })
	}
	r.still(t, i.UID)
	ticks := r.ticks(i.UID)
	r.forget()
	for range 2 {
		r.must(vmm.Resume, i, a)
	}
	r.report("going on", i, func(v vmm.Report) bool { return v.Ready && !v.Paused })
	r.awaitTicks(i.UID, ticks+3)
	if strings.Count(r.console(i.UID), "up name=") != 1 {
		t.Error("it was started anew")
	}
	r.must(vmm.Pause, i, a)
	r.must(vmm.Kill, i, nil)
	r.exit(i, Killed)
	r.must(vmm.Remove, i, nil)
}

// A guest has at once what its newest spec leaves it of what it was started with, and
// all of it when that says so, or more; another daemon knows what it has.
func tellBalloon(t *testing.T, r rig) {
	i, a := instance("c-balloon", 1), r.vm("c-balloon", "")
	r.must(vmm.Start, i, a)
	r.awaitConsole(i.UID, "up name=")
	boot := a.Spec.MemoryMib
	if got := r.ready(i); got.BootMiB != boot || got.MemoryMiB != boot {
		t.Fatalf("it was started with %d of %d MiB, want %d", got.MemoryMiB, got.BootMiB, boot)
	}
	has := func(ask, want uint64) {
		t.Helper()
		a.Spec.MemoryMib = ask
		r.forget()
		err := r.do(vmm.Balloon, i, a)
		for n := 0; err != nil && n < 5; n++ { // a guest on a busy machine gives it slowly
			err = r.do(vmm.Balloon, i, a)
		}
		if err != nil {
			t.Fatal(err)
		}
		r.report(fmt.Sprintf("%d MiB", want), i, func(v vmm.Report) bool { return v.BootMiB == boot && v.MemoryMiB == want })
	}
	has(boot-16, boot-16)
	has(boot-32, boot-32)
	r.reopen()
	r.report("as it was", i, func(v vmm.Report) bool { return v.Ready && v.BootMiB == boot && v.MemoryMiB == boot-32 })
	has(2*boot, boot)
	r.awaitTicks(i.UID, r.ticks(i.UID)+2)
	r.must(vmm.Kill, i, nil)
	r.exit(i, Killed)
	if r.real {
		r.must(vmm.Remove, i, nil) // a second boot would say no more
		return
	}
	i.Attempt, a.Spec.MemoryMib = 2, boot-16 // and when it is started anew, nothing is taken
	r.must(vmm.Start, i, a)
	r.awaitConsole(i.UID, "attempt=2")
	r.report("anew", i, func(v vmm.Report) bool { return v.Ready && v.BootMiB == boot-16 && v.MemoryMiB == boot-16 })
	r.must(vmm.Kill, i, nil)
	r.exit(i, Killed)
	i.Attempt, a.Spec.MemoryMib = 3, boot // a guest without a driver for it
	a.Spec.GetImage().Cmdline += " fake.greedy=1"
	r.must(vmm.Start, i, a)
	r.ready(i)
	a.Spec.MemoryMib = boot - 16
	if err := r.do(vmm.Balloon, i, a); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("has %d MiB", boot)) {
		t.Errorf("what it does not give: %v", err)
	}
	r.report("all of it", i, func(v vmm.Report) bool { return v.MemoryMiB == boot })
	r.must(vmm.Kill, i, nil)
	r.exit(i, Killed)
	r.must(vmm.Remove, i, nil)
}

// A paused guest hears the power button: it goes on for that.
func tellPausedStop(t *testing.T, r rig) {
	i, a := instance("c-pstop", 1), r.vm("c-pstop", "")
	r.must(vmm.Start, i, a)
	r.awaitConsole(i.UID, "tick 1 ")
	r.must(vmm.Pause, i, a)
	r.must(vmm.Stop, i, a)
	if e := r.exit(i, Exited); e.Code != 0 {
		t.Error(e)
	}
	r.must(vmm.Remove, i, nil)
	// One that does not heed it runs, and is said to.
	i, a = instance("c-pdeaf", 1), r.vm("c-pdeaf", "deaf")
	r.must(vmm.Start, i, a)
	r.ready(i)
	r.awaitConsole(i.UID, "tick 1 ")
	r.must(vmm.Pause, i, a)
	r.report("paused", i, func(v vmm.Report) bool { return v.Ready && v.Paused })
	r.forget()
	r.must(vmm.Stop, i, a)
	r.report("going on", i, func(v vmm.Report) bool { return v.Ready && !v.Paused })
	r.must(vmm.Kill, i, nil)
	r.exit(i, Killed)
	r.must(vmm.Remove, i, nil)
}

// What a VM takes of its host is there for whoever asks, grows as it works, and is gone
// with it.
func tellStats(t *testing.T, r rig) {
	i, a := instance("c-stats", 1), r.vm("c-stats", "")
	if a.Spec.GetImage() != nil {
		a.Spec.GetImage().Disks = []*blixardv1.Disk{{Name: "data", SizeMib: 8}}
		a.Spec.GetImage().Cmdline += " blixard.note=data" // which it writes
	}
	if r.usage(i.UID) != nil {
		t.Error("it takes something before it is there")
	}
	r.must(vmm.Start, i, a)
	r.ready(i)
	r.awaitConsole(i.UID, "tick 2 ")
	before := r.usage(i.UID)
	if before == nil || before.Processes == 0 || before.MemoryBytes < 1<<16 || before.Disks != r.counts {
		t.Fatalf("%+v", before)
	}
	if r.counts && (before.DiskRead == 0 || before.DiskWritten == 0) {
		t.Errorf("its disk was not used: %+v", before)
	}
	if before.Received != 0 || before.Sent != 0 {
		t.Errorf("it is plugged into nothing: %+v", before)
	}
	var now *Usage
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if now = r.usage(i.UID); now != nil && now.CPUSeconds > before.CPUSeconds {
			break
		}
	}
	if now == nil || now.CPUSeconds <= before.CPUSeconds || now.DiskWritten < before.DiskWritten {
		t.Errorf("%+v, and before %+v", now, before)
	}
	r.reopen() // another daemon knows it as well
	r.ready(i)
	if u := r.usage(i.UID); u == nil || u.CPUSeconds < now.CPUSeconds || u.Disks != r.counts || u.DiskWritten < now.DiskWritten {
		t.Errorf("%+v, and before %+v", u, now)
	}
	r.must(vmm.Kill, i, nil)
	r.exit(i, Killed)
	if u := r.usage(i.UID); u != nil {
		t.Errorf("what has ended takes %+v", u)
	}
	r.must(vmm.Remove, i, nil)
}

// usage is a VM's, nil for none.
func (b *bench) usage(uid string) *Usage {
	for _, u := range b.h.Usage() {
		if u.UID == uid {
			return &u
		}
	}
	return nil
}

// A disk of the VM's own is there with what it was made of, outlives an attempt,
// and goes with the VM.
func tellVolume(t *testing.T, r rig) {
	i, a := instance("c-disk", 1), r.vm("c-disk", "")
	seed := r.put([]byte(strings.Repeat("data on a disk ", 1000)))
	a.Spec.GetImage().Disks = []*blixardv1.Disk{
		{Name: "seed", Source: seed, SizeMib: 1}, {Name: "blank", SizeMib: 1 << 10, Limit: &blixardv1.DiskLimit{BytesPerSecond: 64 << 20, OpsPerSecond: 1000}}, {Name: "ro", Source: seed, ReadOnly: true},
	}
	r.must(vmm.Build, i, a)
	r.must(vmm.Start, i, a)
	r.ready(i)
	path := func(name string) string { return diskPath(r.h.at.stateOf(i.UID), name) }
	if st, err := os.Stat(path("blank")); err != nil || st.Size() != 1<<30 {
		t.Error(st, err)
	}
	if b, err := os.ReadFile(path("seed")); err != nil || len(b) != 1<<20 || !strings.HasPrefix(string(b), "data on a disk ") {
		t.Error(len(b), err)
	}
	r.must(vmm.Kill, i, nil)
	r.exit(i, Killed)
	mark := []byte("written meanwhile")
	f, err := os.OpenFile(path("blank"), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(mark, 4096)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	i.Attempt = 2
	a.Spec.GetImage().Disks[1].SizeMib = 2 << 10 // it grows, and keeps what it had
	a.Spec.GetImage().Disks[0].SizeMib = 0       // and never shrinks
	r.must(vmm.Start, i, a)
	r.ready(i)
	for name, want := range map[string]int64{"blank": 2 << 30, "seed": 1 << 20} {
		if st, err := os.Stat(path(name)); err != nil || st.Size() != want {
			t.Errorf("%s: %v %v, want %d", name, st, err, want)
		}
	}
	b := make([]byte, len(mark))
	if f, err := os.Open(path("blank")); err != nil {
		t.Error(err)
	} else {
		if _, err := f.ReadAt(b, 4096); err != nil || string(b) != string(mark) {
			t.Errorf("%q %v", b, err)
		}
		f.Close()
	}
	r.must(vmm.Kill, i, nil)
	r.exit(i, Killed)
	r.must(vmm.Remove, i, nil)
	if _, err := os.Stat(path("blank")); err == nil {
		t.Error("its disk is left")
	}
}

// A volume of the cluster is there for one VM after the other, as large as it has
// grown meanwhile; and what the one has written the next one reads.
func tellVolumes(t *testing.T, r rig) {
	list := []*blixardv1.VolumeConfig{
		{Volume: order("9-1", 16, rawFormat), Disk: "raw"},
		{Volume: order("9-2", 16, rawFormat), Disk: "fixed", ReadOnly: true},
	}
	if r.kind.Answer(blixardv1.Capability_CAPABILITY_QCOW2) == hypervisor.Yes {
		list = append(list, &blixardv1.VolumeConfig{Volume: order("9-3", 16, qcow2Format), Disk: "qcow"})
	}
	start := func(uid string) (shim.Instance, *blixardv1.Assignment) {
		i, a := instance(uid, 1), r.vm(uid, "")
		a.Spec.GetImage().Cmdline += " blixard.note=raw,fixed,qcow"
		a.Volumes = list
		r.must(vmm.Start, i, a)
		r.ready(i)
		return i, a
	}
	i, _ := start("c-first")
	if r.real {
		for _, words := range []string{`disk raw of 16777216 holds ""`, "disk raw has a note now", `disk fixed of 16777216 holds ""`, "disk fixed is read-only", `disk qcow of 16777216 holds ""`, "disk qcow has a note now"} {
			r.awaitConsole(i.UID, words)
		}
	}
	if err := r.do(vmm.Start, instance("c-second", 1), func() *blixardv1.Assignment { a := r.vm("c-second", ""); a.Volumes = list; return a }()); err == nil || !strings.Contains(err.Error(), "VM c-first has it") {
		t.Errorf("two have one volume: %v", err)
	}
	r.must(vmm.Kill, i, nil)
	r.exit(i, Killed)
	r.must(vmm.Remove, i, nil)
	for _, m := range list {
		m.Volume.Made, m.Volume.SizeMib = true, 32
	}
	r.must(vmm.Remove, instance("c-second", 1), nil)
	i, _ = start("c-third")
	if r.real {
		for _, words := range []string{`disk raw of 33554432 holds "uid=c-first attempt=1"`, `disk fixed of 33554432 holds ""`, `disk qcow of 33554432 holds "uid=c-first attempt=1"`, "disk qcow has a note now"} {
			r.awaitConsole(i.UID, words)
		}
	}
	r.must(vmm.Kill, i, nil)
	r.exit(i, Killed)
}

// userNetwork plugs a VM into the hypervisor's own network, and gives the port of the
// host that leads to its 7.
func userNetwork(t *testing.T, a *blixardv1.Assignment) (port int) {
	port = portOfOurs(t)
	a.Spec.Networks = []*blixardv1.Interface{{
		Kind:  &blixardv1.Interface_User{User: &blixardv1.UserInterface{Restrict: true}},
		Ports: []*blixardv1.PortForward{{Address: "127.0.0.1", HostPort: uint32(port), GuestPort: 7}},
	}}
	a.Interfaces = []*blixardv1.InterfaceConfig{{Mac: "02:00:00:00:00:07"}}
	return port
}

var portsOfOurs atomic.Uint32

// portOfOurs is a port where nobody listens, another one each time, and none that the
// kernel gives to connections, or to whoever listens on port 0: a guest is a while in coming.
func portOfOurs(t *testing.T) int {
	t.Helper()
	for range 1000 {
		port := 30_000 + int(uint32(os.Getpid())*16+portsOfOurs.Add(1))%2_700
		if l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no free port from 30000 to 32699 on loopback")
	return 0
}

// A port of the host leads to the guest's, and to nobody when the guest has ended.
func tellUserNetwork(t *testing.T, r rig) {
	i, a := instance("c-user", 1), r.vm("c-user", "")
	port := userNetwork(t, a)
	r.must(vmm.Start, i, a)
	r.awaitConsole(i.UID, "net eth0 10.0.2.15/24")
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	if err := echoes(address); err != nil {
		t.Error(err)
	}
	r.must(vmm.Kill, i, nil)
	r.exit(i, Killed)
	if err := echoes(address); err == nil {
		t.Error("somebody answers still")
	}
	// A port that another program has is said in words.
	l, err := net.Listen("tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	i.Attempt = 2
	if err := r.do(vmm.Start, i, a); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("(pid %d)", os.Getpid())) {
		t.Error(err)
	}
	r.must(vmm.Remove, i, nil)
}

// networks are those that tests of this process have had.
var networks atomic.Int64

// aNetwork is the third byte of the addresses of a network, and the name of its bridge,
// which no other story has: they are told at the same time.
func aNetwork() (n int, bridge string) {
	k := int(networks.Add(1))
	return (os.Getpid() + 83*k) % 250, fmt.Sprintf("bxt%dn%d", os.Getpid()%1e6, k)
}

// Two VMs on a bridge reach each other, and the host reaches them. What they were
// plugged into goes with them, whoever ends them, and whether a daemon sees it.
func tellNetwork(t *testing.T, r rig) {
	if err := r.h.plugs(); err != nil {
		t.Skipf("VMs cannot be plugged into networks here: %v", err)
	}
	n, bridge := aNetwork()
	addresses := []string{fmt.Sprintf("10.213.%d.2", n), fmt.Sprintf("10.213.%d.3", n)}
	var vms []*blixardv1.Assignment
	for k, uid := range []string{"c-net-a", "c-net-b"} {
		a := r.vm(uid, "")
		a.Spec.Networks = []*blixardv1.Interface{{Kind: &blixardv1.Interface_Network{Network: "lan"}}}
		a.Interfaces = []*blixardv1.InterfaceConfig{{
			Mac: fmt.Sprintf("02:00:00:00:%02x:%02x", n, k), Network: "lan", Bridge: bridge, BridgeAddress: fmt.Sprintf("10.213.%d.1/24", n),
			Address: addresses[k] + "/24", Gateway: fmt.Sprintf("10.213.%d.1", n),
		}}
		vms = append(vms, a)
	}
	vms[1].Spec.GetImage().Cmdline += " blixard.dial=" + addresses[0] + ":7"
	links := func(when string, want ...string) {
		t.Helper()
		var got []string
		all, err := net.Interfaces()
		for _, l := range all {
			if l.Name == bridge || l.Name == r.h.links.Tap("c-net-a", 0) || l.Name == r.h.links.Tap("c-net-b", 0) {
				got = append(got, l.Name)
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s there are %v, want %v (%v)", when, got, want, err)
		}
	}
	a, b := instance("c-net-a", 1), instance("c-net-b", 1)
	tapA, tapB := r.h.links.Tap(a.UID, 0), r.h.links.Tap(b.UID, 0)
	links("at first")
	r.must(vmm.Start, a, vms[0])
	r.must(vmm.Start, b, vms[1])
	r.awaitConsole(a.UID, "net eth0 "+addresses[0]+"/24")
	r.awaitConsole(b.UID, "net eth0 "+addresses[1]+"/24")
	links("plugged in,", bridge, tapA, tapB)
	if r.real {
		r.awaitConsole(b.UID, "reached "+addresses[0]+":7")
		for _, address := range addresses {
			if err := echoes(address + ":7"); err != nil {
				t.Error(err)
			}
		}
		if u := r.usage(a.UID); u == nil || u.Received == 0 || u.Sent == 0 {
			t.Errorf("it was spoken with, and: %+v", u)
		}
	}
	r.reopen()
	r.ready(a)
	links("with another daemon,", bridge, tapA, tapB)
	kill9(t, r.hypervisor(a))
	r.exit(a, Crashed)
	links("one has crashed:", bridge, tapB)
	a.Attempt = 2
	r.must(vmm.Start, a, vms[0])
	r.awaitConsole(a.UID, "attempt=2")
	links("started again:", bridge, tapA, tapB)
	r.h.Close()
	kill9(t, r.state(b).Shim.PID) // while there is no daemon
	r.open()
	r.down(b)
	links("one has died unseen:", bridge, tapA)
	r.must(vmm.Remove, b, nil)
	r.must(vmm.Kill, a, nil)
	r.exit(a, Killed)
	links("all have ended:")
	r.must(vmm.Remove, a, nil)
}

// echoes says something to our guest's echo, and hears it.
func echoes(address string) error {
	c, err := net.DialTimeout("tcp4", address, 3*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		return fmt.Errorf("heard %q: %w", b, err)
	}
	return nil
}

// forget forgets what was seen.
func (r rig) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = nil
}

// hypervisor is the process that runs the guest.
func (r rig) hypervisor(i shim.Instance) int {
	r.t.Helper()
	f, err := familyIn(r.h.at.runOf(i.UID))
	if err != nil {
		r.t.Fatal(err)
	}
	all := f.all()
	if len(all) == 0 {
		r.t.Fatal("no process of it is there")
	}
	return all[0]
}

// ticks is the newest that a guest has said.
func (r rig) ticks(uid string) int {
	text := r.console(uid)
	at := strings.LastIndex(text, "tick ")
	if at < 0 {
		return 0
	}
	var n int
	fmt.Sscanf(text[at:], "tick %d ", &n)
	return n
}

func (r rig) awaitTicks(uid string, n int) {
	r.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if r.ticks(uid) >= n {
			return
		}
	}
	r.t.Fatalf("it has not come to tick %d: %s", n, r.console(uid))
}

// still holds a guest to saying nothing.
func (r rig) still(t *testing.T, uid string) {
	t.Helper()
	time.Sleep(200 * time.Millisecond) // what was on its way
	before := r.console(uid)
	time.Sleep(500 * time.Millisecond)
	if after := r.console(uid); after != before {
		t.Errorf("paused, it said %q", strings.TrimPrefix(after, before))
	}
}
