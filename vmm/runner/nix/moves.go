package nix

import (
	"bytes"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ArgsEnv names the variable whose words a runner adds to QEMU's command line: what
// microvm.nix's extraArgsScript prints, with the modules of this release.
const ArgsEnv = "BLIXARD_QEMU_ARGS"

// TakesArgs says that a runner starts QEMU with what ArgsEnv says, by its own text: who
// has never heard of it would start without a word.
func TakesArgs(runner string) bool {
	name, err := Fact(runner, "hypervisor")
	return err == nil && name == "qemu" && runs(runner, ArgsEnv)
}

// Stays says why the guest of a runner cannot be moved while it runs, in a clause about
// the VM; "": nothing that can be seen of it says so.
func Stays(runner string) string {
	there := func(name string) bool {
		_, err := os.Stat(filepath.Join(runner, "share", "microvm", name))
		return err == nil
	}
	shares, _ := os.ReadDir(filepath.Join(runner, "share", "microvm", "virtiofs"))
	name, _ := Fact(runner, "hypervisor")
	switch {
	case name != "qemu":
		return "only QEMU sends a guest that runs to another host"
	case !TakesArgs(runner):
		return "what was built for it cannot be told to wait for a guest"
	case len(shares) > 0, runs(runner, "virtio-9p-"):
		return "it shares folders of its host, whose open files stay there"
	case there("pci-devices"), there("usb-devices"):
		return "it has devices of its host, which stay there"
	}
	return ""
}

// maxScript is far more than microvm-run ever has.
const maxScript = 4 << 20

// runs says that a word stands in the script that starts the hypervisor.
func runs(runner, word string) bool {
	f, err := os.OpenFile(filepath.Join(runner, "bin", "microvm-run"), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return false
	}
	text, err := io.ReadAll(io.LimitReader(f, maxScript))
	return err == nil && bytes.Contains(text, []byte(word))
}
