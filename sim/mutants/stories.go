package mutants

import (
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/sim"
)

// A frozen machine outlives its lease.
func frozenHost(s *sim.Story) {
	s.Order(sim.Create, "a", sim.ReplaceVM())
	_, host := s.Runs("a")
	s.Strike(sim.Freeze{Node: host.N(), For: 2 * time.Minute})
	s.Pass(2 * time.Minute)
}

var quickRenewal = sim.Config{Settings: &blixardv1.Settings{RenewMs: 1000, DriftPpm: 1000}}

// A host cannot be heard, and what was said to it long ago comes late.
func lateGrant(s *sim.Story) {
	for _, name := range []string{"a", "b", "c"} {
		s.Order(sim.Create, name, sim.ReplaceVM())
	}
	s.Runs("c")
	host := s.Another(s.Leader())
	hold(s, host, 13*time.Second)
	s.Pass(1200 * time.Millisecond)
	mute(s, host, 2*time.Minute)
	s.Pass(2 * time.Minute)
}

// hold keeps back what is said to a machine.
func hold(s *sim.Story, m *sim.Machine, d time.Duration) {
	for _, o := range s.Machines() {
		if o != m {
			s.Strike(sim.Clog{From: o.N(), To: m.N(), For: d})
		}
	}
}

// mute loses what a machine says.
func mute(s *sim.Story, m *sim.Machine, d time.Duration) {
	for _, o := range s.Machines() {
		if o != m {
			s.Strike(sim.OneWay{From: m.N(), To: o.N(), For: d})
		}
	}
}
