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
	for _, f := range settingsOf(s) {
		if *f.value == 0 {
			*f.value = *f.of(d)
		}
		if *f.value < f.low || *f.value > f.high {
			return nil, fmt.Errorf("%s is %s, and must be %s to %s", f.name, f.text(*f.value), f.text(f.low), f.text(f.high))
		}
	}
	if s.LeaseMs < 3*s.RenewMs {
		return nil, fmt.Errorf("the lease (%s) must be at least three times the time between renewals (%s), so that one lost message ends no VM", msText(s.LeaseMs), msText(s.RenewMs))
	}
	if s.LongLeaseMs <= s.LeaseMs {
		return nil, fmt.Errorf("the long lease (%s) must be more than the lease (%s)", msText(s.LongLeaseMs), msText(s.LeaseMs))
	}
	return s, nil
}

// setting is one of the constants, as people call it.
type setting struct {
	name      string
	of        func(*blixardv1.Settings) *uint32
	value     *uint32
	low, high uint32
	text      func(uint32) string
}

// settingsOf are the constants, in the order in which they are shown.
func settingsOf(s *blixardv1.Settings) []setting {
	times := func(by float64, unit string) func(uint32) string {
		return func(n uint32) string { return fmt.Sprintf("%.4g%s", float64(n)/by, unit) }
	}
	list := []setting{
		{"renew", func(s *blixardv1.Settings) *uint32 { return &s.RenewMs }, nil, 100, 60_000, msText},
		{"lease", func(s *blixardv1.Settings) *uint32 { return &s.LeaseMs }, nil, 1_000, 3_600_000, msText},
		{"long lease", func(s *blixardv1.Settings) *uint32 { return &s.LongLeaseMs }, nil, 10_000, 86_400_000, msText},
		{"kill time", func(s *blixardv1.Settings) *uint32 { return &s.KillMs }, nil, 5_000, 60_000, msText},
		{"clock drift", func(s *blixardv1.Settings) *uint32 { return &s.DriftPpm }, nil, 1_000, 500_000, times(1e4, "%")},
		{"overcommit", func(s *blixardv1.Settings) *uint32 { return &s.VcpuOvercommitMilli }, nil, 1_000, 100_000, times(1e3, "")},
		{"request memory", func(s *blixardv1.Settings) *uint32 { return &s.DedupeWindowMs }, nil, 60_000, 86_400_000, msText},
		{"level", func(s *blixardv1.Settings) *uint32 { return &s.Level }, nil, 1, Level, times(1, "")},
	}
	for i := range list {
		list[i].value = list[i].of(s)
	}
	return list
}

// msText says milliseconds as 1m30s.
func msText(ms uint32) string {
	h, m, rest := ms/3_600_000, ms/60_000%60, float64(ms%60_000)/1000
	text := ""
	if h > 0 {
		text = fmt.Sprintf("%dh", h)
	}
	if m > 0 {
		text += fmt.Sprintf("%dm", m)
	}
	if text == "" || rest > 0 {
		if text == "" && ms < 1000 {
			return fmt.Sprintf("%dms", ms)
		}
		text += fmt.Sprintf("%gs", rest)
	}
	return text
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
