package sim

import (
	"testing"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// withVolumeMoving is a story in which the VM a, which has a volume, is just being moved live.
func withVolumeMoving(t *testing.T) (s *story, memory uint64, from *Machine) {
	s = tell(t, Config{})
	s.do(Announce, fileName(0), nil)
	s.do(AddVolume, theVolumes[0]+":1024", nil)
	s.do(Create, "a", VolumeVM())
	_, from = s.runs("a")
	s.HasVolume()
	memory = s.Memory("a")
	s.do(MoveVM, "a", nil)
	return s, memory, from
}

// keepers says which machines have something of the volume.
func (s *story) keepers() (list []string) {
	for _, m := range s.machines {
		if len(m.volumes) > 0 {
			list = append(list, m.Name)
		}
	}
	return list
}

// A volume goes with its VM, which has what it has written to it, and nothing of it
// stays.
func TestAVolumeGoesLive(t *testing.T) {
	s, memory, from := withVolumeMoving(t)
	s.moved("a", doneState)
	_, to := s.runs("a")
	if s.Memory("a") != memory || to == from {
		t.Errorf("it runs on %s with memory %d; before on %s with %d", to.Name, s.Memory("a"), from.Name, memory)
	}
	s.until("nothing of it is left there", time.Minute, func() bool { return len(s.keepers()) == 1 })
	if v := s.view().Volume(theVolumes[0]); v.NodeId != to.id || to.volumes[v.Uid] == nil {
		t.Errorf("it is on node %d of the state; %v have it", v.NodeId, s.keepers())
	}
	// And on, after a boot there.
	to.KillVM("a")
	s.Pass(20 * time.Second)
	s.runs("a")
	s.do(MoveVM, "a", nil)
	s.until("it has left", 3*time.Minute, func() bool {
		_, host := s.Running("a")
		return host != nil && host != to && s.view().VM("a").Migration.State == doneState
	})
	s.Heal()
	s.Rest()
	if len(s.keepers()) != 1 {
		t.Errorf("%v have it", s.keepers())
	}
}

// Whatever ends a move before the hand-over, the volume is where it was, and what had
// come of it goes.
func TestAVolumeStaysWithAMoveThatFails(t *testing.T) {
	target := func(s *story) *Machine { return s.byID(s.view().VM("a").Migration.Other.NodeId) }
	for name, strike := range map[string]func(*story, *Machine){
		"the stream breaks":    func(s *story, from *Machine) { s.Strike(Mishap{Name: "StreamBreaks", At: from.place()}) },
		"at its end":           func(s *story, from *Machine) { s.Strike(Mishap{Name: "LastPieceLost", At: from.place()}) },
		"its user cancels":     func(s *story, from *Machine) { s.do(StayVM, "a", nil) },
		"its target goes down": func(s *story, from *Machine) { s.Strike(PowerLoss{N(target(s).Index), 20 * time.Second}) },
		"the disk there fills": func(s *story, from *Machine) { s.Strike(Mishap{Name: "MirrorFull", At: target(s).place()}) },
	} {
		t.Run(name, func(t *testing.T) {
			s, memory, from := withVolumeMoving(t)
			s.moved("a", sendingState)
			strike(s, from)
			s.moved("a", failedState)
			if _, host := s.runs("a"); s.Memory("a") != memory || host != from {
				t.Errorf("it runs on %s with memory %d; before on %s with %d", host.Name, s.Memory("a"), from.Name, memory)
			}
			s.Heal()
			s.Rest()
			if v := s.view().Volume(theVolumes[0]); v.NodeId != from.id || len(s.keepers()) != 1 {
				t.Errorf("it is on node %d of the state; %v have it", v.NodeId, s.keepers())
			}
		})
	}
}

// Its target loses its power when the volume is there by the state: it waits for that
// host, and finds there what it had written when it left.
func TestAVolumeIsOnTheDiskThatItWentTo(t *testing.T) {
	s, _, from := withVolumeMoving(t)
	s.until("it is there", 3*time.Minute, func() bool {
		v := s.view()
		return v != nil && v.VM("a").GetMigration().GetState() >= blixardv1.MigrationState_MIGRATION_STATE_SWITCHED && v.Volume(theVolumes[0]).NodeId != from.id
	})
	to := s.byID(s.view().Volume(theVolumes[0]).NodeId)
	to.powerOff()
	s.Pass(2 * time.Minute)
	s.Heal()
	s.Rest()
	if _, host := s.runs("a"); host != to {
		t.Errorf("it runs on %s", host.Name)
	}
}

// A drain moves live a VM that waits for its host, with its volume.
func TestADrainMovesWhatWaits(t *testing.T) {
	s := tell(t, Config{})
	s.do(Announce, fileName(0), nil)
	s.do(AddVolume, theVolumes[0]+":1024", nil)
	s.do(Create, "a", VolumeVM())
	_, from := s.runs("a")
	s.HasVolume()
	memory := s.Memory("a")
	s.Do(&Operation{Verb: Drain, Name: from.called, drain: &blixardv1.DrainOp{Name: from.called, StopLocal: true}})
	s.until("a runs elsewhere", 2*time.Minute, func() bool {
		_, host := s.Running("a")
		return host != nil && host != from
	})
	if s.Memory("a") != memory {
		t.Error("it was started anew")
	}
	s.Heal()
	s.Rest()
}
