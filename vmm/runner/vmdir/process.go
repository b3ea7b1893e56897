package vmdir

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/vmm/shim"
)

// Identify gives the lasting name of a process that we know to exist now.
func Identify(pid int) shim.Process {
	p, _ := stat(pid)
	return shim.Process{PID: pid, Start: p.start}
}

// Alive says whether that process still runs. A zombie runs nothing, unless it is only
// the first thread of a process whose others have not ended yet. So the init of a PID
// namespace is alive until its namespace is empty: its last thread sees to that.
func Alive(p shim.Process) bool {
	if p.PID <= 0 {
		return false
	}
	now, err := stat(p.PID)
	return err == nil && now.start == p.Start && (now.state != 'Z' && now.state != 'X' || now.threads > 1)
}

// Parent is the process that has started that one, or has it now.
func Parent(pid int) (int, error) {
	s, err := stat(pid)
	return s.parent, err
}

type stats struct {
	start   uint64
	parent  int
	threads int
	state   byte
}

// stat reads fields 3, 4, 20 and 22 of /proc/PID/stat; field 2 is in parentheses and
// may hold anything.
func stat(pid int) (s stats, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return s, err
	}
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 20 {
		return s, fmt.Errorf("/proc/%d/stat: %q", pid, b)
	}
	s.state = f[0][0]
	s.parent, err = strconv.Atoi(string(f[1]))
	if err == nil {
		s.threads, err = strconv.Atoi(string(f[17]))
	}
	if err == nil {
		s.start, err = strconv.ParseUint(string(f[19]), 10, 64)
	}
	return s, err
}

// KillProcess sends SIGKILL to that process and to no other.
func KillProcess(p shim.Process) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pidfd of %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	if !Alive(p) { // looked at after the pidfd was had: it is that one, or gone
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill %d: %w", p.PID, err)
	}
	return nil
}

// CgroupEmpty says whether no process is in the cgroup or below it; one that is
// not there is empty.
func CgroupEmpty(dir string) (bool, error) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		_, err := os.Stat(dir)
		if errors.Is(err, os.ErrNotExist) {
			return true, nil
		}
		return false, fmt.Errorf("%s is no cgroup of version 2", dir)
	}
	if err != nil {
		return false, err
	}
	return bytes.Contains(b, []byte("populated 0\n")), nil
}

// KillCgroup kills whatever is in the cgroup, waits until it is empty, at most
// for patience, and removes it.
func KillCgroup(dir string, patience time.Duration) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0); errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if empty, err := CgroupEmpty(dir); err != nil {
			return err
		} else if empty {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("cgroup %s is not empty", dir)
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cgroup %s: %w", dir, err)
	}
	return nil
}
