package shims

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/vmm/runner/lease"
	"github.com/blixard/blixard/vmm/runner/shimproc"
	"github.com/blixard/blixard/vmm/runner/vmdir"
	"github.com/blixard/blixard/vmm/shim"
)

// Why a VM was not started. For all but ErrLocked, exit.json says it as well.
var (
	ErrLocked = vmdir.ErrLocked // something of a VM lives in the directory
	ErrPage   = shim.ErrPage    // missing, corrupt, or another host's
	ErrLapsed = lease.ErrLapsed // before the VM was started
	ErrStart  = shim.ErrStart
	ErrExec   = errors.New("the VM could not be executed")
)

// Spawner starts shims. The zero value will do.
type Spawner struct {
	// Binary is the shim; empty: see the package's doc.
	Binary string
	// Cgroup is a cgroup2 directory for the shims themselves, so that whoever
	// kills the daemon's own cgroup does not kill them; empty: they stay where
	// the daemon is.
	Cgroup string
}

// Called says that this process was started to be a shim; see the package's doc.
func Called() bool { return len(os.Args) > 0 && filepath.Base(os.Args[0]) == shimproc.Name }

// Main is that shim's main.
func Main() int { return shimproc.Main(os.Args[1:]) }

// Spawn starts a VM with the default Spawner.
func Spawn(ctx context.Context, dir string, start shim.Start) (*Shim, error) {
	return Spawner{}.Spawn(ctx, dir, start)
}

// Spawn starts a VM in dir, which it makes if need be, and returns when the VM
// runs, or ran: one that ended at once is for Wait to tell. An error means that
// it does not run and will not, with one exception: when ctx ends before that is
// known, the VM may run, and Adopt tells.
func (s Spawner) Spawn(ctx context.Context, dir string, start shim.Start) (*Shim, error) {
	if _, err := vmdir.SocketPath(dir); err != nil {
		return nil, err
	}
	start.Version = shim.StartVersion
	if err := start.Validate(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := prepare(dir, start); err != nil {
		return nil, err
	}
	binary, err := s.binary()
	if err != nil {
		return nil, err
	}
	cmd, ready, err := s.launch(binary, dir)
	if err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	said := make(chan bool, 1)
	go func() { // reaps, for as long as we live
		b, _ := io.ReadAll(ready)
		ready.Close()
		said <- len(b) > 0
		ended <- cmd.Wait()
	}()
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("start VM in %s: %w", dir, ctx.Err())
	case ok := <-said:
		if ok {
			return meet(ctx, dir)
		}
	}
	return nil, failure(dir, <-ended)
}

// meet connects to a shim that has said that its VM runs. If it is dead by then,
// the Shim has no connection.
func meet(ctx context.Context, dir string) (*Shim, error) {
	for {
		s, err := dial(ctx, dir)
		if err == nil || errors.Is(err, errProtocol) {
			return s, err
		}
		if dead, _ := dead(dir); dead {
			return departed(dir), nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("start VM in %s: it runs, but: %w", dir, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// prepare writes the order to start, unless something lives in the directory.
// The lock is free again before the shim takes it: one daemon a host, which
// starts a VM once at a time, is the caller's part; two shims are the lock's.
func prepare(dir string, start shim.Start) error {
	fd, err := vmdir.Lock(dir)
	if err != nil {
		return err
	}
	defer vmdir.Unlock(fd)
	if dead, err := unheldDead(dir); err != nil {
		return err
	} else if !dead {
		return fmt.Errorf("%w: %s", ErrLocked, dir)
	}
	for _, name := range []string{vmdir.ExitFile, vmdir.StateFile} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return vmdir.WriteJSON(dir, vmdir.StartFile, start)
}

// launch starts the shim as the leader of a session of its own.
func (s Spawner) launch(binary, dir string) (*exec.Cmd, *os.File, error) {
	log, err := os.OpenFile(filepath.Join(dir, vmdir.LogFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, nil, err
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer w.Close()
	cmd := &exec.Cmd{
		Path:        binary,
		Args:        []string{shimproc.Name, "-dir", dir, "-ready", strconv.Itoa(3)},
		Env:         []string{}, // nothing of ours is the shim's to know
		Dir:         "/",
		Stderr:      log,
		ExtraFiles:  []*os.File{w},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if s.Cgroup != "" {
		fd, err := unix.Open(s.Cgroup, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			r.Close()
			return nil, nil, fmt.Errorf("cgroup of the shims: %w", err)
		}
		defer unix.Close(fd)
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, fd
	}
	if err := cmd.Start(); err != nil {
		r.Close()
		return nil, nil, fmt.Errorf("start the shim: %w", err)
	}
	return cmd, r, nil
}

// failure turns a shim's exit code into an error that says why.
func failure(dir string, ended error) error {
	var exit *exec.ExitError
	if !errors.As(ended, &exit) {
		return fmt.Errorf("the shim in %s ended before the VM ran: %v", dir, ended)
	}
	text := exit.String()
	if e, err := readExit(dir); err == nil && e.Error != "" {
		text = e.Error
	}
	why := map[int]error{
		shim.CodeLocked: ErrLocked, shim.CodePage: ErrPage, shim.CodeLapsed: ErrLapsed,
		shim.CodeStart: ErrStart, shim.CodeExec: ErrExec,
	}[exit.ExitCode()]
	if why == nil {
		return fmt.Errorf("the shim in %s failed (see %s there): %s", dir, vmdir.LogFile, text)
	}
	return fmt.Errorf("%w: %s: %s", why, dir, text)
}

func (s Spawner) binary() (string, error) {
	if s.Binary != "" {
		return s.Binary, nil
	}
	if b := os.Getenv("BLIXARD_SHIM"); b != "" {
		return b, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find %s: %w", shimproc.Name, err)
	}
	here := filepath.Dir(self)
	for _, b := range []string{
		filepath.Join(here, shimproc.Name),
		filepath.Join(here, "..", "libexec", "blixard", shimproc.Name),
	} {
		if st, err := os.Stat(b); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return b, nil
		}
	}
	// Not os.Executable: that file may have been replaced by an upgrade.
	return "/proc/self/exe", nil
}
