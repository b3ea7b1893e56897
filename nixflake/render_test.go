package nixflake_test

import (
	"errors"
	"fmt"
	"reflect"
	"testing"

	"github.com/blixard/blixard/nixflake"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func usual() *blixardv1.VMSpec {
	return &blixardv1.VMSpec{Vcpus: 2, MemoryMib: 1024, Source: &blixardv1.VMSpec_Nixos{Nixos: &blixardv1.Nixos{
		Networks: []*blixardv1.Network{{Kind: &blixardv1.Network_Tap{Tap: &blixardv1.Tap{Bridge: "br0"}}}},
		Volumes: []*blixardv1.Volume{{Kind: &blixardv1.Volume_Root{Root: &blixardv1.RootVolume{SizeMib: 4096}}},
			{Kind: &blixardv1.Volume_Data{Data: &blixardv1.DataVolume{Path: "www.img", SizeMib: 512, MountPoint: "/var/www"}}}},
		Modules: []*blixardv1.NixosModule{{Source: &blixardv1.NixosModule_FlakePart{FlakePart: "webserver"}},
			{Source: &blixardv1.NixosModule_Inline{Inline: "{ services.nginx.enable = true; }"}},
			{Source: &blixardv1.NixosModule_File{File: &blixardv1.Artifact{Digest: "d", Size: 1}}}},
		Kernel: &blixardv1.Kernel{Params: []string{"quiet"}},
		Init:   "echo hello\n",
	}}}
}

func TestRenderIsAFunction(t *testing.T) {
	vm := nixflake.VM{Name: "web", UID: "1-7", Spec: usual()}
	one, err := nixflake.Render("c", vm, nixflake.Pins{Lock: "{ }"})
	if err != nil {
		t.Fatal(err)
	}
	two, _ := nixflake.Render("c", nixflake.VM{Name: "web", UID: "1-7", Spec: usual()}, nixflake.Pins{Lock: "{ }"})
	if !reflect.DeepEqual(one, two) {
		t.Error("the same spec gives other files")
	}
	seen := map[string]bool{}
	for _, f := range one {
		if seen[f.Path] || (f.Text == "") == (f.Digest == "") {
			t.Errorf("%+v", f)
		}
		seen[f.Path] = true
	}
	for _, want := range []string{"flake.nix", "flake.lock", "modules/01-inline.nix", "modules/02-file.nix", "blixard-modules/flake-module.nix"} {
		if !seen[want] {
			t.Errorf("no %s", want)
		}
	}
	if m := nixflake.InlineModules(one); len(m) != 1 || m[0].Path != "modules/01-inline.nix" {
		t.Errorf("inline modules %v", m)
	}
}

func TestRenderRefuses(t *testing.T) {
	inline := func(s string) *blixardv1.VMSpec {
		return &blixardv1.VMSpec{Source: &blixardv1.VMSpec_Nixos{Nixos: &blixardv1.Nixos{
			Modules: []*blixardv1.NixosModule{{Source: &blixardv1.NixosModule_Inline{Inline: s}}}}}}
	}
	process := usual()
	process.Hypervisor = blixardv1.Hypervisor_HYPERVISOR_PROCESS
	for name, c := range map[string]struct {
		name string
		spec *blixardv1.VMSpec
		want error
	}{
		"nul in the name": {"a\x00", usual(), nixflake.ErrText},
		"nul in a module": {"a", inline("\x00"), nixflake.ErrText},
		"no utf-8":        {"a", &blixardv1.VMSpec{Source: &blixardv1.VMSpec_Nixos{Nixos: &blixardv1.Nixos{Init: "\xff"}}}, nixflake.ErrText},
		"nul in a flake":  {"a", &blixardv1.VMSpec{Source: &blixardv1.VMSpec_Flake{Flake: &blixardv1.Flake{Attribute: "a.\x00"}}}, nixflake.ErrText},
		"an image":        {"a", &blixardv1.VMSpec{Source: &blixardv1.VMSpec_Image{}}, nixflake.ErrSource},
		"nothing":         {"a", nil, nixflake.ErrSource},
		"a process":       {"a", process, nil},
	} {
		files, err := nixflake.Render("c", nixflake.VM{Name: c.name, UID: "1-7", Spec: c.spec}, nixflake.Pins{})
		if err == nil || files != nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func BenchmarkRender10000(b *testing.B) {
	specs := make([]*blixardv1.VMSpec, 10_000)
	for i := range specs {
		specs[i] = usual()
	}
	for b.Loop() {
		for i, s := range specs {
			if _, err := nixflake.Render("c", nixflake.VM{Name: "web", UID: fmt.Sprintf("1-%d", i), Spec: s}, nixflake.Pins{}); err != nil {
				b.Fatal(err)
			}
		}
	}
}
