package sim

import (
	"testing"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// state waits until a VM's move has come to a state.
func (s *story) moved(name string, state blixardv1.MigrationState) {
	s.t.Helper()
	s.until(state.String(), 3*time.Minute, func() bool {
		v := s.view()
		return v != nil && v.VM(name).GetMigration().GetState() == state
	})
}

const (
	sendingState = blixardv1.MigrationState_MIGRATION_STATE_SENDING
	doneState    = blixardv1.MigrationState_MIGRATION_STATE_DONE
	failedState  = blixardv1.MigrationState_MIGRATION_STATE_FAILED
)

// moving is a story in which the VM a is just being moved live.
func moving(t *testing.T) (s *story, memory uint64, from *Machine) {
	s = tell(t, Config{})
	s.do(Announce, fileName(0), nil)
	s.do(Create, "a", ImageVM())
	_, from = s.runs("a")
	memory = s.Memory("a")
	s.do(MoveVM, "a", nil)
	return s, memory, from
}

// A VM goes on elsewhere with its memory, and nothing is left where it was.
func TestAVMGoesLive(t *testing.T) {
	s, memory, from := moving(t)
	s.moved("a", doneState)
	_, to := s.runs("a")
	if s.Memory("a") != memory || to == from {
		t.Errorf("it runs on %s with memory %d; before on %s with %d", to.Name, s.Memory("a"), from.Name, memory)
	}
	if from.dirs.Len() != 0 {
		t.Errorf("%s has files of it", from.Name)
	}
	s.Heal()
	s.Rest()
}

// Whatever ends a move before the hand-over, the guest goes on where it was.
func TestAMoveThatFailsDisturbsNobody(t *testing.T) {
	for name, strike := range map[string]func(*story, *Machine){
		"the stream breaks":  func(s *story, from *Machine) { s.Strike(Mishap{Name: "StreamBreaks", At: from.place()}) },
		"at its end":         func(s *story, from *Machine) { s.Strike(Mishap{Name: "LastPieceLost", At: from.place()}) },
		"its user cancels":   func(s *story, from *Machine) { s.do(StayVM, "a", nil) },
		"its target is lost": func(s *story, from *Machine) { s.byID(s.view().VM("a").Migration.Other.NodeId).powerOff() },
		"the target is cut off": func(s *story, from *Machine) {
			s.Strike(Isolate{N(s.byID(s.view().VM("a").Migration.Other.NodeId).Index), time.Minute})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, memory, from := moving(t)
			s.moved("a", sendingState)
			strike(s, from)
			s.moved("a", failedState)
			if _, host := s.runs("a"); s.Memory("a") != memory || host != from {
				t.Errorf("it runs on %s with memory %d; before on %s with %d", host.Name, s.Memory("a"), from.Name, memory)
			}
			s.Heal()
			s.Rest()
		})
	}
}

// A daemon that dies takes the stream with it, and no guest: its next life begins
// anew, if the target still waits.
func TestADaemonThatDiesInAMove(t *testing.T) {
	s, memory, from := moving(t)
	s.moved("a", sendingState)
	s.Strike(Crash{N(from.Index), time.Second})
	s.until("it has ended", 3*time.Minute, func() bool {
		v := s.view()
		if v == nil {
			return false
		}
		st := v.VM("a").GetMigration().GetState()
		return st == doneState || st == failedState
	})
	if s.runs("a"); s.Memory("a") != memory {
		t.Errorf("it runs with memory %d; before with %d", s.Memory("a"), memory)
	}
	s.Heal()
	s.Rest()
}

// A move takes no longer than it may.
func TestAMoveThatHangsEnds(t *testing.T) {
	s, memory, from := moving(t)
	s.Strike(Mishap{Name: "StreamSlow", At: from.place(), For: time.Hour})
	s.until("it has ended", 3*time.Minute, func() bool {
		v := s.view()
		return v != nil && v.VM("a").GetMigration().GetState() == failedState
	})
	if _, host := s.runs("a"); s.Memory("a") != memory || host != from {
		t.Errorf("it runs on %s with memory %d", host.Name, s.Memory("a"))
	}
}

// The source is lost before the switch: the VM is placed anew, once, after its window.
func TestASourceLostInItsMove(t *testing.T) {
	s, memory, from := moving(t)
	s.moved("a", sendingState)
	from.powerOff()
	s.until("a runs elsewhere", 3*time.Minute, func() bool {
		_, host := s.Running("a")
		return host != nil && host != from
	})
	if s.Memory("a") == memory {
		t.Error("it has the memory of a guest that was never handed over")
	}
	s.Heal()
	s.Rest()
}

// A drain moves live what can go so.
func TestADrainMovesLive(t *testing.T) {
	s := tell(t, Config{})
	s.do(Announce, fileName(0), nil)
	s.do(Create, "a", ImageVM())
	_, from := s.runs("a")
	memory := s.Memory("a")
	s.Do(&Operation{Verb: Drain, Name: from.called, drain: &blixardv1.DrainOp{Name: from.called}})
	s.until("a runs elsewhere", 2*time.Minute, func() bool {
		_, host := s.Running("a")
		return host != nil && host != from
	})
	if s.Memory("a") != memory {
		t.Error("it was started anew")
	}
}

// A VM that is moved offline is stopped, and starts elsewhere: once, whatever dies.
func TestAVMLeavesOffline(t *testing.T) {
	s := tell(t, Config{})
	s.do(Announce, fileName(0), nil)
	s.do(Create, "a", ImageVM())
	_, from := s.runs("a")
	s.do(LeaveVM, "a", nil)
	s.moved("a", doneState)
	if _, to := s.runs("a"); to == from {
		t.Errorf("it runs on %s again", to.Name)
	}
	s.Heal()
	s.Rest()
}

// A drain that is called off, or whose target dies, while a guest is on its way: one
// copy of the guest runs in the end, and where a drain goes on, elsewhere.
func TestADrainsMoveIsDisturbed(t *testing.T) {
	for name, c := range map[string]struct {
		disturb func(s *story, from, to *Machine)
		empties bool
	}{
		"called off": {func(s *story, from, _ *Machine) {
			s.Do(&Operation{Verb: Restore, Name: from.called})
		}, false},
		"called off, and its user wants it to stay": {func(s *story, from, _ *Machine) {
			s.Do(&Operation{Verb: Restore, Name: from.called})
			s.Do(&Operation{Verb: StayVM, Name: "a"})
		}, false},
		"the target's daemon dies": {func(s *story, _, to *Machine) { s.Strike(Crash{N(to.Index), time.Second}) }, true},
		"the target loses power":   {func(_ *story, _, to *Machine) { to.powerOff() }, true},
		"the source's daemon dies": {func(s *story, from, _ *Machine) { s.Strike(Crash{N(from.Index), time.Second}) }, true},
		"the target is drained too": {func(s *story, _, to *Machine) {
			s.Do(&Operation{Verb: Drain, Name: to.called, drain: &blixardv1.DrainOp{Name: to.called}})
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := tell(t, Config{})
			s.do(Announce, fileName(0), nil)
			s.do(Create, "a", ImageVM())
			_, from := s.runs("a")
			memory := s.Memory("a")
			s.Do(&Operation{Verb: Drain, Name: from.called, drain: &blixardv1.DrainOp{Name: from.called}})
			s.moved("a", sendingState)
			to := s.byID(s.view().VM("a").Migration.Other.NodeId)
			c.disturb(s, from, to)
			s.until("its move has ended", 3*time.Minute, func() bool {
				v := s.view()
				return v != nil && v.VM("a").GetMigration().GetOther() == nil && v.VM("a").Placement != nil
			})
			s.Heal()
			s.Rest()
			_, host := s.runs("a")
			if c.empties && host == from {
				t.Errorf("it is still on %s, which is drained", from.Name)
			}
			if !c.empties && s.Memory("a") != memory {
				t.Error("it was started anew")
			}
		})
	}
}
