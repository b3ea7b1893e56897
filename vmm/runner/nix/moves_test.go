package nix

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whether a guest can be moved is seen of what was built, and of nothing else.
func TestStays(t *testing.T) {
	const command = "#!/bin/sh\nruntime_args=$(printf %s \"${BLIXARD_QEMU_ARGS:-}\")\nexec qemu-system-x86_64 -m 512M ${runtime_args:-}\n"
	for name, c := range map[string]struct {
		files map[string]string
		want  string
		takes bool
	}{
		"as our modules build it":                      {map[string]string{"bin/microvm-run": command}, "", true},
		"without shares, but with the folder for them": {map[string]string{"bin/microvm-run": command, "share/microvm/tap-flags": "vnet_hdr"}, "", true},
		"of before":             {map[string]string{"bin/microvm-run": strings.ReplaceAll(command, "BLIXARD_", "")}, "cannot be told to wait", false},
		"no script":             {nil, "cannot be told to wait", false},
		"another hypervisor":    {map[string]string{"bin/microvm-run": command, "share/microvm/hypervisor": "cloud-hypervisor\n"}, "only QEMU", false},
		"virtiofs":              {map[string]string{"bin/microvm-run": command, "share/microvm/virtiofs/data/source": "/srv"}, "shares folders", true},
		"9p":                    {map[string]string{"bin/microvm-run": command + "# -device virtio-9p-pci,fsdev=fs0\n"}, "shares folders", true},
		"a PCI device":          {map[string]string{"bin/microvm-run": command, "share/microvm/pci-devices": "0000:01:00.0\n"}, "devices of its host", true},
		"a script that is none": {map[string]string{"bin/microvm-run/x": command}, "cannot be told to wait", false},
	} {
		runner := filepath.Join(t.TempDir(), "store", "runner")
		if c.files == nil {
			c.files = map[string]string{}
		}
		if c.files["share/microvm/hypervisor"] == "" {
			c.files["share/microvm/hypervisor"] = "qemu\n"
		}
		for path, text := range c.files {
			path = filepath.Join(runner, path)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
				t.Fatal(err)
			}
		}
		if got := Stays(runner); (got == "") != (c.want == "") || !strings.Contains(got, c.want) || TakesArgs(runner) != c.takes {
			t.Errorf("%s: %q, %t; want %q, %t", name, got, TakesArgs(runner), c.want, c.takes)
		}
	}
}
