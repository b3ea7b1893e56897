package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/runner/console"
	"github.com/blixard/blixard/vmm/runner/nix"
	"github.com/blixard/blixard/vmm/runner/shims"
	"github.com/blixard/blixard/vmm/shim"
)

// nixSession looks at the hypervisor's own socket until it says that the guest
// runs, and afterwards only for a moment, when there is something to ask: QEMU's
// has room for one client, and the script that stops the guest must be that one.
type nixSession struct {
	place  place
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	paused bool
}

func (n *nixDriver) follow(p place, tell func(guestState)) session {
	if isThere(filepath.Join(p.run, workLink)) {
		return n.accompany(p, tell)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &nixSession{place: p, cancel: cancel, done: make(chan struct{})}
	go s.watch(ctx, tell)
	return s
}

const (
	readyLook  = 200 * time.Millisecond
	readyAsk   = time.Second
	readyBlind = 3 * time.Second // alive for so long is ready, where there is nothing to ask
)

func (s *nixSession) watch(ctx context.Context, tell func(guestState)) {
	defer close(s.done)
	runner := s.runner()
	_, err := os.Stat(filepath.Join(runner, "bin", "microvm-shutdown"))
	askable := err == nil // microvm.nix makes that script where there is a socket
	tick := time.NewTicker(readyLook)
	defer tick.Stop()
	for begin := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		state := notYet
		socket, _ := s.with(ctx, runner, func(ctx context.Context, c control) (err error) {
			if c == nil { // of one that we cannot ask, the socket must do
				state = running
				return nil
			}
			state, err = c.state(ctx)
			return err
		})
		if state != notYet || !socket && !askable && time.Since(begin) > readyBlind {
			if state == notYet { // and nobody can be asked
				state = running
			}
			s.set(state == paused)
			tell(state)
			return
		}
	}
}

func (s *nixSession) runner() string {
	runner, _ := os.Readlink(filepath.Join(s.place.state, "booted"))
	return runner
}

// hypervisorOf is what a runner says that it is for; unspecified for one of those that we
// have no driver for.
func hypervisorOf(runner string) blixardv1.Hypervisor {
	name, _ := nix.Fact(runner, "hypervisor")
	return blixardv1.Hypervisor(blixardv1.Hypervisor_value["HYPERVISOR_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))])
}

// with asks the hypervisor something over its socket: the first on which it says
// a word. It says whether there is a socket at all.
func (s *nixSession) with(ctx context.Context, runner string, ask func(context.Context, control) error) (there bool, err error) {
	dir, err := os.Open(machineDir(s.place)) // a path through it fits into a socket's address
	if err != nil {
		return false, err
	}
	defer dir.Close()
	kind := hypervisorOf(runner)
	shares := map[string]bool{}
	for _, tag := range shareTags(runner) {
		if s, err := nix.Fact(runner, "virtiofs", tag, "socket"); err == nil {
			shares[filepath.Base(s)] = true
		}
	}
	list, err := dir.ReadDir(-1)
	if err != nil {
		return false, err
	}
	err = errors.New("its hypervisor has no socket to be asked on")
	for _, e := range list {
		if e.Type()&os.ModeSocket == 0 || !strings.HasSuffix(e.Name(), ".sock") || shares[e.Name()] {
			continue
		}
		there = true
		if err = once(ctx, kind, fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), e.Name()), ask); err == nil {
			return true, nil
		}
	}
	return there, err
}

// once asks on one socket, and lets go of it.
func once(ctx context.Context, kind blixardv1.Hypervisor, socket string, ask func(context.Context, control) error) error {
	ctx, cancel := context.WithTimeout(ctx, readyAsk)
	defer cancel()
	c, err := dial(ctx, kind, socket)
	if err != nil {
		return err
	}
	if c != nil {
		defer c.close()
	}
	return ask(ctx, c)
}

func (s *nixSession) set(paused bool) {
	s.mu.Lock()
	s.paused = paused
	s.mu.Unlock()
}

func (s *nixSession) pause(ctx context.Context) error { return s.freeze(ctx, true) }

func (s *nixSession) resume(ctx context.Context) error { return s.freeze(ctx, false) }

func (s *nixSession) freeze(ctx context.Context, pause bool) error {
	_, err := s.with(ctx, s.runner(), func(ctx context.Context, c control) error {
		if c == nil {
			return errors.New("its hypervisor is one that cannot be asked")
		}
		state, err := c.state(ctx)
		switch {
		case err != nil || (state == paused) == pause:
			return err
		case pause:
			return c.pause(ctx)
		}
		return c.resume(ctx)
	})
	if err == nil {
		s.set(pause)
	}
	return err
}

// stop has the VM's init run the booted runner's microvm-shutdown.
func (s *nixSession) stop(ctx context.Context, h *shims.Shim) error {
	s.mu.Lock()
	was := s.paused
	s.mu.Unlock()
	if was {
		if err := s.resume(ctx); err != nil {
			return err
		}
	}
	return h.Kill(ctx, syscall.SIGTERM)
}

func (s *nixSession) ended(e shim.Exit, ready bool) *vmm.Exit {
	said, _ := console.Tail(s.place.console, 8<<10)
	last := string(said)
	if i := strings.LastIndex(last, "--- attempt "); i >= 0 {
		last = last[i:]
	}
	words := lastLines(last, 3, 600)
	panicLine := lineWith(last, "Kernel panic")
	if end := stepFailed(e, last); end != nil {
		return end
	}
	switch {
	case e.Signal == int(unix.SIGTERM) && e.Asked == e.Signal:
		return &vmm.Exit{Code: int32(128 + e.Signal), Reason: Exited, Message: "it was asked to stop before its guest could be"}
	case e.Signal != 0:
		return &vmm.Exit{Code: int32(128 + e.Signal), Reason: Crashed, Message: "the hypervisor was ended by signal " + strconv.Itoa(e.Signal) + ". " + words}
	case panicLine != "":
		return &vmm.Exit{Code: 1, Reason: Panicked, Message: "the guest's kernel panicked: " + lastLines(panicLine, 1, 300)}
	case firecrackerCodes[e.Code] != "" && hypervisorOf(s.runner()) == blixardv1.Hypervisor_HYPERVISOR_FIRECRACKER:
		return firecrackerEnd(e, ready, last, "")
	case e.Code != 0 && !ready:
		return &vmm.Exit{Code: int32(e.Code), Reason: BootFailed, Message: fmt.Sprintf("the runner ended with exit code %d: %s", e.Code, words)}
	case e.Code != 0:
		return &vmm.Exit{Code: int32(e.Code), Reason: Exited, Message: fmt.Sprintf("the hypervisor ended with exit code %d: %s", e.Code, words)}
	}
	return &vmm.Exit{Reason: Exited, Message: "the guest powered off"}
}

func (s *nixSession) close() {
	s.cancel()
	<-s.done
}
