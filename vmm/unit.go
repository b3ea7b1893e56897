package vmm

import (
	"math"
	"strings"

	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/shim"
)

// Unit is one VM on this host, as the manager sees it.
type Unit struct {
	UID string
	// Want is what the cluster wants; nil when the VM is not assigned here.
	Want *blixardv1.Assignment
	// Seen is the newest report.
	Seen Report

	// The order under way that must be answered before another is given.
	order   Verb // 0: none
	orderID uint64

	// ordered is the loosest lease of the newest Start and of the Rebinds after
	// it, until one of those has succeeded, or a report shows that nothing came of
	// the start: what lives may have it, or get it yet, whatever was seen.
	ordered   bound
	rebinding bound // what the newest Rebind was for
	unsure    bool  // that Rebind failed: it may still come to be

	// The Build under way, beside whatever else is: it may be for a newer spec
	// than the one that runs.
	build     uint64 // its order; 0: none
	buildOf   spec   // what for
	cancelled bool   // it was told to end
	built     spec   // what the newest that succeeded was for
	runner    *blixardv1.Runner
	// Of builds that failed while an older spec ran.
	buildMessage  string
	buildFailures uint32
	buildAgain    int64

	health  health
	move    move
	balloon balloon

	snapshot  string                               // uid of the Snapshot under way
	snapshots map[string]*blixardv1.SnapshotResult // what came of those that were ordered, by uid
	restored  uint64                               // the newest restore that must not be done again

	attempt        uint32 // the highest that was ever started
	runGeneration  uint32 // of the newest attempt
	wished         uint32 // run generation for which the backoff was last forgotten
	stoodIn        uint32 // run generation for which an older spec was last started
	incarnation    uint64 // of the newest attempt: its index
	specGeneration uint32 // of the newest attempt
	expect         int64  // until when the first report of a started attempt may come; 0: it came
	ended          uint32 // attempt whose end has been counted
	removed        bool   // a Remove succeeded, and nothing was seen since
	end            *Exit  // how it ended
	asked          bool   // that end was asked for
	forced         bool   // and took a kill
	readyAt        int64  // when the live attempt became ready; 0: not yet
	aliveAt        int64  // when the live attempt was first seen; 0: not yet
	hung           bool   // it is being killed because it never became ready
	stopAt         int64  // when the grace of a Stop ends; 0: none was sent
	killedAt       int64  // when Kill was last ordered
	pausing        bool   // the newest of Pause and Resume that was ordered is a Pause
	pauseAgain     int64  // when the same may be ordered again
	failures       uint32
	retryAt        int64
	due            int64 // when time alone changes what the newest Plan has said
	starved        bool  // it left something for want of a lease

	// Why the newest Pause or Resume came to nothing.
	pauseReason, pauseMessage string

	phase    blixardv1.Phase
	reason   string
	message  string
	exitCode int32
	failure  *blixardv1.Failure // the newest end of an attempt that nobody asked for; never changed
}

// bound is what a VM lives under: a lease, or none.
type bound struct {
	class blixardv1.LeaseClass
	ms    uint32
}

// loosest is a bound that neither of two is looser than.
func loosest(a, b bound) bound {
	return bound{min(a.class, b.class), max(a.ms, b.ms)}
}

// wanted is what the VM should live under.
func (u *Unit) wanted() bound { return bound{u.Want.GetLease(), u.Want.GetLeaseMs()} }

// spec is one spec of one incarnation: what a Build is for.
type spec struct {
	index      uint64
	generation uint32
}

func (u *Unit) spec() spec {
	return spec{u.Want.GetIncarnation().GetIndex(), u.Want.GetSpecGeneration()}
}

const (
	milli  = 1_000_000
	second = 1_000 * milli

	// startMargin must be left of a lease for a start to make sense.
	startMargin = second
	// startSilence is how long a started attempt may go unreported.
	startSilence = 30 * second
	// bootTimeout is how long a live attempt may take to become ready.
	bootTimeout = 120 * second
	// killAgain is how long a Kill may take before it is ordered again.
	killAgain = 5 * second
	// pauseAgain is how long a Pause or a Resume that came to nothing stays so.
	pauseAgain = 5 * second
	// stableRun forgives the failures before it.
	stableRun = 60 * second
	// The backoff grows from the first to the last of these.
	firstBackoff = second
	lastBackoff  = 300 * second

	never = math.MaxInt64
)

// NewUnit returns a VM of which nothing is known yet.
func NewUnit(uid string) *Unit { return &Unit{UID: uid} }

// Observe takes a new report.
func (u *Unit) Observe(now int64, r Report) {
	u.restored = max(u.restored, r.Restored)
	if r.Liveness != Absent {
		if !mutant.On("AttemptReused") {
			u.attempt = max(u.attempt, r.Instance.Attempt)
		}
		u.runGeneration = max(u.runGeneration, r.RunGeneration)
		if r.Instance.Attempt >= u.attempt {
			u.expect, u.incarnation, u.specGeneration = 0, r.Instance.Index, r.SpecGeneration
		}
	}
	if r.Liveness != Alive && u.order == 0 && u.expect == 0 {
		u.ordered = bound{}
	}
	if r.Liveness == Alive && (u.aliveAt == 0 || u.Seen.Incoming != 0 && r.Incoming == 0) {
		u.aliveAt = max(now, 1)
	}
	if r.Liveness == Alive && r.Ready && u.readyAt == 0 {
		u.readyAt = max(now, 1)
	}
	if r.Liveness != Absent {
		u.removed = false
	}
	u.Seen = r
}

// Finish takes the answer to an order.
func (u *Unit) Finish(now int64, d Done) {
	if u.build != 0 && d.Action == u.build {
		u.finishBuild(now, d)
		return
	}
	if u.health.probe != 0 && d.Action == u.health.probe {
		u.probed(now, d)
		return
	}
	if d.Action != u.orderID || u.order == 0 {
		return
	}
	verb := u.order
	u.order, u.orderID = 0, 0
	switch {
	case verb == Snapshot:
		u.finishSnapshot(d)
	case verb == Rebind:
		if u.unsure = d.Err != ""; !u.unsure {
			u.ordered = u.rebinding
		}
	case verb == Pause || verb == Resume:
		if u.pauseReason, u.pauseMessage = "", ""; d.Err != "" {
			u.pauseReason, u.pauseMessage = verb.String()+"Failed", sayable(d.Err)
		}
	case verb == Balloon:
		u.balloon.message = sayable(d.Err)
	case d.Err == "" && verb == Remove:
		u.removed = true
	case verb == Send, verb == Unsend, verb == TakeOver:
		u.moved(verb, d)
	case d.Err == "" && (verb == Start || verb == Receive):
		if u.Seen.Liveness == Absent || u.Seen.Instance.Attempt < u.attempt {
			u.expect = now + startSilence
		}
	case d.Err != "" && (verb == Start || verb == Receive):
		if u.Seen.Liveness != Absent && u.Seen.Instance.Attempt >= u.attempt {
			return // it was seen: its report says how it ended, or will
		}
		u.ended = u.attempt
		u.end = &Exit{Code: 1, Reason: "StartFailed", Message: d.Err}
		u.failed(now)
	case d.Err != "" && verb == Remove:
		u.retryAt = now + second
		u.say(blixardv1.Phase_PHASE_DELETING, "RemoveFailed", d.Err)
	}
}

// finishBuild takes the answer to a Build.
func (u *Unit) finishBuild(now int64, d Done) {
	cancelled := u.cancelled
	u.build, u.cancelled = 0, false
	switch {
	case cancelled:
		if u.Seen.Liveness != Alive {
			u.say(blixardv1.Phase_PHASE_PENDING, "Cancelled", "what it needs is not fetched any more")
		}
	case d.Err == "":
		u.built, u.runner = u.buildOf, d.Runner
		u.buildMessage, u.buildFailures, u.buildAgain = "", 0, 0
	case u.Seen.Liveness == Alive || u.standIn() != nil:
		u.buildFailures++
		u.buildMessage, u.buildAgain = sayable(d.Err), now+backoff(u.UID, u.buildFailures)
	default:
		u.fail(now, "BuildFailed", d.Err)
	}
}

// failed counts the end of the newest attempt as a failure, and remembers it.
func (u *Unit) failed(now int64) {
	u.failure = &blixardv1.Failure{Attempt: u.ended, Reason: u.end.Reason, Message: sayable(u.end.Message), ExitCode: u.end.Code}
	u.fail(now, u.end.Reason, u.end.Message)
}

// fail counts a failure and sets the time of the next try.
func (u *Unit) fail(now int64, reason, message string) {
	u.failures++
	u.retryAt = now + backoff(u.UID, u.failures)
	u.say(blixardv1.Phase_PHASE_FAILED, reason, message)
}

func (u *Unit) say(phase blixardv1.Phase, reason, message string) {
	u.phase, u.reason, u.message = phase, reason, sayable(message)
}

// mostSaid bounds a message, which is replicated.
const mostSaid = 4096

// sayable makes what a program or a file system has said fit for the wire, which
// carries no invalid UTF-8.
func sayable(s string) string {
	if len(s) > mostSaid {
		s = s[:mostSaid]
	}
	return strings.ToValidUTF8(s, "?")
}

// backoff doubles with each failure, with a jitter of a fifth that is the VM's own.
func backoff(uid string, failures uint32) int64 {
	d := int64(firstBackoff) << min(failures-1, 20)
	d = min(d, lastBackoff)
	h := uint32(2166136261)
	for i := range len(uid) {
		h = (h ^ uint32(uid[i])) * 16777619
	}
	h = (h ^ failures) * 16777619
	return d - d/10 + int64(h%1000)*(d/5)/1000
}

// Instance is the newest instance that this unit knows of.
func (u *Unit) Instance() shim.Instance {
	if u.Seen.Liveness != Absent {
		return u.Seen.Instance
	}
	return u.next(u.attempt)
}

func (u *Unit) next(attempt uint32) shim.Instance {
	i := u.Want.GetIncarnation()
	return shim.Instance{UID: u.UID, Generation: i.GetGeneration(), Index: i.GetIndex(), Attempt: attempt}
}

// Idle says that nothing is wanted, alive or under way: the unit can be forgotten.
func (u *Unit) Idle() bool {
	return u.Want == nil && u.Seen.Liveness == Absent && u.order == 0 && u.build == 0
}

// Removed says that the cluster wants the VM removed, and nothing of it is left.
func (u *Unit) Removed() bool {
	return u.Want.GetRemove() && u.Seen.Liveness == Absent && u.order == 0 && u.build == 0 && u.removed
}

// lease is the loosest bound under which the VM lives, or may come to live by what
// is under way or by what it would be started with now.
func (u *Unit) lease() bound {
	l := u.wanted()
	if u.Seen.Liveness == Alive {
		l = bound{u.Seen.Lease, u.Seen.LeaseMs}
	}
	if u.ordered.class != 0 {
		l = loosest(l, u.ordered)
	}
	l.class = max(l.class, blixardv1.LeaseClass_LEASE_CLASS_NONE)
	return l
}

// Observation is what the cluster should know; Sequence is left to the caller.
func (u *Unit) Observation() *blixardv1.Observation {
	lease := u.lease()
	o := &blixardv1.Observation{
		Uid: u.UID, Incarnation: u.Want.GetIncarnation(), Attempt: u.attempt,
		Phase: u.phase, Reason: u.reason, Message: u.message, ExitCode: u.exitCode, Failures: u.failures,
		Lease: lease.class, LeaseMs: lease.ms, Removed: u.Removed(), AssignmentRevision: u.Want.GetRevision(),
		BuildMessage: u.buildMessage, Health: u.health.state, HealthMessage: u.health.message, Migration: u.migration(), LastFailure: u.failure,
		Snapshots: u.results(), Restored: u.restored,
	}
	// What was seen, and not what was ordered: a daemon that dies in between knows
	// nothing of the order, and the cluster lets go of what the spec before needed.
	if u.Seen.Liveness != Absent && u.Seen.Instance.Index == u.Want.GetIncarnation().GetIndex() {
		o.SpecGeneration = u.Seen.SpecGeneration
	}
	if u.Seen.Liveness == Alive {
		o.BootedMemoryMib, o.MemoryMib, o.MemoryMessage = u.Seen.BootMiB, u.Seen.MemoryMiB, u.balloon.message
		o.Warm = u.Seen.Warm
	}
	switch {
	case u.built == u.spec():
		o.BuiltGeneration, o.Runner = u.built.generation, u.runner
	case o.SpecGeneration == u.Want.GetSpecGeneration():
		o.BuiltGeneration = o.SpecGeneration // it has run with it
	}
	return o
}
