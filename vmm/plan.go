package vmm

import (
	"cmp"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/shim"
)

// Context is what Plan must know besides the VM.
type Context struct {
	// Host under whose epoch actions are ordered now.
	Host shim.Host
	// Deadline returns the deadline of this epoch's lease of a length in
	// milliseconds, in BOOTTIME nanoseconds; 0 when it has none.
	Deadline func(lengthMs uint32) int64
	// NextID numbers actions, ascending.
	NextID func() uint64
}

// Plan returns what to do now, nil for nothing, and updates what the unit says
// of itself.
func (u *Unit) Plan(now int64, c Context) *Action {
	u.due, u.starved = never, false
	u.settle(now)
	var a *Action
	switch u.Seen.Liveness {
	case Alive:
		a = u.planAlive(now, c)
	case Down:
		a = u.planDown(now, c)
	default:
		a = u.planAbsent(now, c)
	}
	if a != nil {
		u.due = now // to hear what is next
	}
	return a
}

// Due is the time before which another Plan would return nil and change nothing:
// unless the unit is observed or an order of it ends, something else is wanted,
// the host's epoch changes, or, when it is starved, a lease is extended.
func (u *Unit) Due() int64 { return u.due }

// Starved says that the newest Plan left something for want of a lease.
func (u *Unit) Starved() bool { return u.starved }

// early says that it is not yet time for something, and notes when it will be.
// All that Plan leaves for later goes through it: see Due.
func (u *Unit) early(now, until int64) bool {
	if now >= until {
		return false
	}
	u.due = min(u.due, until)
	return true
}

// End returns what ends the VM on a host that is no member of its cluster any
// more: what lives is killed. Its files stay, for nobody has said that they may
// go, and what they hold may be nowhere else.
func (u *Unit) End(now int64, c Context) *Action {
	u.Want = nil
	if u.Seen.Liveness != Down {
		return u.Plan(now, c)
	}
	u.due, u.starved = never, false
	u.settle(now)
	if u.build != 0 {
		return u.cancelBuild(c)
	}
	return nil
}

// settle counts the end of an attempt, once.
func (u *Unit) settle(now int64) {
	if u.Seen.Liveness == Alive {
		return
	}
	u.untaken()
	stopping, killed, hung := u.stopAt != 0, u.killedAt != 0, u.hung
	was := u.health
	was.sick = was.sick && u.Want != nil && u.Want.Run && !u.Want.Remove
	ran := u.readyAt != 0 && now-u.readyAt >= stableRun && (!was.sick || was.ever)
	u.health = health{}
	u.aliveAt, u.readyAt, u.stopAt, u.killedAt, u.hung, u.unsure = 0, 0, 0, 0, false, false
	u.pauseReason, u.pauseMessage, u.pauseAgain = "", "", 0
	u.balloon = balloon{}
	u.move.takingOver = 0
	if u.Seen.Liveness != Down || u.ended >= u.Seen.Instance.Attempt {
		return
	}
	u.ended = u.Seen.Instance.Attempt
	u.asked, u.forced = stopping && !was.sick, stopping && killed
	exit := u.Seen.Exit
	if exit == nil {
		exit = &Exit{Code: 137, Reason: "Killed", Message: "its shim was killed, and the VM with it"}
	}
	if hung {
		exit = &Exit{Code: exit.Code, Reason: "BootTimedOut", Message: "it did not become ready within two minutes of its start, and was killed; its console may say why"}
	}
	if was.sick && !exit.noFault() {
		exit = &Exit{Code: max(exit.Code, 1), Reason: "Unhealthy", Message: fmt.Sprintf("its health check failed %d times in a row, so it was ended: %s", was.bad, was.message)}
	}
	u.exitCode, u.end = exit.Code, exit
	if ran {
		u.failures = 0
	}
	switch {
	case stopping && !hung && !was.sick:
		u.failures, u.retryAt = 0, 0
		u.say(blixardv1.Phase_PHASE_STOPPED, "Stopped", "it was stopped")
	case exit.noFault():
		u.retryAt = 0
		u.say(blixardv1.Phase_PHASE_PENDING, exit.Reason, exit.Message)
	default:
		u.failed(now)
	}
}

func (u *Unit) planAlive(now int64, c Context) *Action {
	if u.busy() && !(u.order == Snapshot && u.ends()) {
		return nil
	}
	w := u.Want
	switch {
	case w == nil || !u.current():
		u.say(blixardv1.Phase_PHASE_STOPPING, "NotAssigned", "it is not assigned to this host any more")
		return u.kill(now, c)
	case u.Seen.HandedOver != 0:
		return u.planHandedOver(now, c)
	case u.Seen.Incoming != 0:
		return u.planIncoming(now, c)
	case w.Remove || !w.Run, u.health.sick:
		return u.stop(now, c)
	case u.renews():
		// What is to run next is built first: it may take long, and may fail.
		if u.restores() && u.built == u.spec() { // what it would still do is not kept anyway
			u.say(blixardv1.Phase_PHASE_STOPPING, "Restoring", "it is to go on from the snapshot "+w.Restore.Name)
			return u.kill(now, c)
		}
		if u.stopAt != 0 || u.built == u.spec() || mutant.On("StoppedUnbuilt") {
			return u.stop(now, c)
		}
	}
	if a := u.planBuild(now, c); a != nil {
		return a
	}
	if u.hung || !u.Seen.Ready && !mutant.On("HungForEver") && !u.early(now, u.aliveAt+bootTimeout) {
		u.hung = true
		return u.kill(now, c)
	}
	switch {
	case !u.Seen.Ready:
		u.say(blixardv1.Phase_PHASE_STARTING, "Starting", "its hypervisor has not said yet that it runs")
	case u.Seen.Paused && w.Paused:
		u.say(blixardv1.Phase_PHASE_PAUSED, "Paused", "")
	case u.Seen.Paused:
		u.say(blixardv1.Phase_PHASE_PAUSED, cmp.Or(u.pauseReason, "Resuming"), u.pauseMessage)
	default:
		u.say(blixardv1.Phase_PHASE_RUNNING, cmp.Or(u.pauseReason, "Running"), u.pauseMessage)
	}
	u.forgive(now)
	if a := u.rebind(now, c); a != nil {
		return a
	}
	if a := u.planSend(now, c); a != nil {
		return a
	}
	if a := u.pause(now, c); a != nil {
		return a
	}
	if a := u.planBalloon(now, c); a != nil {
		return a
	}
	if a := u.planSnapshot(c); a != nil {
		return a
	}
	return u.planHealth(now, c)
}

// forgive forgets the failures before a stable run.
func (u *Unit) forgive(now int64) {
	if u.failures > 0 && u.readyAt != 0 && (u.health.ever || u.check() == nil) && !u.early(now, u.readyAt+stableRun) {
		u.failures = 0
	}
}

// pause has a live instance kept where it is, or go on.
func (u *Unit) pause(now int64, c Context) *Action {
	if !u.Seen.Ready || u.Want.Paused == u.Seen.Paused || mutant.On("PauseForgotten") && u.attempt > 1 {
		u.pauseReason, u.pauseMessage, u.pauseAgain = "", "", 0
		return nil
	}
	if u.Want.Paused == u.pausing && u.early(now, u.pauseAgain) {
		return nil
	}
	u.pausing, u.pauseAgain = u.Want.Paused, now+pauseAgain
	if u.Want.Paused {
		return u.await(c, Pause)
	}
	return u.await(c, Resume)
}

// renews says that the live instance is to be stopped and started: its user
// asked for that, or for the newest spec as soon as it is built.
func (u *Unit) renews() bool {
	return u.Want.RunGeneration > u.runGeneration || (u.Want.RestartWhenBuilt || mutant.On("UnaskedRestart")) && u.specGeneration != u.Want.SpecGeneration
}

// planBuild builds, beside the live instance, what the next start needs. A spec
// that runs needs nothing, but that the cluster knows its runner.
func (u *Unit) planBuild(now int64, c Context) *Action {
	w := u.Want
	lost := w.Runner == nil && (w.Spec.GetNixos() != nil || w.Spec.GetFlake() != nil)
	if u.built == u.spec() || !u.renews() && !lost && w.SpecGeneration == u.specGeneration {
		u.buildMessage = ""
		return nil
	}
	if u.buildOf != u.spec() {
		u.buildMessage, u.buildFailures, u.buildAgain = "", 0, 0
	} else if u.build != 0 || u.early(now, u.buildAgain) {
		return nil
	}
	return u.orderBuild(c)
}

func (u *Unit) orderBuild(c Context) *Action {
	a := u.act(c, Build)
	u.build, u.buildOf, u.cancelled = a.ID, u.spec(), false
	return a
}

// cancelBuild ends a Build that nobody needs any more. Until it is answered, its
// files may be in use.
func (u *Unit) cancelBuild(c Context) *Action {
	if u.cancelled {
		return nil
	}
	u.cancelled = true
	return u.act(c, Kill)
}

// current says that the instance seen is of the incarnation that is wanted.
func (u *Unit) current() bool {
	i := u.Want.GetIncarnation()
	return u.Seen.Instance.Generation == i.GetGeneration() && u.Seen.Instance.Index == i.GetIndex()
}

func (u *Unit) busy() bool { return u.order != 0 }

// stop presses the power button, and kills once the grace has passed.
func (u *Unit) stop(now int64, c Context) *Action {
	phase, reason := blixardv1.Phase_PHASE_STOPPING, "Stopping"
	switch {
	case u.Want.Remove:
		phase, reason = blixardv1.Phase_PHASE_DELETING, "Deleting"
	case u.health.sick && u.Want.Run:
		reason = "Unhealthy"
	}
	if u.stopAt == 0 {
		u.stopAt = now + max(int64(u.Want.GetSpec().GetStopGraceMs())*milli, 1)
		u.say(phase, reason, "asked to power off")
		return u.act(c, Stop)
	}
	if u.early(now, u.stopAt) || mutant.On("NeverKills") {
		return nil
	}
	u.say(phase, reason, "did not power off in its grace time: killed")
	return u.kill(now, c)
}

func (u *Unit) kill(now int64, c Context) *Action {
	if u.killedAt != 0 && u.early(now, u.killedAt+killAgain) {
		return nil
	}
	u.killedAt = max(now, 1)
	if u.stopAt == 0 {
		u.stopAt = u.killedAt
	}
	return u.act(c, Kill)
}

// rebind brings a live instance under the lease that it should have, when that
// lease is there.
func (u *Unit) rebind(now int64, c Context) *Action {
	w := u.Want
	none := w.Lease == blixardv1.LeaseClass_LEASE_CLASS_NONE
	if !u.unsure && w.Lease == u.lease().class && w.Lease == u.Seen.Lease && (none || u.wanted() == u.lease() &&
		w.LeaseMs == u.Seen.LeaseMs && c.Host.Epoch == u.Seen.Epoch) {
		return nil
	}
	if !u.leased(now, c) || u.early(now, u.retryAt) {
		return nil
	}
	u.retryAt = now + second
	u.rebinding = u.wanted()
	if u.ordered.class == 0 {
		u.ordered = u.rebinding
	}
	u.ordered = loosest(u.ordered, u.rebinding)
	return u.await(c, Rebind)
}

// leased says whether a start now would have enough of a lease left.
func (u *Unit) leased(now int64, c Context) bool {
	if u.Want.Lease == blixardv1.LeaseClass_LEASE_CLASS_NONE {
		return true
	}
	// An unextended lease is enough until then, and for what waits meanwhile for
	// something else (a build) it is too little afterwards.
	u.starved = !u.early(now, c.Deadline(u.Want.LeaseMs)-startMargin+1)
	return !u.starved
}

func (u *Unit) planDown(now int64, c Context) *Action {
	if u.busy() {
		return nil
	}
	if u.Want == nil || u.Want.Remove || !u.current() {
		if u.build != 0 {
			return u.cancelBuild(c)
		}
		if u.reason == "RemoveFailed" && u.early(now, u.retryAt) {
			return nil
		}
		return u.await(c, Remove)
	}
	if u.receives() {
		return u.planReceive(now, c)
	}
	if u.build != 0 && !u.Want.Run && u.Seen.Instance.Attempt == 0 {
		return u.cancelBuild(c) // it has its files, and was never started
	}
	return u.planStart(now, c)
}

func (u *Unit) planAbsent(now int64, c Context) *Action {
	switch {
	case u.busy():
		return nil
	case u.build != 0 && (u.Want == nil || u.Want.Remove || !u.Want.Run && !u.receives()):
		return u.cancelBuild(c)
	case u.Want == nil:
		return nil
	case u.Want.Remove:
		if u.removed {
			u.say(blixardv1.Phase_PHASE_DELETING, "Removed", "nothing of it is left on this host")
			return nil
		}
		if u.reason == "RemoveFailed" && (mutant.On("RemoveUnanswered") || u.early(now, u.retryAt)) {
			return nil
		}
		return u.await(c, Remove)
	case u.receives():
		return u.planReceive(now, c)
	}
	return u.planStart(now, c)
}

// planStart starts a VM of which nothing is alive, if it should run now.
func (u *Unit) planStart(now int64, c Context) *Action {
	w := u.Want
	if w.Migration != nil {
		if u.handsOver() && !mutant.On("HandedOverStarts") {
			u.say(blixardv1.Phase_PHASE_PAUSED, "HandedOver", "it has ended here, and goes on on another host")
			return nil
		}
		u.failMove("it ended while it was sent")
		if w.Migration.Send && !mutant.On("HandedOverStarts") {
			// The state may have it as handed over already, whatever is known here: it says
			// whether it is started here.
			u.say(blixardv1.Phase_PHASE_PENDING, "NotMigrated", "it ended while it was sent, and is started anew when the cluster has ended its move")
			return nil
		}
	}
	if u.early(now, u.expect) {
		return nil
	}
	if !w.Run && !mutant.On("StoppedRestarts") {
		u.failures, u.retryAt = 0, 0
		message := "it was stopped by its user"
		if u.forced {
			message += "; it did not power off in its grace time, and was killed"
		}
		u.say(blixardv1.Phase_PHASE_STOPPED, "Stopped", message)
		return nil
	}
	switch {
	case w.RunGeneration > max(u.runGeneration, u.wished):
		u.wished, u.failures, u.retryAt = w.RunGeneration, 0, 0
	case w.RunGeneration <= u.runGeneration && !u.restarts():
		return nil
	}
	if u.buildOf != (spec{}) && u.buildOf != u.spec() {
		// What failed was another spec, and this one may be the remedy.
		u.failures, u.retryAt = 0, 0
		u.buildMessage, u.buildFailures, u.buildAgain = "", 0, 0
	}
	if u.early(now, u.retryAt) {
		return nil
	}
	if !u.leased(now, c) {
		u.say(blixardv1.Phase_PHASE_PENDING, "NoLease", "its host has no lease to run it under: it does not hear from the cluster's leader")
		return nil
	}
	if u.built != u.spec() {
		if (u.build == 0 || u.buildOf != u.spec()) && !u.early(now, u.buildAgain) {
			if u.standIn() == nil {
				u.say(blixardv1.Phase_PHASE_BUILDING, "Building", needsBuild)
			}
			return u.orderBuild(c)
		}
		if u.standIn() == nil {
			if u.build != 0 {
				u.say(blixardv1.Phase_PHASE_BUILDING, "Building", needsBuild)
			}
			return nil
		}
		// A spec that stands in for one that is not built runs once for each start
		// that was asked for, and then as the policy says.
		if u.stoodIn == w.RunGeneration && !u.restarts() {
			return nil
		}
		u.stoodIn = w.RunGeneration
		w = u.fallback()
	}
	u.attempt++
	u.runGeneration, u.specGeneration, u.incarnation = w.RunGeneration, w.SpecGeneration, w.Incarnation.GetIndex()
	u.say(blixardv1.Phase_PHASE_STARTING, "Starting", fmt.Sprintf("attempt %d", u.attempt))
	if u.restores() {
		u.say(blixardv1.Phase_PHASE_STARTING, "Restoring", fmt.Sprintf("attempt %d, from the snapshot %s", u.attempt, w.Restore.Name))
	}
	u.ordered = bound{w.Lease, w.LeaseMs}
	a := u.await(c, Start)
	a.Assignment, a.Instance = w, u.next(u.attempt)
	if u.restores() {
		a.Restore = w.Restore
	}
	return a
}

const needsBuild = "its host builds or fetches what it needs"

// standIn is the spec that a start which cannot wait may have instead of one that is
// not built. It is none older than what has run here: for that the cluster keeps no
// room any more.
func (u *Unit) standIn() *blixardv1.Generation {
	f := u.Want.GetFallback()
	if u.incarnation == u.Want.GetIncarnation().GetIndex() && f.GetSpecGeneration() < u.specGeneration {
		return nil
	}
	return f
}

// fallback is the assignment with the newest spec that was built before, for a
// start that cannot wait. It satisfies no restart that was asked for.
func (u *Unit) fallback() *blixardv1.Assignment {
	a := proto.Clone(u.Want).(*blixardv1.Assignment)
	f := a.Fallback
	a.Spec, a.SpecGeneration, a.Pins, a.Runner, a.Fallback, a.Fresh = f.Spec, f.SpecGeneration, f.Pins, f.Runner, nil, false
	if u.incarnation == a.Incarnation.GetIndex() && u.runGeneration != 0 {
		a.RunGeneration = u.runGeneration
	}
	return a
}

// restarts says whether the policy starts again what has ended, and says what
// it is when it does not.
func (u *Unit) restarts() bool {
	if u.incarnation != u.Want.GetIncarnation().GetIndex() || u.ended == 0 || u.ended < u.attempt || u.asked || u.end.noFault() || u.Seen.HandedOver != 0 || mutant.On("PolicyIgnored") {
		return true
	}
	policy := u.Want.GetSpec().GetRestart()
	good := u.end.Code == 0 && u.end.Reason == "Exited"
	if policy != blixardv1.RestartPolicy_RESTART_POLICY_NEVER && !(policy == blixardv1.RestartPolicy_RESTART_POLICY_ON_FAILURE && good) {
		return true
	}
	// Another policy, a spec ago, may have had it started again, and said so.
	phase := blixardv1.Phase_PHASE_FAILED
	if good {
		phase = blixardv1.Phase_PHASE_STOPPED
	}
	u.say(phase, u.end.Reason, u.end.Message)
	return false
}

// act orders something that needs no answer.
func (u *Unit) act(c Context, v Verb) *Action {
	u.removed = u.removed && v != Build && v != Start && v != Receive // which leave files, even if they fail
	return &Action{ID: c.NextID(), Verb: v, Instance: u.Instance(), Assignment: u.Want, Host: c.Host}
}

// await orders something that must be answered before the next order.
func (u *Unit) await(c Context, v Verb) *Action {
	a := u.act(c, v)
	u.order, u.orderID = v, a.ID
	return a
}
