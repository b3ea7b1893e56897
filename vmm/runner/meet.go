package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/vmm/runner/vmdir"
	"github.com/blixard/blixard/vmm/shim"
)

// errStranger says that what listens on a hypervisor's socket is not that hypervisor.
var errStranger = errors.New("it is not this VM's hypervisor that listens there")

// meet connects to a socket in a VM's run directory. Where the hypervisor is a user of
// its own, its sockets are in a folder in which it may put what it likes: a link to
// another VM's, say, or to one of the daemon's own, which would then be told by root
// what this VM is to do. So no link of it is followed, what is connected to is what was
// looked at, and who listens there must be that user, and a process of this VM.
func meet(ctx context.Context, at string) (*net.UnixConn, error) {
	run, name := filepath.Split(at)
	folder, err := openSockets(run)
	if errors.Is(err, fs.ErrNotExist) {
		return dialUnix(ctx, at, at)
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(folder)
	var owner, st unix.Stat_t
	if err := unix.Fstat(folder, &owner); err != nil {
		return nil, err
	}
	if int(owner.Uid) == os.Geteuid() {
		return dialUnix(ctx, at, at)
	}
	socket, err := unix.Openat(folder, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: at, Err: err}
	}
	defer unix.Close(socket)
	if err := unix.Fstat(socket, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return nil, fmt.Errorf("%s: %w: it has put something else in its place", at, errStranger)
	}
	c, err := dialUnix(ctx, "/proc/self/fd/"+strconv.Itoa(socket), at)
	if err != nil {
		return nil, err
	}
	if err := known(c, filepath.Clean(run), owner.Uid); err != nil {
		c.Close()
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	return c, nil
}

// openSockets opens the folder in which a hypervisor has its sockets where that is not
// the run directory: one of its own there, or the one that Nix's work in, to which a link
// of ours leads.
func openSockets(run string) (int, error) {
	dir := filepath.Join(run, hypervisorDir)
	if to, err := os.Readlink(filepath.Join(run, workLink)); err == nil {
		dir = to
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	return fd, nil
}

// dialUnix connects to a path, which people know by another name.
func dialUnix(ctx context.Context, path, name string) (*net.UnixConn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		err = fmt.Errorf("connect to %s: %w", name, op.Err)
	}
	if err != nil {
		return nil, err
	}
	return c.(*net.UnixConn), nil
}

// known says why who listens at the other end is not the hypervisor of a VM that runs as
// a user.
func known(c *net.UnixConn, run string, user uint32) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var peerErr error
	if err := raw.Control(func(fd uintptr) { peer, peerErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if peerErr != nil {
		return peerErr
	}
	if peer.Uid != user {
		return fmt.Errorf("%w: process %d of user %d does, and its own is %d", errStranger, peer.Pid, peer.Uid, user)
	}
	b, err := vmdir.ReadFile(filepath.Join(run, vmdir.StateFile), shim.MaxLine)
	if err != nil {
		return err
	}
	var st shim.State
	if err := json.Unmarshal(b, &st); err != nil {
		return err
	}
	pid := int(peer.Pid)
	for range 8 { // init, and what it has started
		if pid == st.VM.PID && vmdir.Alive(st.VM) {
			return nil
		}
		if pid, err = vmdir.Parent(pid); err != nil || pid <= 1 {
			break
		}
	}
	return fmt.Errorf("%w: process %d does, which does not descend from its %d", errStranger, peer.Pid, st.VM.PID)
}
