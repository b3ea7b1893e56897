package core

// Counts is what a node has met since it was opened, for those who watch it: each only
// grows, and nothing is decided by them. What can be counted in its outputs is not
// among them.
type Counts struct {
	// Of a server. LeaderChanges are leaders that it has learnt of, itself included,
	// each time another one than before.
	LeaderChanges uint64
	// Proposed are commands that it gave to Raft while it led, and Dropped those of
	// them that Raft did not take.
	Proposed, Dropped uint64
	// Of a host. Renewals are Grants that followed on another one of the same epoch,
	// and Late those of them that came when more than half of the lease had gone by.
	Renewals, Late uint64
}

// learnt counts leaders.
func (s *server) learnt(lead uint64) {
	if lead != 0 && lead != s.known {
		s.known = lead
		s.counts.LeaderChanges++
	}
}

// proposed counts what Raft was given, and says whether it has taken it.
func (s *server) proposed(err error) bool {
	s.counts.Proposed++
	if err != nil {
		s.counts.Dropped++
	}
	return err == nil
}

// renewal counts a Grant of the epoch that the host is in.
func (h *host) renewal() {
	h.counts.Renewals++
	if h.now.Boot-h.granted > int64(h.settings.GetLeaseMs())*milli/2 {
		h.counts.Late++
	}
}
