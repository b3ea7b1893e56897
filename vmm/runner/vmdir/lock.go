package vmdir

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrLocked says that something of a VM lives in the directory.
var ErrLocked = errors.New("the VM's directory is locked")

func openLock(dir string, flags int) (int, error) {
	fd, err := unix.Open(filepath.Join(dir, LockFile), unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW|flags, 0o600)
	if err != nil {
		return -1, fmt.Errorf("lock of %s: %w", dir, err)
	}
	return fd, nil
}

// Lock takes the directory's lock, or fails with ErrLocked at once. The lock is
// held until every copy of the descriptor is closed; it is not passed on to a
// program that is executed.
func Lock(dir string) (fd int, err error) {
	if fd, err = openLock(dir, unix.O_CREAT); err != nil {
		return -1, err
	}
	err = unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	if err == nil {
		return fd, nil
	}
	unix.Close(fd)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return -1, fmt.Errorf("%w: %s", ErrLocked, dir)
	}
	return -1, fmt.Errorf("lock of %s: %w", dir, err)
}

// Unlock gives the lock back at once, whoever has a copy of the descriptor: a program
// that we start at this moment has one of all that are open, until it is executed.
func Unlock(fd int) {
	_ = unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_UNLCK})
	unix.Close(fd)
}

// Held says whether somebody holds the lock, without disturbing anybody.
func Held(dir string) (bool, error) {
	fd, err := openLock(dir, 0)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	q := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, &q); err != nil {
		return false, fmt.Errorf("lock of %s: %w", dir, err)
	}
	return q.Type != unix.F_UNLCK, nil
}
