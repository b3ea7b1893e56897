package cluster

import (
	"fmt"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Bounds of what a VM may have per second. The least are what a guest still boots
// with; the most, what fits into the kernel's and the hypervisors' numbers.
const (
	minRate, maxRate   = 8 << 10, 1 << 40
	minBurst, maxBurst = 64 << 10, 1 << 30
	minDiskRate        = 64 << 10
	maxOps             = 1 << 32
)

func checkBandwidths(field string, w *blixardv1.Interface) *blixardv1.Error {
	for _, d := range []struct {
		name string
		b    *blixardv1.Bandwidth
	}{{"receive", w.GetReceive()}, {"send", w.GetSend()}} {
		if d.b == nil {
			continue
		}
		f, rate, burst := field+"."+d.name, d.b.GetBytesPerSecond(), d.b.GetBurstBytes()
		switch {
		case w.GetNetwork() == "":
			return invalid(f, "a user interface is the hypervisor's own, and has no limit", "leave it out, or plug it into a network")
		case rate < minRate || rate > maxRate:
			return invalid(f+".bytes_per_second", fmt.Sprintf("%d is out of range", rate), "use 8192 to 1099511627776: bytes, not bits")
		case burst != 0 && (burst < minBurst || burst > maxBurst || burst > 60*rate):
			return invalid(f+".burst_bytes", fmt.Sprintf("%d is out of range", burst), "use 65536 to 1073741824, and at most what a minute has, or leave it out")
		}
	}
	return nil
}

func checkDiskLimit(field string, l *blixardv1.DiskLimit) *blixardv1.Error {
	if r := l.GetBytesPerSecond(); r != 0 && (r < minDiskRate || r > maxRate) {
		return invalid(field+".limit.bytes_per_second", fmt.Sprintf("%d is out of range", r), "use 65536 to 1099511627776, or leave it out")
	}
	if n := l.GetOpsPerSecond(); n > maxOps {
		return invalid(field+".limit.ops_per_second", fmt.Sprintf("%d is out of range", n), "use at most 4294967296, or leave it out")
	}
	return nil
}
