package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/shim"
)

// The process table of a machine: shims and guests. This is the truth that the
// judges count, whatever anyone believes.
//
// A shim runs shim.Machine, the very code of production; here is what its
// process would do. A guest lives from the fork until it is gone: after a
// SIGKILL that can take up to K. The directory's lock is held by the shim and,
// inherited, by the guest. When the shim dies, for whatever reason, the guest is
// sent a SIGKILL (PDEATHSIG). The kernel's timer kills the shim at its deadline
// on the host's BOOTTIME, to the nanosecond, stopped or not.

// vmDir is the directory of one VM on one machine. It survives the power.
type vmDir struct {
	uid   string
	start *shim.Start
	state *shim.State // shim.json
	exit  *shim.Exit  // exit.json
	// Of instance.json: what binds the instance, and what it was asked to be bound
	// by and may come to be; its shim knows which.
	bound bound
	next  *bound
	gen   uint32 // run generation of the order to start
	spec  uint32 // and its spec's
	nix   vmm.Runners
	// What its disks hold; what they held before a restore of which the guest has not
	// gone on yet, which that is, and the newest of which it has.
	data, before        uint64
	restoring, restored uint64
	from                *savedVM // whose memory the newest attempt goes on with
	loader              uint64   // the daemon's life that gives it that
	keepPaused          bool
	nets                []*blixardv1.InterfaceConfig
	// devices that it is started with next
	devices []*blixardv1.Device
	// Of instance.json: it was started by Receive, and a migration to which it was
	// handed over.
	incoming   bool
	came       vmm.Incoming // how far its guest has come, as it is told
	handedOver uint64
	// mounts are what it has open while something of it lives.
	mounts []*blixardv1.VolumeConfig
	// Of instance.json: MiB that it was started with, whether it has a balloon, and what
	// it had when it was last asked; 0: nobody knows.
	boot    uint64
	balloon bool
	has     uint64

	shim   *shimProc
	guest  *guest
	zombie *guest                  // dead, and not yet gone from the process table
	forks  bool                    // it is a program that may fork
	told   shim.Instance           // it heard that it is to end
	policy blixardv1.RestartPolicy // of the spec that it was ordered to start with
	sick   bool                    // its newest guest was
	warm   warmStart
	shares []*blixardv1.Share // folders of its host that it is started with
	reason string             // why its newest guest ended, where its host can tell
}

func newDir(i shim.Instance) *vmDir {
	return &vmDir{uid: i.UID, start: &shim.Start{Instance: i}}
}

// of says whether the directory is one of an instance's incarnation.
func (d *vmDir) of(i shim.Instance) bool {
	at := d.start.Instance
	return at.Generation == i.Generation && at.Index == i.Index
}

func (d *vmDir) alive() bool { return d.shim != nil || d.guest != nil || d.zombie != nil }

type shimProc struct {
	dir     *vmDir
	m       *Machine
	life    uint64
	machine shim.Machine
	inbox   []shim.Input
	busy    bool // an evShim is under way
	paused  bool
	due     bool // an evShim or a look came while stopped
	look    shim.Output
	looks   uint64
	timer   uint64 // 0: off
	arms    uint64
	grown   bool  // it has read a page that goes further than the timer
	wall    int64 // for a mutant: how wrong the wall clock was when it was armed
	// Who waits for the VM to run: the daemon's life and its order.
	startedBy uint64
	starting  uint64
}

type guest struct {
	dir      *vmDir
	m        *Machine
	life     uint64
	instance shim.Instance
	runner   string // what Nix built, that it was started with
	nets     []*blixardv1.InterfaceConfig
	devices  []*blixardv1.Device
	mounts   []*blixardv1.VolumeConfig
	ready    bool
	deaf     bool
	dying    bool
	paused   bool
	overdue  func() // what it would have done while it was paused
	orphan   bool   // its shim is dead, and it is not
	status   shim.Status
	forked   int64
	sick     bool // it answers no probe any more
	pausedAt int64
	stood    int64  // until when its adapter had it stand still, without a word
	frozen   bool   // it has a snapshot's memory, and has not gone on
	revived  uint64 // which

	boot, has uint64 // MiB: what it was started with, and what its balloon leaves it
	greedy    bool   // it gives nothing back

	waits, warm, untold bool // for its saved boot; it has gone on from that, and does not know who it is

	adrift bool               // nothing serves its shares any more
	shares []*blixardv1.Share // folders of its host that it has

	// Of a live migration: see migrate.go.
	memory   uint64 // which boot it is of
	incoming vmm.Incoming
	from     *stream // that it comes by
	came     bool    // it was started by Receive
	halted   bool    // it is stopped, to leave
	haltedAt int64
	sending  *stream
}

// spawn starts a shim in a directory.
func (m *Machine) spawn(d *vmDir, by, order uint64) {
	if d.shim != nil {
		panic("sim: spawn in a directory whose lock is held")
	}
	s := &shimProc{dir: d, m: m, life: m.life(), startedBy: by, starting: order}
	d.shim = s
	m.w.say(m, fmt.Sprintf("shim of %s is spawned", d.start.Instance))
	s.happened(shim.Input{Kind: shim.Begin})
}

func (s *shimProc) happened(in shim.Input) {
	s.inbox = append(s.inbox, in)
	s.wake()
}

// wake lets the shim take its next input, after a moment: faults fall between.
func (s *shimProc) wake() {
	if s.busy || len(s.inbox) == 0 {
		return
	}
	s.busy = true
	after := between(s.m.rand, 10*time.Microsecond, 3*time.Millisecond)
	if slow, ok := s.m.w.mishap("ShimSlow", s.m.place(), s.m.w.mix.ShimSlow, 100*time.Millisecond, 20*time.Second); ok {
		after = int64(slow)
	}
	s.m.w.push(event{at: s.m.w.now + after, kind: evShim, m: s.m, life: s.life, ref: s})
}

func (s *shimProc) step() {
	if s.paused {
		s.due = true
		return
	}
	s.busy = false
	if len(s.inbox) == 0 {
		return
	}
	in := s.inbox[0]
	s.inbox = s.inbox[1:]
	s.m.w.trace.foldString(string(in.Kind))
	for _, out := range s.machine.Step(uint64(s.m.now()), in) {
		p := shimPoints[out.Kind]
		if s.crashes(p.before) {
			return
		}
		s.do(out)
		if s.dir.shim != s || s.crashes(p.after) {
			return
		}
	}
	s.wake()
}

func (s *shimProc) do(out shim.Output) {
	m, w, d := s.m, s.m.w, s.dir
	switch out.Kind {
	case shim.Lock:
		s.happened(shim.Input{Kind: shim.Locked, Held: d.guest != nil || d.zombie != nil})
	case shim.Load:
		d.exit, d.state = nil, nil
		s.happened(shim.Input{Kind: shim.Loaded, Start: *d.start, Boot: m.bootID})
	case shim.Read:
		if out.At == 0 {
			s.happened(s.read(out.Path))
			return
		}
		s.look = out
		s.looks++
		w.push(event{at: m.clock.when(int64(out.At)), kind: evLook, m: m, life: s.life, n: s.looks, ref: s})
	case shim.Arm:
		s.arm(out.Deadline)
	case shim.Fork:
		s.fork()
	case shim.Publish:
		st := s.machine.State()
		d.state = &st
		if d.guest == nil || !d.guest.waits {
			s.tell("")
		}
		m.notice(d)
	case shim.Signal:
		s.signal(out.Signal)
	case shim.Sweep:
		s.happened(shim.Input{Kind: shim.Swept, Status: s.machine.Status})
	case shim.Record:
		if d.exit = out.Exit; d.warm.waits != nil && (d.exit.Reason == shim.ReasonExited || d.exit.Reason == shim.ReasonSignaled) {
			d.reason = interrupted // its guest has not run
			delete(m.booted, d.uid)
		}
		w.judges.policy.ended(w, d)
	case shim.Reply:
		m.shimReply(s, out)
	case shim.Die:
		w.say(m, fmt.Sprintf("shim of %s kills itself", d.uid))
		s.kill()
	case shim.End:
		if d.guest != nil {
			w.fail("a shim outlives its VM", "%s: shim of %s ends", m.Name, d.uid)
		}
		why := fmt.Sprintf("shim ended with code %d", out.Code)
		if d.exit != nil && d.exit.Error != "" {
			why = d.exit.Error
		}
		d.shim = nil
		s.tell(why)
		m.notice(d)
	}
}

// tell answers the order to start, once.
func (s *shimProc) tell(err string) {
	d := s.m.daemon
	if s.starting == 0 {
		return
	}
	order := s.starting
	s.starting = 0
	if d != nil && d.life == s.startedBy {
		d.finish(s.dir.uid, order, err)
	}
}

func (s *shimProc) read(path string) shim.Input {
	in := shim.Input{Kind: shim.Paged, Path: path}
	if p := s.m.pages[path]; p != nil {
		in.Page = *p
		if s.machine.Phase == shim.Running && s.machine.Change == nil && path == s.machine.Path && p.Host == s.machine.Host && p.Deadline > s.timer {
			s.grown = true
		}
	} else {
		in.Err = "no page " + path
	}
	return in
}

func (s *shimProc) looked(n uint64) {
	if n != s.looks {
		return
	}
	if s.paused {
		s.due = true
		return
	}
	path := s.look.Path
	s.look = shim.Output{}
	s.happened(s.read(path))
}

func (s *shimProc) arm(deadline uint64) {
	s.timer, s.wall, s.grown = deadline, s.m.clock.wall, false
	s.arms++
	s.happened(shim.Input{Kind: shim.Armed, Deadline: deadline})
	if deadline != 0 && !mutant.On("NoTimer") {
		at := max(s.m.w.now, s.m.clock.when(int64(deadline)))
		s.m.w.push(event{at: at, kind: evTimer, m: s.m, life: s.life, n: s.arms, ref: s})
	}
}

// rang: the kernel's timer. It asks nobody.
func (s *shimProc) rang(n uint64) {
	if n != s.arms {
		return
	}
	if back := s.wall - s.m.clock.wall; back > 0 && mutant.On("WallTimer") {
		s.wall = s.m.clock.wall
		s.m.w.push(event{at: s.m.w.now + back, kind: evTimer, m: s.m, life: s.life, n: s.arms, ref: s})
		return
	}
	s.m.w.say(s.m, fmt.Sprintf("deadline of %s: the kernel kills its shim", s.dir.uid))
	s.m.w.fired("Lapse")
	s.m.w.judges.undisturbed.rang(s)
	s.kill()
}

func (s *shimProc) fork() {
	m, w, here := s.m, s.m.w, s.m.place()
	if _, fails := w.mishap("ForkFails", here, w.mix.ForkFails, 0, 0); fails {
		s.happened(shim.Input{Kind: shim.Forked, Err: "exec format error"})
		return
	}
	g := &guest{dir: s.dir, m: m, life: m.life(), instance: s.dir.start.Instance, runner: s.dir.nix.Booted, nets: s.dir.nets, devices: s.dir.devices, mounts: s.dir.mounts, boot: s.dir.boot, has: s.dir.boot, shares: s.dir.shares, forked: w.now}
	s.dir.guest, s.dir.sick = g, false
	m.guests = append(m.guests, g)
	if s.dir.warm.waits != nil {
		g.waitsForBoot()
		s.happened(shim.Input{Kind: shim.Forked, PID: int(g.life)})
		return
	}
	if s.dir.incoming {
		w.say(m, fmt.Sprintf("VM %s waits for its guest", g.instance))
		g.came = true
		judgeRoots(w, m)
		g.receive()
		s.happened(shim.Input{Kind: shim.Forked, PID: int(g.life)})
		return
	}
	w.memories++
	g.memory = w.memories
	w.running[g.instance.UID] = append(w.running[g.instance.UID], g)
	w.say(m, fmt.Sprintf("VM %s runs", g.instance))
	w.forked(g)
	judgeRoots(w, m)
	_, g.deaf = w.mishap("Deaf", here, w.mix.Deaf, 0, 0)
	if s.dir.balloon {
		_, g.greedy = w.mishap("Greedy", here, w.mix.Greedy, 0, 0)
	}
	if _, hangs := w.mishap("BootHangs", here, w.mix.BootHangs, 0, 0); len(g.shares) > 0 && !g.isServed() {
		// It waits for what never comes up.
	} else if s.dir.from != nil {
		g.loads()
	} else if !hangs {
		g.boots()
	}
	s.happened(shim.Input{Kind: shim.Forked, PID: int(g.life)})
}

// boots: the guest will be up, unless it ends first.
func (g *guest) boots() {
	m, w := g.m, g.m.w
	if early, ok := w.mishap("EarlyExit", m.place(), w.mix.EarlyExit, 0, 2*time.Second); ok {
		g.exitIn(int64(early))
		return
	}
	up := between(m.rand, 50*time.Millisecond, 2*time.Second)
	if slow, ok := w.mishap("BootSlow", m.place(), w.mix.BootSlow, 5*time.Second, 30*time.Second); ok {
		up = int64(slow)
	}
	w.push(event{at: w.now + up, kind: evReady, m: m, life: g.life, ref: g})
	if late, ok := w.mishap("LateExit", m.place(), w.mix.LateExit, 0, 30*time.Second); ok {
		g.exitIn(up + int64(late))
	}
}

func (g *guest) exitIn(after int64) {
	code := uint64(g.m.rand.IntN(2))
	g.m.w.push(event{at: g.m.w.now + after, kind: evExit, m: g.m, life: g.life, n: code, ref: g})
}

func (s *shimProc) signal(n int) {
	g := s.dir.guest
	switch {
	case g == nil:
	case n == 9:
		g.kill()
	case !g.deaf:
		s.dir.told = g.instance
		g.exitIn(between(s.m.rand, 10*time.Millisecond, 3*time.Second))
	}
}

// kill ends the shim at once; the kernel then kills its guest.
func (s *shimProc) kill() {
	if s.dir.shim != s {
		return
	}
	s.dir.shim = nil
	s.tell("the shim was killed")
	if g := s.dir.guest; g != nil && !mutant.On("OutlivesItsShim") && !g.orphaned() {
		g.kill()
	}
	s.m.notice(s.dir)
}

func (s *shimProc) resume() {
	if !s.paused {
		return
	}
	s.paused = false
	if s.look.Path != "" && s.look.At <= uint64(s.m.now()) {
		s.looked(s.looks)
	}
	if s.due {
		s.due = false
		s.busy = false
		s.wake()
	}
}

// orphaned says that the guest, a program that had forked where nothing holds
// that, lives on without its shim. Such VMs are bound by no short lease.
func (g *guest) orphaned() bool {
	if !g.dir.forks || g.m.holdsForks() || g.m.clones != nil {
		return false
	}
	_, g.orphan = g.m.w.mishap("Orphan", g.m.place(), g.m.w.mix.Orphan, 0, 0)
	return g.orphan
}

// pause stops the guest where it is; what it would do comes when it goes on.
func (g *guest) pause() {
	if !g.paused {
		g.paused, g.pausedAt = true, g.m.w.now
	}
}

func (g *guest) goOn() {
	if !g.paused {
		return
	}
	if g.frozen {
		g.dir.wentOn(g.m.w, g.m)
		g.frozen = false
	}
	g.paused = false
	if !g.halted {
		g.late()
	}
}

// exits: the guest ends by itself, unless it is paused.
func (g *guest) exits(code int) {
	if code == shim.StepFailed { // it has no part in that
		g.unserved()
		return
	}
	if g.paused || g.halted {
		g.overdue = func() { g.exitIn(between(g.m.rand, time.Millisecond, time.Second)) }
		return
	}
	g.gone(exited(code))
}

// kill is a SIGKILL: the guest is gone up to K later.
func (g *guest) kill() {
	if g.dying {
		return
	}
	g.dying = true
	w, longest := g.m.w, time.Duration(g.m.w.settings.GetKillMs())*time.Millisecond
	after := between(g.m.rand, 100*time.Microsecond, 50*time.Millisecond)
	if slow, ok := w.mishap("SlowKill", g.m.place(), w.mix.SlowKill, 0, longest); ok {
		after = int64(slow)
	}
	w.push(event{at: w.now + after, kind: evDead, m: g.m, life: g.life, n: 9, ref: g})
}

// gone: the guest is no more.
func (g *guest) gone(st shim.Status) {
	d := g.dir
	if d.guest != g {
		return
	}
	g.leaves()
	d.guest = nil
	g.m.guests = slices.DeleteFunc(g.m.guests, func(o *guest) bool { return o == g })
	g.m.w.stops(g)
	g.m.w.say(g.m, fmt.Sprintf("VM %s is gone, code %d, signal %d", g.instance, st.Code, st.Signal))
	g.status = st
	if stays, ok := g.m.w.mishap("Zombie", g.m.place(), g.m.w.mix.Zombie, 0, time.Minute); ok {
		d.zombie = g
		g.m.w.push(event{at: g.m.w.now + int64(stays), kind: evReap, m: g.m, life: g.life, ref: g})
		return
	}
	g.reaped()
}

// reaped: nothing is left of the guest in the process table.
func (g *guest) reaped() {
	d := g.dir
	d.zombie = nil
	if len(d.mounts) > 0 && g.m.daemon != nil { // what was open may grow, or go
		g.m.daemon.keepIn(between(g.m.rand, time.Millisecond, 5*time.Second))
	}
	if s := d.shim; s != nil {
		s.machine.Status = g.status
		s.happened(shim.Input{Kind: shim.Exited})
	}
	g.m.notice(d)
}
