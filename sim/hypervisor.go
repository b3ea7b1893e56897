package sim

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"

	"github.com/blixard/blixard/core"
	"github.com/blixard/blixard/core/mutant"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/shim"
)

// The hypervisor's adapter of one daemon: it answers every vmm.Action as
// vmm/action.go says. It lives in the daemon's process and dies with it; what it
// has started (shims, guests) does not, and the next daemon finds it by its
// inventory.
//
// It may be slow at any point, fail a build, and be killed or stopped between
// any two steps. It may not: carry out the orders for one VM in another order
// than given, say Done for a Start whose VM does not run or did not run, or say
// that a VM is Down while its shim or its guest lives.

// orders are what is to be done for one VM, in order.
type orders struct {
	uid   string
	queue []vmm.Action
	busy  bool
	// killing: the order waits until nothing of the VM lives.
	killing bool
}

// shimWait is a question to a shim that has not been answered.
type shimWait struct {
	uid     string
	order   vmm.Action
	shim    uint64
	request string
	next    bound  // of a Rebind
	refusal string // of a Status after one
}

func (d *Daemon) do(a vmm.Action) {
	w, m := d.m.w, d.m
	w.trace.fold(uint64(a.Verb)<<32 ^ a.ID)
	w.trace.foldString(a.Instance.UID)
	if a.Verb == vmm.Extend {
		after := between(m.rand, 0, 2*time.Millisecond)
		w.push(event{at: w.now + after, kind: evExtend, m: m, life: d.life, ref: a})
		return
	}
	if a.Verb == vmm.Prepare {
		d.prepare(a)
		return
	}
	if a.Verb == vmm.Keep {
		d.keep(a)
		return
	}
	w.keep(m, a)
	if a.Verb == vmm.KeepSnapshots {
		d.keepSnapshots(a)
		return
	}
	if a.Verb == vmm.Probe {
		d.probe(a)
		return
	}
	w.judges.undisturbed.ordered(w, m, a)
	if a.Verb == vmm.Build {
		d.build(a)
		return
	}
	if a.Verb == vmm.Kill || a.Verb == vmm.Remove || a.Verb == vmm.Stop {
		d.overtaken(a.Instance.UID)
	}
	if a.Verb == vmm.Kill || a.Verb == vmm.Remove {
		d.endBuild(a.Instance.UID, "cancelled")
	}
	o := d.ordersOf(a.Instance.UID)
	o.queue = append(o.queue, a)
	d.next(o)
}

func (d *Daemon) ordersOf(uid string) *orders {
	if d.work[uid] == nil {
		d.work[uid] = &orders{uid: uid}
	}
	return d.work[uid]
}

// next begins the oldest order for a VM, after a while.
func (d *Daemon) next(o *orders) {
	if o.busy || len(o.queue) == 0 {
		return
	}
	o.busy = true
	m, w := d.m, d.m.w
	after := between(m.rand, 100*time.Microsecond, 10*time.Millisecond)
	w.push(event{at: w.now + after, kind: evAction, m: m, life: d.life, ref: o})
}

// finish ends the order under way, if it is the one meant.
func (d *Daemon) finish(uid string, id uint64, err string) {
	o := d.work[uid]
	if o == nil || !o.busy || len(o.queue) == 0 || o.queue[0].ID != id {
		return
	}
	a := o.queue[0]
	o.queue, o.busy, o.killing = o.queue[1:], false, false
	d.done(a, err)
	d.next(o)
}

// build begins a Build, in a lane of its own; it ends the one before.
func (d *Daemon) build(a vmm.Action) {
	m, w := d.m, d.m.w
	if m.crashes(actPoints[vmm.Build].before) {
		return
	}
	defer m.crashes(actPoints[vmm.Build].after)
	d.endBuild(a.Instance.UID, "a newer one was ordered")
	d.builds[a.Instance.UID] = a
	if nixBuilt(a.Assignment) {
		d.nixDir(a)
		after, err := d.nixTime(a.Assignment)
		w.push(event{at: w.now + after, kind: evBuilt, m: m, life: d.life, ref: built{a, err}})
		return
	}
	after := between(m.rand, 100*time.Microsecond, time.Second)
	slow, _ := w.mishap("BuildSlow", m.place(), w.mix.BuildSlow, 0, 40*time.Second)
	w.push(event{at: w.now + after + int64(slow), kind: evBuilt, m: m, life: d.life, ref: built{a, ""}})
}

// probe is a Probe under way, and when it was ordered.
type probe struct {
	order vmm.Action
	at    int64
}

func (d *Daemon) probe(a vmm.Action) {
	m, w := d.m, d.m.w
	timeout := time.Duration(a.Health.GetTimeoutMs()) * time.Millisecond
	after := between(m.rand, 100*time.Microsecond, timeout/2)
	if dir, ok := m.dirs.Get(a.Instance.UID); !ok || dir.guest == nil || dir.guest.sick {
		after = int64(timeout)
	}
	w.push(event{at: w.now + after, kind: evProbed, m: m, life: d.life, ref: probe{a, w.now}})
}

// probed: a guest has answered, or has not in time. The adapter notices that it
// stood still for a moment; of a longer time it knows nothing, as a machine that
// was asleep does not by the clock that its timers go by.
func (d *Daemon) probed(p probe) {
	m, w := d.m, d.m.w
	timeout := int64(p.order.Health.GetTimeoutMs()) * int64(time.Millisecond)
	late := w.now - p.at - timeout
	done := vmm.Done{Action: p.order.ID, UID: p.order.Instance.UID}
	dir, ok := m.dirs.Get(p.order.Instance.UID)
	switch {
	case ok && dir.guest != nil && (d.freezing[dir.uid] != nil || dir.guest.stood > p.at):
		done.Err, done.Unknown = "no answer in time", true
	case late > 0:
		done.Err, done.Unknown = "no answer in time", late <= int64(time.Second)*5/4 // on the fastest clock
	case !ok || dir.guest == nil || dir.guest.sick || dir.guest.paused:
		done.Err = "no answer in time"
	}
	d.observe(core.Observed{Done: []vmm.Done{done}})
}

// built is a Build and how Nix will fail at it.
type built struct {
	order vmm.Action
	err   string
}

func (d *Daemon) endBuild(uid, err string) {
	if a, ok := d.builds[uid]; ok {
		delete(d.builds, uid)
		d.done(a, err)
	}
}

// built: a Build has come to its end, unless it was ended before.
func (d *Daemon) built(b built) {
	a := b.order
	if d.builds[a.Instance.UID].ID != a.ID {
		return
	}
	if nixBuilt(a.Assignment) {
		d.nixEnds(a, b.err)
		return
	}
	err := ""
	if _, fails := d.m.w.mishap("BuildFails", d.m.place(), d.m.w.mix.BuildFails, 0, 0); fails {
		err = "the build failed: out of luck"
	}
	d.endBuild(a.Instance.UID, err)
}

// act carries out the oldest order for a VM.
func (d *Daemon) act(o *orders) {
	a := o.queue[0]
	p := actPoints[a.Verb]
	if d.m.crashes(p.before) {
		return
	}
	d.carryOut(o, a)
	d.m.crashes(p.after)
}

func (d *Daemon) carryOut(o *orders, a vmm.Action) {
	m, w := d.m, d.m.w
	dir, _ := m.dirs.Get(a.Instance.UID)
	switch a.Verb {
	case vmm.Start, vmm.Receive:
		d.startVM(a, dir)
	case vmm.TakeOver:
		d.takeOverVM(a, dir)
	case vmm.Send:
		d.sendVM(a, dir)
	case vmm.Unsend:
		d.unsendVM(a, dir)
	case vmm.Stop:
		if dir != nil && dir.guest != nil && (dir.handedOver != 0 || dir.guest.incoming != 0) {
			dir.sweep() // nothing of it may run, not even to hear this
			d.finish(o.uid, a.ID, "")
			return
		}
		if dir != nil && dir.guest != nil && d.apiHangs(a) {
			return
		}
		if dir != nil {
			dir.endSend()
		}
		if dir != nil && dir.guest != nil && dir.guest.paused {
			dir.guest.goOn()
			m.notice(dir)
		}
		if dir != nil && dir.guest != nil && dir.shim != nil && !dir.guest.deaf {
			dir.told = dir.guest.instance
			dir.guest.exitIn(between(m.rand, 50*time.Millisecond, 4*time.Second))
		}
		d.finish(o.uid, a.ID, "")
	case vmm.Pause, vmm.Resume:
		d.pauseVM(a, dir)
	case vmm.Balloon:
		d.balloonVM(a, dir)
	case vmm.Snapshot:
		d.takeSnapshot(o, a, dir)
	case vmm.Kill:
		d.killVM(o, a, dir)
	case vmm.Rebind:
		d.rebind(a, dir)
	case vmm.Remove:
		switch {
		case dir == nil:
			d.finish(o.uid, a.ID, "")
		case dir.alive():
			d.finish(o.uid, a.ID, "something of the VM is alive")
		case mutant.On("RemoveLies"):
			d.finish(o.uid, a.ID, "")
		default:
			m.dirs.Delete(o.uid)
			delete(m.booted, o.uid)
			m.nix.hold(o.uid)
			w.say(m, "files of VM "+o.uid+" are removed")
			d.finish(o.uid, a.ID, m.lost())
			m.notice(dir)
		}
	default:
		w.fail("the adapter knows every verb", "%s: %v", m.Name, a.Verb)
	}
}

func (d *Daemon) startVM(a vmm.Action, dir *vmDir) {
	m := d.m
	if dir != nil && dir.alive() {
		err := ""
		if dir.start.Instance != a.Instance || dir.shim == nil {
			err = "something of instance " + dir.start.Instance.String() + " is alive"
		}
		d.finish(a.Instance.UID, a.ID, err)
		return
	}
	if dir == nil {
		dir = newDir(a.Instance)
		m.dirs.Set(dir.uid, dir)
	}
	if err := m.mount(a.Assignment); err != "" {
		dir.mounts = nil
		d.finish(a.Instance.UID, a.ID, err)
		return
	}
	if dir.shares = a.Assignment.GetSpec().GetShares(); len(dir.shares) > 0 && !m.serves(dir.shares) {
		d.finish(a.Instance.UID, a.ID, "nothing here can share such a folder")
		return
	}
	if nixBuilt(a.Assignment) {
		d.nixBoot(dir, a.Assignment)
	}
	if err := d.revive(dir, a); err != "" {
		d.finish(a.Instance.UID, a.ID, err)
		m.notice(dir)
		return
	}
	dir.bound, dir.next = boundBy(a), nil
	dir.exit, dir.state, dir.reason, dir.gen = nil, nil, "", a.Assignment.GetRunGeneration()
	dir.policy = a.Assignment.GetSpec().GetRestart()
	dir.nets, dir.devices = a.Assignment.GetInterfaces(), a.Assignment.GetDevices()
	dir.incoming, dir.came, dir.handedOver = a.Verb == vmm.Receive, 0, 0
	dir.mounts = a.Assignment.GetVolumes()
	dir.boots(a)
	dir.spec, dir.forks = a.Assignment.GetSpecGeneration(), a.Assignment.GetSpec().GetProcess() != nil
	d.warms(dir, a)
	dir.start = &shim.Start{
		Version: shim.StartVersion, Instance: a.Instance, Host: a.Host, Page: dir.bound.page, Argv: []string{"/bin/vm"},
	}
	if err := dir.start.Validate(); err != nil {
		m.w.fail("an order to start is valid", "%s: %v: %v", m.Name, a.Instance, err)
	}
	m.spawn(dir, d.life, a.ID)
	m.notice(dir)
}

// bound is what bounds the life of an instance.
type bound struct {
	class blixardv1.LeaseClass
	ms    uint32
	epoch uint64
	page  string
}

// boundBy is what an order's assignment has an instance bound by.
func boundBy(a vmm.Action) bound {
	as := a.Assignment
	if as.GetLease() <= blixardv1.LeaseClass_LEASE_CLASS_NONE {
		return bound{class: blixardv1.LeaseClass_LEASE_CLASS_NONE}
	}
	return bound{as.GetLease(), as.GetLeaseMs(), a.Host.Epoch, pagePath(a.Host, as.GetLeaseMs())}
}

func pagePath(h shim.Host, ms uint32) string {
	return "/run/blixard/" + h.ID + "/" + shim.PageName(shim.Page{Host: h, Lease: uint64(ms) * 1e6})
}

// pauseVM stops a guest where it is, or lets it go on.
func (d *Daemon) pauseVM(a vmm.Action, dir *vmDir) {
	m := d.m
	if dir == nil || dir.guest == nil || dir.guest.dying || dir.guest.instance != a.Instance {
		d.finish(a.Instance.UID, a.ID, "")
		return
	}
	if _, fails := m.w.mishap("PauseFails", m.place(), m.w.mix.PauseFails, 0, 0); fails {
		d.finish(a.Instance.UID, a.ID, "the hypervisor refused")
		return
	}
	if d.apiHangs(a) {
		return
	}
	if dir.handedOver != 0 && mutant.On("HandedOverGoesOn") {
		dir.handedOver = 0
		dir.guest.goesOn()
		m.notice(dir)
		d.finish(a.Instance.UID, a.ID, "")
		return
	}
	if dir.handedOver != 0 || dir.guest.incoming != 0 {
		d.finish(a.Instance.UID, a.ID, "it has no right to run here")
		return
	}
	dir.endSend()
	if g := dir.guest; a.Verb == vmm.Pause {
		g.pause()
	} else {
		g.goOn()
	}
	m.w.say(m, fmt.Sprintf("VM %s: %v", a.Instance, a.Verb))
	m.notice(dir)
	d.finish(a.Instance.UID, a.ID, m.lost())
}

// apiHangs: the hypervisor takes a word and does nothing about it, until whoever
// said it waits no longer.
func (d *Daemon) apiHangs(a vmm.Action) bool {
	w := d.m.w
	after, hangs := w.mishap("ApiHangs", d.m.place(), w.mix.ApiHangs, time.Second, 20*time.Second)
	if hangs && !mutant.On("AwaitedForever") {
		w.push(event{at: w.now + int64(after), kind: evSilent, m: d.m, life: d.life, n: a.ID, ref: d.work[a.Instance.UID]})
	}
	return hangs
}

// lost is what an adapter hears of what was done when the answer is lost.
func (m *Machine) lost() string {
	if _, lost := m.w.mishap("ReplyLost", m.place(), m.w.mix.ReplyLost, 0, 0); lost {
		return "no answer: nobody knows whether it was done"
	}
	return ""
}

func (d *Daemon) killVM(o *orders, a vmm.Action, dir *vmDir) {
	if dir == nil || !dir.alive() {
		d.finish(o.uid, a.ID, "")
		return
	}
	if mutant.On("KillLies") && dir.guest != nil {
		d.finish(o.uid, a.ID, "")
		return
	}
	o.killing = true
	s := dir.shim
	if s != nil && !s.paused && s.machine.Phase == shim.Running {
		d.nextConn++
		s.happened(shim.Input{Kind: shim.Asked, Conn: d.nextConn, Request: shim.Request{
			V: 1, ID: a.ID, Type: shim.MsgKill, Signal: 9,
		}})
		// A shim that does not do it at once is not asked twice.
		d.m.w.push(event{at: d.m.w.now + int64(2*time.Second), kind: evSilent, m: d.m, life: d.life, n: a.ID, ref: o})
		return
	}
	dir.sweep()
}

// sweep kills everything that belongs to a VM, without asking.
func (d *vmDir) sweep() {
	if d.shim != nil {
		d.shim.kill()
	}
	if d.guest != nil {
		d.guest.kill()
	}
}

// looser is what binds an instance, of two that it may have.
func (d *vmDir) looser() bound {
	if d.next != nil && d.next.class < d.bound.class {
		return *d.next
	}
	return d.bound
}

// rebind asks the shim to bind its VM by another page. Until it has said that it
// did, or what else is in effect, the instance may have either: also when we are
// killed meanwhile, since what is in a socket is read yet.
func (d *Daemon) rebind(a vmm.Action, dir *vmDir) {
	switch {
	case dir == nil || dir.shim == nil:
		d.finish(a.Instance.UID, a.ID, "no shim to rebind")
		return
	case dir.start.Instance != a.Instance:
		d.finish(a.Instance.UID, a.ID, "another instance is alive: "+dir.start.Instance.String())
		return
	}
	next := boundBy(a)
	if dir.next == nil || next.class <= dir.next.class {
		dir.next = &next
	}
	d.question(dir, a, next, shim.Request{Type: shim.MsgRebind, Page: next.page})
	d.m.w.push(event{
		at: d.m.w.now + int64(3*time.Second), kind: evSilent, m: d.m, life: d.life, n: a.ID, ref: d.work[a.Instance.UID],
	})
}

// question asks a shim something for the sake of an order.
func (d *Daemon) question(dir *vmDir, a vmm.Action, next bound, r shim.Request) {
	d.nextConn++
	d.conns[d.nextConn] = &shimWait{uid: dir.uid, order: a, shim: dir.shim.life, next: next, request: r.Type}
	r.V, r.ID = 1, a.ID
	dir.shim.happened(shim.Input{Kind: shim.Asked, Conn: d.nextConn, Request: r})
}

// shimReply: a shim has answered on a connection, if the other end still lives.
func (m *Machine) shimReply(s *shimProc, out shim.Output) {
	d := m.daemon
	if d == nil {
		return
	}
	q := d.conns[out.Conn]
	if q == nil || q.shim != s.life || q.order.ID != out.ID {
		return
	}
	delete(d.conns, out.Conn)
	dir, o := s.dir, d.work[q.uid]
	if o == nil || !o.busy || len(o.queue) == 0 || o.queue[0].ID != out.ID {
		return // it took too long: the answer is not waited for any more
	}
	m.notice(dir)
	switch {
	case q.request == shim.MsgStatus:
		dir.settle(s.machine.State())
		dir.next = nil
		d.finish(q.uid, out.ID, q.refusal)
	case out.Error == "":
		dir.bound, dir.next = q.next, nil
		d.finish(q.uid, out.ID, "")
	case strings.HasPrefix(out.Error, shim.ErrorPhase):
		d.finish(q.uid, out.ID, out.Error)
	default:
		// A shim does one after the other: what it says now is what came of all before.
		d.question(dir, q.order, q.next, shim.Request{Type: shim.MsgStatus})
		d.conns[d.nextConn].refusal = out.Error
	}
}

// settle decides between what an instance had and what it was to get, by what its
// shim says is in effect.
func (d *vmDir) settle(st shim.State) {
	if d.next != nil && d.next.page == st.Page {
		d.bound, d.next = *d.next, nil
	}
	if d.bound.page == st.Page {
		return
	}
	// Nobody noted this page: the loosest that it can be.
	d.bound = bound{class: blixardv1.LeaseClass_LEASE_CLASS_NONE}
	if st.Page != "" {
		d.bound = bound{blixardv1.LeaseClass_LEASE_CLASS_LONG, pageMs(st.Page), st.Host.Epoch, st.Page}
	}
}

func pageMs(path string) uint32 {
	name := strings.TrimSuffix(path, "ns.lease")
	ns, err := strconv.ParseUint(name[strings.LastIndexByte(name, '-')+1:], 10, 64)
	if err != nil {
		panic("sim: a page's name: " + path)
	}
	return uint32(ns / 1e6)
}

// silent: a shim has not done what it was asked for.
func (d *Daemon) silent(o *orders, id uint64) {
	if !o.busy || len(o.queue) == 0 || o.queue[0].ID != id {
		return
	}
	if o.killing {
		if dir, ok := d.m.dirs.Get(o.uid); ok {
			dir.sweep()
		}
		return
	}
	d.finish(o.uid, id, "no answer")
}

// extend writes the lease pages: lease.Page's rule, that a deadline which has
// passed is never moved.
func (d *Daemon) extend(a vmm.Action) {
	if d.m.crashes(pointExtend.before) {
		return
	}
	defer d.m.crashes(pointExtend.after)
	m, now := d.m, uint64(d.m.now())
	for _, l := range a.Leases {
		path := pagePath(a.Host, l.Length)
		p := m.pages[path]
		if p == nil {
			p = &shim.Page{Host: a.Host, Lease: uint64(l.Length) * 1e6, Deadline: uint64(l.Deadline)}
			m.pages[path] = p
			m.w.judges.leases.written(m.w, m, p, 0)
			continue
		}
		if now >= p.Deadline && !mutant.On("ReviveLease") {
			m.w.fired("LapsedExtend")
			d.observe(core.Observed{Lapsed: a.Host.Epoch})
			continue
		}
		old := p.Deadline
		p.Deadline = max(old, uint64(l.Deadline))
		m.w.judges.leases.written(m.w, m, p, old)
	}
}

// notice: something of a VM changed; a daemon that lives will see it.
func (m *Machine) notice(dir *vmDir) {
	d := m.daemon
	if d == nil {
		return
	}
	after := between(m.rand, 100*time.Microsecond, 5*time.Millisecond)
	m.w.push(event{at: m.w.now + after, kind: evObserve, m: m, life: d.life, ref: dir})
}

// look sees one VM's directory as it is, and tells the node.
func (d *Daemon) look(dir *vmDir) {
	if mutant.On("StaleView") { // told later, and what was seen after it perhaps before
		in := core.Observed{Reports: []vmm.Report{d.m.report(dir)}}
		d.m.w.push(event{at: d.m.w.now + between(d.m.rand, 0, 5*time.Second), kind: evObserved, m: d.m, life: d.life, ref: in})
		return
	}
	if o := d.work[dir.uid]; d.betweenBoots(dir) && o != nil && !o.killing {
		return
	}
	d.observe(core.Observed{Reports: []vmm.Report{d.m.report(dir)}})
	if o := d.work[dir.uid]; o != nil && o.killing && !dir.alive() {
		d.finish(o.uid, o.queue[0].ID, "")
	}
}

// inventory is the first observation of a life: everything that is here.
func (d *Daemon) inventory() {
	d.m.clearSaved()
	in := core.Observed{Inventory: true, Facts: d.m.w.mutateFacts(d.m.facts())}
	d.m.dirs.Scan(func(_ string, dir *vmDir) bool {
		dir.adopt()
		d.adoptWarm(dir)
		if !mutant.On("BlindInventory") || !dir.alive() {
			in.Reports = append(in.Reports, d.m.report(dir))
		}
		return true
	})
	for _, p := range sorted(d.m.pages) {
		in.Pages = append(in.Pages, *p)
	}
	in.Volumes = d.m.shelf(vmm.Action{}, nil)
	d.observed = d.m.w.now + between(d.m.rand, time.Millisecond, 2*time.Second)
	d.m.w.push(event{at: d.observed, kind: evObserved, m: d.m, life: d.life, ref: in})
}

// adopt asks what a shim that an earlier daemon started has in effect, if it
// answers. An order of that daemon may still be on its way to it.
func (d *vmDir) adopt() {
	d.adoptMove()
	if s := d.shim; s != nil && !s.paused && (s.machine.Phase == shim.Running || s.machine.Phase == shim.Sweeping) {
		d.settle(s.machine.State())
	}
}

// report is the whole truth about a directory, as an adapter can see it.
func (m *Machine) report(dir *vmDir) vmm.Report {
	r := vmm.Report{}
	if dir.start != nil {
		r.Instance, r.RunGeneration, r.SpecGeneration = dir.start.Instance, dir.gen, dir.spec
	} else {
		r.Instance.UID = dir.uid
	}
	r.Restored = dir.restored
	if now, ok := m.dirs.Get(dir.uid); !ok || now != dir {
		r.Liveness = vmm.Absent
		if ok {
			return m.report(now)
		}
		return r
	}
	if dir.alive() || mutant.On("DeadIsAlive") {
		r.Liveness = vmm.Alive
		g := dir.guest
		r.Ready = g != nil && g.ready && !g.dying && g.incoming == 0 && dir.handedOver == 0
		r.HandedOver = dir.handedOver
		switch {
		case dir.incoming && g == nil:
			r.Incoming = max(dir.came, vmm.Opening)
		case g != nil:
			r.Incoming = g.incoming
			if s := g.sending; s != nil {
				r.Outgoing = vmm.Outgoing{Migration: s.id, Failed: s.failed != "", Message: s.failed, SentBytes: uint64(pieces - s.left), LeftBytes: uint64(s.left)}
			}
		}
		r.Paused = r.Ready && dir.guest.paused
		r.Warm = r.Ready && dir.guest.warm
		if dir.balloon {
			r.BootMiB, r.MemoryMiB = dir.boot, dir.has
		}
		b := dir.looser()
		r.Lease, r.LeaseMs, r.Epoch = b.class, b.ms, b.epoch
		return r
	}
	r.Liveness, r.HandedOver = vmm.Down, dir.handedOver
	switch {
	case dir.exit == nil && dir.reason == interrupted:
		r.Exit = &vmm.Exit{Code: 1, Reason: interrupted, Message: "its daemon ended while it was started from its saved boot"}
	case dir.exit != nil:
		r.Exit = exitReport(*dir.exit)
		if dir.reason != "" {
			r.Exit.Reason = dir.reason
		}
	case m.lapsed(dir):
		r.Exit = &vmm.Exit{Code: 137, Reason: "Lapsed", Message: "the lease of its host passed"}
	}
	return r
}

// lapsed: the shim is dead without a word, and the page that bound it has passed.
func (m *Machine) lapsed(d *vmDir) bool {
	if d.state == nil {
		return false
	}
	p := m.pages[d.state.Page]
	return p != nil && p.Deadline <= uint64(m.now())
}

// exitReport puts a shim's last word into the manager's.
func exitReport(e shim.Exit) *vmm.Exit {
	out := &vmm.Exit{Code: int32(e.Code), Message: e.Error}
	if e.Signal != 0 {
		out.Code = int32(128 + e.Signal)
	}
	switch e.Reason {
	case shim.ReasonExited, shim.ReasonKilled:
		out.Reason = "Exited"
	case shim.ReasonSignaled:
		out.Reason = "Crashed"
	case shim.ReasonLapsed:
		out.Reason = "Lapsed"
	default:
		out.Reason = "BootFailed"
	}
	if out.Message == "" {
		out.Message = fmt.Sprintf("the guest ended with code %d", out.Code)
	}
	return out
}
