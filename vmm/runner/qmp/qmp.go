// Package qmp is a small client of QEMU's machine protocol: what a manager of
// microVMs needs of it, and no more.
//
// # The model
//
// QEMU greets, we answer with qmp_capabilities, and from then on the two talk in
// JSON, one object a line: a command has an id and one answer with that id, and
// events come in between at any time.
//
//	qemu  -> {"QMP":{...}}
//	us    -> {"execute":"qmp_capabilities","id":1}
//	qemu  -> {"return":{},"id":1}
//	qemu  -> {"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-shutdown"}}
//
// QEMU serves one client at a time; a second one is not greeted until the first
// has gone. Nothing here trusts QEMU to answer: every call ends with its
// context, a line has a bounded length, and a connection whose other side
// stands still holds up nobody but who called it.
package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

var (
	// ErrClosed says that the connection ended before the answer came.
	ErrClosed = errors.New("QMP connection closed")
	// ErrProtocol says that the other side does not speak QMP.
	ErrProtocol = errors.New("not QMP")
)

// Error is QEMU's refusal of a command.
type Error struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *Error) Error() string { return "QEMU refused: " + e.Desc }

// Event is something that happened to the machine.
type Event struct {
	Name string
	Data json.RawMessage
}

// Shutdown is the data of the event SHUTDOWN.
type Shutdown struct {
	Guest  bool   `json:"guest"`
	Reason string `json:"reason"`
}

// maxLine bounds one object. query-qmp-schema, the longest, has 200 KB.
const maxLine = 1 << 20

// Client is one connection. Its methods may be called from any goroutine.
type Client struct {
	conn  net.Conn
	event func(Event)

	mu      sync.Mutex // also orders the writes
	last    uint64
	waiting map[uint64]chan message
	gone    chan struct{}
}

type message struct {
	QMP    json.RawMessage `json:"QMP"`
	Return json.RawMessage `json:"return"`
	Error  *Error          `json:"error"`
	ID     *uint64         `json:"id"`
	Event  string          `json:"event"`
	Data   json.RawMessage `json:"data"`
}

type command struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
	ID        uint64 `json:"id"`
}

// Dial connects to the socket, and talks there.
func Dial(ctx context.Context, path string, event func(Event)) (*Client, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("connect to QEMU: %w", err)
	}
	return Talk(ctx, conn, event)
}

// Talk begins on a connection, which is the client's from then on, and is done when
// QEMU has taken our greeting. Events are handed to event, one after the other, from a
// goroutine of the client's; event must not wait for the client.
func Talk(ctx context.Context, conn net.Conn, event func(Event)) (*Client, error) {
	c := &Client{conn: conn, event: event, waiting: map[uint64]chan message{}, gone: make(chan struct{})}
	in := bufio.NewReaderSize(conn, maxLine)
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	m, err := read(in)
	if !stop() {
		err = ctx.Err()
	}
	if err == nil && m.QMP == nil {
		err = ErrProtocol
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("QEMU's greeting: %w", err)
	}
	go c.listen(in)
	if err := c.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func read(in *bufio.Reader) (m message, err error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(line, &m); err != nil {
		return m, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return m, nil
}

func (c *Client) listen(in *bufio.Reader) {
	defer close(c.gone)
	defer c.conn.Close()
	for {
		m, err := read(in)
		if err != nil {
			return
		}
		switch {
		case m.Event != "":
			if c.event != nil {
				c.event(Event{m.Event, m.Data})
			}
		case m.ID != nil:
			c.mu.Lock()
			if answer := c.waiting[*m.ID]; answer != nil {
				delete(c.waiting, *m.ID)
				answer <- m
			}
			c.mu.Unlock()
		}
	}
}

// Execute runs one command and reads its answer into result, if that is not nil.
func (c *Client) Execute(ctx context.Context, name string, arguments, result any) error {
	answer := make(chan message, 1)
	id, err := c.send(ctx, name, arguments, answer)
	defer func() {
		c.mu.Lock()
		delete(c.waiting, id)
		c.mu.Unlock()
	}()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("%s: QEMU does not answer: %w", name, ctx.Err())
	case m := <-answer:
		return finish(name, m, result)
	case <-c.gone:
		select {
		case m := <-answer: // its last words
			return finish(name, m, result)
		default:
			return fmt.Errorf("%s: %w", name, ErrClosed)
		}
	}
}

func (c *Client) send(ctx context.Context, name string, arguments any, answer chan message) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last++
	line, err := json.Marshal(command{name, arguments, c.last})
	if err != nil {
		return c.last, err
	}
	c.waiting[c.last] = answer
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(10 * time.Second)
	}
	c.conn.SetWriteDeadline(deadline)
	if _, err := c.conn.Write(append(line, '\n')); err != nil {
		c.conn.Close() // half a line would spoil it
		return c.last, fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return c.last, nil
}

func finish(name string, m message, result any) error {
	if m.Error != nil {
		return fmt.Errorf("%s: %w", name, m.Error)
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(m.Return, result); err != nil {
		return fmt.Errorf("%s: %w: %w", name, ErrProtocol, err)
	}
	return nil
}

// Gone is closed when the connection has ended and the last event was handed out.
func (c *Client) Gone() <-chan struct{} { return c.gone }

// Close ends the connection. The machine goes on.
func (c *Client) Close() error { return c.conn.Close() }

// Status asks what the machine does: "running", "paused", "shutdown", ...
func (c *Client) Status(ctx context.Context) (string, error) {
	var s struct {
		Status string `json:"status"`
	}
	err := c.Execute(ctx, "query-status", nil, &s)
	return s.Status, err
}

// Powerdown presses the power button.
func (c *Client) Powerdown(ctx context.Context) error {
	return c.Execute(ctx, "system_powerdown", nil, nil)
}

// Get reads a property of an object of QEMU's, by its path in the tree of them.
func (c *Client) Get(ctx context.Context, path, property string, result any) error {
	return c.Execute(ctx, "qom-get", map[string]string{"path": path, "property": property}, result)
}

// Monitor asks what only QEMU's monitor for people can tell.
func (c *Client) Monitor(ctx context.Context, command string) (string, error) {
	var said string
	err := c.Execute(ctx, "human-monitor-command", map[string]string{"command-line": command}, &said)
	return said, err
}

// Reset has the machine begin anew, also where a guest that does so itself is ended.
func (c *Client) Reset(ctx context.Context) error {
	action := func(word string) error {
		return c.Execute(ctx, "set-action", map[string]string{"reboot": word}, nil)
	}
	if err := action("reset"); err != nil {
		return err
	}
	err := c.Execute(ctx, "system_reset", nil, nil)
	if ctx.Err() != nil { // what comes next must not be left out
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
	}
	return errors.Join(err, action("shutdown"))
}

// Quit ends QEMU at once, flushing its disks.
func (c *Client) Quit(ctx context.Context) error { return c.Execute(ctx, "quit", nil, nil) }
