package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A console is two things: the log that its VM writes, which any number of people
// follow, and a keyboard, which any number of them share.

// consoleEscape leaves a console, as it does in telnet and virsh.
const (
	consoleEscape     = 0x1d
	consoleEscapeName = "Ctrl-]"
)

func (c *VMConsoleCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	both, end := context.WithCancel(ctx)
	defer end()
	stream, err := s.VM.Logs(both, connect.NewRequest(&blixardv1.LogsRequest{Name: c.Name, Follow: true, TailBytes: c.Tail}))
	if err != nil {
		return err
	}
	defer stream.Close()
	if !stream.Receive() {
		return stream.Err()
	}
	typed := make(chan error, 1)
	if !c.ReadOnly {
		if f, ok := t.in.(*os.File); ok && isTerminal(f) {
			fmt.Fprintf(t.err, "The console of %s. %s leaves it.\n", c.Name, consoleEscapeName)
			restore, err := rawTerminal(f)
			if err != nil {
				return err
			}
			defer restore()
		}
		go func() {
			typed <- s.typeOn(both, c.Name, t.in)
			end()
		}()
	}
	for more := true; more; more = stream.Receive() {
		if _, err := t.out.Write(stream.Msg().GetData()); err != nil {
			return err // our reader has gone
		}
	}
	select {
	case err := <-typed:
		return err
	default:
	}
	if ctx.Err() != nil {
		return errors.Join(ctx.Err(), stream.Err())
	}
	return stream.Err()
}

// typeOn types what comes from in, until that ends or the escape comes.
func (s *session) typeOn(ctx context.Context, name string, in io.Reader) error {
	buf := make([]byte, 4096)
	for {
		n, err := in.Read(buf)
		data, left := buf[:n], false
		if i := bytes.IndexByte(data, consoleEscape); i >= 0 {
			data, left = data[:i], true
		}
		if len(data) > 0 {
			one, cancel := context.WithTimeout(ctx, s.g.timeout())
			_, werr := s.Guest.WriteConsole(one, connect.NewRequest(&blixardv1.WriteConsoleRequest{Name: name, Data: data}))
			cancel()
			if werr != nil {
				return werr
			}
		}
		switch {
		case left || err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// rawTerminal has every key come as it is, until restore.
func rawTerminal(f *os.File) (restore func(), err error) {
	fd := int(f.Fd())
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	raw := *old
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag &^= unix.CSIZE | unix.PARENB
	raw.Cflag |= unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &raw); err != nil {
		return nil, err
	}
	return func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, old) }, nil
}
