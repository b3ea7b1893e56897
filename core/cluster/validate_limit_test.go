package cluster

import (
	"strings"
	"testing"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func TestLimitsOfDevices(t *testing.T) {
	lan := &blixardv1.Interface_Network{Network: "lan"}
	rate := func(b, burst uint64) *blixardv1.Bandwidth {
		return &blixardv1.Bandwidth{BytesPerSecond: b, BurstBytes: burst}
	}
	disk := func(l *blixardv1.DiskLimit) *blixardv1.VMSpec {
		return &blixardv1.VMSpec{Source: &blixardv1.VMSpec_Image{Image: &blixardv1.Image{
			Kernel: &blixardv1.Artifact{Digest: strings.Repeat("a", 64), Size: 1}, Disks: []*blixardv1.Disk{{Name: "a", SizeMib: 1, Limit: l}},
		}}}
	}
	nic := func(w *blixardv1.Interface) *blixardv1.VMSpec {
		s := disk(nil)
		s.Networks = []*blixardv1.Interface{w}
		return s
	}
	volume := func(l *blixardv1.DiskLimit) *blixardv1.VMSpec {
		s := disk(nil)
		s.Volumes = []*blixardv1.VolumeMount{{Volume: "v", Limit: l}}
		return s
	}
	for name, c := range map[string]struct {
		spec  *blixardv1.VMSpec
		field string
	}{
		"both ways":         {nic(&blixardv1.Interface{Kind: lan, Receive: rate(1e6, 0), Send: rate(8192, 65536)}), ""},
		"too slow":          {nic(&blixardv1.Interface{Kind: lan, Receive: rate(100, 0)}), "spec.networks[0].receive.bytes_per_second"},
		"none":              {nic(&blixardv1.Interface{Kind: lan, Send: rate(0, 0)}), "spec.networks[0].send.bytes_per_second"},
		"too fast":          {nic(&blixardv1.Interface{Kind: lan, Send: rate(1<<41, 0)}), "spec.networks[0].send.bytes_per_second"},
		"a small burst":     {nic(&blixardv1.Interface{Kind: lan, Send: rate(1e6, 1)}), "spec.networks[0].send.burst_bytes"},
		"a long burst":      {nic(&blixardv1.Interface{Kind: lan, Send: rate(8192, 1<<20)}), "spec.networks[0].send.burst_bytes"},
		"of user":           {nic(&blixardv1.Interface{Kind: &blixardv1.Interface_User{User: &blixardv1.UserInterface{}}, Send: rate(1e6, 0)}), "spec.networks[0].send"},
		"a disk":            {disk(&blixardv1.DiskLimit{BytesPerSecond: 1e6, OpsPerSecond: 100}), ""},
		"a slow disk":       {disk(&blixardv1.DiskLimit{BytesPerSecond: 5}), "spec.image.disks[0].limit.bytes_per_second"},
		"too many":          {disk(&blixardv1.DiskLimit{OpsPerSecond: 1 << 40}), "spec.image.disks[0].limit.ops_per_second"},
		"a volume":          {volume(&blixardv1.DiskLimit{OpsPerSecond: 1}), ""},
		"a volume too slow": {volume(&blixardv1.DiskLimit{BytesPerSecond: 5}), "spec.volumes[0].limit.bytes_per_second"},
	} {
		if err := ValidateVM("web", c.spec); err.GetField() != c.field {
			t.Errorf("%s: %v", name, err)
		}
	}
	was, next := disk(nil), disk(&blixardv1.DiskLimit{OpsPerSecond: 9})
	if err := keepsDisks(was, next); err != nil {
		t.Errorf("an update cannot bound a disk: %v", err)
	}
}
