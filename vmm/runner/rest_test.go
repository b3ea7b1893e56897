package runner

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/runner/fakevmm"
	"github.com/blixard/blixard/vmm/shim"
)

const (
	cloudKind       = blixardv1.Hypervisor_HYPERVISOR_CLOUD_HYPERVISOR
	firecrackerKind = blixardv1.Hypervisor_HYPERVISOR_FIRECRACKER
)

func TestCloudHypervisorsCommandLine(t *testing.T) {
	b := aBoot()
	b.disks[1].path = "/s/a,b/data.raw"
	argv, err := (&cloud{program: "/usr/bin/cloud-hypervisor"}).argv(b)
	if err != nil {
		t.Fatal(err)
	}
	const want = `/usr/bin/cloud-hypervisor
--api-socket path=/r/v/ab/api
--event-monitor path=/r/v/ab/events
--log-file /r/v/ab/vmm.log
--seccomp true
--cpus boot=2
--memory size=256M
--serial tty
--console off
--pvpanic
--kernel /s/kernel
--cmdline console=ttyS0 quiet panic=-1 reboot=t blixard.name=web blixard.uid=1-5 blixard.attempt=2 root=/dev/vda x="a b"
--initramfs /s/initrd
--balloon size=0,deflate_on_oom=on
--disk path=/s/vms/1-5/disks/root.raw,image_type=raw,serial=root,bw_size=1000000,bw_refill_time=1000,ops_size=100,ops_refill_time=1000 path="/s/a,b/data.raw",image_type=qcow2,serial=data,readonly=on`
	if got := strings.ReplaceAll(strings.Join(argv, " "), " --", "\n--"); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestFirecrackersConfiguration(t *testing.T) {
	b := aBoot()
	if _, err := (&firecracker{}).config(b); err == nil || !strings.Contains(err.Error(), "disk data is qcow2") {
		t.Error(err)
	}
	b.disks[1].format = "raw"
	b.disks = append(b.disks, disk{name: "a-b", path: "/s/volumes/1-7/disk", format: "raw", ops: 50})
	c, err := (&firecracker{}).config(b)
	if err != nil {
		t.Fatal(err)
	}
	if c.Boot.Args != `console=ttyS0 quiet panic=-1 reboot=k pci=off blixard.name=web blixard.uid=1-5 blixard.attempt=2 root=/dev/vda x="a b"` ||
		c.Boot.Kernel != "/s/kernel" || c.Boot.Initrd != "/s/initrd" || c.Machine != (firecrackerMachine{2, 256}) ||
		c.Drives[1] != (firecrackerDrive{"data", "disks/data.raw", false, true, nil}) || c.Drives[2].ID != "a_b" || c.Drives[2].Path != "/s/volumes/1-7/disk" || c.Drives[2].ReadOnly ||
		*c.Drives[0].Limiter.Bandwidth != (firecrackerBucket{1e6, 1000}) || *c.Drives[0].Limiter.Ops != (firecrackerBucket{100, 1000}) || c.Drives[2].Limiter.Bandwidth != nil || c.Drives[2].Limiter.Ops.Size != 50 {
		t.Errorf("%+v", c)
	}
	b.disks = append(b.disks, disk{name: "a_b", path: "/s/other.raw", format: "raw"})
	if _, err := (&firecracker{}).config(b); err == nil || !strings.Contains(err.Error(), "rename one") {
		t.Error(err)
	}
}

// A hypervisor that ends by itself says why in its exit code, and we in words.
func TestTheirExitCodes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind         blixardv1.Hypervisor
		word, reason string
		code         int32
		says         string
	}{
		{firecrackerKind, "fake.exit=148", Crashed, 148, "seccomp"},
		{firecrackerKind, "fake.exit=149", Crashed, 149, "SIGBUS"},
		{firecrackerKind, "fake.exit=157", Crashed, 157, "SIGILL"},
		{firecrackerKind, "fake.exit=77", Crashed, 77, "means nothing to us"},
		{firecrackerKind, "fake.early=153", BootFailed, 153, "bad arguments"},
		{firecrackerKind, "fake.early=1", BootFailed, 1, "it ends before its guest is up"},
		{cloudKind, "fake.exit=1", Crashed, 1, "exit code 1"},
		{cloudKind, "fake.early=1", BootFailed, 1, "it ends before its guest is up"},
	} {
		t.Run(c.kind.String()+" "+c.word, func(t *testing.T) {
			b := fakeBench(t, c.kind)
			i := instance("1-1", 1)
			b.must(vmm.Start, i, b.faked(c.kind, i.UID, c.word))
			if e := b.exit(i, c.reason); e.Code != c.code || !strings.Contains(e.Message, c.says) {
				t.Errorf("%+v", e)
			}
		})
	}
}

func (b *bench) faked(kind blixardv1.Hypervisor, uid, cmdline string) *blixardv1.Assignment {
	a := program(uid, "")
	a.Hypervisor = kind
	a.Spec = &blixardv1.VMSpec{MemoryMib: 128, Vcpus: 1, Source: &blixardv1.VMSpec_Image{Image: &blixardv1.Image{
		Kernel: b.put([]byte("\x7fELF, and the rest is of no importance")), Cmdline: cmdline,
	}}}
	return a
}

// A configuration that cannot be is found out by Firecracker itself, and said.
func TestFirecrackerRefusesItsConfiguration(t *testing.T) {
	t.Parallel()
	b := fakeBench(t, firecrackerKind)
	i := instance("1-1", 1)
	a := b.faked(firecrackerKind, i.UID, "")
	a.Spec.Vcpus = 64
	b.must(vmm.Start, i, a)
	if e := b.exit(i, BootFailed); e.Code != 152 || !strings.Contains(e.Message, "a bad configuration") || !strings.Contains(e.Message, "single json failed") {
		t.Errorf("%+v", e)
	}
}

// A socket that takes connections and answers nothing holds up nobody: the VM
// counts as alive and not ready, and a kill ends it.
func TestAnAPIThatIsMute(t *testing.T) {
	t.Parallel()
	for _, kind := range []blixardv1.Hypervisor{cloudKind, firecrackerKind} {
		b := fakeBench(t, kind)
		i := instance("1-1", 1)
		b.must(vmm.Start, i, b.faked(kind, i.UID, "fake.mute=1"))
		b.awaitConsole(i.UID, "tick 1 ")
		begin := time.Now()
		for _, verb := range []vmm.Verb{vmm.Stop, vmm.Pause, vmm.Resume} {
			if err := b.do(verb, i, nil); err == nil {
				t.Errorf("%v: %v was done", kind, verb)
			}
		}
		if took := time.Since(begin); took > 30*time.Second {
			t.Errorf("%v: it took %v", kind, took)
		}
		b.must(vmm.Kill, i, nil)
		b.exit(i, Killed)
	}
}

// A request that is not among those we make ends the fake: no test passes by it.
func TestTheFakeTakesNothingElse(t *testing.T) {
	t.Parallel()
	for kind, call := range map[blixardv1.Hypervisor][2]string{
		cloudKind: {"PUT", "/api/v1/vm.boot"}, firecrackerKind: {"PUT", "/mmds"},
	} {
		b := fakeBench(t, kind)
		i := instance("1-1", 1)
		b.must(vmm.Start, i, b.faked(kind, i.UID, ""))
		b.ready(i)
		_ = rest{filepath.Join(b.h.at.runOf(i.UID), apiSocket)}.call(t.Context(), call[0], call[1], nil, nil)
		if e := b.exit(i, Crashed); e.Code != fakevmm.CodeViolation || !strings.Contains(b.console(i.UID), "VIOLATION: "+call[0]+" "+call[1]) {
			t.Errorf("%+v", e)
		}
	}
}

// A guest of cloud-hypervisor that reset itself while no daemon looked has been
// running since, and is left alone.
func TestAResetThatNobodySaw(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, eventsFile), []byte("{\"source\":\"vm\",\"event\":\"rebooting\"}\n\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &resets{path: filepath.Join(dir, eventsFile), warn: func(string, ...any) {}}
	r.skip()
	r.look(t.Context())
	if r.reset {
		t.Error("an old reset counts")
	}
	f, err := os.OpenFile(r.path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fmt.Fprint(f, "{\n  \"source\": \"guest\",\n  \"event\": \"panic\"\n}\n\n{\n  \"source\": \"v") // and half of one
	r.look(t.Context())
	fmt.Fprint(f, "m\",\n  \"event\": \"rebooting\"\n}\n\n")
	r.look(t.Context())
	if !r.reset || !r.panicked {
		t.Errorf("%+v", r)
	}
	if e := r.ended(shim.Exit{}, true, "Kernel panic - not syncing: x", place{run: dir}); e.Reason != Panicked {
		t.Errorf("%+v", e)
	}
}

// What a hypervisor says of a refusal reaches people, whichever way it says it.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]string{
		`{"fault_message":"The requested operation is not supported"}`: "The requested operation is not supported",
		`["Error pausing VM","InvalidStateTransition"]`:                "Error pausing VM: InvalidStateTransition",
		"404 nothing": "404 nothing",
	} {
		if got := complaint([]byte(answer)); got != want {
			t.Errorf("%s: %q", answer, got)
		}
	}
	dir, err := os.MkdirTemp("", "bx")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := (rest{filepath.Join(dir, "a")}).call(ctx, "GET", "/", nil, nil); !errors.Is(err, context.DeadlineExceeded) || unheard(err) {
		t.Error(err)
	}
	l.Close()
	if err := (rest{filepath.Join(dir, "a")}).call(t.Context(), "GET", "/", nil, nil); !unheard(err) {
		t.Error(err)
	}
}

// A runner that Nix built is paused over its own hypervisor's socket.
func TestPauseOfARunner(t *testing.T) {
	t.Parallel()
	b, s := nixBench(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	fake := filepath.Join(t.TempDir(), fakevmm.Firecracker)
	if err := os.Symlink(self, fake); err != nil {
		t.Fatal(err)
	}
	const config = `{"boot-source":{"kernel_image_path":"k","boot_args":"reboot=k blixard.tick=50ms"},"drives":[],"machine-config":{"vcpu_count":1,"mem_size_mib":64}}`
	s.script = map[string]string{
		"share/microvm/hypervisor": "firecracker",
		"microvm-run": fmt.Sprintf(`printf '\177ELF' > k; echo '%s' > c.json; rm -f a.sock; exec %s --id vm --api-sock a.sock --config-file c.json --log-path log --level Warning`,
			config, fake),
		"microvm-shutdown": "kill $MAINPID",
	}
	i := instance("1-1", 1)
	b.build(i, flake("1-1", 1))
	b.must(vmm.Start, i, flake("1-1", 1))
	b.ready(i)
	r := rig{bench: b}
	r.awaitTicks(i.UID, 2)
	b.must(vmm.Pause, i, nil)
	b.must(vmm.Pause, i, nil)
	b.report("paused", i, func(v vmm.Report) bool { return v.Paused })
	r.still(t, i.UID)
	b.reopen()
	b.report("paused, after the daemon", i, func(v vmm.Report) bool { return v.Ready && v.Paused })
	ticks := r.ticks(i.UID)
	b.must(vmm.Resume, i, nil)
	r.awaitTicks(i.UID, ticks+2)
	b.must(vmm.Pause, i, nil)
	b.must(vmm.Stop, i, nil)
	b.down(i)
}
