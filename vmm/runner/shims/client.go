package shims

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/blixard/blixard/vmm/runner/vmdir"
	"github.com/blixard/blixard/vmm/shim"
)

// Shim is a connection to one shim. Closing it does nothing to the VM. Its
// methods may be called from any goroutine.
type Shim struct {
	dir     string
	conn    net.Conn
	version int
	hello   shim.State

	mu      sync.Mutex
	last    uint64
	waiting map[uint64]chan shim.Message

	gone chan struct{} // closed when the connection has ended
	exit *shim.Exit    // the shim's last word, if it came; read after gone
}

var (
	errProtocol = errors.New("no common protocol with the shim")
	// ErrGone says that the connection to the shim ended before it answered.
	ErrGone = errors.New("the shim is gone")
)

// RefusedError is a shim's refusal of a request: one of shim's Error words, and
// maybe a colon and more.
type RefusedError struct{ Text string }

func (e *RefusedError) Error() string { return "the shim refused: " + e.Text }

func dial(ctx context.Context, dir string) (*Shim, error) {
	path, err := vmdir.SocketPath(dir)
	if err != nil {
		return nil, err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if d, ok := ctx.Deadline(); ok {
		conn.SetReadDeadline(d)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	in := bufio.NewReaderSize(conn, shim.MaxLine)
	hello, err := readMessage(in)
	if err == nil && hello.Type != shim.MsgHello {
		err = fmt.Errorf("%w: it does not say hello", errProtocol)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("greet the shim in %s: %w", dir, err)
	}
	version, err := shim.Negotiate(hello)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("%w: %w", errProtocol, err)
	}
	if !stop() {
		conn.Close()
		return nil, ctx.Err()
	}
	conn.SetReadDeadline(time.Time{})
	s := &Shim{
		dir: dir, conn: conn, version: version, hello: *hello.State,
		waiting: map[uint64]chan shim.Message{}, gone: make(chan struct{}),
	}
	go s.listen(in)
	return s, nil
}

// departed is a Shim that has gone before we met it: only Wait is of use.
func departed(dir string) *Shim {
	near, far := net.Pipe()
	far.Close()
	s := &Shim{dir: dir, conn: near, version: shim.ProtocolMax, waiting: map[uint64]chan shim.Message{}, gone: make(chan struct{})}
	if st, err := readState(dir); err == nil {
		s.hello = *st
	}
	close(s.gone)
	return s
}

func readMessage(in *bufio.Reader) (shim.Message, error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return shim.Message{}, err
	}
	return shim.DecodeMessage(line)
}

// listen hands answers to who waits for them, until the connection ends.
func (s *Shim) listen(in *bufio.Reader) {
	defer close(s.gone)
	defer s.conn.Close()
	for {
		m, err := readMessage(in)
		if err != nil {
			return
		}
		switch m.Type {
		case shim.MsgExit:
			s.exit = m.Exit
		case shim.MsgReply:
			s.mu.Lock()
			if c := s.waiting[m.ID]; c != nil {
				delete(s.waiting, m.ID)
				c <- m
			}
			s.mu.Unlock()
		}
	}
}

// Dir is the VM's directory.
func (s *Shim) Dir() string { return s.dir }

// Hello is what the shim said when we met it.
func (s *Shim) Hello() shim.State { return s.hello }

// Close ends the connection; the shim and its VM go on.
func (s *Shim) Close() error { return s.conn.Close() }

// Status asks the shim for its state.
func (s *Shim) Status(ctx context.Context) (shim.State, error) {
	return s.ask(ctx, shim.Request{Type: shim.MsgStatus})
}

// Kill has the shim send the VM a signal. SIGKILL reaches all that the shim can
// name: the program, its namespace, its cgroup.
func (s *Shim) Kill(ctx context.Context, sig syscall.Signal) error {
	_, err := s.ask(ctx, shim.Request{Type: shim.MsgKill, Signal: int(sig)})
	return err
}

// Rebind has the VM bound by another page, or by none if page is empty. It is
// refused when the deadline in effect, or the new page's, has passed; then
// nothing has changed.
func (s *Shim) Rebind(ctx context.Context, page string) error {
	_, err := s.ask(ctx, shim.Request{Type: shim.MsgRebind, Page: page})
	return err
}

func (s *Shim) ask(ctx context.Context, r shim.Request) (shim.State, error) {
	answer := make(chan shim.Message, 1)
	s.mu.Lock()
	s.last++
	r.V, r.ID = s.version, s.last
	s.waiting[r.ID] = answer
	// A short line, which the socket's buffer takes, unless the shim is stopped
	// and was asked a thousand times. Half a line would spoil the connection.
	s.conn.SetWriteDeadline(time.Now().Add(dialPatience))
	_, err := s.conn.Write(shim.EncodeLine(r))
	if err != nil {
		s.conn.Close()
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.waiting, r.ID)
		s.mu.Unlock()
	}()
	if err != nil {
		return shim.State{}, fmt.Errorf("%w: %w", ErrGone, err)
	}
	select {
	case m := <-answer:
		return answered(m)
	case <-ctx.Done():
		return shim.State{}, ctx.Err()
	case <-s.gone:
		select {
		case m := <-answer: // its last words
			return answered(m)
		default:
			return shim.State{}, ErrGone
		}
	}
}

func answered(m shim.Message) (shim.State, error) {
	if m.Error != "" {
		return shim.State{}, &RefusedError{m.Error}
	}
	if m.State == nil {
		return shim.State{}, fmt.Errorf("%w: reply without state", shim.ErrMessage)
	}
	return *m.State, nil
}

// Wait waits until nothing of the VM lives, and gives the shim's report, or
// ErrVanished if the shim was killed. A connection that was lost does not end
// the wait: the directory tells.
func (s *Shim) Wait(ctx context.Context) (shim.Exit, error) {
	select {
	case <-ctx.Done():
		return shim.Exit{}, ctx.Err()
	case <-s.gone:
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		if dead, err := dead(s.dir); err != nil {
			return shim.Exit{}, err
		} else if dead {
			break
		}
		select {
		case <-ctx.Done():
			return shim.Exit{}, ctx.Err()
		case <-time.After(pause):
		}
	}
	if s.exit != nil {
		return *s.exit, nil
	}
	st, err := remains(s.dir)
	if err != nil {
		return shim.Exit{}, err
	}
	if st.Exit == nil {
		return shim.Exit{}, ErrVanished
	}
	return *st.Exit, nil
}
