package runner

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/runner/qmp"
	"github.com/blixard/blixard/vmm/runner/shims"
	"github.com/blixard/blixard/vmm/shim"
)

// Passage is one guest on its way from one host to another.
type Passage struct {
	// Node and Address are the host that it goes to.
	Node    uint64
	Address string
	// UID of its VM, and the migration's id, which is the target instance's index.
	UID       string
	Migration uint64
	// Shape is what both machines must have in common.
	Shape string
	// Disk is the drive whose disk goes over it; "": the guest's memory does.
	Disk string
}

var (
	// errElsewhere is why a guest may not run here.
	errElsewhere = errors.New("its guest is not this host's to run: it comes from another, or has gone to another")
	errNoRoad    = errors.New("this host has no way to send a guest to another")
)

// leaving is one departure under way. It runs beside the VM's queue, and its end
// is taken in it.
type leaving struct {
	migration uint64
	instance  shim.Instance
	ctx       context.Context
	cancel    context.CancelFunc
	done      chan struct{} // closed when err is set
	err       error
}

const tellMove = 2 * time.Second

// step is called at each step of a move, with the run directory of the VM that moves;
// tests end something there.
var step = func(run, name string) {}

// send begins to send a live guest away.
func (v *vm) send(a vmm.Action) error {
	v.settle()
	if !v.alive {
		return errors.New("it cannot be sent: it is not alive")
	}
	if err := v.mine(a.Instance); err != nil {
		return err
	}
	order := a.Assignment.GetMigration()
	if v.rec.HandedOver != 0 || v.leaving != nil && v.leaving.migration == order.GetId() {
		return nil
	}
	m, ok := v.session.(mover)
	switch {
	case order.GetId() == 0 || order.GetPeerAddress() == "":
		return errors.New("it cannot be sent: nobody has said where to")
	case v.leaving != nil:
		return fmt.Errorf("it cannot be sent: it is being sent by another order (%d)", v.leaving.migration)
	case v.rec.Incoming:
		return errElsewhere
	case !ok || v.rec.Shape == "":
		return errors.New("it cannot be sent: its hypervisor moves no guest that runs, or it was started by a daemon that could not; stop it and start it first")
	case v.h.cfg.Passage == nil:
		return errNoRoad
	}
	l := &leaving{migration: order.Id, instance: a.Instance, done: make(chan struct{})}
	l.ctx, l.cancel = context.WithCancel(v.h.ctx)
	v.leaving, v.outgoing = l, vmm.Outgoing{Migration: order.Id}
	shape := v.rec.Shape
	p := Passage{Node: order.PeerNodeId, Address: order.PeerAddress, UID: v.uid, Migration: order.Id}
	d := departure{
		m: m, socket: v.at.leaves(), drives: v.rec.Written,
		open: func(ctx context.Context, drive string) (Stream, error) {
			version, err := m.version(ctx)
			if err != nil {
				return nil, err
			}
			p := p
			p.Shape, p.Disk = shapeWith(version, shape), drive
			return v.h.cfg.Passage(ctx, p)
		},
		mark: func(ctx context.Context) error { return v.offered(ctx, l) },
		tell: v.progress(l),
		step: func(name string) { step(v.at.run, name) },
	}
	v.h.wait.Go(func() {
		defer l.cancel()
		l.err = d.run(l.ctx, v.lives)
		close(l.done)
		v.q.put(func() { v.arrivedAtTheEnd(l) })
	})
	return nil
}

// lives says, from any goroutine, that something of the VM may live, and that it is
// worth while to wait for it.
func (v *vm) lives() bool { return v.h.ctx.Err() == nil && !shims.Dead(v.at.run) }

// progress reports how far a departure is, now and then.
func (v *vm) progress(l *leaving) func(qmp.Migration) {
	var last time.Time
	return func(m qmp.Migration) {
		if time.Since(last) < tellMove {
			return
		}
		last = time.Now()
		v.q.put(func() {
			if v.leaving != l {
				return
			}
			v.outgoing.SentBytes, v.outgoing.LeftBytes = m.RAM.Transferred, m.RAM.Remaining
			v.outgoing.ExpectedDowntimeMs = uint32(min(max(m.ExpectedDowntime, 0), 1<<31))
			v.tell()
		})
	}
}

// offered notes that the guest may have left, before it may.
func (v *vm) offered(ctx context.Context, l *leaving) error {
	noted := make(chan error, 1)
	if !v.q.put(func() {
		if v.leaving != l || l.ctx.Err() != nil {
			noted <- errOvertaken
			return
		}
		v.rec.Offered = l.migration
		err := v.rec.write(v.at.state)
		if err != nil {
			v.rec.Offered = 0
		}
		noted <- err
	}) {
		return errOvertaken
	}
	select {
	case err := <-noted:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// arrivedAtTheEnd takes what became of a departure.
func (v *vm) arrivedAtTheEnd(l *leaving) {
	if v.leaving != l || v.h.ctx.Err() != nil {
		return
	}
	v.leaving = nil
	if v.rec == nil || v.rec.Instance != l.instance {
		return
	}
	if l.err == nil {
		v.handedOver(l.migration)
		return
	}
	v.stays()
	v.outgoing = vmm.Outgoing{Migration: l.migration, Failed: true, Message: l.err.Error()}
	v.settle()
	v.tell()
}

// handedOver notes that the guest has left for good, and says so once that is
// written down. Until then nobody is told, and nobody runs it.
func (v *vm) handedOver(migration uint64) {
	if v.settle(); !v.alive || v.rec.HandedOver != 0 {
		// One that has ended before was reported so, and is not handed over any more: it
		// may be about to be started again.
		v.tell()
		return
	}
	v.rec.HandedOver = migration
	if err := v.rec.write(v.at.state); err != nil {
		v.rec.HandedOver = 0
		v.h.cfg.Log.Error("a guest was handed over, and that cannot be written down: its host waits", "vm", v.rec.Instance, "err", err)
		instance := v.rec.Instance
		time.AfterFunc(time.Second, func() {
			v.q.put(func() {
				if v.rec != nil && v.rec.Instance == instance && v.alive {
					v.handedOver(migration)
				}
			})
		})
		return
	}
	v.outgoing, v.ready, v.paused = vmm.Outgoing{}, true, true
	v.h.cfg.Log.Info("a guest was handed over", "vm", v.rec.Instance, "migration", migration)
	v.tell()
}

// stays notes that the guest has not left.
func (v *vm) stays() {
	if v.rec.Offered == 0 {
		return
	}
	v.rec.Offered = 0
	v.note()
}

// unsend ends a departure under way. It does not wait long for a hypervisor that
// does not answer: then nobody knows yet what became of it.
func (v *vm) unsend(i shim.Instance) error {
	l := v.leaving
	if l != nil {
		if err := v.mine(i); err != nil {
			return err
		}
		l.cancel()
		select {
		case <-l.done:
			v.arrivedAtTheEnd(l)
		case <-time.After(askPatience):
			return errors.New("its hypervisor does not say whether the guest has left")
		}
	}
	switch {
	case v.rec == nil || v.rec.Instance != i:
		return nil
	case v.rec.HandedOver != 0:
		return fmt.Errorf("it was handed over (%d)", v.rec.HandedOver)
	case v.rec.Offered != 0 && v.alive:
		return errors.New("its hypervisor has not said yet whether the guest has left")
	}
	v.outgoing = vmm.Outgoing{}
	return nil
}
