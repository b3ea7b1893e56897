package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/shim"
)

// A Build has a lane of its own beside the VM's queue: it may take an hour, and
// the VM may run meanwhile, be stopped, and be bound anew. Only its beginning and
// its end are in the queue. A VM has one at a time; the next waits until the one
// before it, which it has ended, is over.

// lane is one Build under way.
type lane struct{ done chan struct{} }

// over waits until it is; what comes of it is in the queue by then.
func (l *lane) over(patience time.Duration) bool {
	if l == nil {
		return true
	}
	select {
	case <-l.done:
		return true
	case <-time.After(patience):
		return false
	}
}

var errOvertaken = errors.New("it is not wanted any more")

// begin begins a Build. What Nix builds has a directory from then on, with the
// build's log: so it is removed again, whatever becomes of it.
func (v *vm) begin(a vmm.Action) {
	begin := time.Now()
	if byNix(a.Assignment.GetSpec()) && v.rec == nil {
		if err := v.settleIn(a.Instance); err != nil {
			v.answer(a, begin, vmm.Done{}, err)
			return
		}
	}
	assignment := v.order(a.Assignment)
	before, l := v.lane, &lane{make(chan struct{})}
	v.lane = l
	ctx, cancel := v.stoppable(v.h.ctx, &v.stopBuild)
	v.mu.Lock()
	v.over = l.done
	v.mu.Unlock()
	v.h.wait.Go(func() {
		defer close(l.done)
		defer cancel()
		if before != nil {
			<-before.done
		}
		runner, err := v.build(ctx, assignment)
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", errOvertaken, err)
		}
		v.q.put(func() { v.finish(l, a, begin, runner, err) })
	})
}

// building is closed when the newest Build is over.
func (v *vm) building() <-chan struct{} {
	if v != nil {
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.over != nil {
			return v.over
		}
	}
	over := make(chan struct{})
	close(over)
	return over
}

// settleIn makes the directory of a VM that was never started here.
func (v *vm) settleIn(i shim.Instance) error {
	if err := os.MkdirAll(v.at.state, 0o700); err != nil {
		return err
	}
	i.Attempt = 0
	r := &record{Instance: i, Nix: &built{}}
	if err := r.write(v.at.state); err != nil {
		return err
	}
	v.rec = r
	v.tell()
	return nil
}

// finish takes the end of a Build.
func (v *vm) finish(l *lane, a vmm.Action, begin time.Time, runner *blixardv1.Runner, err error) {
	if v.lane == l {
		v.lane = nil
	}
	if v.h.ctx.Err() != nil {
		return
	}
	if err == nil && runner != nil {
		if v.rec == nil || !sameIncarnation(v.rec.Instance, a.Instance) {
			runner, err = nil, errOvertaken
		} else {
			v.rec.Nix = v.rec.Nix.have(runner.StorePath, a.Assignment.SpecGeneration)
			v.note()
		}
	}
	if byNix(a.Assignment.GetSpec()) {
		v.hold()
	}
	if err != nil { // it may have been built, and be refused for what it is
		runner = nil
	}
	v.answer(a, begin, vmm.Done{Runner: runner}, err)
}

// order is what a Build is to build. What was built here for this very spec is
// not built afresh once more, after a restart of the daemon say.
func (v *vm) order(a *blixardv1.Assignment) *blixardv1.Assignment {
	if v.rec != nil && v.rec.Nix.of(a.SpecGeneration) != "" || a.Runner != nil {
		a = proto.CloneOf(a)
		a.Fresh = false
	}
	return a
}

// build makes everything be there that a start needs. It touches nothing of the
// VM but its build log, and may run beside the queue.
func (v *vm) build(ctx context.Context, a *blixardv1.Assignment) (*blixardv1.Runner, error) {
	if !byNix(a.GetSpec()) {
		return v.make(ctx, a, io.Discard)
	}
	log := &buildLog{path: v.h.at.build(v.uid), head: fmt.Sprintf("--- generation %d ---\n", a.SpecGeneration)}
	defer log.close()
	runner, err := v.make(ctx, a, log)
	if err != nil {
		fmt.Fprintf(log, "failed: %v\n", err)
	}
	return runner, err
}

func (v *vm) make(ctx context.Context, a *blixardv1.Assignment, log io.Writer) (*blixardv1.Runner, error) {
	d, err := v.h.driver(a)
	if err != nil {
		return nil, err
	}
	needs, err := d.needs(a)
	if err != nil {
		return nil, err
	}
	for _, n := range needs {
		source := &blixardv1.ArtifactSource{Artifact: n}
		for _, s := range a.Sources {
			if s.GetArtifact().GetDigest() == n.Digest {
				source.Addresses = append(source.Addresses, s.Addresses...)
			}
		}
		if err := v.h.cfg.Store.Ensure(ctx, v.h.cfg.Fetcher, source); err != nil {
			return nil, err
		}
	}
	return d.build(ctx, a, log)
}

// obtain gives the driver of an assignment, and the assignment with what was built
// for it. That is here already, unless the start is one of an older spec on a
// host that has never had it.
func (v *vm) obtain(ctx context.Context, a *blixardv1.Assignment) (driver, *blixardv1.Assignment, error) {
	d, err := v.h.driver(a)
	if err != nil {
		return nil, nil, err
	}
	if v.rec != nil {
		if path := v.rec.Nix.of(a.SpecGeneration); path != "" && isRunner(path) {
			a = proto.CloneOf(a)
			a.Runner = &blixardv1.Runner{StorePath: path}
			return d, a, nil
		}
	}
	ctx, cancel := v.stoppable(ctx, &v.stopStart)
	defer cancel()
	if byNix(a.Spec) {
		a = proto.CloneOf(a)
		a.Fresh = false
	}
	runner, err := v.build(ctx, a)
	if runner != nil {
		a.Runner = runner
	}
	return d, a, err
}

// buildLog is the log of a VM's newest build. A build that says one thing and is
// done, as all was there, leaves the log of the one before.
type buildLog struct {
	path, head string

	mu   sync.Mutex
	held []byte // the first words, until there are more
	wait *time.Timer
	f    *os.File
	err  error
}

// buildHeld is how long the first words wait for more.
const buildHeld = 500 * time.Millisecond

func (l *buildLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.held == nil && l.f == nil:
		l.held = append([]byte(l.head), b...)
		l.wait = time.AfterFunc(buildHeld, l.flush)
		return len(b), nil
	case l.f == nil:
		l.open()
	}
	if l.err != nil {
		return 0, l.err
	}
	return l.f.Write(b)
}

func (l *buildLog) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		l.open()
	}
}

// open begins the log anew. A log that cannot be written ends no build.
func (l *buildLog) open() {
	if l.err != nil {
		return
	}
	if l.f, l.err = os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND|unix.O_NOFOLLOW, 0o600); l.err == nil {
		_, l.err = l.f.Write(l.held)
	}
}

func (l *buildLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wait != nil {
		l.wait.Stop()
	}
	if _, err := os.Lstat(l.path); l.held != nil && l.f == nil && err != nil {
		l.open()
	}
	if l.f != nil {
		l.f.Close()
	}
	l.err = os.ErrClosed
}

func isRunner(path string) bool {
	st, err := os.Stat(filepath.Join(path, "bin", "microvm-run"))
	return err == nil && st.Mode().IsRegular()
}
