//go:build linux && amd64

package main

import (
	"encoding/binary"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// press is a request to stop that came from the machine itself.
type press string

const (
	powerButton press = "power button"
	// ctrlAltDel is how Firecracker asks: it has no power button.
	ctrlAltDel press = "ctrl-alt-del"
)

// end ends the guest in the way that such a machine understands: Firecracker
// takes a restart for the end, and a power-off for nothing.
func (p press) end() {
	if p == ctrlAltDel {
		restart()
	}
	powerOff()
}

// watchPowerButton delivers presses. When it returns, whatever button the
// loaded modules brought is being read.
func watchPowerButton() <-chan press {
	pressed := make(chan press, 1)
	watchCtrlAltDel(pressed)
	w := inputWatcher{pressed: pressed, known: map[string]bool{}}
	if !w.scan() {
		go w.scanUntilFound()
	}
	return pressed
}

// watchCtrlAltDel asks the kernel to tell us instead of resetting the machine.
func watchCtrlAltDel(pressed chan<- press) {
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, unix.SIGINT)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF) // without it the kernel resets, which also ends us
	go func() {
		for range sig {
			pressed <- ctrlAltDel
		}
	}()
}

// inputWatcher reads every input device: which of them is the power button is
// not worth asking, since nothing else sends its key.
type inputWatcher struct {
	pressed chan<- press
	known   map[string]bool
}

// scanUntilFound waits for devices that appear late. It gives up, as a guest
// without any power button must not look for it for ever.
func (w inputWatcher) scanUntilFound() {
	for wait := 20 * time.Millisecond; wait < time.Minute; wait *= 2 {
		time.Sleep(wait)
		if w.scan() {
			return
		}
	}
}

// scan starts to read the devices that are new, and says whether one of all is
// a power button.
func (w inputWatcher) scan() (found bool) {
	devices, _ := filepath.Glob("/dev/input/event*")
	for _, dev := range devices {
		name, _ := os.ReadFile("/sys/class/input/" + filepath.Base(dev) + "/device/name")
		found = found || strings.HasPrefix(string(name), "Power Button")
		if w.known[dev] {
			continue
		}
		fd, err := unix.Open(dev, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue // not ready yet: tried again by the next scan
		}
		w.known[dev] = true
		go w.read(fd)
	}
	return found
}

func (w inputWatcher) read(fd int) {
	defer unix.Close(fd)
	buf := make([]byte, 64*inputEventSize)
	for {
		n, err := unix.Read(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return // unplugged
		}
		for range powerPresses(buf[:n]) {
			w.pressed <- powerButton
		}
	}
}

// inputEventSize is sizeof(struct input_event) on 64-bit: a timeval of 16
// bytes, then type and code of 2 and a value of 4.
const inputEventSize = 24

// powerPresses counts how often the power key goes down in a run of events.
func powerPresses(events []byte) (n int) {
	const (
		evKey    = 1
		keyPower = 116
		down     = 1
	)
	for ; len(events) >= inputEventSize; events = events[inputEventSize:] {
		e := events[16:inputEventSize]
		if binary.LittleEndian.Uint16(e) == evKey && binary.LittleEndian.Uint16(e[2:]) == keyPower &&
			binary.LittleEndian.Uint32(e[4:]) == down {
			n++
		}
	}
	return n
}

// The rest ends the guest. None of it returns.

func powerOff() {
	cmdline, _ := os.ReadFile("/proc/cmdline")
	if endsByReset(string(cmdline)) {
		restart()
	}
	reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func restart() { reboot(unix.LINUX_REBOOT_CMD_RESTART) }

// endsByReset says that a host takes a reset by the keyboard's controller for the
// end of the machine: it is Firecracker that is told of with reboot=k.
func endsByReset(cmdline string) bool {
	ends := false
	for _, w := range strings.Fields(cmdline) {
		if how, is := strings.CutPrefix(w, "reboot="); is {
			ends = how == "k"
		}
	}
	return ends
}

func reboot(cmd int) {
	unix.Sync()
	_ = unix.Reboot(cmd)
	panicKernel() // it refused
}

// panicKernel: the kernel does not survive its PID 1.
func panicKernel() { os.Exit(1) }

// exit makes QEMU exit with code, if it has an isa-debug-exit device at
// 0xf4: a written v ends it with (v<<1)|1. Otherwise it powers off. 0 cannot
// be written, and needs not be: a power-off exits with it.
func exit(code int) {
	const port = 0xf4
	if code != 0 {
		unix.Sync()
		runtime.LockOSThread() // the permission belongs to the thread
		if err := unix.Ioperm(port, 4, 1); err == nil {
			outb(port, byte(code>>1))
		}
	}
	powerOff()
}

// outb writes v to an I/O port; in outb_amd64.s.
func outb(port uint16, v byte)
