package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/blixard/blixard/vmm/runner/qmp"
)

// A guest that runs goes to another host:
//
//	this host                                      that host
//	QEMU ──► RUN/out.d0 ─► relay ══ Stream ══► relay ──► RUN/disks ─► QEMU, the disks
//	QEMU ──► RUN/out ────► relay ══ Stream ══► relay ──► RUN/in ────► QEMU (-S)
//	 ▲                                                              │
//	 └──────────────── loaded (the return path) ◄───────────────────┘
//
// First each disk that it writes is mirrored, until that host has all but the newest
// writes; then its memory goes. When the guest is stopped for the rest of that, the
// mirrors are brought to their end: from there on both hosts have each write that the
// guest was told is done, and nobody writes either copy. A mirror that cannot be
// brought there ends the move, and the guest goes on with its own disks, which it has
// written all the while.
//
// Until QEMU says "completed" here, the guest is here, and whatever goes wrong has
// it run on here: QEMU itself sees to that. From then on it must never run here
// again. So it is noted in instance.json that it may have left before it may leave,
// and that it has before anybody is told. There it runs only when that host is told
// that it may.

// mover is a session whose guest can be moved while it runs.
type mover interface {
	// begins has a move of ours begin: what stands of one now is ours.
	begins()
	// export has another host write a drive's disk here, before the guest runs.
	export(ctx context.Context, drive string) error
	// mirror begins to copy a drive's disk to a socket; mirrors says how far each is.
	mirror(ctx context.Context, socket, drive string) error
	mirrors(context.Context) ([]qmp.MirrorState, error)
	// settle brings the mirrors of a guest that is stopped to their end: nil says that
	// the other side has all that was written to these drives.
	settle(ctx context.Context, drives []string) error
	// unmirror ends them, and removes what is left.
	unmirror(context.Context) error
	// sendTo begins to send the guest to a socket.
	sendTo(ctx context.Context, socket string) error
	// moving says how far that is.
	moving(context.Context) (qmp.Migration, error)
	// offer has every cont refused from now on: the guest may have left.
	offer()
	// handOver has a guest that was stopped at the door leave.
	handOver(context.Context) error
	// cancelMove ends a move, if it can still be ended.
	cancelMove(context.Context) error
	// sent says that the move is over; stays, that the guest is still here.
	sent(stays bool)
	// look has the hypervisor asked how its guest is.
	look()
	// turned has something when it may be further than it was.
	turned() <-chan struct{}
	// version is the hypervisor's own.
	version(context.Context) (string, error)
	// land lets a guest run that has arrived.
	land(context.Context) error
}

// knowing is a mover that has to be asked which drives' disks go with its guest.
type knowing interface {
	written(context.Context) ([]string, error)
}

// errStays says why a guest was not moved: it runs on here.
var errStays = errors.New("it was not moved, and runs on here")

// departure is one try to move a guest away.
type departure struct {
	m      mover
	socket string   // for QEMU to send to
	drives []string // whose disks go with it
	// open connects to the host that the guest goes to: for its memory, or a drive's
	// disk.
	open func(ctx context.Context, drive string) (Stream, error)
	// mark notes, durably, that the guest may have left.
	mark func(context.Context) error
	// tell hears how far it is.
	tell func(qmp.Migration)
	// step is called before each step with its name; tests end something there.
	step func(string)

	offered bool // it may have left: before, QEMU's "completed" is of something else
}

const (
	// moveLook is how often a move is looked at that does not say anything, and
	// moveAgain how long to wait for a QEMU that does not answer.
	moveLook  = 250 * time.Millisecond
	moveAgain = 100 * time.Millisecond
)

// doorPatience is how long a guest may stand still between two hosts. Then it runs
// on here.
var doorPatience = 10 * time.Second

// run moves the guest, and returns once it is certain what became of it: nil, it
// was handed over; errStays, it runs on here; another error, nothing of it lives
// any more, as alive has said. It gives up when ctx ends.
func (d *departure) run(ctx context.Context, alive func() bool) (err error) {
	defer func() { d.m.sent(err != nil) }()
	d.m.begins()
	sending, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	broken, err := d.mirror(sending)
	var carried <-chan error
	if err == nil {
		carried, err = d.begin(sending)
	}
	if err != nil {
		cancel(err)
		return d.stay(ctx, err, alive)
	}
	var door <-chan time.Time
	tick := time.NewTicker(moveLook)
	defer tick.Stop()
	for {
		p, err := d.m.moving(sending)
		switch {
		case err != nil && ctx.Err() == nil && alive():
			time.Sleep(moveAgain) // until it answers, nobody knows
			continue
		case err != nil:
			return d.stay(ctx, err, alive)
		case p.Status == qmp.MigrationCompleted && d.offered:
			d.tell(p)
			return nil
		case p.Over():
			return d.stay(ctx, fmt.Errorf("%s %s", p.Status, p.Desc), alive)
		case p.Status == qmp.PreSwitchover && door == nil:
			door = time.After(doorPatience)
			d.tell(p)
			d.step("door")
			if err := d.settle(sending); err != nil {
				return d.stay(ctx, err, alive)
			}
			d.step("settled")
			broken = nil
			d.m.offer()
			d.offered = true
			if err := d.mark(sending); err != nil {
				return d.stay(ctx, err, alive)
			}
			d.step("marked")
			if err := d.m.handOver(sending); err != nil {
				return d.stay(ctx, err, alive)
			}
			d.step("handed")
			continue
		default:
			d.tell(p)
		}
		select {
		case <-d.m.turned():
		case <-tick.C:
		case <-door:
			return d.stay(ctx, fmt.Errorf("the other host has not taken it within %s of its being stopped", doorPatience), alive)
		case err := <-broken:
			return d.stay(ctx, err, alive)
		case err := <-carried:
			carried = nil // QEMU knows whether that was the end
			if err != nil {
				return d.stay(ctx, err, alive)
			}
		case <-ctx.Done():
			return d.stay(ctx, context.Cause(ctx), alive)
		}
	}
}

// begin connects QEMU to the other host. What comes of the relay is sent.
func (d *departure) begin(ctx context.Context) (<-chan error, error) {
	d.step("open")
	return d.connect(ctx, d.socket, "", func() error {
		d.step("send")
		return d.m.sendTo(ctx, d.socket)
	})
}

// connect makes a way from a socket to the other host, for which QEMU comes when it
// is told to.
func (d *departure) connect(ctx context.Context, socket, drive string, tell func() error) (<-chan error, error) {
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	far, err := d.open(ctx, drive)
	if err != nil {
		l.Close()
		return nil, err
	}
	l.SetDeadline(time.Now().Add(2 * qmpPatience))
	stop := context.AfterFunc(ctx, func() { l.Close() })
	came, carried := make(chan error, 1), make(chan error, 1)
	go func() {
		near, err := l.AcceptUnix()
		stop()
		l.Close()
		if came <- err; err != nil {
			far.Close()
			return
		}
		carried <- relay(ctx, near, far)
	}()
	if err := tell(); err != nil {
		l.Close()
		return nil, err
	}
	if err := <-came; err != nil {
		return nil, fmt.Errorf("QEMU does not send: %w", err)
	}
	return carried, nil
}

// mirror has the disks copied, and returns when the other side has all but the
// newest writes. When a way ends before the mirrors are settled, that is sent.
func (d *departure) mirror(ctx context.Context) (<-chan error, error) {
	if w, ok := d.m.(knowing); ok {
		var err error
		if d.drives, err = w.written(ctx); err != nil {
			return nil, err
		}
	}
	if len(d.drives) == 0 {
		return nil, nil
	}
	if err := d.m.unmirror(ctx); err != nil { // what a try before this one has left
		return nil, err
	}
	broken := make(chan error, len(d.drives))
	for _, drive := range d.drives {
		socket := d.socket + "." + drive
		d.step("mirror")
		carried, err := d.connect(ctx, socket, drive, func() error { return d.m.mirror(ctx, socket, drive) })
		if err != nil {
			return nil, fmt.Errorf("mirror its disk %s: %w", drive, err)
		}
		go func() {
			if err := <-carried; err == nil {
				broken <- fmt.Errorf("the way of its disk %s has ended", drive)
			} else {
				broken <- fmt.Errorf("the way of its disk %s is broken: %w", drive, err)
			}
		}()
	}
	d.step("copying")
	tick := time.NewTicker(moveLook)
	defer tick.Stop()
	for {
		ready, err := d.inStep(ctx)
		if err != nil || ready {
			return broken, err
		}
		select {
		case <-tick.C:
		case err := <-broken:
			_, why := d.inStep(ctx) // it may say more
			return nil, cmp.Or(why, err)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// inStep says whether all mirrors are, and tells how far they are.
func (d *departure) inStep(ctx context.Context) (bool, error) {
	states, err := d.m.mirrors(ctx)
	if err != nil {
		return false, err
	}
	ready, p := 0, qmp.Migration{Status: "disks"}
	for _, m := range states {
		if m.Over {
			return false, fmt.Errorf("its disk %s cannot be copied: %s", m.Drive, cmp.Or(m.Error, "QEMU has ended that"))
		}
		if m.Ready {
			ready++
		}
		p.RAM.Transferred += m.Done
		p.RAM.Remaining += m.Total - min(m.Done, m.Total)
	}
	d.tell(p)
	return ready == len(d.drives) && len(states) == ready, nil
}

// settle has the mirrors of the guest, which is stopped, come to their end.
func (d *departure) settle(ctx context.Context) error {
	if len(d.drives) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, doorPatience)
	defer cancel()
	if err := d.m.settle(ctx, d.drives); err != nil {
		return fmt.Errorf("its disks are not all there: %w", err)
	}
	return d.m.unmirror(ctx)
}

// stay ends a move that has failed, and waits until it is certain that it has. It
// may turn out that it had not: then it gives nil.
func (d *departure) stay(ctx context.Context, why error, alive func() bool) error {
	ctx = context.WithoutCancel(ctx)
	for {
		if !alive() {
			return fmt.Errorf("it ended while it was moved: %w", why)
		}
		p, err := d.m.moving(ctx)
		switch {
		case err != nil:
		case p.Status == qmp.MigrationCompleted && d.offered:
			return nil
		case p.Over():
			_ = d.m.unmirror(ctx) // the next try begins with that, too
			return fmt.Errorf("%w: %w", errStays, why)
		default:
			_ = d.m.cancelMove(ctx) // what came of it is asked for
		}
		time.Sleep(moveAgain)
	}
}

func isNotConnected(err error) bool {
	return errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.EPIPE)
}
