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
	q      *qemu
	place  place
	cancel context.CancelFunc
	done   chan struct{} // closed when nothing watches any more

	mu       sync.Mutex
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
func (s *qemuSession) watch(ctx context.Context, ready func()) {
	defer close(s.done)
	told := false
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		if c, err := s.connect(ctx); err == nil {
			told = s.serve(ctx, c, told, ready)
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
	return qmp.Dial(ctx, filepath.Join(s.place.run, qmpSocket), s.event)
}

// serve keeps one connection until it ends.
func (s *qemuSession) serve(ctx context.Context, c *qmp.Client, told bool, ready func()) bool {
	defer c.Close()
	s.mu.Lock()
	s.client = c
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.client = nil
		s.mu.Unlock()
	}()
	for !told {
		ask, cancel := context.WithTimeout(ctx, qmpPatience)
		status, err := c.Status(ask)
		cancel()
		if err != nil {
			return told
		}
		if told = status == "running"; told {
			ready()
			break
		}
		select {
		case <-ctx.Done():
		case <-c.Gone():
			return told
		case <-time.After(50 * time.Millisecond):
		}
		if ctx.Err() != nil {
			return told
		}
	}
	s.unpause(ctx, c)
	return told
}

// unpause has a guest go on that a full disk stopped, once there is room, until
// the connection ends. The write that failed is made again; nothing is lost.
func (s *qemuSession) unpause(ctx context.Context, c *qmp.Client) {
	tick := time.NewTicker(again)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.Gone():
			return
		case <-tick.C:
		}
		s.mu.Lock()
		full := s.full
		s.full = false
		s.mu.Unlock()
		if full {
			ask, cancel := context.WithTimeout(ctx, qmpPatience)
			_ = c.Execute(ask, "cont", nil, nil) // refused or not: the next event tells
			cancel()
		}
	}
}

func (s *qemuSession) event(e qmp.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch e.Name {
	case "SHUTDOWN":
		_ = json.Unmarshal(e.Data, &s.shutdown) // what cannot be read says nothing
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

func (s *qemuSession) stop(ctx context.Context, _ *shims.Shim) error {
	ctx, cancel := context.WithTimeout(ctx, qmpPatience)
	defer cancel()
	for {
		s.mu.Lock()
		c := s.client
		s.mu.Unlock()
		if c != nil {
			return c.Powerdown(ctx)
		}
		select { // it may just be starting
		case <-ctx.Done():
			return errNoQMP
		case <-time.After(20 * time.Millisecond):
		}
	}
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
