package runner

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/shim"
)

// A guest that comes from another host. Its hypervisor is started as any is, under
// this host's lease, told to wait for the guest (-S, -incoming). That it may not run
// is in instance.json before it is spawned, and taken out of there before it does.

// receiver is a driver that can start a hypervisor for a guest that comes.
type receiver interface {
	prepareIncoming(context.Context, place, shim.Instance, command) (command, error)
}

// command is what a start executes.
func (v *vm) command(ctx context.Context, d driver, a vmm.Action) (command, error) {
	c, err := v.prepare(ctx, d, a)
	if err != nil {
		return c, err
	}
	v.rec.Shape, v.rec.Written, v.rec.BootMiB = c.shape, c.written, c.balloon
	if a.Verb != vmm.Receive && !a.Restore.GetMemory() && !v.rec.Warming {
		v.rec.MemoryMiB = c.balloon
	}
	if err := v.rec.write(v.at.state); err != nil {
		return c, err
	}
	if a.Verb != vmm.Receive {
		return c, nil
	}
	r, ok := d.(receiver)
	if !ok || c.shape == "" {
		return c, errors.New("this hypervisor takes no guest that runs elsewhere")
	}
	return r.prepareIncoming(ctx, v.place(), a.Instance, c)
}

// seenIncoming takes what is seen of a guest that may not run here yet.
func (v *vm) seenIncoming(s guestState) {
	now := map[guestState]vmm.Incoming{waiting: vmm.Listening, paused: vmm.Loaded}[s]
	switch {
	case s == running: // nobody has told it to
		v.h.cfg.Log.Error("a guest runs that must not: it is killed", "vm", v.rec.Instance)
		if err := v.kill(v.h.ctx, v.rec.Instance); err != nil {
			v.h.cfg.Log.Error("a guest that must not run was not killed", "vm", v.rec.Instance, "err", err)
		}
		v.tell()
	case now > v.incoming:
		if now == vmm.Loaded {
			if err := v.syncDisks(); err != nil {
				v.h.cfg.Log.Error("the disks of a guest that has come are not on this host's: it is killed", "vm", v.rec.Instance, "err", err)
				if err := v.kill(v.h.ctx, v.rec.Instance); err != nil {
					v.h.cfg.Log.Error("it was not killed", "vm", v.rec.Instance, "err", err)
				}
				v.tell()
				return
			}
			step(v.at.run, "synced")
		}
		v.incoming = now
		v.tell()
	}
}

// takeOver lets a guest run that has arrived.
func (v *vm) takeOver(ctx context.Context, i shim.Instance) error {
	v.settle()
	if !v.alive {
		return errors.New("it cannot be taken over: it is not alive")
	}
	if err := v.mine(i); err != nil {
		return err
	}
	if !v.rec.Incoming {
		return nil
	}
	m, ok := v.session.(mover)
	if !ok || v.incoming != vmm.Loaded {
		return fmt.Errorf("it cannot be taken over: its guest is not here yet (%v)", v.incoming)
	}
	if err := v.h.volumes.land(v.rec.Volumes, v.rec.Instance.Index); err != nil {
		return err
	}
	step(v.at.run, "unmarked")
	v.rec.Incoming = false
	if err := v.rec.write(v.at.state); err != nil {
		v.rec.Incoming = true
		return err
	}
	v.incoming, v.ready, v.paused, v.begun = 0, true, true, time.Time{} // it has booted elsewhere
	step(v.at.run, "landing")
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	if err := m.land(ctx); err != nil {
		return fmt.Errorf("let it run: %w", err) // it is paused, and will be resumed
	}
	v.paused = false
	v.h.cfg.Log.Info("a guest has arrived, and runs", "vm", v.rec.Instance)
	return nil
}

// arrivePatience is how long a guest that arrives may wait at the door.
const arrivePatience = 10 * time.Second

// Admit looks whether a guest, or a disk of it, can come in, and gives what takes it:
// that ends when it is here, or will not come. It comes from the host that has been
// named, and from no other; QEMU loads only what fits, and runs nothing.
func (h *Host) Admit(ctx context.Context, p Passage) (func(context.Context, Stream) error, error) {
	if err := checkUID(p.UID); err != nil {
		return nil, err
	}
	h.mu.Lock()
	v := h.vms[p.UID]
	h.mu.Unlock()
	if v == nil {
		return nil, fmt.Errorf("no guest of VM %s is expected here", p.UID)
	}
	type answer struct {
		m   mover
		err error
	}
	looked := make(chan answer, 1)
	if !v.q.put(func() {
		m, err := v.admit(p)
		looked <- answer{m, err}
	}) {
		return nil, errOvertaken
	}
	var m mover
	select {
	case a := <-looked:
		if a.err != nil {
			return nil, a.err
		}
		m = a.m
	case <-ctx.Done():
		v.q.put(func() {
			if a := <-looked; a.err == nil && p.Disk == "" { // it was let in, and nobody comes
				v.arriving = false
			}
		})
		return nil, ctx.Err()
	}
	gone, socket := func() { v.q.put(func() { v.arriving = false }) }, incomingSocket
	if p.Disk != "" {
		gone, socket = func() {}, diskSocket
	}
	version, err := m.version(ctx)
	if err == nil {
		err = fits(p.Shape, shapeWith(version, v.shape()))
	}
	if err == nil && p.Disk != "" {
		err = m.export(ctx, p.Disk)
	}
	if err != nil {
		gone()
		return nil, err
	}
	return func(ctx context.Context, from Stream) error {
		defer gone()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(h.ctx, cancel)()
		meeting, met := context.WithTimeout(ctx, arrivePatience)
		to, err := meet(meeting, filepath.Join(v.at.run, socket))
		met()
		if err != nil {
			from.Close()
			return fmt.Errorf("its hypervisor takes no guest, or no disk (any more): %w", err)
		}
		defer m.look()
		return relay(ctx, to, from)
	}, nil
}

// admit looks whether a guest is expected.
func (v *vm) admit(p Passage) (mover, error) {
	v.settle()
	m, ok := v.session.(mover)
	switch {
	case v.rec == nil || !v.alive || !ok || !v.rec.Incoming || v.rec.Instance.Index != p.Migration:
		return nil, fmt.Errorf("no guest of VM %s is expected here by migration %d", p.UID, p.Migration)
	case p.Node != v.rec.From:
		return nil, fmt.Errorf("the guest of VM %s comes from node %d, and this is node %d", p.UID, v.rec.From, p.Node)
	case v.incoming == vmm.Loaded || v.arriving:
		return nil, fmt.Errorf("the guest of VM %s is here already, or on its way", p.UID)
	case p.Disk != "" && v.rec.Nix == nil && !slices.Contains(v.rec.Written, p.Disk): // what Nix built says so itself
		return nil, fmt.Errorf("VM %s has no disk %.20q here that could be written", p.UID, p.Disk)
	}
	v.arriving = p.Disk == ""
	return m, nil
}

// shape is the machine's, from any goroutine: it does not change while its
// hypervisor lives.
func (v *vm) shape() string {
	r, err := readRecord(v.at.state)
	if err != nil || r == nil {
		return ""
	}
	return r.Shape
}
