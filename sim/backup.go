package sim

import (
	"maps"
	"slices"
	"time"

	"github.com/blixard/blixard/core"
	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A backup with memory is an archive of a snapshot, in the hands of those who made it:
// it outlives the VM, the snapshot, its host and the cluster. It is brought back as a
// snapshot of nobody, of which VMs are made.
//
// What is said here for rpc: a server has the record made, takes the bytes to the host
// that was chosen, says that they are there, and gives the record up when they do not
// come. What is left to do for a retry the state says (cluster.Bringing).
//
// Bytes may be slow, break off (DownloadBreaks, UploadBreaks), or find no room
// (UploadFull); the daemon at either end may die; and the last answer may be lost
// (AnswerLost). An archive that broke off is thrown away by who made it, and by the host.
// A record whose server died is listed, and somebody deletes it.
type archive struct {
	savedVM           // what it holds, and of which snapshot
	spec              *blixardv1.VMSpec
	hypervisor        blixardv1.Hypervisor
	hypervisorVersion string
}

// upload is an archive on its way from a client through a server to a host.
type upload struct {
	ask   *ask
	by    *Daemon // of the server
	p     *blixardv1.VMSnapshot
	at    *Daemon  // of the host, once it takes it
	saved *savedVM // what the host has of it
}

const brokeOff = "it broke off"

// carries says that bytes come through between the daemons of two machines.
func (w *World) carries(a, b *Daemon) bool {
	return a.m.daemon == a && b.m.daemon == b && w.net.cut[link{a.m.Index, b.m.Index}] == 0 && w.net.cut[link{b.m.Index, a.m.Index}] == 0
}

// stands says that one of some daemons stands still, and bytes with it.
func (w *World) stands(of ...*Daemon) bool {
	return slices.ContainsFunc(of, func(d *Daemon) bool { return d.m.daemon == d && (d.paused || d.m.asleep > w.now) })
}

// fetches has a client make an archive of the snapshot that a server's state has.
func (c *client) fetches(o *outcome) {
	w, op, view, attempt := c.w, c.op, o.reply.View, c.attempt
	ends := func(code blixardv1.ErrorCode, why string) {
		c.end(&core.Reply{Response: &blixardv1.Response{Revision: view.Revision(), Error: &blixardv1.Error{Code: code, Message: why}}})
	}
	p := view.Snapshot(snapshotName(op.Name))
	if p == nil {
		ends(blixardv1.ErrorCode_ERROR_CODE_NOT_FOUND, "there is no such snapshot")
		return
	}
	host := w.byID(p.NodeId)
	if by := o.ask.server.daemon; p.State != blixardv1.SnapshotState_SNAPSHOT_STATE_READY || host == nil || host.daemon == nil || by == nil || !w.carries(by, host.daemon) {
		ends(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "it cannot be read")
		return
	}
	by, at := o.ask.server.daemon, host.daemon
	var come func()
	come = func() {
		s := host.saved[p.Uid]
		switch {
		case c.op != op || c.attempt != attempt: // it waits no longer
			return
		case w.stands(by, at):
			w.later(int64(time.Second), come)
			return
		case !w.carries(by, at) || s == nil || !s.whole:
			ends(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, brokeOff)
			return
		}
		if _, cut := w.mishap("DownloadBreaks", host.place(), w.mix.SnapshotFails, 0, 0); cut {
			ends(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, brokeOff)
			return
		}
		a := &archive{*s, p.Spec, p.Hypervisor, p.Image.GetVersion()}
		w.say(host, "an archive of snapshot "+p.Uid+" is made")
		w.fired("BackedUp")
		w.judges.snapshots.backedUp(w, host, a)
		w.hearsay.archives[op.Name] = a
		c.end(&core.Reply{View: view})
	}
	w.later(between(c.rand, 50*time.Millisecond, 3*time.Second), come)
}

// command brings an archive back.
func (a *archive) command(vm string) *blixardv1.Command {
	op := &blixardv1.AddSnapshotOp{Name: snapshotName(vm), Vm: vm}
	if a != nil {
		op.Spec, op.Hypervisor, op.Version = a.spec, a.hypervisor, a.hypervisorVersion
	}
	return &blixardv1.Command{Op: &blixardv1.Command_AddSnapshot{AddSnapshot: op}}
}

// brings goes on with what a client brings, when the record of it is made.
func (d *Daemon) brings(a *ask, p *blixardv1.VMSnapshot) {
	u := &upload{ask: a, by: d, p: p}
	d.uploads = append(d.uploads, u)
	if u.left() == "" {
		a.client.op.brought = p.Uid
	}
	to, ready := d.node.View().Bringing(p)
	switch {
	case ready != nil:
		d.m.w.fired("BroughtBefore")
		u.answers(&blixardv1.Response{Revision: ready.Revision, Result: &blixardv1.Response_Snapshot{Snapshot: ready}})
	case to == nil:
		u.refused("nobody waits for it any more")
	default:
		d.m.w.later(between(d.m.rand, time.Millisecond, 100*time.Millisecond), func() { u.begins(to.Id) })
	}
}

// left says that the server or the client is there no more, for whom this is done.
func (u *upload) left() string {
	c := u.ask.client
	if u.by.m.daemon != u.by || c.op == nil || c.attempt != u.ask.attempt {
		return brokeOff
	}
	return ""
}

// begins has a host take it.
func (u *upload) begins(id uint64) {
	w := u.by.m.w
	m := w.byID(id)
	if w.stands(u.by) {
		w.later(int64(time.Second), func() { u.begins(id) })
		return
	}
	why := u.left()
	switch {
	case why != "":
	case m == nil || m.daemon == nil || !w.carries(u.by, m.daemon):
		why = "its host cannot be reached"
	case m.saved[u.p.Uid] != nil:
		why = "the snapshot is here already, or is just coming"
	case m.daemon.keeps != nil && !m.daemon.keeps.Wants(u.p.Uid):
		why = errOvertaken
	default:
		if _, full := w.mishap("UploadFull", m.place(), w.mix.SnapshotFails, 0, 0); full {
			why = "the disk is full"
		}
	}
	if why != "" {
		u.givesUp(why)
		return
	}
	u.at, u.saved = m.daemon, &savedVM{uid: u.p.Uid}
	m.saved[u.p.Uid] = u.saved
	w.later(between(m.rand, 50*time.Millisecond, 5*time.Second), u.comes)
}

// comes: the host has all of it, or what has come is of no use.
func (u *upload) comes() {
	w, m, from := u.by.m.w, u.at.m, u.ask.brings
	if w.stands(u.by, u.at) {
		w.later(int64(time.Second), u.comes)
		return
	}
	here := m.daemon == u.at
	if here && m.crashes(pointBrought.before) {
		here = false
	}
	_, broke := w.mishap("UploadBreaks", m.place(), w.mix.SnapshotFails, 0, 0)
	why := u.left()
	switch {
	case why != "":
	case broke || !w.carries(u.by, u.at):
		why = brokeOff
	case m.saved[u.p.Uid] != u.saved || u.at.keeps != nil && !u.at.keeps.Wants(u.p.Uid):
		why = errOvertaken
	}
	switch {
	case why == brokeOff && here && mutant.On("UploadCutShort"):
		why, u.saved.whole, u.saved.memory = "", true, from.memory
	case why != "":
		if here && m.saved[u.p.Uid] == u.saved && !mutant.On("UploadStays") {
			delete(m.saved, u.p.Uid)
		}
		u.givesUp(why)
		return
	default:
		u.saved.whole, u.saved.memory, u.saved.disk, u.saved.has = true, from.memory, from.disk, from.has
	}
	w.judges.snapshots.holds[u.p.Uid] = content{from.memory, from.disk}
	w.say(m, "snapshot "+u.p.Uid+" has come")
	w.fired("Brought")
	if m.crashes(pointBrought.after) {
		u.givesUp("its host cannot be reached")
		return
	}
	if u.by.m.crashes(pointAdded.before) {
		return
	}
	u.asks(&blixardv1.Command{Op: &blixardv1.Command_SnapshotAdded{SnapshotAdded: &blixardv1.SnapshotAddedOp{Name: u.p.Name, Uid: u.p.Uid, Image: u.saved.image()}}}, func(r *blixardv1.Response) {
		if r.GetSnapshot() == nil {
			u.givesUp("nobody knows whether it is ready")
			return
		}
		u.answers(r)
	})
	u.by.m.crashes(pointAdded.after)
}

// asks has the server do something for the client; with nil nobody knows what came of it.
func (u *upload) asks(cmd *blixardv1.Command, then func(*blixardv1.Response)) {
	d, c := u.by, u.ask.client
	c.seal(cmd)
	d.m.w.atOnce(event{kind: evRequest, m: d.m, life: d.life, ref: &ask{
		client: c, server: d.m, request: core.Request{Timeout: int64(attemptPatience), Command: cmd}, heard: func(o *outcome) {
			switch {
			case d.m.daemon != d:
			case o.reply == nil:
				then(nil)
			default:
				then(o.reply.Response)
			}
		},
	}})
}

// givesUp takes the record back, unless it is ready after all.
func (u *upload) givesUp(why string) {
	u.asks(&blixardv1.Command{Op: &blixardv1.Command_DeleteSnapshot{DeleteSnapshot: &blixardv1.DeleteSnapshotOp{Name: u.p.Name, Uid: u.p.Uid}}}, func(r *blixardv1.Response) {
		if r.GetSnapshot().GetState() == blixardv1.SnapshotState_SNAPSHOT_STATE_READY {
			u.answers(r)
			return
		}
		u.refused(why)
	})
}

func (u *upload) refused(why string) {
	u.answers(&blixardv1.Response{Error: &blixardv1.Error{Code: blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, Message: why}})
}

func (u *upload) answers(r *blixardv1.Response) {
	d, w := u.by, u.by.m.w
	d.uploads = slices.DeleteFunc(d.uploads, func(o *upload) bool { return o == u })
	if _, lost := w.mishap("AnswerLost", d.m.place(), w.mix.SnapshotFails, 0, 0); lost {
		w.answered(u.ask, nil)
		return
	}
	w.answered(u.ask, &core.Reply{Response: r})
}

// abandoned are the snapshots that were being brought by a server that has died.
func (w *World) abandoned() *blixardv1.VMSnapshot {
	for _, p := range sorted(w.judges.newest.snapshots) {
		if p.VmUid == "" && p.State == blixardv1.SnapshotState_SNAPSHOT_STATE_CREATING && !slices.ContainsFunc(w.machines, func(m *Machine) bool {
			return m.daemon != nil && slices.ContainsFunc(m.daemon.uploads, func(u *upload) bool { return u.p.Uid == p.Uid })
		}) {
			return p
		}
	}
	return nil
}

// tidies deletes one after the other what is listed and nobody brings any more.
func (w *World) tidies() {
	if p := w.abandoned(); p != nil && w.tidier.op == nil {
		w.fired("Abandoned")
		w.tidier.begin(&Operation{Verb: DropSnapshot, Name: p.Vm}, nil)
	}
	w.later(int64(5*time.Second), w.tidies)
}

// bringsBack has the operator bring what was backed up into a cluster that was restored.
func (w *World) bringsBack() {
	if len(w.hearsay.archives) > 0 {
		w.RunUntil(2*time.Minute, w.complete)
	}
	for _, vm := range slices.Sorted(maps.Keys(w.hearsay.archives)) {
		op := w.Do(&Operation{Verb: BringBack, Name: "old-" + vm, archive: w.hearsay.archives[vm]})
		if !w.over() && !op.Unknown && op.Error == nil {
			w.fired("BroughtAfterDisaster")
		}
	}
}
