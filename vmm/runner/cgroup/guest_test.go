package cgroup

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/vmm/guest"
	"github.com/blixard/blixard/vmm/guest/tsc"
)

// TestMain lets the test program be the only program of a guest, and what runs
// within bounds.
func TestMain(m *testing.M) {
	switch role := os.Getenv("BLIXARD_TEST_ROLE"); {
	case os.Getpid() == 1 && !exists("/proc/self"):
		guestMain()
	case role == "eat":
		var all [][]byte
		for range 256 {
			all = append(all, bytes.Repeat([]byte{1}, 1<<20))
		}
		fmt.Println(len(all), "MiB were to be had")
		os.Exit(0)
	case role == "spin":
		for end := time.Now().Add(time.Second); time.Now().Before(end); {
		}
		os.Exit(0)
	case role == "fork":
		var errs error
		for range 32 { // traced, they stand still before they have cost anything
			if _, err := syscall.ForkExec("/proc/self/exe", []string{"x"}, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{Ptrace: true}}); err != nil {
				errs = err
			}
		}
		if errors.Is(errs, unix.EAGAIN) {
			os.Exit(11)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// ending is how a program ended.
type ending struct {
	code int
	cpu  time.Duration
	text string
}

// bounds tries each of them, and says what came of it.
func bounds() string {
	var out strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&out, format+"\n", args...) }
	tree, err := Open("", "bounds")
	if err != nil {
		say("%v", err)
		return out.String()
	}
	say("bounds %s", strings.Join(tree.Bounds, ","))
	try := func(role string, l Limits) ending {
		os.Setenv("BLIXARD_TEST_ROLE", role)
		defer os.Unsetenv("BLIXARD_TEST_ROLE")
		leaf, err := tree.Prepare(role, "1.1.1", l)
		if err != nil {
			say("%s: %v", role, err)
			return ending{code: -1}
		}
		cmd, err := startInside(leaf, "/proc/self/exe")
		if err != nil {
			say("%s: %v", role, err)
			return ending{code: -1}
		}
		_ = cmd.Wait()
		_ = write(leaf, "cgroup.kill", "1")
		for end := time.Now().Add(5 * time.Second); len(words(leaf+"/cgroup.procs")) > 0 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		state := cmd.ProcessState
		return ending{state.ExitCode(), state.SystemTime() + state.UserTime(), state.String()}
	}
	verdict := func(what string, held bool, why string, args ...any) {
		say("(%s: %s)", what, fmt.Sprintf(why, args...))
		say("%s: %s", what, map[bool]string{true: "held", false: "NOT held"}[held])
	}
	free := try("eat", Limits{})
	starvedFree := tree.Starved("eat")
	eat := try("eat", Limits{MemoryBytes: 96 << 20})
	verdict("memory", free.code == 0 && !starvedFree && eat.code != 0 && tree.Starved("eat"), "256 MiB without a bound: %v; with one of 96: %v, starved: %v", free.text, eat.text, tree.Starved("eat"))
	all := try("spin", Limits{Weight: 100})
	third := try("spin", Limits{CPUs: 30, Weight: 100})
	verdict("cpu", third.code == 0 && third.cpu < all.cpu/2, "in a second %v without a bound, %v with one of 30%%", all.cpu, third.cpu)
	many := try("fork", Limits{})
	few := try("fork", Limits{Processes: 16})
	verdict("pids", many.code == 0 && few.code == 11, "32 forks: %v without a bound, %v with one of 16", many.text, few.text)
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		_ = tree.Sweep(nil)
		tree.Close()
		if _, err := os.Stat(tree.own); err != nil {
			say("left: nothing")
			break
		} else if time.Now().After(end) {
			say("left: %s", tree.own)
			break
		}
	}
	return out.String()
}

// guestMain is the guest's init.
func guestMain() {
	for _, m := range [][2]string{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}, {"cgroup2", "/sys/fs/cgroup"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			fmt.Println("mount", m[1], err)
		}
	}
	fmt.Print(bounds())
	fmt.Println("done")
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

// boundsInAGuest boots this very program as a guest's init.
func boundsInAGuest(t *testing.T) string {
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skipf("no QEMU: run scripts/setup (%v)", err)
	}
	cache := os.Getenv("BLIXARD_CACHE")
	if cache == "" {
		dir, _ := os.UserCacheDir()
		cache = filepath.Join(dir, "blixard")
	}
	kernel := filepath.Join(cache, "vmlinux")
	if _, err := os.Stat(kernel); err != nil {
		t.Skipf("no kernel to boot: run scripts/setup (%v)", err)
	}
	khz, err := tsc.KHz()
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	program, err := os.ReadFile(static(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	initrd, err := os.Create(filepath.Join(dir, "initrd"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(guest.Write(initrd, guest.Files(program, nil)), initrd.Close()); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(qemu, "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "512",
		"-M", "microvm,acpi=on,pit=off,pic=off", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-serial", "stdio", "-kernel", kernel, "-initrd", initrd.Name(),
		"-append", fmt.Sprintf("console=ttyS0 quiet tsc_early_khz=%d tsc=reliable nokaslr mitigations=off cryptomgr.notests panic=-1 reboot=t", khz))
	cmd.WaitDelay = time.Second
	kill := time.AfterFunc(2*time.Minute, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	out, err := cmd.CombinedOutput()
	said := strings.ReplaceAll(string(out), "\r\n", "\n")
	if err != nil || !strings.Contains(said, "done\n") {
		t.Fatalf("the guest: %v: %s", err, said)
	}
	return said
}

// static gives this program, or where it needs a loader the same without.
func static(t *testing.T, dir string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Section(".interp") == nil {
		return self
	}
	built := filepath.Join(dir, "init")
	cmd := exec.Command("go", "test", "-c", "-o", built, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("this program is linked to a libc, and cannot be made otherwise: %v: %s", err, out)
	}
	return built
}
