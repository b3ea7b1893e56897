package cluster

import (
	"fmt"

	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// DefaultSettings are what a cluster starts with when nobody says otherwise.
func DefaultSettings() *blixardv1.Settings {
	return &blixardv1.Settings{
		RenewMs: 3_000, LeaseMs: 15_000, LongLeaseMs: 3_600_000, KillMs: 5_000, DriftPpm: 100_000,
		VcpuOvercommitMilli: 4_000, DedupeWindowMs: 600_000, Level: Level,
	}
}

// CompleteSettings fills in what is zero, and says what is out of range.
func CompleteSettings(given *blixardv1.Settings) (*blixardv1.Settings, error) {
	s, d := &blixardv1.Settings{}, DefaultSettings()
	if given != nil {
		s = clone(given)
	}
	for _, f := range []struct {
		name           string
		value          *uint32
		def, low, high uint32
	}{
		{"renew_ms", &s.RenewMs, d.RenewMs, 100, 60_000},
		{"lease_ms", &s.LeaseMs, d.LeaseMs, 1_000, 3_600_000},
		{"long_lease_ms", &s.LongLeaseMs, d.LongLeaseMs, 10_000, 86_400_000},
		{"kill_ms", &s.KillMs, d.KillMs, 5_000, 60_000},
		{"drift_ppm", &s.DriftPpm, d.DriftPpm, 1_000, 500_000},
		{"vcpu_overcommit_milli", &s.VcpuOvercommitMilli, d.VcpuOvercommitMilli, 1_000, 100_000},
		{"dedupe_window_ms", &s.DedupeWindowMs, d.DedupeWindowMs, 60_000, 86_400_000},
		{"level", &s.Level, d.Level, 1, Level},
	} {
		if *f.value == 0 {
			*f.value = f.def
		}
		if *f.value < f.low || *f.value > f.high {
			return nil, fmt.Errorf("%s is %d, and must be %d to %d", f.name, *f.value, f.low, f.high)
		}
	}
	if s.LeaseMs < 3*s.RenewMs {
		return nil, fmt.Errorf("lease_ms (%d) must be at least three times renew_ms (%d), so that one lost message ends no VM", s.LeaseMs, s.RenewMs)
	}
	if s.LongLeaseMs <= s.LeaseMs {
		return nil, fmt.Errorf("long_lease_ms (%d) must be more than lease_ms (%d)", s.LongLeaseMs, s.LeaseMs)
	}
	return s, nil
}

// Window is how long after its last grant, in nanoseconds of the granter's
// clock, nothing under a lease of that many milliseconds can be alive:
// (L/(1-r) + K)(1+r).
func Window(s *blixardv1.Settings, leaseMs uint32) int64 {
	r, k := float64(s.GetDriftPpm())/1e6, float64(s.GetKillMs())
	switch {
	case mutant.On("DriftForgotten"):
		r = 0
	case mutant.On("KillTimeForgotten"):
		k = 0
	}
	return int64((float64(leaseMs)/(1-r) + k) * (1 + r) * 1e6)
}
