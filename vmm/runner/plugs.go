package runner

import (
	"fmt"
	"io/fs"
	"os"
)

const tunDevice = "/dev/net/tun"

// plugs says why VMs cannot be plugged into networks here.
func (h *Host) plugs() error {
	if err := h.links.Able(); err != nil {
		return err
	}
	st, err := os.Stat(tunDevice)
	if err != nil {
		return err
	}
	return opens(st.Mode(), h.users != nil)
}

// opens says why hypervisors cannot open the device of all taps, though the daemon made
// theirs: it is everybody's where there is udev, and its maker's alone where there is
// none.
func opens(mode fs.FileMode, users bool) error {
	if users && mode.Perm()&0o006 != 0o006 {
		return fmt.Errorf("VMs have users of their own here, who may not open %s (mode %04o): let them (chmod 0666 %s, as udev does), and start the daemon again", tunDevice, mode.Perm(), tunDevice)
	}
	return nil
}
