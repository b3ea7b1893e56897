package runner

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/runner/console"
	"github.com/blixard/blixard/vmm/runner/shims"
	"github.com/blixard/blixard/vmm/shim"
)

// This file is about a live instance: how it comes to be, how we hear of it, and
// how we learn that it is no more.

// spawn starts the shim, and takes the instance up.
func (v *vm) spawn(ctx context.Context, a vmm.Action, c command) error {
	if err := console.Mark(v.at.console, a.Instance.Attempt); err != nil {
		return v.failed(StartFailed, err)
	}
	if err := v.handOver(a, c.jailed); err != nil {
		v.takeDown()
		return v.failed(StartFailed, err)
	}
	if v.rec.User != nil && !c.jailed {
		c.user = v.rec.User
	}
	cgroup, err := v.cgroup(a)
	if err != nil {
		v.takeDown()
		return v.failed(StartFailed, err)
	}
	ctx, cancel := context.WithTimeout(ctx, spawnPatience)
	defer cancel()
	s, err := v.h.cfg.Spawner.Spawn(ctx, v.at.run, shim.Start{
		Instance: a.Instance, Host: a.Host, Page: v.rec.Bound.Page,
		Argv: c.argv, Env: c.env, Dir: c.dir, Console: c.output, PIDNamespace: c.pidNamespace, User: c.user, Steps: c.steps,
		Cgroup: cgroup,
	})
	if err == nil {
		v.take(s)
		return nil
	}
	if v.h.ctx.Err() != nil {
		return err // being closed: the next daemon finds out
	}
	dead := shims.Dead(v.at.run)
	if dead {
		v.withdraw()
		dead = !v.alive
	}
	if dead {
		v.takeDown()
	}
	if !dead { // it may run after all
		v.alive, v.ready, v.paused = true, false, false
		v.resume()
		return fmt.Errorf("start: %w", err)
	}
	switch {
	case errors.Is(err, shims.ErrLapsed):
		return v.failed(Lapsed, err)
	case errors.Is(err, shims.ErrExec):
		return v.failed(BootFailed, err)
	}
	return v.failed(StartFailed, err)
}

// take begins to watch an instance whose shim we have met.
func (v *vm) take(s *shims.Shim) {
	v.shim, v.alive, v.ready, v.paused = s, true, false, false
	v.rec.Exit = nil
	v.watch()
}

// resume goes on with an instance that an earlier daemon started.
func (v *vm) resume() {
	if v.alive && v.unwatch == nil {
		v.watch()
	}
}

// watch has us told when the guest is up and when the instance has ended.
func (v *vm) watch() {
	attempt := v.rec.Instance
	d, err := v.h.driverOf(v.rec)
	if err != nil { // it was allowed once, or QEMU has gone from PATH: still ours to watch
		d = process{}
		if v.rec.Hypervisor != 0 {
			v.h.cfg.Log.Warn("a VM is alive that could not be started now", "vm", attempt, "err", err)
		}
	}
	v.watched++ // an attempt that does not go on from its saved boot is started twice
	watched := v.watched
	v.session = d.follow(v.at, func(s guestState) {
		v.q.put(func() {
			if v.alive && v.rec.Instance == attempt && v.watched == watched {
				v.seen(s)
			}
		})
	})
	if m, ok := v.session.(mover); ok && (v.guessed || v.rec.Offered != 0 || v.rec.HandedOver != 0) {
		m.offer()
	}
	if s, ok := v.session.(interface {
		disks(context.Context) (uint64, uint64, error)
	}); ok {
		v.counts(s.disks)
	}
	ctx, cancel := context.WithCancel(v.h.ctx)
	v.unwatch = cancel
	s := v.shim
	v.h.wait.Go(func() {
		if s != nil {
			_, _ = s.Wait(ctx) // how it ended is found out in the queue
		}
		for !shims.Dead(v.at.run) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(200 * time.Millisecond):
			}
		}
		v.q.put(func() {
			if !v.alive || v.rec.Instance != attempt {
				return
			}
			if v.settle(); !v.alive {
				v.tell()
			}
		})
	})
}

// seen takes what its hypervisor says of a live instance's guest.
func (v *vm) seen(s guestState) {
	switch {
	case v.rec.Incoming:
		v.seenIncoming(s)
	case s == waiting && v.rec.Warming:
		v.neverWarm()
	case s == waiting:
	case v.rec.HandedOver != 0:
	case s == left && v.rec.Offered != 0:
		v.handedOver(v.rec.Offered)
	case v.rec.Offered != 0 && v.leaving == nil: // a daemon before us has offered it, and it stays
		v.stays()
		if m, ok := v.session.(mover); ok {
			m.sent(true)
		}
		v.seen(s)
	case !v.ready || v.paused != (s != running):
		v.booted()
		if v.ready, v.paused = true, s != running; !v.paused {
			v.inform()
			v.keepBoot()
		}
		v.tell()
	}
}

// booted hears that the guest was seen to run.
func (v *vm) booted() {
	if !v.begun.IsZero() && v.h.cfg.Booted != nil {
		v.h.cfg.Booted(v.rec.Hypervisor, time.Since(v.begun))
	}
	v.begun = time.Time{}
}

// counts says who knows what the guest has read and written.
func (v *vm) counts(disks func(context.Context) (read, written uint64, err error)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.disks = disks
}

// settle looks whether a live instance has ended, and notes how.
func (v *vm) settle() {
	if !v.alive || !shims.Dead(v.at.run) {
		return
	}
	v.rec.Exit = v.howEnded()
	v.rec.Next, v.rec.Offered = nil, 0
	v.drop()
	v.alive, v.ready, v.paused = false, false, false
	v.note()
	v.takeDown()
	v.h.cfg.Log.Info("a VM has ended", "vm", v.rec.Instance, "exit", v.rec.Exit)
}

// drop lets go of what we hold of a live instance, and disturbs nothing.
func (v *vm) drop() {
	if v.unwatch != nil {
		v.unwatch()
		v.unwatch = nil
	}
	v.counts(nil)
	if v.session != nil {
		v.session.close()
		v.session = nil
	}
	if v.shim != nil {
		v.shim.Close()
		v.shim = nil
	}
}

// howEnded says how a dead instance ended; nil when nobody saw it.
func (v *vm) howEnded() *vmm.Exit {
	_, st, err := shims.Adopt(v.at.run)
	if err != nil {
		v.h.cfg.Log.Warn("a VM's end cannot be read", "vm", v.rec.Instance, "err", err)
		return nil
	}
	switch {
	case st.Fate == shims.Ended && st.Exit.Instance == v.rec.Instance:
		s := v.session
		if s == nil { // it ended while no daemon was there
			s = v.silent()
			defer s.close()
		}
		e := understand(*st.Exit, s, v.ready || st.Shim != nil && v.session == nil)
		if e.Reason == Crashed && v.starved() {
			e.Reason, e.Message = Starved, starvedText
		}
		if v.rec.Incoming && e.Reason != Killed && e.Reason != Lapsed {
			e = &vmm.Exit{Code: 1, Reason: NotArrived, Message: "its guest has not come over: " + e.Message}
		}
		if v.rec.Warming && e.Reason != Killed && e.Reason != Lapsed {
			e = interrupted
		}
		return e
	case v.killed:
		return &vmm.Exit{Code: 137, Reason: Killed, Message: "it was killed, and its shim, which did not answer, with it"}
	case st.Shim != nil && st.Shim.Page != "" && lapsed(st.Shim.Page):
		return &vmm.Exit{Code: 137, Reason: Lapsed, Message: "the lease of its host passed: it was ended so that it can run elsewhere"}
	}
	return nil
}

// silent is a session of an instance that is dead already.
func (v *vm) silent() session {
	if d, err := v.h.driverOf(v.rec); err == nil {
		return d.follow(v.at, func(guestState) {})
	}
	return processSession{}
}

// ask asks the shim, over a new connection if the old one has ended.
func (v *vm) ask(ctx context.Context, f func(context.Context, *shims.Shim) error) error {
	for again := false; ; again = true {
		if v.shim == nil {
			s, st, err := shims.Adopt(v.at.run)
			if err != nil {
				return err
			}
			if s == nil {
				return fmt.Errorf("its shim does not answer (%s)", st.Fate)
			}
			v.shim = s
		}
		ctx, cancel := context.WithTimeout(ctx, askPatience)
		err := f(ctx, v.shim)
		cancel()
		if !errors.Is(err, shims.ErrGone) || again {
			return err
		}
		v.shim.Close()
		v.shim = nil
	}
}
