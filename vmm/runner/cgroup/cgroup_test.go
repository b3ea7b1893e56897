package cgroup

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestWhereWeAre(t *testing.T) {
	for name, c := range map[string]struct{ mounts, cgroup, base, err string }{
		"version 1 only": {"30 25 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n", "4:memory:/\n", "", "no cgroup2"},
		"hybrid, at the root": {
			"30 25 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n31 25 0:27 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n",
			"4:memory:/x\n0::/\n", "/sys/fs/cgroup/unified/blixard", ""},
		"a service":               {"31 25 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/system.slice/blixard.service\n", "", "Delegate=yes"},
		"a part of it is mounted": {"31 25 0:27 /some /mnt rw - cgroup2 cgroup2 rw\n", "0::/\n", "", "no cgroup2"},
		"in none":                 {"31 25 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "4:memory:/\n", "", "in no cgroup"},
	} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "self"), 0o700); err != nil {
			t.Fatal(err)
		}
		for file, text := range map[string]string{"mountinfo": c.mounts, "cgroup": c.cgroup} {
			if err := os.WriteFile(filepath.Join(dir, "self", file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		base, err := system{dir}.base()
		if base != c.base || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %q, %v", name, base, err)
		}
	}
	if _, err := Open(t.TempDir(), "x"); err == nil || !strings.Contains(err.Error(), "no cgroup2") {
		t.Errorf("a folder of another file system: %v", err)
	}
}

// here is a tree of this machine's.
func here(t *testing.T) *Tree {
	tree, err := Open("", t.Name())
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		tree.Close()
		if _, err := os.Stat(tree.own); err == nil {
			t.Errorf("%s is left", tree.own)
		}
	})
	return tree
}

// What a VM forks is in its cgroup, and is ended with it, whatever controllers there
// are; nothing is left.
func TestTheLifeOfACgroup(t *testing.T) {
	tree := here(t)
	t.Logf("%s bounds %v; lacks: %v", tree.own, tree.Bounds, tree.Lacks)
	if delegated(tree.own) {
		t.Error("nobody has delegated it")
	}
	if err := unix.Setxattr(tree.own, "user.delegate", []byte("1"), 0); err != nil {
		t.Logf("not tried: what is delegated: %v", err)
	} else if !delegated(tree.own) {
		t.Error("it is delegated")
	}
	for _, attempt := range []string{"1.1.1", "1.1.2"} {
		leaf, err := tree.Prepare("vm", attempt, Limits{MemoryBytes: 64 << 20, CPUs: 100, Weight: 100, Processes: 10})
		if err != nil {
			t.Fatal(err)
		}
		cmd := inside(t, leaf, "/bin/sh", "-c", "sleep 100 & setsid sleep 100 & wait")
		for end := time.Now().Add(10 * time.Second); len(words(filepath.Join(leaf, "cgroup.procs"))) < 3; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("what it forks is not with it: %q", words(filepath.Join(leaf, "cgroup.procs")))
			}
		}
		if err := tree.Remove("vm"); err == nil {
			t.Error("the cgroup of a VM that lives was removed")
		}
		if err := tree.Sweep(nil); err != nil {
			t.Error(err)
		}
		if err := write(leaf, "cgroup.kill", "1"); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		for end := time.Now().Add(10 * time.Second); len(words(filepath.Join(leaf, "cgroup.procs"))) > 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("what it has forked was not ended")
			}
		}
	}
	if err := tree.Sweep([]string{"vm"}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(tree.vm("vm")); err != nil {
		t.Errorf("a VM that is known: %v", err)
	}
	if err := tree.Sweep(nil); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(tree.vm("vm")); err == nil {
		t.Error("the cgroup of a VM that is gone is left")
	}
}

// What a daemon that was killed has left goes with the next one, whoever that is; not
// what a daemon holds, nor anything that lives.
func TestWhatAKilledDaemonLeaves(t *testing.T) {
	tree := here(t)
	other := func(name string) *Tree {
		o, err := Open("", t.Name()+name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.Prepare("vm", "1.1.1", Limits{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = o.Sweep(nil)
			o.Close()
		})
		return o
	}
	killed, lives, runs := other(" killed"), other(" lives"), other(" runs")
	cmd := inside(t, filepath.Join(runs.vm("vm"), "1.1.1"), "/bin/sleep", "100")
	killed.letGo()
	runs.letGo()
	if err := tree.SweepOthers(t.Context()); err != nil {
		t.Error(err)
	}
	for dir, stays := range map[string]bool{killed.own: false, lives.vm("vm"): true, runs.vm("vm"): true, tree.Shims(): true} {
		if _, err := os.Stat(dir); (err == nil) != stays {
			t.Errorf("%s stays: %t, want %t", dir, err == nil, stays)
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err := tree.SweepOthers(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(runs.own); err == nil {
		t.Error("what has ended in the meantime is left")
	}
}

// inside starts a program in a fresh cgroup.
func inside(t testing.TB, leaf string, argv ...string) *exec.Cmd {
	t.Helper()
	cmd, err := startInside(leaf, argv...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = write(leaf, "cgroup.kill", "1"); _ = cmd.Wait() })
	return cmd
}

func startInside(leaf string, argv ...string) (*exec.Cmd, error) {
	if err := os.Mkdir(leaf, 0o755); err != nil {
		return nil, err
	}
	fd, err := unix.Open(leaf, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd}
	return cmd, cmd.Start()
}

// The bounds hold where there are controllers: here, or else in a guest of ours,
// whose kernel has all of them.
func TestBounds(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: a boot under emulation takes seconds")
	}
	var said string
	tree, err := Open("", t.Name())
	if err == nil {
		tree.Close()
	}
	if err == nil && slices.Equal(tree.Bounds, controllers) {
		said = bounds()
	} else {
		said = boundsInAGuest(t)
	}
	t.Log("\n" + said)
	for _, want := range []string{"bounds cpu,memory,pids", "memory: held", "cpu: held", "pids: held", "left: nothing"} {
		if !strings.Contains(said, want+"\n") {
			t.Errorf("%q is missing", want)
		}
	}
}
