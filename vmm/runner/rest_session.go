package runner

import (
	"context"
	"fmt"
	"strings"
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
	// end says what the hypervisor's own end means, given the console's last words.
	end    func(e shim.Exit, ready bool, words string) *vmm.Exit
	cancel context.CancelFunc
	done   chan struct{}
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
	known := notYet
	for pause := restSoon; ; {
		if s.look != nil {
			s.look(ctx)
		}
		ask, cancel := context.WithTimeout(ctx, restPatience)
		state, err := s.control.state(ask)
		cancel()
		if err == nil && state != notYet && state != known {
			known, pause = state, restSeldom
			tell(state)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// freeze pauses the guest, or lets it go on: a hypervisor refuses what is so already.
func (s *restSession) freeze(ctx context.Context, pause bool) error {
	ctx, cancel := context.WithTimeout(ctx, restPatience)
	defer cancel()
	state, err := s.control.state(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", s.name, err)
	case state == notYet:
		return fmt.Errorf("%s has no guest that runs", s.name)
	case (state == paused) == pause:
		return nil
	case pause:
		return s.control.pause(ctx)
	}
	return s.control.resume(ctx)
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

func (s *restSession) ended(e shim.Exit, ready bool) *vmm.Exit {
	said, _ := console.Tail(s.place.console, 8<<10)
	last := string(said)
	if i := strings.LastIndex(last, "--- attempt "); i >= 0 {
		last = last[i:]
		_, last, _ = strings.Cut(last, "\n")
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
