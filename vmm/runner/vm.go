package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/blixard/blixard/core"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/runner/shims"
	"github.com/blixard/blixard/vmm/runner/vmdir"
	"github.com/blixard/blixard/vmm/shim"
)

// vm is one VM of this host. All but overtake runs in its queue, or before that
// runs.
type vm struct {
	h   *Host
	uid string
	at  place
	q   *queue

	rec     *record // nil: there is no directory
	alive   bool
	ready   bool
	paused  bool
	killed  bool        // we killed it ourselves, past its shim
	begun   time.Time   // when its newest start was; zero: by an earlier daemon, or seen to run since
	shim    *shims.Shim // a connection, if there is one
	session session     // of a live instance
	// Of a live instance that is Incoming; and the move away that is under way, if
	// there is one, and what is to be said of it or of the one before.
	incoming vmm.Incoming
	arriving bool   // its guest is on its way
	guessed  bool   // its record was lost
	telling  bool   // its guest is being told that it was restored
	fresh    string // key of the boot that is to be saved once its guest is up; "": none is
	leaving  *leaving
	outgoing vmm.Outgoing
	unwatch  context.CancelFunc
	watched  uint64 // counts what was watched

	still standstill

	lane *lane // the Build under way, if there is one

	mu        sync.Mutex                                              // guards these
	disks     func(context.Context) (read, written uint64, err error) // of a live instance whose hypervisor says
	over      <-chan struct{}                                         // closed when the newest Build is over; nil: there was none
	stopBuild context.CancelFunc                                      // ends the newest Build
	stopStart context.CancelFunc                                      // ends the wait of a Start for what it needs
	stopSave  context.CancelFunc                                      // ends a Snapshot
}

func (h *Host) newVM(uid string) *vm {
	return &vm{h: h, uid: uid, q: newQueue(), at: place{run: h.at.runOf(uid), state: h.at.stateOf(uid), console: h.at.console(uid)}}
}

// Patience with a shim, which is on this machine and has little to do, and with
// the kernel, which may be busy tearing down a VM's memory.
const (
	askPatience   = 3 * time.Second
	deathPatience = 5 * time.Second
	spawnPatience = 30 * time.Second
)

// do carries out one order and answers it, or begins a Build, which is answered
// when it has ended.
func (v *vm) do(a vmm.Action) {
	ctx, cancel := context.WithCancel(v.h.ctx)
	defer cancel()
	if v.overtake(a.Verb); a.Verb == vmm.Build {
		v.begin(a)
		return
	}
	begin := time.Now()
	var image *blixardv1.SnapshotImage
	var err error
	if a.Verb == vmm.Snapshot {
		image, err = v.snapshot(ctx, a)
	} else {
		err = v.carryOut(ctx, a)
	}
	if v.h.ctx.Err() != nil {
		return // being closed: the next daemon will be ordered what is still wanted
	}
	r := v.report()
	if r.Liveness == vmm.Absent {
		r.Instance = a.Instance
	}
	v.answer(a, begin, vmm.Done{Image: image}, err, r)
}

// answer says what became of an order that was taken up at begin.
func (v *vm) answer(a vmm.Action, begin time.Time, done vmm.Done, err error, reports ...vmm.Report) {
	done.Action, done.UID = a.ID, v.uid
	if err != nil {
		done.Err = err.Error()
		v.h.cfg.Log.Warn("an order was not carried out", "order", a.Verb, "vm", a.Instance, "err", err)
	}
	if v.h.cfg.Answered != nil {
		result := "ok"
		if errors.Is(err, errOvertaken) {
			result = "overtaken"
		} else if err != nil {
			result = "failed"
		}
		v.h.cfg.Answered(a.Verb, result, time.Since(begin))
	}
	v.h.observe(core.Observed{Done: []vmm.Done{done}, Reports: reports})
	if v.rec == nil && !v.alive && v.lane == nil {
		v.h.forget(v)
	}
}

// overtake ends a Build under way when something is ordered after it that ends
// the VM, or another Build; and the wait of a Start for what it needs when it is
// the former. Nobody wants to wait for a download then.
func (v *vm) overtake(verb vmm.Verb) {
	ends := verb == vmm.Kill || verb == vmm.Remove
	v.mu.Lock()
	defer v.mu.Unlock()
	saves := v.stopSave
	if v.stopBuild != nil && (ends || verb == vmm.Build) {
		v.stopBuild()
	}
	if v.stopStart != nil && ends {
		v.stopStart()
	}
	if saves != nil && (ends || verb == vmm.Stop) {
		saves()
	}
}

// stoppable is ctx until stop, which is one of those below mu, is called.
func (v *vm) stoppable(ctx context.Context, stop *context.CancelFunc) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	v.mu.Lock()
	defer v.mu.Unlock()
	*stop = cancel
	return ctx, cancel
}

func (v *vm) carryOut(ctx context.Context, a vmm.Action) error {
	switch a.Verb {
	case vmm.Start, vmm.Receive:
		return v.start(ctx, a)
	case vmm.TakeOver:
		return v.takeOver(ctx, a.Instance)
	case vmm.Send:
		return v.send(a)
	case vmm.Unsend:
		return v.unsend(a.Instance)
	case vmm.Stop:
		return v.press(ctx, a.Instance)
	case vmm.Pause, vmm.Resume:
		return v.pause(ctx, a.Instance, a.Verb == vmm.Pause)
	case vmm.Balloon:
		return v.balloon(ctx, a)
	case vmm.Kill:
		return v.kill(ctx, a.Instance)
	case vmm.Rebind:
		return v.rebind(ctx, a)
	case vmm.Remove:
		return v.remove(a)
	}
	return fmt.Errorf("the runner knows no order %v", a.Verb)
}

func (v *vm) start(ctx context.Context, a vmm.Action) error {
	v.settle()
	if v.alive {
		if v.rec.Instance == a.Instance {
			return nil
		}
		return fmt.Errorf("%v cannot be started: %v is alive here", a.Instance, v.rec.Instance)
	}
	if v.rec != nil && !sameIncarnation(v.rec.Instance, a.Instance) {
		return fmt.Errorf("%v cannot be started: the files of %v must be removed first", a.Instance, v.rec.Instance)
	}
	if v.rec != nil && v.rec.Exit != nil && v.rec.Exit.Reason == Interrupted {
		v.forgetBoot()
	}
	v.begun = time.Now()
	d, assignment, err := v.obtain(ctx, a.Assignment)
	if err != nil {
		return err
	}
	a.Assignment = assignment
	if err := v.putBack(); err != nil {
		return fmt.Errorf("put back the disks from before a restore: %w", err)
	}
	r := record{
		Instance: a.Instance, RunGeneration: assignment.RunGeneration, SpecGeneration: assignment.SpecGeneration,
		Hypervisor: assignment.Hypervisor, Bound: v.bound(a), Incoming: a.Verb == vmm.Receive,
	}
	if r.Incoming {
		r.From = assignment.GetMigration().GetPeerNodeId()
	}
	for _, dir := range []string{v.at.state, v.at.run} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	if v.rec != nil {
		r.Restored = v.rec.Restored
		r.User = v.rec.User
	}
	r.User = v.userFor(assignment, r.User)
	if d, can := d.(reviver); can {
		r.Machine = d.machineName(assignment.Spec)
	}
	if byNix(assignment.Spec) {
		if v.rec != nil {
			r.Nix = v.rec.Nix
		}
		r.Nix = r.Nix.boot(assignment)
	}
	plugs, err := plugsOf(assignment)
	if err != nil {
		return err
	}
	r.Plugs, r.Volumes, r.Disks = len(plugs), opensOf(assignment), ownDisks(assignment.Spec)
	v.rec, v.killed, v.guessed, v.incoming, v.outgoing = &r, false, false, vmm.Opening, vmm.Outgoing{}
	if err := r.write(v.at.state); err != nil {
		return v.failed(StartFailed, err)
	}
	if len(plugs) > 0 {
		if err := v.h.links.Plug(v.uid, plugs, v.rec.User); err != nil {
			v.takeDown()
			return v.failed(StartFailed, fmt.Errorf("plug it into its networks: %w", err))
		}
	}
	if r.Nix != nil {
		v.hold()
	}
	if err := portsFree(assignment.Spec); err != nil {
		v.takeDown()
		return v.failed(PortTaken, err)
	}
	c, err := v.command(ctx, d, a)
	if err != nil {
		v.takeDown()
		return v.failed(StartFailed, err)
	}
	switch err := v.spawn(ctx, a, c); {
	case err != nil:
		return err
	case v.rec.Warming:
		return v.warmUp(ctx, a)
	case a.Restore.GetMemory():
		return v.load(ctx, a)
	}
	return nil
}

// prepare says what to execute, once everything that it needs is there: the disks of
// the snapshot, too, that it starts from.
func (v *vm) prepare(ctx context.Context, d driver, a vmm.Action) (command, error) {
	if a.Restore == nil {
		c, err := d.prepare(ctx, v.place(), a.Assignment, a.Instance)
		if err != nil {
			return c, err
		}
		return v.warm(ctx, d, a, c)
	}
	v.fresh = ""
	ctx, cancel := v.stoppable(ctx, &v.stopStart)
	defer cancel()
	c, err := command{}, v.revive(ctx, d, a.Assignment.GetName(), a.Restore, v.rec)
	switch {
	case err != nil:
		err = fmt.Errorf("start from the snapshot %s: %w", a.Restore.Name, full(err, errSnapshotFull))
	case a.Restore.Memory:
		c, err = d.(reviver).revive(ctx, v.place(), a.Assignment, a.Instance, v.h.at.snapshotOf(a.Restore.Uid))
	default:
		if c, err = d.prepare(ctx, v.place(), a.Assignment, a.Instance); err == nil {
			err = v.goesOn() // it boots from them
		}
	}
	if err != nil {
		err = errors.Join(err, v.putBack())
	}
	return c, err
}

func sameIncarnation(a, b shim.Instance) bool {
	return a.UID == b.UID && a.Generation == b.Generation && a.Index == b.Index
}

// bound is what an order's assignment has an instance bound by.
func (v *vm) bound(a vmm.Action) bound {
	b := bound{Lease: a.Assignment.Lease}
	if b.Lease > blixardv1.LeaseClass_LEASE_CLASS_NONE {
		b.Ms, b.Epoch = a.Assignment.LeaseMs, a.Host.Epoch
		b.Page = v.h.leases.page(a.Host, b.Ms)
	}
	return b
}

// failed notes how an attempt ended of which no shim can tell.
func (v *vm) failed(reason string, err error) error {
	v.rec.Exit = &vmm.Exit{Code: 1, Reason: reason, Message: err.Error()}
	v.note()
	return err
}

func (v *vm) note() {
	if err := v.rec.write(v.at.state); err != nil {
		v.h.cfg.Log.Warn("instance.json was not written", "vm", v.rec.Instance, "err", err)
	}
}

// press asks the guest to power off.
func (v *vm) press(ctx context.Context, i shim.Instance) error {
	v.settle()
	if !v.alive {
		return nil
	}
	if err := v.mine(i); err != nil {
		return err
	}
	if v.leaving != nil {
		_ = v.unsend(i) // what came of it is noted
	}
	if v.rec.Incoming || v.rec.HandedOver != 0 || v.leaving != nil {
		return v.kill(ctx, i) // there is no guest here that could hear it
	}
	if err := v.goesOn(); err != nil { // it hears it running
		return err
	}
	err := v.ask(ctx, func(ctx context.Context, s *shims.Shim) error { return v.session.stop(ctx, s) })
	if err == nil && v.paused { // it runs, and may not heed the button
		v.paused = false
		v.tell()
	}
	return err
}

// pause stops the guest where it is, or lets it go on.
func (v *vm) pause(ctx context.Context, i shim.Instance, pause bool) error {
	v.settle()
	if !v.alive {
		return nil
	}
	if err := v.mine(i); err != nil {
		return err
	}
	if v.leaving != nil && pause {
		if err := v.unsend(i); err != nil {
			return fmt.Errorf("pause it: %w", err)
		}
	}
	if v.rec.Incoming || v.rec.HandedOver != 0 {
		return errElsewhere
	}
	if !pause { // one that was restored while an earlier daemon looked
		if err := v.goesOn(); err != nil {
			return err
		}
	}
	do, what := v.session.resume, "let it go on"
	if pause {
		do, what = v.session.pause, "pause it"
	}
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	if err := do(ctx); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if v.paused = pause; !pause {
		v.inform()
	}
	return nil
}

// mine refuses an order that was meant for another instance: it may be an old one.
func (v *vm) mine(i shim.Instance) error {
	if v.rec.Instance != i {
		return fmt.Errorf("%v is not alive here: %v is", i, v.rec.Instance)
	}
	return nil
}

// kill ends the instance: by its shim, or where that does not help, the shim too.
func (v *vm) kill(ctx context.Context, i shim.Instance) error {
	v.settle()
	if !v.alive {
		return nil
	}
	if err := v.mine(i); err != nil {
		return err
	}
	err := v.ask(ctx, func(ctx context.Context, s *shims.Shim) error { return s.Kill(ctx, syscall.SIGKILL) })
	if err == nil && v.dies(askPatience) {
		return nil
	}
	v.killed = true
	err = shims.Sweep(v.at.run)
	if v.dies(deathPatience) {
		return nil
	}
	return fmt.Errorf("%v was sent SIGKILL and is still not dead: %w", i, cmp.Or(err, errors.New("the kernel has not ended it")))
}

// dies waits until nothing of the instance lives.
func (v *vm) dies(patience time.Duration) bool {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if v.settle(); !v.alive {
			return true
		}
	}
	return false
}

func (v *vm) rebind(ctx context.Context, a vmm.Action) error {
	v.settle()
	if !v.alive {
		return errors.New("it cannot be bound by another lease: it is not alive")
	}
	if err := v.mine(a.Instance); err != nil {
		return err
	}
	next, before := v.bound(a), v.rec.Next
	if before == nil || next.Lease <= before.Lease { // of what may come to be, the loosest
		v.rec.Next = &next
	}
	if err := v.rec.write(v.at.state); err != nil {
		v.rec.Next = before
		return err
	}
	err := v.ask(ctx, func(ctx context.Context, s *shims.Shim) error { return s.Rebind(ctx, next.Page) })
	if err == nil {
		v.rec.Bound, v.rec.Next = next, nil
		v.note()
		return nil
	}
	// Unless it was refused, the shim may do it yet: it counts as having the looser
	// of the two. A shim does one after the other, so what it says once it has
	// refused is what came of everything before.
	if refused := new(shims.RefusedError); errors.As(err, &refused) && !strings.HasPrefix(refused.Text, shim.ErrorPhase) {
		_ = v.ask(ctx, func(ctx context.Context, s *shims.Shim) error {
			st, err := s.Status(ctx)
			if err == nil {
				v.rec.settle(st)
				v.rec.Next = nil
				v.note()
			}
			return err
		})
	}
	return fmt.Errorf("bind it by its lease: %w", err)
}

// remove deletes the instance's files when nothing of it is alive. They go at
// once, by a rename; their blocks when they can.
func (v *vm) remove(a vmm.Action) error {
	i := a.Instance
	v.settle()
	if v.alive || !shims.Dead(v.at.run) {
		return fmt.Errorf("%v cannot be removed: something of it is alive", i)
	}
	if !v.lane.over(deathPatience) {
		return fmt.Errorf("%v cannot be removed: its build has not ended yet", i)
	}
	if v.rec != nil && v.rec.Instance.Index != 0 && !sameIncarnation(v.rec.Instance, i) {
		return fmt.Errorf("%v cannot be removed: what is here is %v", i, v.rec.Instance)
	}
	// A shim that an earlier daemon has spawned may not have come to its lock yet:
	// until its order to start is gone, we hold the lock.
	lock, err := vmdir.Lock(v.at.run)
	if err == nil {
		defer vmdir.Unlock(lock)
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%v cannot be removed: %w", i, err)
	}
	if err := v.h.links.Unplug(v.uid); err != nil {
		return fmt.Errorf("unplug it from its networks: %w", err)
	}
	if err := v.leaveCgroup(); err != nil {
		return err
	}
	if err := os.RemoveAll(v.at.run); err != nil {
		return fmt.Errorf("remove its run directory: %w", err)
	}
	trash := filepath.Join(v.h.at.trash(), fmt.Sprintf("%s.%d", v.uid, time.Now().UnixNano()))
	keep := a.Assignment == nil && i.Generation < a.Host.Generation
	if keep {
		trash = filepath.Join(v.h.at.left(), filepath.Base(trash))
	}
	if err := os.Rename(v.at.state, trash); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove its files: %w", err)
	}
	if err := v.h.boots.forget(v.uid); err != nil {
		return fmt.Errorf("remove its saved boot: %w", err)
	}
	v.rec, v.fresh = nil, ""
	v.h.users.forget(v.uid)
	v.hold()
	if keep {
		v.h.cfg.Log.Warn("a VM of which the backup that the cluster was restored from knows nothing here: its files are kept", "vm", i, "in", trash)
		return nil
	}
	if err := os.RemoveAll(trash); err != nil {
		v.h.cfg.Log.Warn("a removed VM's files are deleted at the next start", "err", err)
	}
	return nil
}

// report is the truth as it was last looked at.
func (v *vm) report() vmm.Report {
	if v.rec == nil {
		return vmm.Report{Instance: shim.Instance{UID: v.uid}}
	}
	r := vmm.Report{Instance: v.rec.Instance, RunGeneration: v.rec.RunGeneration, SpecGeneration: v.rec.SpecGeneration, Liveness: vmm.Down, Exit: v.rec.Exit, HandedOver: v.rec.HandedOver, Restored: v.rec.Restored}
	if v.alive {
		b := v.rec.Bound
		if n := v.rec.Next; n != nil && n.Lease < b.Lease {
			b = *n // it may have either: the looser
		}
		r.Liveness, r.Exit = vmm.Alive, nil
		r.Ready = v.ready && v.rec.HandedOver == 0
		r.Paused = r.Ready && v.paused
		r.Outgoing = v.outgoing
		r.Warm = v.rec.Warm
		r.BootMiB, r.MemoryMiB = v.rec.BootMiB, v.rec.MemoryMiB
		if v.rec.Incoming {
			r.Incoming = max(v.incoming, vmm.Opening)
		}
		r.Lease, r.LeaseMs, r.Epoch = max(b.Lease, blixardv1.LeaseClass_LEASE_CLASS_NONE), b.Ms, b.Epoch
	}
	return r
}

// tell reports a change that nobody ordered.
func (v *vm) tell() { v.h.observe(core.Observed{Reports: []vmm.Report{v.report()}}) }
