package runner

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/blixard/blixard/vmm/guest/agent"
)

// A guest's agent is at the end of one socket, which takes one connection at a time.
// So all that is asked of it goes over one, which is made when there is something to
// ask and kept for a while: a program that runs for a minute keeps no probe waiting.

// agents are our connections to the agents of guests; the zero value is ready.
type agents struct {
	mu     sync.Mutex
	closed bool
	lines  map[string]*agentLine // by socket
}

// agentIdle is how long a connection is kept that nobody uses.
const agentIdle = 15 * time.Second

// agentLine is one connection.
type agentLine struct {
	conn net.Conn
	out  chan []byte // to be written

	mu      sync.Mutex
	err     error // it has ended
	pending map[uint64]chan agent.Response
	heard   int // messages, in all
	idle    *time.Timer
}

var errAgentGone = errors.New("the connection to the agent has ended")

// call asks an agent and waits for its answer. What was asked may have happened
// although no answer came.
func (a *agents) call(ctx context.Context, at string, r agent.Request) (agent.Response, error) {
	for {
		l, fresh, err := a.line(ctx, at)
		if err != nil {
			return agent.Response{}, err
		}
		answer, sent, err := l.call(ctx, r)
		if err != nil && !sent && !fresh && ctx.Err() == nil {
			a.forget(at, l)
			continue // it had ended before, and we had not heard
		}
		if err != nil {
			a.forget(at, l)
		}
		switch {
		case err != nil:
			return answer, late(ctx, err)
		case !answer.OK:
			return answer, fmt.Errorf("the agent says: %s", answer.Error)
		}
		return answer, nil
	}
}

// line is the connection that there is, or a fresh one.
func (a *agents) line(ctx context.Context, at string) (l *agentLine, fresh bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if l := a.lines[at]; l != nil && l.alive() {
		return l, false, nil
	}
	if a.closed {
		return nil, false, errAgentGone
	}
	// A local socket: it is there, or is not.
	c, err := meet(ctx, at)
	if err != nil {
		return nil, false, err
	}
	l = &agentLine{conn: c, out: make(chan []byte, 16), pending: map[uint64]chan agent.Response{}}
	l.idle = time.AfterFunc(agentIdle, func() { a.retire(at, l) })
	if a.lines == nil {
		a.lines = map[string]*agentLine{}
	}
	a.lines[at] = l
	go l.write()
	go l.read()
	return l, true, nil
}

// forget ends a connection over which a call failed, unless others are being
// answered over it.
func (a *agents) forget(at string, l *agentLine) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if l.alive() {
		return
	}
	if a.lines[at] == l {
		delete(a.lines, at)
	}
}

// retire ends a connection that nobody uses.
func (a *agents) retire(at string, l *agentLine) {
	a.mu.Lock()
	defer a.mu.Unlock()
	l.mu.Lock()
	busy := len(l.pending) > 0
	l.mu.Unlock()
	if busy {
		l.idle.Reset(agentIdle)
		return
	}
	l.end(errAgentGone)
	if a.lines[at] == l {
		delete(a.lines, at)
	}
}

func (a *agents) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	for _, l := range a.lines {
		l.idle.Stop()
		l.end(errAgentGone)
	}
}

func (l *agentLine) alive() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err == nil
}

// end ends the connection, and all that wait on it.
func (l *agentLine) end(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return
	}
	l.err = err
	for id, c := range l.pending {
		close(c)
		delete(l.pending, id)
	}
	close(l.out)
	l.conn.Close()
}

// call says also whether the request may have been heard.
func (l *agentLine) call(ctx context.Context, r agent.Request) (answer agent.Response, sent bool, err error) {
	r.ID = rand.Uint64()>>12 | 1 // not one that an earlier host has asked with
	line, err := agent.Encode(r)
	if err != nil {
		return answer, true, err
	}
	wait := make(chan agent.Response, 1)
	l.mu.Lock()
	if l.err != nil {
		defer l.mu.Unlock()
		return answer, false, l.err
	}
	select {
	case l.out <- line: // under the lock: it is not closed meanwhile
	default:
		l.mu.Unlock()
		return answer, true, errors.New("the agent takes nothing: too much is waiting for it")
	}
	l.pending[r.ID] = wait
	heard := l.heard
	l.mu.Unlock()
	l.idle.Reset(agentIdle)
	select {
	case answer, ok := <-wait:
		if !ok {
			return answer, true, errAgentGone
		}
		return answer, true, nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	delete(l.pending, r.ID)
	deaf := l.heard == heard
	l.mu.Unlock()
	if deaf { // another connection may do better
		l.end(errAgentGone)
	}
	return answer, true, ctx.Err()
}

func (l *agentLine) write() {
	_, err := l.conn.Write([]byte(agent.Hello))
	for line := range l.out {
		if err == nil {
			_, err = l.conn.Write(line)
		}
		if err != nil {
			l.end(err)
		}
	}
}

func (l *agentLine) read() {
	var lines agent.Lines
	buf := make([]byte, 64<<10)
	for {
		n, err := l.conn.Read(buf)
		_ = lines.Feed(buf[:n], func(line []byte) { // a line that is no answer to us is not ours to judge
			r, err := agent.DecodeResponse(line)
			if err != nil {
				return
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			l.heard++
			if c := l.pending[r.ID]; c != nil {
				delete(l.pending, r.ID)
				c <- r
			}
		})
		if err != nil {
			l.end(err)
			return
		}
	}
}
