package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Stream is a connection between two hosts on which a guest travels: bytes both
// ways, each of which can end before the other.
type Stream interface {
	io.ReadWriteCloser
	CloseWrite() error
	SetWriteDeadline(time.Time) error
}

var _ Stream = (*net.UnixConn)(nil)

// relayStuck is how long one side may take nothing of what the other has said.
var relayStuck = 15 * time.Second

const relayPiece = 256 << 10

// relay carries bytes between two streams, both ways, until both have ended, one
// fails, or ctx does; both are closed then. It holds one piece a way and no more:
// who is slow holds back who is fast.
func relay(ctx context.Context, a, b Stream) error {
	var once sync.Once
	var failed error
	fail := func(err error) {
		once.Do(func() {
			failed = err
			a.Close()
			b.Close()
		})
	}
	stop := context.AfterFunc(ctx, func() { fail(context.Cause(ctx)) })
	defer stop()
	var both sync.WaitGroup
	way := func(to, from Stream) func() {
		return func() {
			if err := carry(to, from); err != nil {
				fail(err)
			}
		}
	}
	both.Go(way(a, b))
	both.Go(way(b, a))
	both.Wait()
	fail(nil)
	return failed
}

// carry copies one way, and passes its end on.
func carry(to, from Stream) error {
	buf := make([]byte, relayPiece)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			to.SetWriteDeadline(time.Now().Add(relayStuck))
			if _, err := to.Write(buf[:n]); err != nil {
				return fmt.Errorf("pass a guest on: %w", err)
			}
		}
		if errors.Is(err, io.EOF) {
			// One that is closed already has had all that it wanted.
			if err := to.CloseWrite(); err != nil && !errors.Is(err, net.ErrClosed) && !isNotConnected(err) {
				return fmt.Errorf("pass a guest's end on: %w", err)
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("hear a guest: %w", err)
		}
	}
}
