package runner

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/runner/console"
	"github.com/blixard/blixard/vmm/runner/shims"
	"github.com/blixard/blixard/vmm/shim"
)

// restSession watches a hypervisor that is asked over HTTP. Such a one tells
// nothing by itself, so it is asked again and again: often until the guest runs,
// and seldom afterwards.
type restSession struct {
	place   place
	name    string // of the hypervisor, for people
	control control
	// button presses the guest's.
	button func(context.Context) error
	// look is called at each turn, nil for nothing.
	look func(context.Context)
	// keep writes the guest, which is paused, into a folder; bring reads what revive has
	// made ready.
	keep  func(ctx context.Context, folder string) error
	bring func(context.Context) error
	// count is what the guest has read from its disks and written to them; nil where the
	// hypervisor does not say.
	count func(context.Context) (read, written uint64, err error)
	// end says what the hypervisor's own end means, given the console's last words.
	end    func(e shim.Exit, ready bool, words string) *vmm.Exit
	cancel context.CancelFunc
	done   chan struct{}

	// turn is held while something is asked whose answer says how the guest is. What
	// was told last is known, notYet when it is to be told again.
	turn  sync.Mutex
	known guestState
}

const (
	restPatience = 2 * time.Second
	restSoon     = 50 * time.Millisecond
	restSeldom   = 500 * time.Millisecond
)

func (s *restSession) begin(tell func(guestState)) *restSession {
	var ctx context.Context
	ctx, s.cancel = context.WithCancel(context.Background())
	s.done = make(chan struct{})
	go s.watch(ctx, tell)
	return s
}

func (s *restSession) watch(ctx context.Context, tell func(guestState)) {
	defer close(s.done)
	for {
		if s.look != nil {
			s.look(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(s.ask(ctx, tell)):
		}
	}
}

// ask asks how the guest is, and says when to ask again.
func (s *restSession) ask(ctx context.Context, tell func(guestState)) time.Duration {
	s.turn.Lock()
	defer s.turn.Unlock()
	ctx, cancel := context.WithTimeout(ctx, restPatience)
	defer cancel()
	state, err := s.control.state(ctx)
	if err == nil && state != notYet && state != s.known {
		s.known = state
		tell(state)
	}
	if s.known == notYet {
		return restSoon
	}
	return restSeldom
}

// freeze pauses the guest, or lets it go on: a hypervisor refuses what is so already.
func (s *restSession) freeze(ctx context.Context, pause bool) error {
	s.turn.Lock()
	defer s.turn.Unlock()
	ctx, cancel := context.WithTimeout(ctx, restPatience)
	defer cancel()
	state, err := s.control.state(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", s.name, err)
	case state == notYet:
		return fmt.Errorf("%s has no guest that runs", s.name)
	}
	s.known = notYet // unless all goes well
	switch {
	case (state == paused) == pause:
	case pause:
		err = s.control.pause(ctx)
	default:
		err = s.control.resume(ctx)
	}
	if err == nil && pause {
		s.known = paused // who has ordered it need not be told
	}
	return err
}

func (s *restSession) pause(ctx context.Context) error { return s.freeze(ctx, true) }

func (s *restSession) resume(ctx context.Context) error { return s.freeze(ctx, false) }

func (s *restSession) stop(ctx context.Context, _ *shims.Shim) error {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	for {
		state, err := s.control.state(ctx)
		switch {
		case err == nil && state == paused:
			if err := s.control.resume(ctx); err != nil {
				return err
			}
			return s.button(ctx)
		case err == nil && state == running:
			return s.button(ctx)
		case err != nil && !unheard(err):
			return fmt.Errorf("%s: %w", s.name, err)
		}
		select { // it may just be starting
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer on its socket, or has no guest yet", s.name)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

var errUncounted = errors.New("it does not say what its guest reads and writes")

func (s *restSession) disks(ctx context.Context) (read, written uint64, err error) {
	if s.count == nil {
		return 0, 0, errUncounted
	}
	return s.count(ctx)
}

func (s *restSession) ended(e shim.Exit, ready bool) *vmm.Exit {
	said, _ := console.Tail(s.place.console, 8<<10)
	last := string(said)
	if i := strings.LastIndex(last, "--- attempt "); i >= 0 {
		last = last[i:]
		_, last, _ = strings.Cut(last, "\n")
	}
	if end := stepFailed(e, last); end != nil {
		return end
	}
	if e.Signal != 0 {
		return &vmm.Exit{Code: int32(128 + e.Signal), Reason: Crashed, Message: s.name + " was ended by a signal. " + lastLines(last, 3, 600)}
	}
	return s.end(e, ready, last)
}

func (s *restSession) close() {
	s.cancel()
	<-s.done
}
