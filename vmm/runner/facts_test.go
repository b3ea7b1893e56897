package runner

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/blixard/blixard/core"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func TestVersions(t *testing.T) {
	for out, want := range map[string]string{
		"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright (c)": "7.2.22 (Debian 1:7.2+dfsg-7)",
		"cloud-hypervisor v53.0\n":                   "53.0",
		"Firecracker v1.16.1\n\nSupported snapshots": "1.16.1",
		"nothing of the kind":                        "",
		"":                                           "",
	} {
		if got := versionIn(out); got != want {
			t.Errorf("%q: %q, want %q", out, got, want)
		}
	}
}

// A host says which hypervisors it really has: a program that does not start, or
// that never answers, is none.
func TestAHostSaysWhatItHas(t *testing.T) {
	defer func(d time.Duration) { versionPatience = d }(versionPatience)
	versionPatience = 5 * time.Second
	dir := t.TempDir()
	program := func(name, script string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ch, fc, q := blixardv1.Hypervisor_HYPERVISOR_CLOUD_HYPERVISOR, blixardv1.Hypervisor_HYPERVISOR_FIRECRACKER, blixardv1.Hypervisor_HYPERVISOR_QEMU
	good := program("good", "echo cloud-hypervisor v53.0")
	for _, c := range []struct {
		name     string
		programs map[blixardv1.Hypervisor]string
		allowed  []blixardv1.Hypervisor
		want     []blixardv1.Hypervisor
	}{
		{"there", map[blixardv1.Hypervisor]string{ch: good, fc: program("fc", "echo Firecracker v1.16.1"), q: "/nowhere"}, nil, []blixardv1.Hypervisor{ch, fc, blixardv1.Hypervisor_HYPERVISOR_PROCESS}},
		{"broken", map[blixardv1.Hypervisor]string{ch: program("broken", "exit 1"), fc: program("mute", "true"), q: program("hangs", "sleep 60")}, nil, []blixardv1.Hypervisor{blixardv1.Hypervisor_HYPERVISOR_PROCESS}},
		{"forbidden", map[blixardv1.Hypervisor]string{ch: good, fc: good, q: good}, []blixardv1.Hypervisor{ch}, []blixardv1.Hypervisor{ch}},
	} {
		begin := time.Now()
		b := newBench(t, func(cfg *Config) { cfg.Programs, cfg.Hypervisors = c.programs, c.allowed })
		f := b.await("facts", func(o core.Observed) bool { return o.Facts != nil }).Facts
		var got []blixardv1.Hypervisor
		for _, h := range f.Hypervisors {
			got = append(got, h.Hypervisor)
			if h.Version == "" || len(h.Capabilities) == 0 || h.Kvm {
				t.Errorf("%s: %v", c.name, h)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: has %v, want %v", c.name, got, c.want)
		}
		if f.Kvm.GetUsable() || f.Kvm.GetWhy() != "KVM is not wanted" {
			t.Errorf("%s: %v", c.name, f.Kvm)
		}
		if took := time.Since(begin); took > 30*time.Second {
			t.Errorf("%s: took %v", c.name, took)
		}
	}
}
