//go:build linux && amd64

package main

import (
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/vmm/guest/agent"
)

// serveAgent finds the agent's port and answers on it for ever. A machine
// without one is given up on after a while.
func serveAgent(out *console, state *agentState) {
	path := ""
	for wait := 5 * time.Millisecond; path == ""; wait *= 2 {
		if wait > time.Minute {
			return
		}
		if path = findPort("/sys/class/virtio-ports", agent.Port); path == "" {
			time.Sleep(wait)
		}
	}
	port, err := openPort(path)
	if err != nil {
		out.say("error: agent port: %v", err)
		return
	}
	out.say("error: agent port: %v", port.serve(state))
}

// findPort is the device of the virtio-serial port with that name, or "".
func findPort(class, name string) string {
	names, _ := filepath.Glob(filepath.Join(class, "*", "name"))
	for _, p := range names {
		if got, err := os.ReadFile(p); err == nil && strings.TrimSpace(string(got)) == name {
			return "/dev/" + filepath.Base(filepath.Dir(p))
		}
	}
	return ""
}

// port is the guest's end. It is read and written with blocking calls: Go's
// poller does not get on with these devices.
type port struct {
	fd      int
	hostSig chan os.Signal // the host came or went
	writing sync.Mutex
}

func openPort(path string) (*port, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	p := &port{fd: fd, hostSig: make(chan os.Signal, 1)}
	// While no host is there a read returns 0 at once, for ever. The driver
	// sends SIGIO when that changes, so that we need not ask again and again.
	signal.Notify(p.hostSig, unix.SIGIO)
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETOWN, os.Getpid()); err != nil {
		return nil, err
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_RDWR|unix.O_ASYNC); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *port) serve(state *agentState) error {
	var lines agent.Lines
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(p.fd, buf)
		switch {
		case err == unix.EINTR || err == unix.EAGAIN:
			continue
		case err != nil:
			return err
		case n == 0:
			lines.Reset()
			p.awaitHost()
			continue
		}
		err = lines.Feed(buf[:n], func(line []byte) {
			state.handle(line, p.send)
		})
		if err != nil {
			p.send(agent.Response{Error: err.Error()})
		}
	}
}

// patience is how long we wait for a signal that a host has come before we look
// ourselves: drivers do not always send one, and a host that asks how we are does not
// wait for long. To look is to wake, so not more often.
const patience = 2 * time.Second

// awaitHost waits for a signal, but not for ever. One that comes between the
// read and here is kept.
func (p *port) awaitHost() {
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-p.hostSig:
	case <-t.C:
	}
}

// send drops the response if the host has gone: a write would wait for the
// next host, and give it an answer to a question that it never asked.
func (p *port) send(r agent.Response) {
	line, err := agent.Encode(r)
	if err != nil {
		line, _ = agent.Encode(agent.Response{ID: r.ID, Error: err.Error()})
	}
	p.writing.Lock()
	defer p.writing.Unlock()
	for len(line) > 0 && p.hostIsThere() {
		n, err := unix.Write(p.fd, line) // 32 KiB at most
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return
		}
		line = line[n:]
	}
}

func (p *port) hostIsThere() bool {
	fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLOUT}}
	_, err := unix.Poll(fds, 0)
	return err != nil || fds[0].Revents&unix.POLLHUP == 0
}
