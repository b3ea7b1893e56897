package vmdir

import (
	"testing"

	"golang.org/x/sys/unix"
)

// A lock that is given back is free, although a program that is just being started has
// a copy of the descriptor.
func TestUnlock(t *testing.T) {
	dir := t.TempDir()
	fd, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(copied)
	if held, err := Held(dir); err != nil || !held {
		t.Fatal("it is not held", err)
	}
	Unlock(fd)
	if held, err := Held(dir); err != nil || held {
		t.Fatal("it is held still", err)
	}
}
