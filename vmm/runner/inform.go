package runner

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/vmm/guest/agent"
)

// A guest that goes on from a snapshot's memory does not know it. Its clock stands at
// the moment of the snapshot, and what it draws by chance every other guest draws that
// came of it. So it is told, as soon as it runs: the time, a seed, and who it is. It
// is told beside the VM's queue, once or more often, and where no agent is in it, not.

const (
	// informPatience is how long an agent is waited for.
	informPatience = 30 * time.Second
	informAgain    = 200 * time.Millisecond
	seedSize       = 64
)

// informOnce is how long one answer is waited for.
var informOnce = 5 * time.Second

// inform has a guest told that was restored, once it is seen to run, unless it has been.
func (v *vm) inform() {
	if v.rec.Untold == "" || v.telling || !v.ready || v.paused {
		return
	}
	v.telling = true
	told, i := v.rec.Untold, v.rec.Instance
	v.h.wait.Go(func() {
		ctx, cancel := context.WithTimeout(v.h.ctx, informPatience)
		defer cancel()
		step, err := v.h.agents.restored(ctx, filepath.Join(v.at.run, agentSocket), agent.RestoredRequest{Name: told, UID: i.UID, Attempt: uint64(i.Attempt)})
		if v.h.ctx.Err() != nil {
			return // the next daemon tells it
		}
		v.q.put(func() {
			v.telling = false
			switch {
			case v.rec == nil || v.rec.Untold == "":
				return
			case v.rec.Instance != i:
				v.inform() // another, meanwhile
				return
			case err != nil:
				v.h.cfg.Log.Warn("a restored guest was not told that it is one: its clock and its chance are the snapshot's", "vm", i, "err", err)
				if v.rec.Warm {
					v.forgetBoot() // nor would it be the next time
				}
			default:
				v.h.cfg.Log.Info("a restored guest was told that it is one", "vm", i, "clock", step)
			}
			v.rec.Untold = ""
			v.note()
		})
	})
}

// restored tells a guest that it was, and gives by how much its clock was moved.
func (a *agents) restored(ctx context.Context, at string, r agent.RestoredRequest) (time.Duration, error) {
	for {
		step, err := a.tellRestored(ctx, at, r)
		switch {
		case err == nil:
			return step, nil
		case errors.Is(err, unix.ENOENT), errors.Is(err, errRefused):
			return 0, err
		}
		select {
		case <-ctx.Done():
			return 0, err
		case <-time.After(informAgain):
		}
	}
}

func (a *agents) tellRestored(ctx context.Context, at string, r agent.RestoredRequest) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, informOnce)
	defer cancel()
	// It may take a moment until an agent hears that somebody is there: the time is of
	// after that.
	if err := a.ping(ctx, at); err != nil {
		return 0, err
	}
	r.Seed = make([]byte, seedSize)
	if _, err := rand.Read(r.Seed); err != nil {
		return 0, err
	}
	r.UnixNS = time.Now().UnixNano()
	answer, err := a.call(ctx, at, agent.Request{Op: agent.Restored, Restored: &r})
	switch {
	case answer.Error != "":
		return 0, fmt.Errorf("%w: %w", errRefused, err)
	case err != nil:
		return 0, err
	case answer.Restored == nil:
		return 0, nil
	}
	return time.Duration(answer.Restored.StepMS) * time.Millisecond, nil
}

var errRefused = errors.New("it cannot do that")
