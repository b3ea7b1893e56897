package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/runner/console"
	"github.com/blixard/blixard/vmm/runner/qmp"
	"github.com/blixard/blixard/vmm/runner/shims"
	"github.com/blixard/blixard/vmm/shim"
)

// qemuSession keeps a QMP connection to one QEMU for as long as it lives.
type qemuSession struct {
	q       *qemu
	place   place
	inside  bool // it works in the folder that its sockets are in, and may reach no other
	tell    func(guestState)
	cancel  context.CancelFunc
	done    chan struct{} // closed when nothing watches any more
	moved   chan struct{} // the guest was stopped, or goes on
	turn    chan struct{} // a move of the guest is further than it was
	pressed chan struct{} // the power button was, while the guest may still boot

	door    sync.Mutex // held while a guest is let go on
	offered bool       // it may have left for another host

	mu       sync.Mutex
	sending  bool // a move of ours is under way
	client   *qmp.Client
	shutdown qmp.Shutdown // the last event of that name
	panicked bool
	full     bool // QEMU paused the guest: the host's disk had no room for a write
}

// again is how long a guest that was paused by a full disk stays paused before
// its write is tried once more.
var again = 5 * time.Second

var errNoQMP = errors.New("QEMU does not answer on its QMP socket")

// watch connects, says that the guest runs, and connects again when it must.
func (s *qemuSession) watch(ctx context.Context) {
	defer close(s.done)
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		if c, err := s.connect(ctx); err == nil {
			s.serve(ctx, c)
			pause = 10 * time.Millisecond
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func (s *qemuSession) connect(ctx context.Context) (*qmp.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, qmpPatience)
	defer cancel()
	c, err := meet(ctx, filepath.Join(s.place.run, qmpSocket))
	if err != nil {
		return nil, err
	}
	return qmp.Talk(ctx, c, s.event)
}

// serve keeps one connection until it ends: it says what the guest does, at
// first and after each event that changes it, and has a guest go on that a full
// disk stopped, once there is room. The write that failed is made again; nothing
// is lost.
func (s *qemuSession) serve(ctx context.Context, c *qmp.Client) {
	defer c.Close()
	s.mu.Lock()
	s.client = c
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.client = nil
		s.mu.Unlock()
	}()
	if s.leftover(ctx, c) != nil {
		return
	}
	look := time.NewTicker(50 * time.Millisecond) // until the guest was seen to run
	defer look.Stop()
	tick := time.NewTicker(again)
	defer tick.Stop()
	var press <-chan time.Time
	boot := bootWatch{s: s}
	for ask, known := true, false; ; {
		if ask {
			ctx, cancel := context.WithTimeout(ctx, qmpPatience)
			state, err := s.state(ctx, c)
			cancel()
			if err != nil {
				return
			}
			if state != notYet {
				s.tell(state)
			}
			if !known && state != notYet {
				boot.begins(state)
			}
			// A QEMU whose guest has come says nothing.
			if known = known || state != notYet && state != waiting; known {
				look.Stop()
			}
		}
		ask = true
		select {
		case <-ctx.Done():
			return
		case <-c.Gone():
			return
		case <-look.C:
		case <-s.moved:
		case <-s.pressed:
			press = time.After(pressAgain)
			ask = false
		case <-press:
			pressing, cancel := context.WithTimeout(ctx, qmpPatience)
			_ = s.press(pressing, c) // refused or not: the next one comes
			cancel()
			ask = false
		case <-tick.C:
			s.goOn(ctx, c)
			boot.look(ctx, c)
			ask = !known
		}
	}
}

// goOn has a guest go on that a full disk stopped.
func (s *qemuSession) goOn(ctx context.Context, c *qmp.Client) {
	s.mu.Lock()
	full := s.full
	s.full = false
	s.mu.Unlock()
	if full {
		ask, cancel := context.WithTimeout(ctx, qmpPatience)
		_ = s.release(ask, c) // refused or not: the next event tells
		cancel()
	}
}

func (s *qemuSession) event(e qmp.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch e.Name {
	case "SHUTDOWN":
		_ = json.Unmarshal(e.Data, &s.shutdown) // what cannot be read says nothing
	case "STOP", "RESUME":
		leaveWord(s.moved)
	case "MIGRATION":
		leaveWord(s.moved)
		leaveWord(s.turn)
	case "GUEST_PANICKED":
		s.panicked = true
	case "BLOCK_IO_ERROR":
		var d struct {
			NoSpace bool   `json:"nospace"`
			Action  string `json:"action"`
		}
		_ = json.Unmarshal(e.Data, &d)
		if s.full = d.NoSpace && d.Action == "stop"; s.full {
			s.q.warn("a VM is paused: the host's disk is full. Free some space, and it goes on by itself", "dir", s.place.state)
		}
	}
	s.q.log("QEMU event", "event", e.Name, "data", string(e.Data), "dir", s.place.run)
}

// leaveWord leaves word, unless some is there.
func leaveWord(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// with does something over the connection that there is, or will be soon.
func (s *qemuSession) with(ctx context.Context, do func(context.Context, *qmp.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, qmpPatience)
	defer cancel()
	c, err := s.connected(ctx)
	if err != nil {
		return err
	}
	return do(ctx, c)
}

// connected is the connection that there is, or will be before ctx ends.
func (s *qemuSession) connected(ctx context.Context) (*qmp.Client, error) {
	for {
		s.mu.Lock()
		c := s.client
		s.mu.Unlock()
		if c != nil {
			return c, nil
		}
		select { // it may just be starting
		case <-ctx.Done():
			return nil, errNoQMP
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *qemuSession) stop(ctx context.Context, _ *shims.Shim) error {
	return s.with(ctx, func(ctx context.Context, c *qmp.Client) error {
		if state, err := (qemuControl{c}).state(ctx); err == nil && state == paused {
			if err := s.release(ctx, c); err != nil {
				return err
			}
		}
		return s.press(ctx, c)
	})
}

// disks is what the guest has read from its disks and written to them; it waits for
// no connection.
func (s *qemuSession) disks(ctx context.Context) (read, written uint64, err error) {
	s.mu.Lock()
	c := s.client
	s.mu.Unlock()
	if c == nil {
		return 0, 0, errNoQMP
	}
	var all []struct {
		Stats struct {
			Read    uint64 `json:"rd_bytes"`
			Written uint64 `json:"wr_bytes"`
		} `json:"stats"`
	}
	if err := c.Execute(ctx, "query-blockstats", nil, &all); err != nil {
		return 0, 0, err
	}
	for _, d := range all {
		read, written = read+d.Stats.Read, written+d.Stats.Written
	}
	return read, written, nil
}

func (s *qemuSession) pause(ctx context.Context) error {
	return s.with(ctx, func(ctx context.Context, c *qmp.Client) error { return qemuControl{c}.pause(ctx) })
}

func (s *qemuSession) resume(ctx context.Context) error {
	return s.with(ctx, func(ctx context.Context, c *qmp.Client) error { return s.release(ctx, c) })
}

// ended waits for what QMP still has to say. QEMU ends with 0 for all that a
// guest can do to itself but for isa-debug-exit, so the events tell them apart;
// where no daemon heard them, the console's last lines must.
func (s *qemuSession) ended(e shim.Exit, ready bool) *vmm.Exit {
	s.mu.Lock()
	c := s.client
	s.mu.Unlock()
	if c != nil {
		select {
		case <-c.Gone():
		case <-time.After(time.Second):
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	words := s.q.lastWords(s.place)
	said, _ := console.Tail(s.place.console, 8<<10)
	last := said
	if i := strings.LastIndex(string(said), "--- attempt "); i >= 0 {
		last = said[i:]
	}
	panicLine := lineWith(string(last), "Kernel panic")
	if end := stepFailed(e, s.q.said(s.place)); end != nil {
		return end
	}
	switch {
	case e.Signal != 0:
		return &vmm.Exit{Code: int32(128 + e.Signal), Reason: Crashed, Message: "QEMU was ended by a signal. " + words}
	case e.Code != 0 && (!ready || e.Code == 1 && words != ""):
		return &vmm.Exit{Code: int32(e.Code), Reason: BootFailed, Message: fmt.Sprintf("QEMU ended with exit code %d: %s", e.Code, words)}
	case s.panicked || panicLine != "" && (s.shutdown.Reason == "guest-reset" || s.shutdown.Reason == ""):
		return &vmm.Exit{Code: 1, Reason: Panicked, Message: "the guest's kernel panicked: " + lastLines(panicLine, 1, 300)}
	case s.shutdown.Reason == "guest-reset":
		return &vmm.Exit{Code: 1, Reason: Crashed, Message: "the guest reset itself"}
	case e.Code != 0:
		return &vmm.Exit{Code: int32(e.Code), Reason: Exited, Message: fmt.Sprintf("the guest ended with exit code %d", e.Code)}
	}
	return &vmm.Exit{Reason: Exited, Message: "the guest powered off"}
}

func lineWith(text, word string) string {
	for _, line := range strings.Split(text, "\n") {
		if strings.Contains(line, word) {
			return line
		}
	}
	return ""
}

func (s *qemuSession) close() {
	s.cancel()
	<-s.done
}
