package runner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/blixard/blixard/vmm/guest/agent"
)

// guestAgent answers on a socket as a guest does behind QEMU: one connection at a
// time, and answers as they are ready.
type guestAgent struct {
	at      string
	conns   chan net.Conn
	release chan struct{} // lets an exec end
	// restored answers one who says so; nil for not at all.
	restored func(*agent.RestoredRequest) *agent.Response
}

func newGuestAgent(t *testing.T) *guestAgent {
	g := &guestAgent{at: filepath.Join(t.TempDir(), "agent"), conns: make(chan net.Conn, 16), release: make(chan struct{})}
	l, err := net.Listen("unix", g.at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			g.conns <- c
			g.serve(c)
		}
	}()
	return g
}

func (g *guestAgent) serve(c net.Conn) {
	var lines agent.Lines
	var mu sync.Mutex
	say := func(r agent.Response) {
		line, _ := agent.Encode(r)
		mu.Lock()
		defer mu.Unlock()
		c.Write(line)
	}
	buf := make([]byte, 4096)
	for {
		n, err := c.Read(buf)
		_ = lines.Feed(buf[:n], func(line []byte) {
			r, err := agent.DecodeRequest(line)
			if err != nil {
				say(agent.Response{ID: r.ID, Error: err.Error()})
				return
			}
			if r.Op == agent.Exec {
				go func() {
					<-g.release
					say(agent.Response{ID: r.ID, OK: true, Exec: &agent.ExecResponse{Exit: 7, Stdout: []byte(r.Exec.Argv[0])}})
				}()
				return
			}
			if r.Op == agent.Restored && g.restored != nil {
				if a := g.restored(r.Restored); a != nil {
					a.ID = r.ID
					say(*a)
				}
			}
			if r.Op == agent.Ping {
				say(agent.Response{ID: r.ID, OK: true})
			}
		})
		if err != nil {
			return
		}
	}
}

// One connection serves all who ask: a program that runs keeps no probe waiting.
func TestOneConnectionToAnAgent(t *testing.T) {
	t.Parallel()
	g := newGuestAgent(t)
	a := new(agents)
	defer a.close()
	done := make(chan error, 1)
	go func() {
		r, err := a.call(t.Context(), g.at, agent.Request{Op: agent.Exec, Exec: &agent.ExecRequest{Argv: []string{"sleep"}}})
		if err == nil && (r.Exec == nil || r.Exec.Exit != 7 || string(r.Exec.Stdout) != "sleep") {
			err = fmt.Errorf("%+v", r)
		}
		done <- err
	}()
	for range 3 {
		if err := a.ping(shortly(t), g.at); err != nil {
			t.Fatalf("a probe beside a program: %v", err)
		}
	}
	close(g.release)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := len(g.conns); n != 1 {
		t.Errorf("%d connections", n)
	}
	// One that ends is made anew; what waits for it hears of it.
	(<-g.conns).Close()
	if err := a.ping(shortly(t), g.at); err != nil && !errors.Is(err, errAgentGone) {
		t.Error(err)
	}
	if err := a.ping(shortly(t), g.at); err != nil {
		t.Errorf("over a new connection: %v", err)
	}
	// A refusal is one, and ends nothing.
	_, err := a.call(shortly(t), g.at, agent.Request{Op: agent.Read, Read: &agent.ReadRequest{Path: "relative"}})
	if err == nil || !strings.Contains(err.Error(), "no absolute path") {
		t.Errorf("a relative path: %v", err)
	}
	if n := len(g.conns); n != 1 {
		t.Errorf("%d connections more", n)
	}
	// A guest that hears nothing costs its caller's time, and the connection.
	if _, err := a.call(shortly(t), g.at, agent.Request{Op: agent.Info}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no answer: %v", err)
	}
	if err := a.ping(shortly(t), g.at); err != nil {
		t.Errorf("after a silence: %v", err)
	}
}

// Those who type share a connection, each piece as it is; what the console says is
// taken, so that it holds up no guest.
func TestTyping(t *testing.T) {
	at := filepath.Join(t.TempDir(), "con")
	l, err := net.Listen("unix", at)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conns := make(chan net.Conn, 4)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns <- c
		}
	}()
	k := new(typing)
	defer k.close()
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			if err := k.write(t.Context(), at, bytes.Repeat([]byte{'a' + byte(i)}, 100)); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	c := <-conns
	if len(conns) != 0 {
		t.Error("two connections to one console")
	}
	got := make([]byte, 800)
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < 800; i += 100 {
		if len(slices.Compact(slices.Clone(got[i:i+100]))) != 1 {
			t.Errorf("pieces are mixed: %s", got[i:i+100])
		}
	}
	if _, err := c.Write(bytes.Repeat([]byte("said "), 1<<20)); err != nil {
		t.Errorf("nobody takes what the console says: %v", err)
	}
	c.Close()
	for range 2 { // the first may go into what has just ended
		_ = k.write(t.Context(), at, []byte("x"))
	}
	select {
	case <-conns:
	case <-time.After(10 * time.Second):
		t.Error("no new connection after one had ended")
	}
}
