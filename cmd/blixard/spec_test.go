package main

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func TestParseSpecs(t *testing.T) {
	drafts, err := parseSpecs([]byte(`
name: web
hypervisor: qemu
vcpus: 2
memoryMib: 256
restart: on-failure
labels: {version: 1.10, "on": true}
image:
  kernel: ./vmlinuz
  cmdline: quiet
  disks:
    - name: root
      source: sha256:00
      size_mib: 1024
      read_only: true
---
name: two
process:
  argv: [/bin/sleep, 1000]
`), "specs.yaml", "/base")
	if err != nil {
		t.Fatal(err)
	}
	want := &blixardv1.VMSpec{
		Hypervisor: blixardv1.Hypervisor_HYPERVISOR_QEMU, Vcpus: 2, MemoryMib: 256,
		Restart: blixardv1.RestartPolicy_RESTART_POLICY_ON_FAILURE,
		Labels:  map[string]string{"version": "1.10", "on": "true"},
		Source: &blixardv1.VMSpec_Image{Image: &blixardv1.Image{Kernel: &blixardv1.Artifact{}, Cmdline: "quiet",
			Disks: []*blixardv1.Disk{{Name: "root", Source: &blixardv1.Artifact{}, SizeMib: 1024, ReadOnly: true}}}},
	}
	if len(drafts) != 2 || drafts[0].name != "web" || !proto.Equal(drafts[0].spec, want) {
		t.Errorf("got %v", drafts[0].spec)
	}
	refs := drafts[0].refs
	if len(refs) != 2 || refs[0].text != "./vmlinuz" || refs[0].base != "/base" || refs[1].text != "sha256:00" {
		t.Errorf("refs %+v", refs)
	}
	refs[0].target.Digest = "found"
	if drafts[0].spec.GetImage().GetKernel().GetDigest() != "found" {
		t.Error("a ref does not reach into the spec")
	}
	if got := drafts[1].spec.GetProcess().GetArgv(); len(got) != 2 || got[1] != "1000" {
		t.Errorf("argv %q", got)
	}
}

// A port is one word, and what a VM shows of itself can be read back.
func TestParsePorts(t *testing.T) {
	drafts, err := parseSpecs([]byte(`
name: web
image: {kernel: ./vmlinuz}
networks:
  - user: {}
    ports: [8080:80, "127.0.0.1:53:5353/udp", {host_port: 1, guest_port: 2}]
  - {network: lan, address: 10.1.0.5, mac: 02:00:00:00:00:01}
`), "f", "")
	if err != nil {
		t.Fatal(err)
	}
	want := []*blixardv1.Interface{
		{Kind: &blixardv1.Interface_User{User: &blixardv1.UserInterface{}}, Ports: []*blixardv1.PortForward{
			{HostPort: 8080, GuestPort: 80}, {Address: "127.0.0.1", HostPort: 53, GuestPort: 5353, Protocol: blixardv1.Protocol_PROTOCOL_UDP}, {HostPort: 1, GuestPort: 2},
		}},
		{Kind: &blixardv1.Interface_Network{Network: "lan"}, Address: "10.1.0.5", Mac: "02:00:00:00:00:01"},
	}
	if !proto.Equal(&blixardv1.VMSpec{Networks: drafts[0].spec.Networks}, &blixardv1.VMSpec{Networks: want}) {
		t.Errorf("got %v", drafts[0].spec.Networks)
	}
	for in, want := range map[string]string{"80": "want [ADDRESS:]HOST:GUEST", "0:80": "no port", "80:70000": "no port", "80:80/sctp": "neither tcp nor udp"} {
		if _, err := parseSpecs([]byte("name: a\nnetworks: [{user: {}, ports: ['"+in+"']}]"), "f", ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", in, err)
		}
	}
	spec := &blixardv1.VMSpec{}
	flags := SpecFlags{Network: []string{"lan,10.1.0.5"}, Port: []string{"8080:80"}}
	if err := flags.networks(spec); err != nil || len(spec.Networks) != 2 || spec.Networks[0].Address != "10.1.0.5" || spec.Networks[1].GetUser() == nil || spec.Networks[1].Ports[0].HostPort != 8080 {
		t.Error(err, spec.Networks)
	}
}

func TestParseSpecsRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"":                                  "holds no VM",
		"---\n---\n":                        "holds no VM",
		"- a":                               "f:1: want a mapping",
		"vcpus: 1":                          "f:1: the VM has no name",
		"name: a\nname: b":                  "f:2: name is there twice",
		"name: a\nvcpus: 1\nvcpus: 2":       "f:3: vcpus is there twice",
		"name: a\nvcpus: 1\nmemory: 2":      `f:3: unknown field "memory"; did you mean "memory_mib"?`,
		"name: a\nzzz: 1":                   `f:2: unknown field "zzz"`,
		"name: a\nvcpus: -1":                `f:2: vcpus: "-1" is not a number from 0 to 4294967295`,
		"name: a\nvcpus: 4294967296":        "is not a number from 0",
		"name: a\nvcpus: 1e3":               "is not a number from 0",
		"name: a\nvcpus:":                   "f:2: vcpus: want a number",
		"name: a\nrestart: maybe":           `f:2: restart: "maybe" is none of always, on-failure, never`,
		"name: a\nimage: x":                 "f:2: image: want a mapping",
		"name: a\nimage:\n  kernel: ''":     "image.kernel: want a file",
		"name: a\nimage:\n  kernl: x":       `f:3: unknown field "image.kernl"; did you mean "kernel"?`,
		"name: a\nimage: {}\nprocess: {}":   "f:3: a VM has either image or process, not both",
		"name: a\nlabels: [x]":              "f:2: labels: want a mapping",
		"name: a\nlabels: {x: 1, x: 2}":     "labels.x is there twice",
		"name: a\nprocess: {argv: /bin/sh}": "process.argv: want a list",
		"name: a\n  b: c":                   "line 2",
		"name: a\nx: &a [*a]":               "unknown field",
		"name: a\nlabels: &a\n  x: *a":      "want a string",
		"name: a\nlabels: {<<: {a: b}}":     "want a string",
	} {
		_, err := parseSpecs([]byte(in), "f", "")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: want %q, got %v", in, want, err)
		}
	}
}

func FuzzParseSpecs(f *testing.F) {
	f.Add([]byte("name: web\nimage: {kernel: a, disks: [{name: x}]}\n---\nname: b\nprocess: {argv: [x]}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		drafts, err := parseSpecs(b, "f", "")
		if err == nil && len(drafts) == 0 {
			t.Error("neither a VM nor an error")
		}
		for _, d := range drafts {
			if d.name == "" || d.spec == nil {
				t.Errorf("%+v", d)
			}
		}
	})
}
