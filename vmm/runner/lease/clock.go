package lease

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Now is CLOCK_BOOTTIME in ns.
func Now() uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("lease: no CLOCK_BOOTTIME: " + err.Error()) // Linux since 2.6.39
	}
	return uint64(ts.Nano())
}

// BootID is the running kernel's boot id, a lower-case UUID.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
