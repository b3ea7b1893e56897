package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/vmm/runner/shims"
)

// A blixard up that is killed (SIGKILL, out of memory) can end nothing. Its nodes
// are told to stop by the kernel, and let go of their VMs, as a daemon must: with
// several nodes those end by their leases, but in a cluster of one host nothing
// ends them. So the next blixard up looks for what such a one has left in the
// temporary folder, ends it and says so. What was kept on purpose (--keep, --dir)
// is brought up again by its name, VMs and all.

// upLock is held by whoever keeps the cluster of a folder up.
const upLock = "up.lock"

// hold takes the folder for us, for as long as we live.
func (u *upCluster) hold() error {
	lock, err := lockUp(u.dir)
	if err != nil {
		u.Keep = true // it is not ours to remove
		return fmt.Errorf("%s: another 'blixard up' keeps that cluster up: %w", u.dir, err)
	}
	u.lock = lock
	return nil
}

func lockUp(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, upLock), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// sweepLeft ends what was left by those that were killed.
func (u *upCluster) sweepLeft() {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), upPrefix+"*"))
	for _, dir := range dirs {
		if dir == u.dir || !ownFolder(dir) {
			continue
		}
		if said := left(dir); said != "" {
			fmt.Fprintln(u.t.err, said)
		}
	}
}

func ownFolder(dir string) bool {
	var st unix.Stat_t
	return unix.Lstat(dir, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR && int(st.Uid) == os.Getuid()
}

// left ends what is left of the cluster of a folder, and says what it found.
func left(dir string) string {
	var state upState
	b, err := os.ReadFile(filepath.Join(dir, upFile))
	if err != nil || json.Unmarshal(b, &state) != nil || state.Keep {
		return ""
	}
	lock, err := lockUp(dir)
	if err != nil {
		return "" // it is up
	}
	defer lock.Close()
	for _, n := range state.Nodes {
		if n.PID != 0 && syscall.Kill(n.PID, 0) == nil {
			return fmt.Sprintf("A 'blixard up' was killed (%s); its node %s, process %d, has not ended yet: the next one cleans up.", dir, n.Name, n.PID)
		}
	}
	vms := 0
	for _, n := range state.Nodes {
		k, err := n.sweep()
		vms += k
		if err != nil {
			return fmt.Sprintf("A 'blixard up' was killed (%s), and what it ran cannot be ended: %v", dir, err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Sprintf("A 'blixard up' was killed, and its folder cannot be removed: %v", err)
	}
	ended := "Nothing of it ran any more"
	if vms > 0 {
		ended = "What it still ran was ended"
	}
	return fmt.Sprintf("A 'blixard up' was killed (%s). %s, and its folder is removed.", dir, ended)
}

// sweep ends the VMs of a node that does not run, and counts those that ran.
func (n upNode) sweep() (ran int, err error) {
	if !strings.HasPrefix(filepath.Base(n.Run), runPrefix) {
		return 0, fmt.Errorf("%s is no run directory of ours", n.Run)
	}
	dirs, _ := filepath.Glob(filepath.Join(n.Run, "*", "v", "*"))
	for _, d := range dirs {
		if !shims.Dead(d) {
			ran++
		}
		if err := shims.Sweep(d); err != nil {
			return ran, err
		}
	}
	return ran, os.RemoveAll(n.Run)
}
