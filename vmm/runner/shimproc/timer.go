package shimproc

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// timer is the kernel's: at its time this process gets a SIGKILL, whether it
// runs, is starved, or is stopped. It is not inherited by children.
type timer struct{ id int32 }

// sigevent is the kernel's struct sigevent on 64-bit machines.
type sigevent struct {
	value  uintptr
	signo  int32
	notify int32
	_      [48]byte
}

const timerAbsolute = 1 // TIMER_ABSTIME

func newTimer() (*timer, error) {
	ev := sigevent{signo: int32(unix.SIGKILL)} // notify 0: SIGEV_SIGNAL, to the process
	t := &timer{}
	_, _, e := unix.Syscall(unix.SYS_TIMER_CREATE, unix.CLOCK_BOOTTIME,
		uintptr(unsafe.Pointer(&ev)), uintptr(unsafe.Pointer(&t.id)))
	if e != 0 {
		return nil, fmt.Errorf("timer_create: %w", e)
	}
	return t, nil
}

// set moves the timer to deadline, CLOCK_BOOTTIME in ns; one that has passed
// kills at once, 0 takes the timer down.
func (t *timer) set(deadline uint64) error {
	spec := struct{ interval, value unix.Timespec }{}
	if deadline > 0 {
		spec.value = unix.NsecToTimespec(int64(min(deadline, 1<<63-1)))
	}
	_, _, e := unix.Syscall6(unix.SYS_TIMER_SETTIME, uintptr(t.id), timerAbsolute,
		uintptr(unsafe.Pointer(&spec)), 0, 0, 0)
	if e != 0 {
		return fmt.Errorf("timer_settime: %w", e)
	}
	return nil
}
