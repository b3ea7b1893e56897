package runner

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// A shape is what two machines must have in common for a guest to go from one to
// the other: words like smp=2. QEMU finds some differences itself, when all has
// been sent; others it does not, and the guest would crash.

// tscTolerance is how far two hosts' counters may be apart under emulation, where a
// guest reads the host's own and was told its frequency: its clock goes wrong by as
// much.
const tscTolerance = 0.01

// shape is this machine's for a boot.
func (m machine) shape(b boot) string {
	words := []string{"machine=" + b.model(), "smp=" + fmt.Sprint(b.vcpus), "memory=" + m.memory(b), fmt.Sprintf("balloon=%t", m.balloon(b) > 0)}
	if m.kvm {
		words = append(words, "accel=kvm", "cpu="+strconv.Quote(cpuModel()))
	} else {
		words = append(words, "accel=tcg", "tsc="+fmt.Sprint(m.tscKHz))
	}
	for _, d := range b.disks {
		words = append(words, fmt.Sprintf("disk=%s,ro=%t,bytes=%d", d.name, d.readOnly, d.bytes))
	}
	for _, n := range b.nics {
		words = append(words, fmt.Sprintf("nic=%s,user=%t", n.mac, n.user))
	}
	return strings.Join(words, "\n")
}

// shapeWith adds the version of the hypervisor that runs.
func shapeWith(version, shape string) string { return "qemu=" + strconv.Quote(version) + "\n" + shape }

// fits says what keeps a guest of one machine from another.
func fits(from, to string) error {
	a, b := strings.Split(from, "\n"), strings.Split(to, "\n")
	for i := range max(len(a), len(b)) {
		var x, y string
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		if x == y || near(x, y) {
			continue
		}
		return fmt.Errorf("the machines differ: there %.200q, here %.200q", x, y)
	}
	return nil
}

// near says that two counters are about as fast.
func near(x, y string) bool {
	x, okX := strings.CutPrefix(x, "tsc=")
	y, okY := strings.CutPrefix(y, "tsc=")
	a, errA := strconv.ParseFloat(x, 64)
	b, errB := strconv.ParseFloat(y, 64)
	return okX && okY && errA == nil && errB == nil && a > b*(1-tscTolerance) && a < b*(1+tscTolerance)
}

// cpuModel is what -cpu max gives a guest under KVM: the host's own.
func cpuModel() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	var words []string
	for _, line := range strings.SplitN(string(b), "\n\n", 2)[:1] {
		for _, l := range strings.Split(line, "\n") {
			key, value, _ := strings.Cut(l, ":")
			switch strings.TrimSpace(key) {
			case "vendor_id", "cpu family", "model", "stepping", "flags":
				words = append(words, strings.TrimSpace(value))
			}
		}
	}
	return hashed(16, words...)
}
