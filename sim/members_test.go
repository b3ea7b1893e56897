package sim

import (
	"testing"
	"time"
)

// One of three servers is down when another is asked to leave: it stays until
// those who remain are a quorum without it, so that there is always one.
func TestServerLeavesWhileAnotherIsDown(t *testing.T) {
	s := tell(t, Config{})
	down, leaver := s.machines[1], s.machines[2]
	s.Strike(PowerLoss{N(down.Index), 2 * time.Minute})
	s.RunFor(10 * time.Second)
	s.do(RemoveMember, leaver.called, nil)
	for range 20 {
		s.RunFor(4 * time.Second)
		s.do(Get, "a", nil)
	}
	s.until("it has left", 3*time.Minute, func() bool { return s.view() != nil && s.view().NodeByName(leaver.called) == nil })
	s.do(Create, "a", replaceVM())
	s.Heal()
	s.Rest()
}
