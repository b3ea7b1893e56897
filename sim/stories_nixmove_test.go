package sim

import "testing"

// What Nix built goes live: the target gets it first, without an evaluation, and holds
// it; the source lets go of it when it is removed there, and whatever is collected on the
// way is not it.
func TestWhatNixBuiltGoesLive(t *testing.T) {
	s := tell(t, Config{})
	s.do(Announce, fileName(0), nil)
	s.do(Create, "a", RoamingNixVM())
	uid, from := s.runs("a")
	memory, evaluations := s.Memory("a"), s.evaluations
	dir, _ := from.dirs.Get(uid)
	runner := dir.guest.runner
	s.do(MoveVM, "a", nil)
	s.moved("a", sendingState)
	to := s.byID(s.view().VM("a").Migration.Other.NodeId)
	for _, m := range []*Machine{from, to} {
		s.Strike(NixCollect{m.N()})
		if !m.nix.paths[runner] || len(m.nix.held[uid]) == 0 {
			t.Errorf("%s does not hold what its side of the move needs", m.Name)
		}
	}
	s.moved("a", doneState)
	if _, now := s.runs("a"); now != to || s.Memory("a") != memory {
		t.Errorf("it runs on %s with memory %d; it went to %s with %d", now.Name, s.Memory("a"), to.Name, memory)
	}
	s.Strike(NixCollect{from.N()})
	s.Strike(NixCollect{to.N()})
	if from.nix.paths[runner] || !to.nix.paths[runner] {
		t.Errorf("after the move the source has it: %t; the target: %t", from.nix.paths[runner], to.nix.paths[runner])
	}
	if s.evaluations != evaluations {
		t.Errorf("%d evaluations, and %d before the move", s.evaluations, evaluations)
	}
	s.Heal()
	s.Rest()
}
