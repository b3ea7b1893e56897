package runner

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/vmm/guest/agent"
)

// A guest is told until it has answered, each time with the time of then and another
// seed; one that cannot be told is left alone.
func TestWhoIsToldThatItWasRestored(t *testing.T) {
	defer func(d time.Duration) { informOnce = d }(informOnce)
	informOnce = 300 * time.Millisecond
	g := newGuestAgent(t)
	var a agents
	defer a.close()
	var heard []agent.RestoredRequest
	answers := []*agent.Response{nil, {OK: true, Restored: &agent.RestoredResponse{StepMS: 1500}}, {Error: `unknown op "restored"`}}
	g.restored = func(r *agent.RestoredRequest) *agent.Response {
		heard = append(heard, *r)
		if len(answers) == 0 {
			return nil
		}
		next := answers[0]
		answers = answers[1:]
		return next
	}
	tell := func(patience time.Duration, at string) (time.Duration, error) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		return a.restored(ctx, at, agent.RestoredRequest{Name: "web", UID: "1-7", Attempt: 2})
	}
	begin := time.Now()
	if step, err := tell(time.Minute, g.at); err != nil || step != 1500*time.Millisecond {
		t.Error(step, err)
	}
	if len(heard) != 2 || bytes.Equal(heard[0].Seed, heard[1].Seed) || len(heard[1].Seed) != seedSize || heard[1].Name != "web" || heard[1].UID != "1-7" || heard[1].Attempt != 2 {
		t.Fatalf("%+v", heard)
	}
	if first, second := time.Unix(0, heard[0].UnixNS), time.Unix(0, heard[1].UnixNS); first.Before(begin.Round(0)) || !second.After(first) || second.After(time.Now()) {
		t.Errorf("told %v and %v", first, second)
	}
	if _, err := tell(time.Minute, g.at); !errors.Is(err, errRefused) || len(heard) != 3 {
		t.Error(err, len(heard))
	}
	if _, err := tell(time.Minute, filepath.Join(t.TempDir(), "none")); !errors.Is(err, unix.ENOENT) {
		t.Error(err)
	}
	if _, err := tell(time.Second, g.at); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
