package vmm

import (
	"cmp"
	"fmt"

	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A live migration, as its two hosts see it. The source sends what runs, until it
// was handed over; the target receives, and waits. Neither decides that it is over:
//
//	assignment         source                          target
//	with a migration   runs, is sent, is handed over   is loaded, waits
//	without            goes on, or is started anew     takes over
//	remove             is killed                       is killed
//
// What was handed over starts nothing here until an assignment says that the move
// has ended: the target may be running it by then.

// move is what is remembered of a migration here.
type move struct {
	failed     uint64 // the one that came to nothing
	why        string
	sent       uint64 // the one for which Send was last ordered
	sendAgain  int64  // when Send may be ordered again
	again      int64  // when Unsend or TakeOver may be
	takingOver int64  // when TakeOver was first ordered
}

// takeOverTime is how long a loaded guest may refuse to run.
const takeOverTime = 30 * second

func (u *Unit) role() blixardv1.MigrationRole { return u.Want.GetMigration().GetRole() }

func (u *Unit) receives() bool {
	return u.role() == blixardv1.MigrationRole_MIGRATION_ROLE_TARGET
}

// handsOver says that this host has handed the VM over in the migration that its
// assignment still has.
func (u *Unit) handsOver() bool {
	m := u.Want.GetMigration()
	return u.role() == blixardv1.MigrationRole_MIGRATION_ROLE_SOURCE && u.Seen.HandedOver == m.Id && u.current()
}

// failMove notes that the migration of the assignment comes to nothing here.
func (u *Unit) failMove(why string) {
	if m := u.Want.GetMigration(); m != nil && u.move.failed != m.Id {
		u.move.failed, u.move.why = m.Id, sayable(cmp.Or(why, "nobody knows why"))
	}
}

// planSend has a live instance sent, or ends that.
func (u *Unit) planSend(now int64, c Context) *Action {
	m, out := u.Want.Migration, u.Seen.Outgoing
	if out.Migration != 0 && out.Migration != m.GetId() {
		if u.early(now, u.move.again) {
			return nil
		}
		u.move.again = now + second
		return u.await(c, Unsend)
	}
	switch {
	case m == nil || u.move.failed == m.Id:
	case u.Seen.Instance.Attempt != m.Attempt:
		u.failMove("it was started again meanwhile")
	case out.Failed:
		u.failMove(out.Message)
	case m.Send && out.Migration == 0 && u.Seen.Ready && !u.Seen.Paused && !u.early(now, u.move.sendAgain):
		u.move.sent, u.move.sendAgain = m.Id, now+second
		return u.await(c, Send)
	}
	return nil
}

// planHandedOver: the guest is stopped for good. While the move lasts, it waits.
func (u *Unit) planHandedOver(now int64, c Context) *Action {
	if u.handsOver() && !u.Want.Remove {
		u.say(blixardv1.Phase_PHASE_PAUSED, "HandedOver", "it is stopped here, and goes on on another host")
		return u.rebind(now, c)
	}
	if !u.Want.Remove && mutant.On("HandedOverGoesOn") {
		return u.await(c, Resume)
	}
	u.say(blixardv1.Phase_PHASE_STOPPING, "NotMigrated", "its move came to nothing after it was stopped for that: it is started anew")
	return u.kill(now, c)
}

// planReceive starts what takes the guest, once. What ends before the guest is
// there is not tried again: the source does not know of another.
func (u *Unit) planReceive(now int64, c Context) *Action {
	m := u.Want.Migration
	switch {
	case u.move.failed == m.Id || u.early(now, u.expect):
		return nil
	case u.attempt > 0 && u.incarnation == m.Id:
		why := "what was to take it is not there any more"
		if u.end != nil {
			why = u.end.Message
		}
		u.failMove(why)
		return nil
	case u.buildOf == u.spec() && u.build == 0 && u.built != u.spec():
		u.failMove("what it needs cannot be had here: " + u.message)
		return nil
	case !u.leased(now, c):
		u.say(blixardv1.Phase_PHASE_PENDING, "NoLease", "its host has no lease to take it under")
		return nil
	case u.built != u.spec() && !mutant.On("WaitsWithoutClosure"):
		if u.build != 0 && u.buildOf == u.spec() {
			return nil
		}
		u.say(blixardv1.Phase_PHASE_BUILDING, "Building", needsBuild)
		return u.orderBuild(c)
	}
	w := u.Want
	u.attempt++
	u.runGeneration, u.specGeneration, u.incarnation = w.RunGeneration, w.SpecGeneration, w.Incarnation.GetIndex()
	u.say(blixardv1.Phase_PHASE_STARTING, "Incoming", "it is on its way here")
	u.ordered = bound{w.Lease, w.LeaseMs}
	a := u.await(c, Receive)
	a.Instance = u.next(u.attempt)
	return a
}

// planIncoming: a hypervisor is there for a guest that is on its way, or that has
// come and may run.
func (u *Unit) planIncoming(now int64, c Context) *Action {
	w := u.Want
	switch {
	case w.Remove, !u.receives() && (!w.Run || u.Seen.Incoming == Listening):
		u.say(blixardv1.Phase_PHASE_STOPPING, "NotMigrated", "its move came to nothing")
		return u.kill(now, c)
	case !u.receives() && u.Seen.Incoming == Opening:
		// It may run, and a daemon that has just begun does not know yet what came of it.
		u.say(blixardv1.Phase_PHASE_STARTING, "TakingOver", "it is looked at whether its guest is here")
		if !u.early(now, u.aliveAt+bootTimeout) {
			return u.kill(now, c)
		}
		return u.rebind(now, c)
	case u.receives() && !(u.Seen.Incoming == Loaded && mutant.On("TargetRunsEarly")):
		u.say(blixardv1.Phase_PHASE_STARTING, "Incoming", fmt.Sprintf("it is on its way here: %v", u.Seen.Incoming))
		if u.Seen.Incoming == Opening && !u.early(now, u.aliveAt+bootTimeout) {
			return u.kill(now, c)
		}
		return u.rebind(now, c)
	case u.early(now, u.move.again):
		return nil
	case u.move.takingOver != 0 && now-u.move.takingOver >= takeOverTime:
		u.say(blixardv1.Phase_PHASE_STOPPING, "NotMigrated", "its guest is here and does not go on: it is started anew")
		return u.kill(now, c)
	}
	if u.move.takingOver == 0 {
		u.move.takingOver = max(now, 1)
	}
	u.move.again = now + second
	u.say(blixardv1.Phase_PHASE_STARTING, "TakingOver", "it is here, and goes on")
	return u.await(c, TakeOver)
}

// moved takes the answer to an order of a migration.
func (u *Unit) moved(verb Verb, d Done) {
	if verb == Send && d.Err != "" && u.move.sent == u.Want.GetMigration().GetId() {
		u.failMove(d.Err)
	}
}

// migration is what the cluster should know of this side of a migration.
func (u *Unit) migration() *blixardv1.MigrationReport {
	m := u.Want.GetMigration()
	if m == nil {
		return nil
	}
	r := &blixardv1.MigrationReport{Id: m.Id}
	alive := u.Seen.Liveness == Alive && u.current()
	switch out := u.Seen.Outgoing; {
	case u.handsOver():
		r.Step = blixardv1.MigrationStep_MIGRATION_STEP_HANDED_OVER
	case u.move.failed == m.Id:
		r.Step, r.Message = blixardv1.MigrationStep_MIGRATION_STEP_FAILED, u.move.why
	case alive && u.receives() && u.Seen.Incoming == Listening:
		r.Step = blixardv1.MigrationStep_MIGRATION_STEP_LISTENING
	case alive && u.receives() && u.Seen.Incoming == Loaded:
		r.Step = blixardv1.MigrationStep_MIGRATION_STEP_LOADED
	case alive && out.Migration == m.Id && !out.Failed:
		r.Step = blixardv1.MigrationStep_MIGRATION_STEP_SENDING
		r.Progress = &blixardv1.MigrationProgress{SentBytes: out.SentBytes, LeftBytes: out.LeftBytes, ExpectedDowntimeMs: out.ExpectedDowntimeMs}
	default:
		return nil
	}
	return r
}
