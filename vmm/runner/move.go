package runner

import (
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
//	QEMU ──► RUN/out ──► relay ══ Stream ══► relay ──► RUN/in ──► QEMU (-S)
//	 ▲                                                              │
//	 └──────────────── loaded (the return path) ◄───────────────────┘
//
// Until QEMU says "completed" here, the guest is here, and whatever goes wrong has
// it run on here: QEMU itself sees to that. From then on it must never run here
// again. So it is noted in instance.json that it may have left before it may leave,
// and that it has before anybody is told. There it runs only when that host is told
// that it may.

// mover is a session whose guest can be moved while it runs.
type mover interface {
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

// errStays says why a guest was not moved: it runs on here.
var errStays = errors.New("it was not moved, and runs on here")

// departure is one try to move a guest away.
type departure struct {
	m      mover
	socket string // for QEMU to send to
	// open connects to the host that the guest goes to.
	open func(context.Context) (Stream, error)
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
	sending, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	carried, err := d.begin(sending)
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
	if err := os.Remove(d.socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: d.socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer l.Close()
	d.step("open")
	far, err := d.open(ctx)
	if err != nil {
		return nil, err
	}
	l.SetDeadline(time.Now().Add(2 * qmpPatience))
	defer context.AfterFunc(ctx, func() { l.Close() })()
	d.step("send")
	if err := d.m.sendTo(ctx, d.socket); err != nil {
		far.Close()
		return nil, err
	}
	near, err := l.AcceptUnix()
	if err != nil {
		far.Close()
		return nil, fmt.Errorf("QEMU does not send: %w", err)
	}
	carried := make(chan error, 1)
	go func() { carried <- relay(ctx, near, far) }()
	return carried, nil
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
