package cluster

import (
	"strings"
	"testing"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// What is out of range is said as people call it, and in units that they use.
func TestSettingsInWords(t *testing.T) {
	for want, given := range map[string]*blixardv1.Settings{
		"lease is 500ms, and must be 1s to 1h":                   {LeaseMs: 500},
		"renew is 2m, and must be 100ms to 1m":                   {RenewMs: 120_000},
		"long lease is 25h, and must be 10s to 24h":              {LongLeaseMs: 25 * 3_600_000},
		"overcommit is 0.5, and must be 1 to 100":                {VcpuOvercommitMilli: 500},
		"clock drift is 60%, and must be 0.1% to 50%":            {DriftPpm: 600_000},
		"the lease (7.5s) must be at least three times":          {LeaseMs: 7_500},
		"the long lease (14s) must be more than the lease (15s)": {LongLeaseMs: 14_000},
	} {
		if _, err := CompleteSettings(given); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
	for ms, want := range map[uint32]string{0: "0ms", 1: "1ms", 1500: "1.5s", 60_000: "1m", 90_500: "1m30.5s", 3_600_000: "1h", 5_460_000: "1h31m"} {
		if got := msText(ms); got != want {
			t.Errorf("%d ms is %q, want %q", ms, got, want)
		}
	}
}
