package runner

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	guestboot "github.com/blixard/blixard/vmm/guest/boot"
	"github.com/blixard/blixard/vmm/runner/shims"
	"github.com/blixard/blixard/vmm/shim"
)

func aBoot() boot {
	return boot{
		name: "web", instance: shim.Instance{UID: "1-5", Generation: 1, Index: 7, Attempt: 2}, vcpus: 2, memoryMib: 256,
		kernel: "/s/kernel", initrd: "/s/initrd", cmdline: `root=/dev/vda x="a b"`,
		disks: []disk{
			{name: "root", path: "/s/vms/1-5/disks/root.raw", format: "raw", bytes: 1 << 30, rate: 1e6, ops: 100},
			{name: "data", path: "/s/vms/1-5/disks/data.raw", readOnly: true, format: "qcow2", bytes: 1 << 20},
		},
		place: place{run: "/r/v/ab", state: "/s/vms/1-5", console: "/s/vms/1-5/console.log"},
	}
}

func TestQEMUsCommandLine(t *testing.T) {
	argv, err := machine{program: "/usr/bin/qemu-system-x86_64", tscKHz: 2300000}.argv(aBoot())
	if err != nil {
		t.Fatal(err)
	}
	const want = `/usr/bin/qemu-system-x86_64
-name guest=web
-nodefaults
-no-user-config
-display none
-no-reboot
-M microvm,acpi=on,pit=off,pic=off
-accel tcg
-cpu max
-smp 2
-m size=262152K
-qmp unix:/r/v/ab/qmp,server=on,wait=off
-chardev socket,id=con,path=/r/v/ab/con,server=on,wait=off,logfile=/s/vms/1-5/console.log,logappend=on
-serial chardev:con
-device virtio-serial-device,id=vs
-chardev socket,id=ag,path=/r/v/ab/agent,server=on,wait=off
-device virtserialport,bus=vs.0,chardev=ag,name=org.blixard.agent
-device virtio-rng-device
-device isa-debug-exit,iobase=0xf4,iosize=0x04
-global virtio-mmio.force-legacy=false
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
-device virtio-balloon-device,deflate-on-oom=on
-drive id=d0,file=/s/vms/1-5/disks/root.raw,if=none,format=raw,cache=writeback,discard=unmap,throttling.bps-total=1000000,throttling.iops-total=100
-device virtio-blk-device,drive=d0,serial=root
-drive id=d1,file=/s/vms/1-5/disks/data.raw,if=none,format=qcow2,cache=writeback,discard=unmap,read-only=on
-device virtio-blk-device,drive=d1,serial=data
-kernel /s/kernel
-initrd /s/initrd
-append console=ttyS0 quiet panic=-1 reboot=t nokaslr mitigations=off cryptomgr.notests tsc_early_khz=2300000 tsc=reliable ` +
		`blixard.name=web blixard.uid=1-5 blixard.attempt=2 root=/dev/vda x="a b"`
	if got := strings.ReplaceAll(strings.Join(argv, " "), " -", "\n-"); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	argv, err = machine{program: "q", kvm: true, tscKHz: 1}.argv(aBoot())
	line := strings.Join(argv, " ")
	if err != nil || !strings.Contains(line, "-accel kvm") || strings.Contains(line, "tsc") || strings.Contains(line, "mitigations") {
		t.Errorf("with KVM: %s %v", line, err)
	}
	b := aBoot()
	b.q35, b.nics = true, []nic{{mac: "02:00:00:00:00:01", user: true}}
	argv, err = machine{program: "q"}.argv(b)
	line = strings.Join(argv, " ")
	if n := strings.Count(line, "-pci"); err != nil || n != 6 || !strings.Contains(line, "-M q35,") || strings.Contains(line, "-mmio") || regexp.MustCompile(`virtio-[a-z]+-device`).MatchString(line) {
		t.Errorf("as a PC, with %d devices: %s %v", n, line, err)
	}
}

func TestQEMUsInterfaces(t *testing.T) {
	user := &blixardv1.Interface_User{User: &blixardv1.UserInterface{}}
	port := func(host, guest uint32) *blixardv1.PortForward {
		return &blixardv1.PortForward{HostPort: host, GuestPort: guest}
	}
	udp := port(53, 5353)
	udp.Address, udp.Protocol = "10.0.0.1", blixardv1.Protocol_PROTOCOL_UDP
	a := &blixardv1.Assignment{
		Spec:       &blixardv1.VMSpec{Networks: []*blixardv1.Interface{{Kind: user, Ports: []*blixardv1.PortForward{port(8080, 80), udp}}}},
		Interfaces: []*blixardv1.InterfaceConfig{{Mac: "02:00:00:00:00:0A"}},
	}
	b := aBoot()
	var err error
	if b.nics, err = nicsOf(a); err != nil {
		t.Fatal(err)
	}
	argv, err := machine{program: "q"}.argv(b)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Join(argv, " ")
	for _, want := range []string{
		"-netdev user,id=n0,ipv6=off,hostfwd=tcp::8080-:80,hostfwd=udp:10.0.0.1:53-:5353 -device virtio-net-device,netdev=n0,mac=02:00:00:00:00:0a",
		"ip=10.0.2.15::10.0.2.2:255.255.255.0:web:eth0:off:10.0.2.3 ifname=eth0:02:00:00:00:00:0a",
	} {
		if !strings.Contains(line, want) {
			t.Errorf("no %s in %s", want, line)
		}
	}
	for want, spoil := range map[string]func(){
		"no hardware address": func() { a.Interfaces[0].Mac = "x,y" },
		"no address of this":  func() { a.Spec.Networks[0].Ports[1].Address = "1,hostfwd=" },
		"no port":             func() { a.Spec.Networks[0].Ports[0].HostPort = 1 << 16 },
		"another version":     func() { a.Interfaces = nil },
	} {
		kept := proto.CloneOf(a)
		spoil()
		if _, err := nicsOf(a); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
		a = kept
	}
}

func TestNothingGetsOutOfQEMUsSyntax(t *testing.T) {
	b := aBoot()
	b.name = "web,process=evil"
	b.place.console = "/s/a,b/console.log"
	b.cmdline = "-drive file=/etc/shadow,if=none"
	argv, err := machine{program: "q"}.argv(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"guest=web,,process=evil", "logfile=/s/a,,b/console.log,logappend=on"} {
		if !strings.Contains(strings.Join(argv, "\n"), want) {
			t.Errorf("no %s in %q", want, argv)
		}
	}
	if last := argv[len(argv)-1]; !strings.HasSuffix(last, b.cmdline) || argv[len(argv)-2] != "-append" {
		t.Errorf("%q", argv)
	}
	for _, name := range []string{"a b", "a\nb", `a"b`, "a\x00b", "a\tb"} {
		b := aBoot()
		b.name = name
		if _, err := (machine{}).argv(b); err == nil {
			t.Errorf("%q: taken", name)
		}
	}
	b.name, b.cmdline = "web", strings.Repeat("x", 2000)
	if _, err := (machine{}).argv(b); err == nil || !strings.Contains(err.Error(), "shorten") {
		t.Error(err)
	}
}

func TestBadImagesAreRefusedInWords(t *testing.T) {
	kernel := &blixardv1.Artifact{Digest: strings.Repeat("a", 64), Size: 1}
	for want, image := range map[string]*blixardv1.Image{
		"no kernel":         {},
		"control character": {Kernel: kernel, Cmdline: "a\nb"},
		"a disk's name":     {Kernel: kernel, Disks: []*blixardv1.Disk{{Name: "../x", SizeMib: 1}}},
		"neither":           {Kernel: kernel, Disks: []*blixardv1.Disk{{Name: "x"}}},
		"does not fit":      {Kernel: kernel, Disks: []*blixardv1.Disk{{Name: "x", SizeMib: 1, Source: &blixardv1.Artifact{Size: 2 << 20}}}},
		"no disk has":       {Kernel: kernel, Disks: []*blixardv1.Disk{{Name: "x", SizeMib: 1 << 60}}},
		"two disks":         {Kernel: kernel, Disks: []*blixardv1.Disk{{Name: "x", SizeMib: 1}, {Name: "x", SizeMib: 1}}},
	} {
		_, err := (&qemu{}).needs(&blixardv1.Assignment{Spec: &blixardv1.VMSpec{Source: &blixardv1.VMSpec_Image{Image: image}}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// What every driver must do with a real guest is told by the conformance suite;
// here is what is QEMU's own. It runs only where scripts/setup has been.

type guestBench struct {
	*bench
	kernel, initrd *blixardv1.Artifact
}

func newGuestBench(t testing.TB, change ...func(*Config)) guestBench {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: a boot under emulation takes seconds")
	}
	cache := os.Getenv("BLIXARD_CACHE")
	if cache == "" {
		dir, _ := os.UserCacheDir()
		cache = filepath.Join(dir, "blixard")
	}
	kernel, err := os.ReadFile(filepath.Join(cache, "vmlinuz"))
	if err != nil {
		t.Skipf("no kernel: run scripts/setup (%v)", err)
	}
	initrd, err := os.ReadFile(filepath.Join(cache, "initrd"))
	if err != nil {
		t.Skipf("no guest: run scripts/setup (%v)", err)
	}
	b := newBench(t, change...)
	if b.h.drivers[blixardv1.Hypervisor_HYPERVISOR_QEMU] == nil {
		t.Skip("no QEMU: run scripts/setup")
	}
	return guestBench{b, b.put(kernel), b.put(initrd)}
}

func (b guestBench) image(uid, cmdline string) *blixardv1.Assignment {
	a := program(uid, "")
	a.Hypervisor = blixardv1.Hypervisor_HYPERVISOR_QEMU
	a.Spec = &blixardv1.VMSpec{MemoryMib: 128, Vcpus: 1, Source: &blixardv1.VMSpec_Image{Image: &blixardv1.Image{
		Kernel: b.kernel, Initrd: b.initrd, Cmdline: cmdline,
	}}}
	return a
}

// BenchmarkIdleGuest says what an idle guest takes of a core: as it is, with a
// faster heartbeat on its console, and with next to none. Run it with -benchtime=1x
// on a machine that does little, and more than once.
func BenchmarkIdleGuest(t *testing.B) {
	for _, vcpus := range []uint32{1, 2} {
		for _, tick := range []time.Duration{guestboot.DefaultTick, time.Second, time.Hour} {
			t.Run(fmt.Sprintf("vcpus=%d/tick=%s", vcpus, tick), func(t *testing.B) {
				b := newGuestBench(t)
				i := instance("1-1", 1)
				a := b.image("1-1", "blixard.tick="+tick.String())
				a.Spec.Vcpus = vcpus
				b.must(vmm.Start, i, a)
				b.awaitConsole("1-1", "up name=")
				time.Sleep(10 * time.Second) // it settles
				pid := b.state(i).VM.PID
				used, begin := cpuTime(t, pid), time.Now()
				for range t.N {
					time.Sleep(30 * time.Second)
				}
				t.ReportMetric(100*float64(cpuTime(t, pid)-used)/float64(time.Since(begin)), "%core")
				b.must(vmm.Kill, i, nil)
			})
		}
	}
}

// cpuTime is what all threads of a process have run.
func cpuTime(t testing.TB, pid int) (sum time.Duration) {
	files, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/schedstat")
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // a thread that has ended meanwhile
		}
		ns, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += time.Duration(ns)
	}
	return sum
}

func TestAKernelThatIsNone(t *testing.T) {
	t.Parallel()
	b := newGuestBench(t)
	a := b.image("1-1", "")
	a.Spec.GetImage().Kernel = b.put([]byte(strings.Repeat("no kernel ", 1000)))
	i := instance("1-1", 1)
	if err := b.do(vmm.Build, i, a); err == nil || !strings.Contains(err.Error(), "no Linux kernel") {
		t.Error(err)
	}
	// One that looks like a kernel is found out by QEMU.
	a.Spec.GetImage().Kernel = b.put([]byte("\x7fELF and then something else entirely"))
	b.must(vmm.Start, i, a)
	e := b.exit(i, BootFailed)
	if !strings.Contains(e.Message, "kernel") && !strings.Contains(e.Message, "qemu") {
		t.Errorf("QEMU's own words are missing: %+v", e)
	}
}

func TestAQMPThatHangsHoldsUpNothing(t *testing.T) {
	dir, err := os.MkdirTemp("", "bx")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, qmpSocket))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go io.Copy(io.Discard, c) // listens, and never says a word
		}
	}()
	q := &qemu{log: func(string, ...any) {}}
	begin := time.Now()
	s := q.follow(place{run: dir}, func(guestState) { t.Error("ready") })
	if err := s.stop(t.Context(), nil); !errors.Is(err, errNoQMP) {
		t.Error(err)
	}
	s.close()
	if took := time.Since(begin); took > 2*qmpPatience {
		t.Errorf("it took %v", took)
	}
}

func TestAGuestPausedByAFullDiskGoesOn(t *testing.T) {
	defer func(d time.Duration) { again = d }(again)
	again = 20 * time.Millisecond
	dir, err := os.MkdirTemp("", "bx")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, qmpSocket))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	commands := make(chan string, 16)
	go func() { // a QEMU whose guest is up, and then cannot write
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		fmt.Fprintln(c, `{"QMP":{}}`)
		status, asked := "running", 0
		lines := bufio.NewScanner(c)
		for id := 1; lines.Scan(); id++ {
			commands <- lines.Text()
			answer := `{}`
			if strings.Contains(lines.Text(), "query-status") {
				asked++
				answer = fmt.Sprintf(`{"status":%q}`, status)
			} else if strings.Contains(lines.Text(), "query-jobs") || strings.Contains(lines.Text(), "query-named-block-nodes") {
				answer = "[]"
			}
			fmt.Fprintf(c, `{"return":%s,"id":%d}`+"\n", answer, id)
			if asked == 2 && status == "running" { // it has been seen to run
				status = "io-error"
				fmt.Fprintln(c, `{"event":"BLOCK_IO_ERROR","data":{"device":"d0","nospace":true,"action":"stop"}}`)
			}
		}
	}()
	warned := make(chan struct{}, 1)
	q := &qemu{log: func(string, ...any) {}, warn: func(string, ...any) { warned <- struct{}{} }}
	ready := make(chan struct{})
	s := q.follow(place{run: dir}, func(guestState) { close(ready) })
	defer s.close()
	for _, c := range []chan struct{}{ready, warned} {
		select {
		case <-c:
		case <-time.After(20 * time.Second):
			t.Fatal("it has not seen the guest run, and then stand still")
		}
	}
	for {
		select {
		case c := <-commands:
			if strings.Contains(c, `"cont"`) {
				return
			}
		case <-time.After(patience):
			t.Fatal("it was not told to go on")
		}
	}
}

func TestAFullDiskFailsAStartAndLeavesNoHalfDisk(t *testing.T) {
	t.Parallel()
	b := newGuestBench(t)
	full := fullDisk(t)
	if full == "" {
		t.Skip("no tmpfs can be mounted here (needs root)")
	}
	b.h.Close()
	b.cfg.StateDir = full
	b.open()
	a := b.image("1-1", "")
	big := make([]byte, 8<<20)
	for i := range big {
		big[i] = byte(i>>8) | 1
	}
	a.Spec.GetImage().Disks = []*blixardv1.Disk{{Name: "root", Source: b.put(big)}}
	i := instance("1-1", 1)
	err := b.do(vmm.Start, i, a)
	if err == nil || !strings.Contains(err.Error(), "no space for a disk") {
		t.Fatal(err)
	}
	b.exit(i, StartFailed)
	if left, _ := os.ReadDir(filepath.Join(b.h.at.stateOf("1-1"), "disks")); len(left) != 0 {
		t.Errorf("left %v", left)
	}
	b.must(vmm.Remove, i, nil)
	if !shims.Dead(b.h.at.runOf("1-1")) {
		t.Error("something is alive")
	}
}

// A PC with PCI runs what microvm runs: disks, a network, the balloon and the power
// button, with the same guest.
func TestQ35(t *testing.T) {
	t.Parallel()
	r := qemuRig(t)
	i, a := instance("q35", 1), r.vm("q35", "")
	a.Spec.Machine = blixardv1.Machine_MACHINE_Q35
	a.Spec.GetImage().Cmdline += " blixard.note=own"
	a.Spec.GetImage().Disks = []*blixardv1.Disk{{Name: "own", SizeMib: 16}}
	port := userNetwork(t, a)
	r.must(vmm.Start, i, a)
	r.awaitConsole(i.UID, "disk own has a note now")
	r.awaitConsole(i.UID, "net eth0 10.0.2.15/24")
	r.awaitConsole(i.UID, "up name=vm-q35")
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", r.hypervisor(i)))
	if err != nil || !strings.Contains(string(b), "\x00"+q35Type+"\x00") {
		t.Errorf("it runs %q (%v)", b, err)
	}
	if err := echoes(net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err != nil {
		t.Error(err)
	}
	boot := a.Spec.MemoryMib
	a.Spec.MemoryMib -= 16
	r.must(vmm.Balloon, i, a)
	r.report("less memory", i, func(v vmm.Report) bool { return v.MemoryMiB == boot-16 })
	r.must(vmm.Pause, i, a)
	r.must(vmm.Stop, i, a)
	if e := r.exit(i, Exited); e.Code != 0 {
		t.Error(e)
	}
	r.must(vmm.Remove, i, nil)
}
