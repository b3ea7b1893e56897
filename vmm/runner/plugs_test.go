package runner

import (
	"io/fs"
	"strings"
	"testing"
)

// A tap that its hypervisor may not open is found out before a VM is placed here for it.
func TestTheUsersOfVMsMustBeAbleToOpenTaps(t *testing.T) {
	t.Parallel()
	if err := opens(0o600, true); err == nil || !strings.Contains(err.Error(), "(mode 0600): let them (chmod 0666 /dev/net/tun") {
		t.Error(err)
	}
	if err := opens(0o660, true); err == nil {
		t.Error("a group is not everybody")
	}
	for mode, users := range map[uint32]bool{0o666: true, 0o600: false} {
		if err := opens(fs.FileMode(mode), users); err != nil {
			t.Errorf("%o, users %t: %v", mode, users, err)
		}
	}
}
