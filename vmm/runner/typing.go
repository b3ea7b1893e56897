package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// What a VM says on its console, its hypervisor appends to a log, which any number of
// readers follow. What is typed goes over the console's socket, which takes one
// connection at a time: so those who type share ours, and what they type at once is
// mixed by the piece, as on one keyboard.

// typing are our connections to consoles; the zero value is ready.
type typing struct {
	mu     sync.Mutex
	closed bool
	lines  map[string]*consoleLine // by socket
}

type consoleLine struct {
	conn net.Conn
	idle *time.Timer
	turn sync.Mutex // of one writer
}

const typingIdle = 30 * time.Second

// write types on the console at a socket.
func (t *typing) write(ctx context.Context, at string, data []byte) error {
	for again := false; ; again = true {
		l, err := t.line(ctx, at)
		if err != nil {
			return err
		}
		l.turn.Lock()
		deadline, ok := ctx.Deadline()
		if !ok {
			deadline = time.Now().Add(askPatience)
		}
		_ = l.conn.SetWriteDeadline(deadline)
		n, err := l.conn.Write(data)
		l.turn.Unlock()
		if err == nil {
			l.idle.Reset(typingIdle)
			return nil
		}
		t.end(at, l)
		if n > 0 || again {
			return fmt.Errorf("the console takes nothing: %w", err)
		}
	}
}

func (t *typing) line(ctx context.Context, at string) (*consoleLine, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.lines[at]; l != nil {
		return l, nil
	}
	if t.closed {
		return nil, net.ErrClosed
	}
	c, err := meet(ctx, at)
	if err != nil {
		return nil, err
	}
	l := &consoleLine{conn: c}
	l.idle = time.AfterFunc(typingIdle, func() { t.end(at, l) })
	if t.lines == nil {
		t.lines = map[string]*consoleLine{}
	}
	t.lines[at] = l
	go func() { // what it says is in the log; unread, it would hold up the guest
		_, _ = io.Copy(io.Discard, c)
		t.end(at, l)
	}()
	return l, nil
}

func (t *typing) end(at string, l *consoleLine) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l.idle.Stop()
	l.conn.Close()
	if t.lines[at] == l {
		delete(t.lines, at)
	}
}

func (t *typing) close() {
	t.mu.Lock()
	t.closed = true
	lines := t.lines
	t.lines = nil
	t.mu.Unlock()
	for _, l := range lines {
		l.idle.Stop()
		l.conn.Close()
	}
}

// ErrNoConsole says that a VM has no console that could be typed on.
var ErrNoConsole = errors.New("its console cannot be typed on")

// WriteConsole types on the console of a VM of this host.
func (h *Host) WriteConsole(ctx context.Context, uid string, data []byte) error {
	if err := h.runs(uid); err != nil {
		return err
	}
	if why := h.lacks(uid, blixardv1.Capability_CAPABILITY_CONSOLE); why != "" {
		return fmt.Errorf("%w: %s", ErrNoConsole, why)
	}
	return h.typing.write(ctx, filepath.Join(h.at.runOf(uid), consoleSocket), data)
}
