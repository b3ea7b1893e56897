package vmm

import (
	"testing"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/shim"
)

// mover is a unit of an assignment that takes part in a move, and what is seen of it.
type mover struct {
	*Unit
	now int64
	c   Context
}

func newMover(m *blixardv1.MigrationOrder, run bool) *mover {
	u := &mover{Unit: NewUnit("1-1")}
	id := uint64(0)
	u.c = Context{NextID: func() uint64 { id++; return id }, Deadline: func(uint32) int64 { return 0 }}
	u.Want = &blixardv1.Assignment{
		Uid: "1-1", Incarnation: &blixardv1.Incarnation{Generation: 1, Index: 2}, Run: run, RunGeneration: 1, SpecGeneration: 1,
		Lease: blixardv1.LeaseClass_LEASE_CLASS_NONE, Spec: &blixardv1.VMSpec{Restart: blixardv1.RestartPolicy_RESTART_POLICY_ALWAYS}, Migration: m,
	}
	return u
}

func (u *mover) sees(r Report) *Action {
	u.now += second
	r.Instance = shim.Instance{UID: "1-1", Generation: 1, Index: 2, Attempt: 1}
	r.RunGeneration, r.SpecGeneration, r.Lease = 1, 1, blixardv1.LeaseClass_LEASE_CLASS_NONE
	u.Observe(u.now, r)
	return u.Plan(u.now, u.c)
}

// A daemon that begins after the Switch does not know at once that the guest is here:
// it looks, and does not end what may be the only copy.
func TestTheGuestIsLookedForAfterTheSwitch(t *testing.T) {
	u := newMover(nil, true)
	if a := u.sees(Report{Liveness: Alive, Incoming: Opening}); a != nil {
		t.Fatalf("it does %v before it knows", a.Verb)
	}
	if a := u.sees(Report{Liveness: Alive, Incoming: Loaded}); a == nil || a.Verb != TakeOver {
		t.Fatalf("the guest is here, and it does %v", a)
	}
	// One that still waits never got it.
	if a := newMover(nil, true).sees(Report{Liveness: Alive, Incoming: Listening}); a == nil || a.Verb != Kill {
		t.Fatalf("nothing has come, and it does %v", a)
	}
	// And one that does not say for as long as a boot may take is ended.
	u = newMover(nil, true)
	u.sees(Report{Liveness: Alive, Incoming: Opening})
	u.now += bootTimeout
	if a := u.sees(Report{Liveness: Alive, Incoming: Opening}); a == nil || a.Verb != Kill {
		t.Fatalf("it has said nothing for long, and it does %v", a)
	}
}

// A source whose VM has ended while it was sent waits for the cluster's word: that may
// have it as handed over.
func TestASourceThatHasEndedWaits(t *testing.T) {
	u := newMover(&blixardv1.MigrationOrder{Id: 7, Role: blixardv1.MigrationRole_MIGRATION_ROLE_SOURCE, Attempt: 1, Send: true}, true)
	u.sees(Report{Liveness: Alive, Ready: true, Outgoing: Outgoing{Migration: 7}})
	for range 100 {
		if a := u.sees(Report{Liveness: Down, Exit: &Exit{Reason: "Crashed"}}); a != nil {
			t.Fatalf("it does %v, and its move has not ended", a.Verb)
		}
	}
	if m := u.Observation().Migration; m.GetStep() != blixardv1.MigrationStep_MIGRATION_STEP_FAILED {
		t.Fatalf("it reports %v", m)
	}
	u.Want.Migration = nil
	for range 100 {
		if a := u.sees(Report{Liveness: Down, Exit: &Exit{Reason: "Crashed"}}); a != nil { // Build, or Start
			return
		}
	}
	t.Fatal("its move has ended, and it is not started anew")
}

// A guest that is being sent is slow, and stands still at the end: that is no sickness.
func TestAGuestThatIsSentIsNotProbed(t *testing.T) {
	u := newMover(nil, true)
	u.Want.Spec.Health = &blixardv1.Health{Probe: &blixardv1.Health_Tcp{Tcp: &blixardv1.TCPProbe{Host: "10.0.0.1", Port: 1}}, IntervalMs: 1000, TimeoutMs: 500, UnhealthyThreshold: 1}
	probed := false
	for range 20 {
		a := u.sees(Report{Liveness: Alive, Ready: true})
		probed = probed || a != nil && a.Verb == Probe
	}
	if !probed {
		t.Fatal("it is never probed")
	}
	u.Want.Migration = &blixardv1.MigrationOrder{Id: 7, Role: blixardv1.MigrationRole_MIGRATION_ROLE_SOURCE, Attempt: 1, Send: true}
	for range 100 {
		if a := u.sees(Report{Liveness: Alive, Ready: true, Outgoing: Outgoing{Migration: 7}}); a != nil && (a.Verb == Probe || a.Verb == Stop) {
			t.Fatalf("it does %v while it is sent", a.Verb)
		}
	}
}
