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

// A server loses its disk, and another is taken out in good order. What the dead
// one has said is still on its way: it must not count as an answer.
func TestLateWordsOfTheDead(t *testing.T) {
	if f := Run(Base(284)).Failure; f != nil {
		t.Fatal(f.Promise, f.Text)
	}
}
