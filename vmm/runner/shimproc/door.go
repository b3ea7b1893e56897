package shimproc

import (
	"bytes"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/vmm/runner/vmdir"
	"github.com/blixard/blixard/vmm/shim"
)

// door is the socket that daemons come to. None of them can hold up the shim:
// who does not read, or says too much without a newline, is shown out.
type door struct {
	path  string
	fd    int // -1: not open
	last  uint64
	conns []*conn
}

type conn struct {
	id   uint64
	fd   int
	buf  []byte
	gone bool
}

const maxConns = 16

func (d *door) open(dir string) error {
	path, err := vmdir.SocketPath(dir)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	mask := unix.Umask(0o177)
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	unix.Umask(mask)
	if err == nil {
		err = unix.Listen(fd, 128)
	}
	if err != nil {
		unix.Close(fd)
		return os.NewSyscallError("listen on "+path, err)
	}
	d.path, d.fd = path, fd
	return nil
}

func (d *door) close() {
	if d.fd < 0 {
		return
	}
	unix.Close(d.fd)
	unix.Unlink(d.path) // we hold the lock: it is ours
	for _, c := range d.conns {
		unix.Close(c.fd)
	}
	d.conns, d.fd = nil, -1
}

// accept lets one daemon in and greets it.
func (d *door) accept(state shim.State) {
	fd, _, err := unix.Accept4(d.fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	if err != nil {
		return
	}
	if len(d.conns) >= maxConns { // the oldest is the likeliest to be forgotten
		d.conns[0].gone = true
		d.clean()
	}
	d.last++
	c := &conn{id: d.last, fd: fd}
	d.conns = append(d.conns, c)
	c.say(shim.Message{Type: shim.MsgHello, Min: shim.ProtocolMin, Max: shim.ProtocolMax, State: &state})
}

func (d *door) say(id uint64, m shim.Message) {
	for _, c := range d.conns {
		if c.id == id {
			c.say(m)
		}
	}
}

func (d *door) sayAll(m shim.Message) {
	for _, c := range d.conns {
		c.say(m)
	}
}

// clean closes the connections that are gone.
func (d *door) clean() {
	kept := d.conns[:0]
	for _, c := range d.conns {
		if c.gone {
			unix.Close(c.fd)
		} else {
			kept = append(kept, c)
		}
	}
	d.conns = kept
}

// say sends one line, whole or not at all.
func (c *conn) say(m shim.Message) {
	line := shim.EncodeLine(m)
	for !c.gone {
		n, err := unix.SendmsgN(c.fd, line, nil, nil, unix.MSG_NOSIGNAL)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		c.gone = n != len(line)
		return
	}
}

// hear reads what there is and hands over the requests.
func (c *conn) hear(happened func(shim.Input)) {
	var chunk [1024]byte
	n, err := readAgain(c.fd, chunk[:])
	if errors.Is(err, unix.EAGAIN) {
		return
	}
	if err != nil || n == 0 {
		c.gone = true
		return
	}
	c.buf = append(c.buf, chunk[:n]...)
	for {
		line, rest, whole := bytes.Cut(c.buf, []byte("\n"))
		if !whole {
			break
		}
		r, err := shim.DecodeRequest(line)
		if err != nil {
			c.gone = true
			return
		}
		happened(shim.Input{Kind: shim.Asked, Conn: c.id, Request: r})
		c.buf = append([]byte(nil), rest...)
	}
	if len(c.buf) > shim.MaxLine {
		c.gone = true
	}
}
