package nix

import (
	"context"
	"errors"
	"fmt"
	"slices"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// flight is one build, or one fetch, and all who wait for it.
type flight struct {
	cancel context.CancelCauseFunc
	log    *log
	uids   []string // who waits, one entry for each
	done   chan struct{}

	// Set before done is closed.
	runner *runner
	locked string
	err    error
}

// errAlone ends a flight that nobody waits for any more.
var errAlone = errors.New("nix: nobody waits for it any more")

// join finds the flight of a job, or starts it. Under the lock.
func (b *Builder) join(j *job) *flight {
	id := j.flight()
	f := b.flights[id]
	if f == nil {
		ctx, cancel := context.WithCancelCause(context.Background())
		f = &flight{cancel: cancel, log: newLog(), done: make(chan struct{})}
		b.flights[id] = f
		b.flying.Add(1)
		go b.fly(ctx, id, f, j)
	}
	f.uids = append(f.uids, j.order.UID)
	f.log.add(j.log)
	return f
}

func (b *Builder) fly(ctx context.Context, id string, f *flight, j *job) {
	defer b.flying.Done()
	defer f.cancel(nil)
	r, locked, err := b.make(ctx, f, j)
	b.mu.Lock()
	defer b.mu.Unlock()
	defer close(f.done)
	if b.flights[id] == f {
		delete(b.flights, id)
	}
	if err == nil {
		// All at once, and before anybody else may find that nobody holds it.
		err = b.hold(r, f.uids...)
		for _, uid := range f.uids {
			b.latest[uid] = r.Path
		}
	}
	if r != nil {
		r.busy--
		b.release(r)
	}
	f.runner, f.locked, f.err = r, locked, err
}

// wait gives what comes of a flight. The last who gives up ends it, and waits
// for that end.
func (f *flight) wait(ctx context.Context, b *Builder, j *job) (*blixardv1.Runner, error) {
	select {
	case <-f.done:
	case <-ctx.Done():
		if !b.leave(f, j) {
			return nil, fmt.Errorf("build of %s: %w", j.order.Name, context.Cause(ctx))
		}
		<-f.done
		if f.err != nil {
			return nil, fmt.Errorf("build of %s: %w", j.order.Name, context.Cause(ctx))
		}
	}
	if f.err != nil {
		return nil, f.err
	}
	return f.runner.proto(f.locked), nil
}

// leave says whether the caller was the last. One that is done is not left.
func (b *Builder) leave(f *flight, j *job) (last bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-f.done:
		return true
	default:
	}
	if len(f.uids) == 1 {
		// From now on it is nobody's: who comes next starts another.
		delete(b.flights, j.flight())
		f.cancel(errAlone)
		return true
	}
	i := slices.Index(f.uids, j.order.UID)
	f.uids = slices.Delete(f.uids, i, i+1)
	f.log.remove(j.log)
	return false
}
