package main

import (
	"strings"
	"testing"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Devices come from the file and the flags, each once, and are addresses of PCI.
func TestDevicesOfAHost(t *testing.T) {
	cfg := &Config{}
	if err := parseConfig([]byte("[devices]\ngpu = [\"0000:65:00.0\", \"0000:B3:00.0\"]\nnic = [\"0000:01:00.0\"]\n"), cfg); err != nil {
		t.Fatal(err)
	}
	list, err := cfg.devices()
	if err != nil || len(list) != 3 || list[1].Kind != "gpu" || list[1].Address != "0000:b3:00.0" {
		t.Fatal(list, err)
	}
	for flag, want := range map[string]string{
		"gpu=0000:65:00.0": "", "nic=0000:65:00.0": "it is a gpu already", "gpu": "no address of a PCI device",
		"GPU=0000:65:00.0": "GPU", "gpu=0000:65:00.0,x": "no address of a PCI device", "gpu=../../x": "no address",
	} {
		c := &ServeCmd{Name: "n1", DataDir: t.TempDir(), Device: []string{"gpu=0000:65:00.0", flag}}
		_, err := c.config(&Globals{})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("--device %s: %v", flag, err)
		}
	}
}

func TestDeviceFlag(t *testing.T) {
	s := &blixardv1.VMSpec{}
	if err := (&SpecFlags{Device: []string{"gpu=2", "nic"}}).devices(s); err != nil || len(s.Devices) != 2 || s.Devices[0].Count != 2 || s.Devices[1].Kind != "nic" {
		t.Fatal(s, err)
	}
	if err := (&SpecFlags{}).devices(s); err != nil || len(s.Devices) != 2 {
		t.Error("no flag changes something")
	}
	if err := (&SpecFlags{Device: []string{"gpu=0"}}).devices(s); err == nil {
		t.Error("gpu=0 is fine")
	}
	if err := (&SpecFlags{Device: []string{"none"}}).devices(s); err != nil || s.Devices != nil {
		t.Error(s.Devices, err)
	}
}
