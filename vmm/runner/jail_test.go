package runner

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/core"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/runner/fakevmm"
)

// staticFake is package fakevmm as a program that runs where there are no libraries. It
// is built once, into a folder that TestMain removes.
var staticFake = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "bxfake")
	if err != nil {
		return "", err
	}
	staticFakeDir = dir
	program := filepath.Join(dir, "fakevmm")
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", program, "./testdata/fakevmm")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the fake: %w\n%s", err, out)
	}
	return program, nil
})

var staticFakeDir string

// fakeJail is a folder with a Firecracker and a jailer, both fakes.
func fakeJail(t *testing.T) (firecracker, jailer string) {
	t.Helper()
	program, err := staticFake()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	firecracker, jailer = filepath.Join(dir, fakevmm.Firecracker), filepath.Join(dir, fakevmm.Jailer)
	if err := errors.Join(copyFile(t.Context(), program, firecracker), os.Link(firecracker, jailer), os.Chmod(firecracker, 0o755)); err != nil {
		t.Fatal(err)
	}
	return firecracker, jailer
}

// jailBench has the fake run in the fake's jail.
func jailBench(t *testing.T, h blixardv1.Hypervisor) *bench {
	t.Helper()
	firecracker, jailer := fakeJail(t)
	return newBench(t, func(c *Config) {
		c.Programs, c.Jailer = map[blixardv1.Hypervisor]string{h: firecracker}, jailer
	})
}

// In its jail it sees what it was given and nothing else of the host, as a user of its
// own and without a descriptor of ours. The host has one empty folder of it, and no
// mount; and when all is killed at once, nothing lives and nothing is left.
func TestFirecrackerInItsJail(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can use Firecracker's jailer")
	}
	b := jailBench(t, firecrackerKind)
	if f := b.await("inventory", func(o core.Observed) bool { return o.Inventory }).Facts; f.Isolation.Jailer != "1.16.1" || f.Isolation.JailerWhy != "" {
		t.Errorf("facts %v", f.Isolation)
	}
	a, i := b.faked(firecrackerKind, "1-5", "blixard.tick=50ms"), instance("1-5", 1)
	a.Spec.GetImage().Disks = []*blixardv1.Disk{{Name: "data", SizeMib: 1}}
	a.Volumes = []*blixardv1.VolumeConfig{{Volume: order("9-1", 16, rawFormat), Disk: "vol"}}
	mounts := b.mounts()
	b.must(vmm.Start, i, a)
	b.awaitConsole("1-5", "tick 2 ")
	b.ready(i)
	run, state := b.h.at.runOf("1-5"), b.h.at.stateOf("1-5")
	all, err := familyIn(run)
	if err != nil || len(all.all()) != 1 {
		t.Fatalf("its processes: %v %v", all.all(), err)
	}
	proc := fmt.Sprintf("/proc/%d/", all.all()[0])
	var saw []string
	err = filepath.WalkDir(proc+"root/", func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			saw = append(saw, strings.TrimPrefix(path, proc+"root/"))
		}
		return err
	})
	want := []string{"config.json", "dev/kvm", "dev/net/tun", "dev/urandom", "disks/data.raw", "firecracker", "firecracker.pid", "kernel", "run/api", "vmm.log", "volumes/vol"}
	if slices.Sort(saw); err != nil || !slices.Equal(saw, want) {
		t.Errorf("it sees %v (%v), not %v", saw, err, want)
	}
	status, _ := os.ReadFile(proc + "status")
	for _, line := range []string{fmt.Sprintf("Uid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\n", readUser(t, state).UID), "Gid:\t262144\t262144\t262144\t262144\n", "Groups:\t \n", "CapEff:\t0000000000000000\n"} {
		if !strings.Contains(string(status), line) {
			t.Errorf("its status has no %q: %s", line, status)
		}
	}
	fds, err := os.ReadDir(proc + "fd")
	for _, fd := range fds {
		to, _ := os.Readlink(proc + "fd/" + fd.Name())
		if strings.HasPrefix(to, run) || strings.Contains(to, "/lock") {
			t.Errorf("it has %s open", to)
		}
	}
	if err != nil || len(fds) == 0 {
		t.Error(fds, err)
	}
	// What it may not write is so by the mount, whatever its mode says.
	config := filepath.Join(proc, "root", "config.json")
	if err := os.WriteFile(config, []byte("{}"), 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("its configuration is written: %v", err)
	}
	if inside, err := os.ReadDir(filepath.Join(run, jailFolder)); err != nil || len(inside) != 0 {
		t.Errorf("on the host its jail has %v (%v)", inside, err)
	}
	if now := b.mounts(); now != mounts {
		t.Errorf("the host has other mounts:\n%s\nbefore:\n%s", now, mounts)
	}
	// A start without a jail, by a daemon that may not, and again with one.
	jailer := b.cfg.Jailer
	for n, how := range []string{noJailer, jailer} {
		b.must(vmm.Kill, i, a)
		b.exit(i, Killed)
		b.cfg.Jailer = how
		b.reopen()
		i.Attempt++
		b.must(vmm.Start, i, a)
		b.awaitConsole("1-5", fmt.Sprintf("attempt=%d", n+2))
		b.ready(i)
		if p := (place{run: run}); p.jailed() != (how == jailer) {
			t.Errorf("with --jailer %s it is jailed: %v", how, p.jailed())
		}
	}
	pids, _ := familyIn(run)
	pid := pids.all()[0]
	kill9(t, b.state(i).Shim.PID)
	b.down(i)
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
		t.Error("it outlives its shim")
	}
	b.must(vmm.Remove, i, nil)
	if isThere(run) || isThere(state) {
		t.Error("something of it is left")
	}
	if now := b.mounts(); now != mounts {
		t.Errorf("the host has other mounts:\n%s\nbefore:\n%s", now, mounts)
	}
}

// mounts are those of this machine that are in the bench's directories, or of something
// there. Others' come and go: tests of other packages run beside this one.
func (b *bench) mounts() string {
	b.t.Helper()
	all, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		b.t.Fatal(err)
	}
	return string(bytes.Join(slices.DeleteFunc(bytes.SplitAfter(all, []byte("\n")), func(line []byte) bool {
		return !bytes.Contains(line, []byte(b.cfg.RunRoot)) && !bytes.Contains(line, []byte(b.cfg.StateDir))
	}), nil))
}

func readUser(t *testing.T, state string) (u struct{ UID uint32 }) {
	t.Helper()
	r, err := readRecord(state)
	if err != nil || r == nil || r.User == nil {
		t.Fatalf("its record: %+v %v", r, err)
	}
	u.UID = r.User.UID
	return u
}

// What keeps Firecracker out of a jail is said, and a jailer that was named and is of no
// use is an error.
func TestWhyThereIsNoJail(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can use Firecracker's jailer")
	}
	firecracker, jailer := fakeJail(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dynamic := filepath.Join(t.TempDir(), fakevmm.Firecracker)
	older := filepath.Join(t.TempDir(), "jailer")
	if err := errors.Join(os.Link(self, dynamic), os.WriteFile(older, []byte("#!/bin/sh\necho Jailer v1.7.0\n"), 0o755)); err != nil {
		t.Fatal(err)
	}
	base := newBench(t).cfg
	for _, c := range []struct{ users, program, jailer, why string }{
		{someUsers, firecracker, noJailer, "not wanted"},
		{"", firecracker, jailer, "--vm-users"},
		{someUsers, firecracker, jailer + "-not", "install the one of Firecracker's release"},
		{someUsers, firecracker, older, `is of version "1.7.0"`},
		{someUsers, dynamic, jailer, "linked dynamically"},
	} {
		t.Run(c.why, func(t *testing.T) {
			cfg := base
			cfg.HostID, cfg.Users, cfg.Jailer = "2", c.users, c.jailer
			cfg.Programs = map[blixardv1.Hypervisor]string{firecrackerKind: c.program}
			facts := make(chan *blixardv1.HostFacts, 1)
			cfg.Observe = func(o core.Observed) {
				if o.Inventory {
					facts <- o.Facts
				}
			}
			h, err := New(cfg)
			if err == nil {
				defer h.Close()
			}
			if c.jailer == noJailer {
				if err != nil {
					t.Fatal(err)
				}
				if i := (<-facts).Isolation; i.Jailer != "" || !strings.Contains(i.JailerWhy, c.why) {
					t.Errorf("facts %v", i)
				}
			} else if err == nil || !strings.Contains(err.Error(), c.why) {
				t.Errorf("a daemon that was told to use %s starts: %v", c.jailer, err)
			}
		})
	}
	t.Run("none in PATH", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		b := newBench(t, func(c *Config) { c.Programs = map[blixardv1.Hypervisor]string{firecrackerKind: firecracker} })
		f := b.await("inventory", func(o core.Observed) bool { return o.Inventory }).Facts
		if b.h.jailer != nil || !strings.Contains(f.Isolation.JailerWhy, "executable file not found") {
			t.Errorf("facts %v", f.Isolation)
		}
	})
}

// An end before Firecracker's begin is told from one of its own.
func TestAJailThatIsNotMade(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can use Firecracker's jailer")
	}
	for _, c := range []struct {
		name, jailer string
		word         string
		code         int32
		says         string
	}{
		{"jailer", `echo "Failed to create /dev/kvm via mknod inside the jail: Operation not permitted" >&2; exit 1`, "", 1, "an error of its jailer: Failed to create /dev/kvm"},
		{"panic", `echo "Failed to sanitize the Jailer process" >&2; exit 101`, "", 101, "a panic of its jailer: Failed to sanitize"},
		{"no jailer", "", "", 125, "the jail was not made: "},
		{"Firecracker", "", "fake.early=148", 148, "a system call that it may not make"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := jailBench(t, firecrackerKind)
			i := instance("1-1", 1)
			a := b.faked(firecrackerKind, i.UID, c.word)
			switch jailer := b.h.jailer.program; {
			case c.jailer != "":
				fake := filepath.Join(t.TempDir(), "jailer")
				if err := os.WriteFile(fake, []byte("#!/bin/sh\n"+c.jailer+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
				b.h.jailer.program = fake
			case c.word == "":
				if err := os.Remove(jailer); err != nil {
					t.Fatal(err)
				}
			}
			b.must(vmm.Start, i, a)
			if e := b.exit(i, BootFailed); e.Code != c.code || !strings.Contains(e.Message, c.says) {
				t.Errorf("%+v", e)
			}
		})
	}
}

// A snapshot that was taken in a jail goes on without one, and the other way round: to
// both its disks are in the same place.
func TestASnapshotGoesIntoAJailAndOut(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can use Firecracker's jailer")
	}
	b := jailBench(t, firecrackerKind)
	jailer := b.cfg.Jailer
	for _, c := range []struct{ uid, taken, goesOn string }{{"1-5", jailer, noJailer}, {"1-6", noJailer, jailer}} {
		b.cfg.Jailer = c.taken
		b.reopen()
		i, a := instance(c.uid, 1), b.faked(firecrackerKind, c.uid, "blixard.tick=20ms")
		a.Spec.GetImage().Disks = []*blixardv1.Disk{{Name: "data", SizeMib: 1}}
		b.must(vmm.Start, i, a)
		b.ready(i)
		b.awaitConsole(c.uid, "tick 5 ")
		if _, err := b.order(vmm.Action{Verb: vmm.Snapshot, Instance: i, Assignment: a, Snapshot: c.uid + "0"}); err != nil {
			t.Fatal(err)
		}
		if left, err := filepath.Glob(filepath.Join(b.h.at.stateOf(c.uid), savedFolder, "*")); err != nil || len(left) != 0 {
			t.Errorf("%v is left where it was written (%v)", left, err)
		}
		b.must(vmm.Kill, i, a)
		b.exit(i, Killed)
		b.cfg.Jailer = c.goesOn
		b.reopen()
		i.Attempt++
		mark := len(b.console(c.uid))
		if _, err := b.order(vmm.Action{Verb: vmm.Start, Instance: i, Assignment: a, Restore: &blixardv1.RestoreFrom{Uid: c.uid + "0", Name: "snap", Index: 60, Memory: true}}); err != nil {
			t.Fatal(err)
		}
		b.awaitConsoleFrom(c.uid, mark, "tick ")
		if said := b.console(c.uid)[mark:]; strings.Contains(said, "up name=") {
			t.Errorf("it was started anew: %s", said)
		}
		b.must(vmm.Kill, i, nil)
		b.must(vmm.Remove, i, nil)
	}
}
