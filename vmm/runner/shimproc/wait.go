package shimproc

import (
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/vmm/runner/lease"
	"github.com/blixard/blixard/vmm/shim"
)

// wait sleeps until something happened, and puts it into the inbox. How long it
// sleeps decides nothing: the kernel's timer does.
func (p *process) wait() {
	fds := []unix.PollFd{
		{Fd: int32(p.wake[0]), Events: unix.POLLIN},
		{Fd: int32(p.door.fd), Events: unix.POLLIN}, // -1 is skipped
	}
	running := p.m.Phase == shim.Running
	if running {
		fds = append(fds, unix.PollFd{Fd: int32(p.vm.pidfd), Events: unix.POLLIN})
	}
	conns := p.door.conns
	first := len(fds)
	for _, c := range conns {
		fds = append(fds, unix.PollFd{Fd: int32(c.fd), Events: unix.POLLIN})
	}
	if _, err := unix.Poll(fds, p.patience()); err != nil {
		return // EINTR
	}
	// The page first: what it says may save us.
	if p.look.Path != "" && lease.Now() >= p.look.At {
		path := p.look.Path
		p.look = shim.Output{}
		p.happened(p.readPage(path))
	}
	if fds[0].Revents != 0 {
		var b [16]byte
		readAgain(p.wake[0], b[:])
		p.happened(shim.Input{Kind: shim.Stopped, Signal: int(unix.SIGTERM)})
	}
	for i, c := range conns {
		if fds[first+i].Revents != 0 {
			c.hear(p.happened)
		}
	}
	if running && fds[2].Revents != 0 {
		p.happened(shim.Input{Kind: shim.Exited})
	}
	if fds[1].Revents != 0 {
		p.door.accept(p.state())
	}
	p.door.clean()
}

// patience is poll's timeout in ms.
func (p *process) patience() int {
	if p.look.Path == "" {
		return -1
	}
	now := lease.Now()
	if now >= p.look.At {
		return 0
	}
	return int(time.Duration(p.look.At-now)/time.Millisecond) + 1
}

// heedSignals turns a SIGTERM or SIGINT to the shim into one to the VM: who
// shuts the machine down does not mean to pull the plug. A SIGHUP means nothing.
// (Notify, not Ignore: what is ignored stays so in the program.)
func (p *process) heedSignals() error {
	if err := unix.Pipe2(p.wake[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return err
	}
	c := make(chan os.Signal, 4)
	signal.Notify(c, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGPIPE)
	go func() {
		for s := range c {
			if s == syscall.SIGTERM || s == syscall.SIGINT {
				unix.Write(p.wake[1], []byte{0})
			}
		}
	}()
	return nil
}
