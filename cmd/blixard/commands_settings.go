package main

import (
	"cmp"
	"fmt"
	"math"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// message is what the flags say, to be put over the settings that are. A pair that
// cannot be is refused with the command that would do.
func (f *SettingsFlags) message(command string, over *blixardv1.Settings) (*blixardv1.Settings, error) {
	s := &blixardv1.Settings{}
	for _, given := range []struct {
		flag  string
		value *time.Duration
		field *uint32
		most  string
	}{
		{"--lease", f.Lease, &s.LeaseMs, "1s to 1h"}, {"--renew", f.Renew, &s.RenewMs, "100ms to 1m"}, {"--long-lease", f.LongLease, &s.LongLeaseMs, "10s to 24h"},
	} {
		if given.value == nil {
			continue
		}
		n, err := milliseconds(given.flag, *given.value)
		if err != nil {
			return nil, err
		}
		if n == 0 { // which would mean: as it is
			return nil, usagef("%s 0 is out of range: want %s", given.flag, given.most)
		}
		*given.field = n
	}
	if f.Overcommit != nil {
		o := math.Round(*f.Overcommit * 1000)
		if o < 1 || o > math.MaxUint32 || math.IsNaN(o) {
			return nil, usagef("--overcommit %v is out of range: want a number from 1 to 100", *f.Overcommit)
		}
		s.VcpuOvercommitMilli = uint32(o)
	}
	if lease, renew := cmp.Or(s.LeaseMs, over.GetLeaseMs()), cmp.Or(s.RenewMs, over.GetRenewMs()); lease < 3*renew {
		return nil, &failure{code: exitUsage, what: fmt.Sprintf("--lease %s is too short for --renew %s", ms(lease), ms(renew)),
			why:  "a lease must be at least three times as long as the time between renewals, so that one lost message ends no VM",
			next: fmt.Sprintf("%s --lease %s --renew %s", command, ms(lease), ms(lease/5))}
	}
	return s, nil
}

func ms(n uint32) time.Duration { return time.Duration(n) * time.Millisecond }

func (c *ClusterSettingsShowCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	settings, err := s.settings()
	if err != nil {
		return err
	}
	return s.showSettings(g, settings)
}

func (c *ClusterSettingsSetCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	if *c == (ClusterSettingsSetCmd{}) {
		return &failure{code: exitUsage, what: "nothing was said to change", next: "give what is to change, such as --lease 30s, or --lease 6s --renew 1s"}
	}
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	old, err := s.settings()
	if err != nil {
		return err
	}
	given, err := c.message("blixard cluster settings set", old)
	if err != nil {
		return err
	}
	if _, err := cluster.MergeSettings(old, given); err != nil {
		return &failure{code: exitUsage, what: err.Error(), next: "blixard cluster settings show   # what they are now"}
	}
	return s.change(func(id string) error {
		r, err := s.Cluster.UpdateSettings(s.ctx, connect.NewRequest(&blixardv1.UpdateSettingsRequest{RequestId: id, Settings: given}))
		if err != nil {
			return err
		}
		return s.showSettings(g, r.Msg.GetSettings())
	})
}

// settings are those of the cluster.
func (s *session) settings() (*blixardv1.Settings, error) {
	r, err := s.Cluster.GetSettings(s.ctx, connect.NewRequest(&blixardv1.GetSettingsRequest{}))
	if err != nil {
		return nil, err
	}
	return proto.CloneOf(r.Msg.GetSettings()), nil
}

func (s *session) showSettings(g *Globals, m *blixardv1.Settings) error {
	return s.show(g, m, func() table {
		t := table{head: []string{"SETTING", "VALUE", "MEANS"}}
		row := func(name, value, means string) { t.rows = append(t.rows, []string{name, value, means}) }
		after := func(lease uint32) string {
			return time.Duration(cluster.Window(m, lease)).Round(100 * time.Millisecond).String()
		}
		row("renew", ms(m.RenewMs).String(), "how often hosts renew their leases")
		row("lease", ms(m.LeaseMs).String(), "of VMs that are replaced: a lost host's run elsewhere after "+after(m.LeaseMs))
		row("long lease", ms(m.LongLeaseMs).String(), "of VMs that wait for their host: they have surely ended after "+after(max(m.LongLeaseMs, m.LeaseMs)))
		row("kill time", ms(m.KillMs).String(), "no guest code runs so long after a SIGKILL")
		row("clock drift", fmt.Sprintf("%.3g%%", float64(m.DriftPpm)/1e4), "no host's clock is faster or slower by more")
		row("overcommit", fmt.Sprintf("%.3g", float64(m.VcpuOvercommitMilli)/1000), "vcpus that may be placed on one")
		row("request memory", ms(m.DedupeWindowMs).String(), "how long a retry gets the first answer")
		row("level", fmt.Sprint(m.Level), "what every member's binary can apply")
		return t
	})
}
