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

// A guest on its way from one machine to another, as hypervisors and adapters
// carry that out: see vmm.Send and vmm.Receive. The bytes go through both daemons.
//
// Disks that the guest writes, its own and volumes, go first, a piece at a time, and what they hold is a
// number, another one at every moment at which it runs (see savedVM): from when a
// mirror is in step the target's are as the guest's are, as long as the stream is
// there. They may not fit there (MirrorFull). Before the target says that it is loaded it
// has volumes on its disk.
//
// It may be slow, break at any piece, break at the very end (when the target has
// everything and the source does not know, and goes on), be ended by the death or
// the stop of either daemon, and take what the adapter was about to write down with
// it. It may not: lose or change memory, let a guest run on the target before it was
// taken over, nor on the source after it was written down that it never will.

// stream is a live guest that is being sent: a state of its hypervisor, which
// outlives the daemon.
type stream struct {
	id     uint64
	by     uint64 // life of the daemon that it goes through
	peer   *Machine
	failed string
	all    bool // the target has everything; the guest is halted
	left   int  // pieces
	disks  int  // pieces of them that are left before that; -1: there are none
}

// pieces of its memory, and of its disks.
const pieces, diskPieces = 5, 2

// pointHandOver: the adapter writes down that a guest was handed over.
var pointHandOver = daemonPoint("HandOver")

// runs says that a guest's code may run: it is not on its way here, and has not
// been stopped to leave.
func (g *guest) runs() bool { return g.incoming == 0 && !g.halted && !g.waits }

// halt stops a guest for its move: none of its code runs until goesOn.
func (g *guest) halt() {
	if !g.halted {
		g.halted, g.haltedAt = true, g.m.w.now
		g.m.w.stops(g)
	}
}

// goesOn lets a halted guest run: its move came to nothing.
func (g *guest) goesOn() {
	if !g.halted {
		return
	}
	w := g.m.w
	g.halted = false
	w.running[g.instance.UID] = append(w.running[g.instance.UID], g)
	w.say(g.m, fmt.Sprintf("VM %s goes on", g.instance))
	w.judges.copies.runs(w, g)
	w.judges.placed.look(w, g, "goes on")
	w.judges.migrations.goesOn(w, g)
	g.late()
}

// late has it do what it would have done meanwhile.
func (g *guest) late() {
	if f := g.overdue; f != nil && !g.paused {
		g.overdue = nil
		f()
	}
}

// receive begins to wait for a guest.
func (g *guest) receive() {
	m, w := g.m, g.m.w
	g.incoming = vmm.Opening
	if early, ok := w.mishap("EarlyExit", m.place(), w.mix.EarlyExit, 0, 2*time.Second); ok {
		g.exitIn(int64(early))
		return
	}
	if _, hangs := w.mishap("BootHangs", m.place(), w.mix.BootHangs, 0, 0); hangs {
		return
	}
	w.later(between(m.rand, 50*time.Millisecond, time.Second), func() {
		if g.dir.guest == g && !g.dying && g.incoming == vmm.Opening {
			g.incoming, g.dir.came = vmm.Listening, vmm.Listening
			m.notice(g.dir)
		}
	})
}

// writes says that a VM has disks that it may write: they go with it.
func writes(spec *blixardv1.VMSpec) bool {
	return len(spec.GetNixos().GetVolumes()) > 0 || slices.ContainsFunc(spec.GetImage().GetDisks(), func(d *blixardv1.Disk) bool { return !d.ReadOnly })
}

// takes has the disks of a guest that comes hold what the one that leaves has written.
func (g *guest) takes(data uint64) {
	g.dir.data = data
	for _, v := range g.written() {
		if v.arriving {
			v.data = data
			g.m.w.fired("VolumeMirrored")
		}
	}
}

// later is something that happens by itself after a while.
func (w *World) later(after int64, f func()) {
	w.push(event{at: w.now + after, kind: evChore, ref: f})
}

// sendVM begins to send a guest.
func (d *Daemon) sendVM(a vmm.Action, dir *vmDir) {
	m, order := d.m, a.Assignment.GetMigration()
	switch {
	case dir == nil || dir.guest == nil || dir.guest.dying || dir.guest.instance != a.Instance || !dir.guest.ready:
		d.finish(a.Instance.UID, a.ID, "it does not run")
		return
	case dir.handedOver != 0:
		d.finish(a.Instance.UID, a.ID, "")
		return
	}
	g := dir.guest
	if s := g.sending; s != nil && s.id == order.Id && s.failed == "" {
		d.finish(a.Instance.UID, a.ID, m.lost())
		return
	}
	if d.apiHangs(a) {
		return
	}
	g.sending = &stream{id: order.Id, by: d.life, peer: m.w.byID(order.PeerNodeId), left: pieces, disks: -1}
	if writes(a.Assignment.GetSpec()) || len(g.written()) > 0 {
		g.sending.disks = diskPieces
	}
	m.w.say(m, fmt.Sprintf("VM %s is sent to node %d, migration %d", a.Instance, order.PeerNodeId, order.Id))
	g.nextPiece(g.sending)
	m.notice(dir)
	d.finish(a.Instance.UID, a.ID, m.lost())
}

// nextPiece has some of a guest arrive, after a while.
func (g *guest) nextPiece(s *stream) {
	m, w := g.m, g.m.w
	after := between(m.rand, 10*time.Millisecond, 400*time.Millisecond)
	if slow, ok := w.mishap("StreamSlow", m.place(), w.mix.StreamSlow, time.Second, 2*time.Minute); ok {
		after = int64(slow)
	}
	w.later(after, func() { g.piece(s) })
}

// taker is who takes a guest: a hypervisor that waits for just this one.
func (s *stream) taker(uid string) *guest {
	if s.peer == nil || s.peer.daemon == nil {
		return nil
	}
	d, ok := s.peer.dirs.Get(uid)
	if !ok || d.guest == nil || d.guest.dying || d.guest.incoming != vmm.Listening || d.guest.instance.Index != s.id {
		return nil
	}
	return d.guest
}

func (g *guest) piece(s *stream) {
	m, w := g.m, g.m.w
	if g.dir.guest != g || g.sending != s || s.failed != "" || s.all || g.dying {
		return
	}
	to := s.taker(g.instance.UID)
	if d := m.daemon; d != nil && d.life == s.by && to != nil && (d.paused || to.m.daemon.paused || m.asleep > w.now || to.m.asleep > w.now) {
		w.later(int64(time.Second), func() { g.piece(s) }) // nothing goes through who stands still
		return
	}
	why := ""
	_, breaks := w.mishap("StreamBreaks", m.place(), w.mix.StreamBreaks, 0, 0)
	full := false
	if s.disks == 1 && to != nil {
		_, full = w.mishap("MirrorFull", to.m.place(), w.mix.VolumeFull, 0, 0)
	}
	switch {
	case m.daemon == nil || m.daemon.life != s.by:
		why = "the daemon that it went through has died"
	case to == nil:
		why = "nobody takes it there"
	case breaks, w.net.cut[link{m.Index, to.m.Index}] > 0, w.net.cut[link{to.m.Index, m.Index}] > 0:
		why = "the stream broke"
	case full:
		why = "its disk does not fit there"
	case to.runner != g.runner:
		why = "there is another build of it there"
	}
	if why != "" {
		g.broken(s, to, why)
		return
	}
	if to.from == nil {
		to.from = s
	}
	if to.from != s {
		g.broken(s, nil, "another stream is there")
		return
	}
	if s.disks > 0 {
		if s.disks--; s.disks == 0 { // in step
			w.fired("MirrorReady")
			to.takes(g.holds())
		}
		m.notice(g.dir)
		g.nextPiece(s)
		return
	}
	if s.left--; s.left > 0 {
		if s.left == 1 {
			g.halt() // the rest goes while it is stopped
		}
		m.notice(g.dir)
		g.nextPiece(s)
		return
	}
	g.arrives(s, to)
}

// broken: the guest goes on where it is, and who was to take it ends.
func (g *guest) broken(s *stream, to *guest, why string) {
	s.failed = why
	g.m.w.say(g.m, fmt.Sprintf("VM %s is not sent: %s", g.instance, why))
	g.goesOn()
	if to == nil {
		to = s.taker(g.instance.UID)
	}
	if to != nil && to.from == s {
		to.exitIn(between(g.m.rand, time.Millisecond, 50*time.Millisecond))
	}
	g.m.notice(g.dir)
}

// arrives: the target has everything. That the source's hypervisor hears of it,
// and its adapter after that, is another matter.
func (g *guest) arrives(s *stream, to *guest) {
	m, w := g.m, g.m.w
	to.incoming, to.memory, to.sick, to.deaf = vmm.Loaded, g.memory, g.sick, g.deaf
	to.dir.came = vmm.Loaded
	to.has, to.greedy = g.has, g.greedy
	if s.disks == 0 && !mutant.On("MirrorUnsettled") { // the mirrors come to their end
		to.takes(g.holds())
	}
	for _, v := range to.written() {
		if !mutant.On("MirrorUnsynced") {
			v.settle()
		}
	}
	to.m.notice(to.dir)
	w.say(to.m, fmt.Sprintf("VM %s is loaded", to.instance))
	if _, breaks := w.mishap("LastPieceLost", m.place(), w.mix.StreamEnds, 0, 0); breaks {
		s.failed = "the stream broke at its end"
		g.goesOn()
		m.notice(g.dir)
		return
	}
	s.all = true
	w.later(between(m.rand, time.Millisecond, 50*time.Millisecond), func() { g.sent(s) })
}

// sent: the adapter hears that all has gone, and writes down what that means.
func (g *guest) sent(s *stream) {
	m := g.m
	if g.dir.guest != g || g.sending != s || g.dying || m.daemon == nil || m.daemon.life != s.by {
		return // the next daemon finds it so
	}
	if m.daemon.paused {
		m.w.later(int64(100*time.Millisecond), func() { g.sent(s) })
		return
	}
	if m.crashes(pointHandOver.before) {
		return
	}
	g.handOver(s)
	if m.crashes(pointHandOver.after) {
		return
	}
	m.notice(g.dir)
}

func (g *guest) handOver(s *stream) {
	g.dir.handedOver, g.sending = s.id, nil
	g.m.w.judges.migrations.handedOver(g, s.disks == 0)
	for _, v := range g.written() {
		g.m.w.judges.volumes.wrote[v.uid] = g.holds()
	}
	g.m.w.say(g.m, fmt.Sprintf("VM %s is handed over, migration %d", g.instance, s.id))
	if mutant.On("RootLeftEarly") {
		g.m.nix.hold(g.dir.uid)
	}
	judgeRoots(g.m.w, g.m)
}

// ends ends a Send, if one is under way: the guest goes on.
func (d *vmDir) endSend() {
	g := d.guest
	if g == nil || g.sending == nil {
		return
	}
	s := g.sending
	g.sending = nil
	if to := s.taker(d.uid); to != nil && to.from == s {
		to.exitIn(between(g.m.rand, time.Millisecond, 50*time.Millisecond))
	}
	g.goesOn()
}

func (d *Daemon) unsendVM(a vmm.Action, dir *vmDir) {
	switch {
	case dir != nil && dir.handedOver != 0:
		d.finish(a.Instance.UID, a.ID, "it was handed over")
		return
	case dir != nil && dir.guest != nil && dir.guest.sending != nil:
		if d.apiHangs(a) {
			return
		}
		dir.endSend()
		d.m.notice(dir)
	}
	d.finish(a.Instance.UID, a.ID, d.m.lost())
}

// takeOverVM has a guest that has come run. What that writes down comes first.
func (d *Daemon) takeOverVM(a vmm.Action, dir *vmDir) {
	m := d.m
	if dir == nil || dir.guest == nil || dir.guest.dying || dir.guest.instance != a.Instance {
		d.finish(a.Instance.UID, a.ID, "it is not there")
		return
	}
	g := dir.guest
	switch {
	case g.incoming == 0:
		d.finish(a.Instance.UID, a.ID, "")
		return
	case g.incoming != vmm.Loaded:
		d.finish(a.Instance.UID, a.ID, "its guest is not here")
		return
	}
	if d.apiHangs(a) {
		return
	}
	g.takenOver()
	if m.crashes(pointTakenOver) {
		return
	}
	g.paused = false
	m.notice(dir)
	d.finish(a.Instance.UID, a.ID, m.lost())
}

// pointTakenOver: it is written down that a guest is Incoming no more, and it does
// not run yet.
const pointTakenOver = "CrashInTakeOver"

func (g *guest) takenOver() {
	w := g.m.w
	g.incoming, g.ready, g.paused, g.pausedAt, g.dir.incoming = 0, true, true, w.now, false
	for _, v := range g.written() {
		if v.copy == g.instance.Index {
			g.m.arrived(v)
		}
	}
	w.running[g.instance.UID] = append(w.running[g.instance.UID], g)
	w.say(g.m, fmt.Sprintf("VM %s is taken over", g.instance))
	w.forked(g)
	w.judges.migrations.takenOver(w, g)
	if late, ok := w.mishap("LateExit", g.m.place(), w.mix.LateExit, 0, 30*time.Second); ok {
		g.exitIn(int64(late))
	}
}

// adoptMove ends what a daemon's death has left half done.
func (d *vmDir) adoptMove() {
	g := d.guest
	if g == nil || g.sending == nil || g.dying {
		return
	}
	if s := g.sending; s.all && s.failed == "" {
		g.handOver(s)
		return
	}
	d.endSend()
}

// judgeMigrations: what was handed over never runs again as the instance that it
// was; a guest that is taken over goes on with the memory with which it was handed
// over, and only after the state has given it the right to run. It has every write that
// was acknowledged to it before, on the disks that went with it, whether it goes on or
// is started anew.
type judgeMigrations struct {
	handed map[shim.Instance]bool
	runner map[uint64]string // what Nix built of that, by the migration's id
	memory map[uint64]uint64 // of what was handed over, by the migration's id
	disks  map[uint64]uint64 // and what it had written then; gone once it has run there
}

const everyWrite = "the running copy has every acknowledged write"

// MoveProbes are what a soak of moves must have met: how they went, and whom they lost
// on the way. MoveEndedWhileHandedOver and TargetDiedWhileHandedOver are told, too, and
// too rare to be asked for.
var MoveProbes = []string{
	"MoveBegun", "MoveSending", "MoveHandedOver", "MoveSwitched", "MoveDone", "MoveFailed", "MirrorReady", "MovedWithDisks", "NixMoved", "VolumeMirrored", "MovedWithVolume", "LeftBehindRemoved",
	"LeavesOffline", "LeftOffline", "MoveEndedWhilePreparing", "MoveEndedWhileSending",
	"SourceDiedWhilePreparing", "SourceDiedWhileSending", "SourceDiedWhileHandedOver", "SourceDiedWhileSwitched",
	"TargetDiedWhilePreparing", "TargetDiedWhileSending", "TargetDiedWhileSwitched",
	"LeaderDiedWhilePreparing", "LeaderDiedWhileSending", "LeaderDiedWhileHandedOver", "LeaderDiedWhileSwitched",
}

// stepNames are the states of a live move, as MoveProbes have them.
var stepNames = map[blixardv1.MigrationState]string{
	blixardv1.MigrationState_MIGRATION_STATE_PREPARING: "Preparing", blixardv1.MigrationState_MIGRATION_STATE_SENDING: "Sending",
	blixardv1.MigrationState_MIGRATION_STATE_HANDED_OVER: "HandedOver", blixardv1.MigrationState_MIGRATION_STATE_SWITCHED: "Switched",
	blixardv1.MigrationState_MIGRATION_STATE_DONE: "Done", blixardv1.MigrationState_MIGRATION_STATE_FAILED: "Failed",
}

// met counts how moves go.
func (j *judgeMigrations) met(w *World, c vmChange) {
	was, is := c.was.GetMigration(), c.is.GetMigration()
	switch {
	case is.GetOffline() && is.State != was.GetState() && is.State == blixardv1.MigrationState_MIGRATION_STATE_DONE:
		w.fired("LeftOffline")
	case is.GetOffline() || is == nil:
	case is.Id != was.GetId():
		w.fired("MoveBegun")
	case is.State == was.State:
	case is.State == blixardv1.MigrationState_MIGRATION_STATE_CANCELLING:
		w.fired("MoveEndedWhile" + stepNames[was.State])
	default:
		w.fired("Move" + stepNames[is.State])
	}
}

// died: a daemon that has a part in a move is gone.
func (j *judgeMigrations) died(w *World, m *Machine, leads bool) {
	// any order: numbers
	for _, vm := range w.judges.newest.vms {
		o, step := vm.GetMigration().GetOther(), stepNames[vm.GetMigration().GetState()]
		if o == nil || step == "" || vm.Placement == nil {
			continue
		}
		source, target := vm.Placement.NodeId, o.NodeId
		if vm.Migration.State == blixardv1.MigrationState_MIGRATION_STATE_SWITCHED {
			source, target = target, source
		}
		// What was handed over has been, before the state knows.
		if from := w.byID(source); from != nil && step == "Sending" {
			if dir, ok := from.dirs.Get(vm.Uid); ok && dir.handedOver == vm.Migration.Id {
				step = "HandedOver"
			}
		}
		for who, is := range map[string]bool{"Source": m.id == source, "Target": m.id == target, "Leader": leads} {
			if is {
				w.fired(who + "DiedWhile" + step)
			}
		}
	}
}

// entry: what a host has of a VM that is in a move is held there.
func (j *judgeMigrations) entry(w *World, n *newest) {
	for _, c := range n.changed {
		j.met(w, c)
		if c.was.GetMigration().GetOther() == nil || n.meta.GetUnsettled() {
			continue
		}
		w.judges.judged["migrations"]++
		w.guests(func(g *guest) {
			if g.instance.UID == c.was.Uid && !g.runs() && !j.held(g, c.is) && !w.givenUp[g.m.called] {
				w.fail("what is left of a VM is held", "index %d: %s is alive on %s, and nothing of %s is held there", n.index, g.instance, g.m.Name, c.name)
			}
		})
	}
}

func (j *judgeMigrations) held(g *guest, vm *blixardv1.VM) bool {
	for _, p := range []*blixardv1.Placement{vm.GetPlacement(), vm.GetMigration().GetOther()} {
		if p != nil && vm.Uid == g.instance.UID && p.Incarnation.GetIndex() == g.instance.Index && p.Incarnation.GetGeneration() == g.instance.Generation {
			return true
		}
	}
	return false
}

func (j *judgeMigrations) handedOver(g *guest, disks bool) {
	j.handed[g.instance], j.memory[g.dir.handedOver], j.runner[g.dir.handedOver] = true, g.memory, g.runner
	if disks {
		j.disks[g.dir.handedOver] = g.holds()
	}
}

func (j *judgeMigrations) goesOn(w *World, g *guest) {
	w.judges.judged["migrations"]++
	if j.handed[g.instance] || g.dir.handedOver != 0 {
		w.fail("what was handed over never goes on", "%s: %s runs again", g.m.Name, g.instance)
	}
}

func (j *judgeMigrations) takenOver(w *World, g *guest) {
	w.judges.judged["migrations"]++
	w.fired("TakenOver")
	if memory, ok := j.memory[g.instance.Index]; !ok || memory != g.memory {
		w.fail("a guest goes on with its memory", "%s: %s has memory %d, and what was handed over had %d (%t)", g.m.Name, g.instance, g.memory, memory, ok)
	}
	if runner := j.runner[g.instance.Index]; runner != g.runner {
		w.fail("a guest goes on with what was built for it", "%s: %s has %q, and was handed over with %q", g.m.Name, g.instance, g.runner, runner)
	}
	if g.runner != "" {
		w.fired("NixMoved")
		judgeRoots(w, g.m)
	}
}

// forked: an instance that came by a migration is forked where it boots only if it
// is a later attempt.
func (j *judgeMigrations) forked(w *World, g *guest) {
	if wrote, ok := j.disks[g.instance.Index]; ok && g.dir.restored == 0 && g.dir.restoring == 0 {
		w.judges.judged["migrations"]++
		w.fired("MovedWithDisks")
		if g.dir.data != wrote {
			w.fail(everyWrite, "%s: %s runs with disks that hold %x; %x had been written when it was handed over", g.m.Name, g.instance, g.dir.data, wrote)
		}
		delete(j.disks, g.instance.Index)
	}
	if g.memory != 0 && g.incoming == 0 && !g.came && j.handed[g.instance] {
		w.fail("what was handed over never goes on", "%s: %s is started", g.m.Name, g.instance)
	}
	if n := &w.judges.newest; n.vms != nil {
		vm := n.vm(g.instance.UID)
		if m := vm.GetMigration(); m.GetState() != 0 && m.HandedOverAt != 0 && m.Other != nil && vm.Placement != nil &&
			g.instance.Index == m.Other.Incarnation.GetIndex() {
			w.fail("who has no right to run does not", "%s: %s runs, and the right to run is %s's", g.m.Name, g.instance, vm.Placement.Node)
		}
	}
}
