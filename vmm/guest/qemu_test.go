package guest_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/blixard/blixard/vmm/guest/agent"
	"github.com/blixard/blixard/vmm/guest/boot"
	"github.com/blixard/blixard/vmm/guest/tsc"
)

// Real boots, under emulation, which works wherever QEMU does. They run only
// where scripts/setup has been, and cost some 4 seconds of processor each.

// patience is for a machine that does much else.
const patience = 2 * time.Minute

func TestBoot(t *testing.T) {
	vm := start(t, boot.Params{Name: "web", UID: "u-1", Attempt: 3, Tick: 200 * time.Millisecond})
	vm.awaitLine("blixard-guest: up name=web uid=u-1 attempt=3")
	t.Logf("up after %v", time.Since(vm.started).Round(10*time.Millisecond))
	for n := 1; n <= 3; n++ {
		vm.awaitLine(fmt.Sprintf("blixard-guest: tick %d name=web", n))
	}

	a := vm.agent()
	if r := a.ask(agent.Request{ID: 1, Op: agent.Ping}); !r.OK || r.Name != "web" || r.UptimeMS <= 0 {
		t.Errorf("ping: %+v", r)
	}
	if r := a.ask(agent.Request{ID: 2, Op: agent.Info}); !r.OK || r.Info == nil || r.Info.UID != "u-1" ||
		r.Info.Attempt != 3 || r.Info.CPUs != 1 || r.Info.MemTotalBytes == 0 {
		t.Errorf("info: %+v", r)
	}
	if r := a.ask(agent.Request{ID: 3, Op: "fly"}); r.OK || !strings.Contains(r.Error, `unknown op "fly"`) {
		t.Errorf("unknown op: %+v", r)
	}
	if r := a.ask(execOf(4, 0, "no-such-program")); r.OK || !strings.Contains(r.Error, "no-such-program") {
		t.Errorf("no such program: %+v", r)
	}
	echo := execOf(5, 0, "cat")
	echo.Exec.Stdin = []byte("through the guest")
	if r := a.ask(echo); !r.OK || r.Exec.Exit != 0 || string(r.Exec.Stdout) != "through the guest" {
		t.Errorf("cat: %+v", r)
	}
	if r := a.ask(execOf(6, 0, "cat", "/nowhere")); !r.OK || r.Exec.Exit != 1 || len(r.Exec.Stderr) == 0 {
		t.Errorf("a program that fails: %+v, %+v", r, r.Exec)
	}
	if r := a.ask(execOf(7, 300, "sleep", "1h")); !r.OK || !r.Exec.TimedOut || r.Exec.Exit != 128+9 {
		t.Errorf("a program that takes too long: %+v, %+v", r, r.Exec)
	}
	if r := a.ask(execOf(8, 0, "cat", "/init")); !r.OK || !r.Exec.Bounded || len(r.Exec.Stdout) != agent.MaxOutput {
		t.Errorf("a program that says too much: ok %v, %.60q", r.OK, r.Error)
	}

	// A host that goes away in the middle of a line does not disturb the next.
	a.write(`{"id":9,"op":"pi`)
	a.conn.Close()
	b := vm.agent()
	if r := b.ask(agent.Request{ID: 10, Op: agent.Ping}); !r.OK {
		t.Errorf("ping by the next host: %+v", r)
	}

	vm.powerdown()
	vm.awaitLine("blixard-guest: power button, shutting down")
	vm.awaitExit(0)
}

func TestADeafGuestSurvivesThePowerButton(t *testing.T) {
	vm := start(t, boot.Params{Name: "deaf", Tick: 100 * time.Millisecond, Behave: boot.Behaviour{Kind: boot.Deaf}})
	vm.awaitLine("blixard-guest: up name=deaf")
	vm.powerdown()
	vm.awaitLine("blixard-guest: power button, ignored")
	after := vm.lastTick()
	for n := after + 1; n <= after+5; n++ {
		vm.awaitLine(fmt.Sprintf("blixard-guest: tick %d name=deaf", n))
	}
	// The agent is another way in, and is obeyed.
	if r := vm.agent().ask(agent.Request{ID: 1, Op: agent.Shutdown}); !r.OK {
		t.Errorf("shutdown: %+v", r)
	}
	vm.awaitExit(0)
}

func TestAGuestCanExitWithACode(t *testing.T) {
	vm := start(t, boot.Params{Behave: boot.Behaviour{Kind: boot.Exit, Code: 7}})
	vm.awaitExit(7)
	vm.awaitLine("blixard-guest: up")
}

func TestAGuestCanCrash(t *testing.T) {
	vm := start(t, boot.Params{Tick: 100 * time.Millisecond, Behave: boot.Behaviour{Kind: boot.CrashAfter, After: 250 * time.Millisecond}})
	vm.awaitExit(0) // -no-reboot: QEMU takes the reset after a panic for the end
	vm.awaitLine("blixard-guest: tick 1")
	vm.awaitLine("Kernel panic - not syncing: Attempted to kill init!")
}

func execOf(id uint64, timeoutMS int64, argv ...string) agent.Request {
	return agent.Request{ID: id, Op: agent.Exec, Exec: &agent.ExecRequest{Argv: argv, TimeoutMS: timeoutMS}}
}

// vm is a running QEMU.
type vm struct {
	t       *testing.T
	dir     string
	started time.Time
	exited  chan struct{} // closed when cmd has ended
	cmd     *exec.Cmd
	stderr  bytes.Buffer
}

func start(t *testing.T, p boot.Params) *vm {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: a boot under emulation takes seconds")
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skipf("no QEMU: run scripts/setup (%v)", err)
	}
	cache := cacheDir()
	kernel, initrd := filepath.Join(cache, "vmlinux"), filepath.Join(cache, "initrd")
	for _, f := range []string{kernel, initrd} {
		if _, err := os.Stat(f); err != nil {
			t.Skipf("no guest to boot: run scripts/setup (%v)", err)
		}
	}
	khz, err := tsc.KHz()
	if err != nil {
		t.Skip(err)
	}
	words, err := p.Cmdline()
	if err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir: a socket's path must be shorter than a test's name can be.
	dir, err := os.MkdirTemp("", "guest-")
	if err != nil {
		t.Fatal(err)
	}
	v := &vm{t: t, dir: dir, exited: make(chan struct{})}
	v.cmd = exec.Command(qemu, arguments(dir, kernel, initrd, khz, words)...)
	v.cmd.Stderr = &v.stderr
	v.started = time.Now()
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = v.cmd.Wait() // the state has the exit code
		close(v.exited)
	}()
	t.Cleanup(func() {
		_ = v.cmd.Process.Kill()
		<-v.exited
		if t.Failed() {
			t.Logf("QEMU: %s\nconsole:\n%s", v.stderr.Bytes(), v.console())
		}
		os.RemoveAll(dir)
	})
	return v
}

// arguments is the command line that boots reliably under emulation.
//
// Without tsc_early_khz the guest measures the host's counter against an
// emulated timer, for ever if the host is busy. tsc=reliable with neither PIT
// nor PIC leaves it no periodic timer, so that it costs next to nothing while
// idle. The crypto self-tests take half a second and prove nothing here.
func arguments(dir, kernel, initrd string, khz int, words string) []string {
	return []string{
		"-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "128",
		"-M", "microvm,acpi=on,pit=off,pic=off", "-global", "virtio-mmio.force-legacy=false",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-chardev", "socket,id=con,path=" + dir + "/console,server=on,wait=off,logfile=" + dir + "/console.log",
		"-serial", "chardev:con",
		"-qmp", "unix:" + dir + "/qmp,server=on,wait=off",
		"-device", "virtio-serial-device,id=vs",
		"-chardev", "socket,id=ag,path=" + dir + "/agent,server=on,wait=off",
		"-device", "virtserialport,bus=vs.0,chardev=ag,name=" + agent.Port,
		"-device", "isa-debug-exit,iobase=0xf4,iosize=0x04",
		"-kernel", kernel, "-initrd", initrd,
		"-append", fmt.Sprintf("console=ttyS0 quiet tsc_early_khz=%d tsc=reliable nokaslr mitigations=off "+
			"cryptomgr.notests panic=-1 reboot=t %s", khz, words),
	}
}

func cacheDir() string {
	if dir := os.Getenv("BLIXARD_CACHE"); dir != "" {
		return dir
	}
	dir, _ := os.UserCacheDir() // "" where there is none: then nothing is found there
	return filepath.Join(dir, "blixard")
}

func (v *vm) console() string {
	b, _ := os.ReadFile(filepath.Join(v.dir, "console.log")) // not there yet: nothing said yet
	return strings.ReplaceAll(string(b), "\r\n", "\n")
}

// awaitLine waits until the console has a line that begins with want, or has
// it after a kernel's time stamp.
func (v *vm) awaitLine(want string) {
	v.t.Helper()
	v.await(fmt.Sprintf("the line %q", want), func() bool {
		for line := range strings.Lines(v.console()) {
			if _, said, ok := strings.Cut(line, "] "); ok && strings.HasPrefix(line, "[") {
				line = said
			}
			if strings.HasPrefix(line, want) && strings.HasSuffix(line, "\n") {
				return true
			}
		}
		return false
	})
}

func (v *vm) lastTick() (n int) {
	for line := range strings.Lines(v.console()) {
		_, _ = fmt.Sscanf(line, "blixard-guest: tick %d ", &n) // other lines leave n
	}
	return n
}

func (v *vm) await(what string, ok func() bool) {
	v.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		select {
		case <-v.exited:
			if ok() {
				return
			}
			v.t.Fatalf("QEMU exited with %d before %s", v.cmd.ProcessState.ExitCode(), what)
		default:
		}
		if time.Now().After(deadline) {
			v.t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

func (v *vm) awaitExit(code int) {
	v.t.Helper()
	select {
	case <-v.exited:
		if got := v.cmd.ProcessState.ExitCode(); got != code {
			v.t.Errorf("QEMU exited with %d, want %d", got, code)
		}
	case <-time.After(patience):
		v.t.Fatalf("waited %v for QEMU to exit", patience)
	}
}

func (v *vm) dial(socket string) net.Conn {
	v.t.Helper()
	c, err := net.Dial("unix", filepath.Join(v.dir, socket))
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// powerdown presses the power button.
func (v *vm) powerdown() {
	v.t.Helper()
	c := v.dial("qmp")
	defer c.Close()
	r := bufio.NewReader(c)
	for _, command := range []string{"", "qmp_capabilities", "system_powerdown"} {
		if command != "" {
			fmt.Fprintf(c, "{\"execute\":%q}\n", command)
		}
		if line, err := r.ReadBytes('\n'); err != nil || bytes.Contains(line, []byte(`"error"`)) {
			v.t.Fatalf("QMP %s: %s, %v", command, line, err)
		}
	}
}

// client is the host's end of the agent's port.
type client struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func (v *vm) agent() *client {
	v.t.Helper()
	c := v.dial("agent")
	a := &client{v.t, c, bufio.NewReaderSize(c, agent.MaxLine)}
	a.write(agent.Hello)
	return a
}

func (a *client) write(s string) {
	a.t.Helper()
	if _, err := a.conn.Write([]byte(s)); err != nil {
		a.t.Fatal(err)
	}
}

// ask sends a request and waits for its response, ignoring those to others.
func (a *client) ask(req agent.Request) agent.Response {
	a.t.Helper()
	line, err := json.Marshal(req)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(string(line) + "\n")
	for {
		line, err := a.in.ReadBytes('\n')
		if err != nil {
			a.t.Fatal(errors.Join(fmt.Errorf("no response to %+v", req), err))
		}
		r, err := agent.DecodeResponse(line)
		if err != nil {
			a.t.Fatal(err)
		}
		if r.ID == req.ID {
			return r
		}
	}
}
