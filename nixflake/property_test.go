package nixflake_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/blixard/blixard/nixflake"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// hostile draws text out of what means something to Nix, to shells and to
// terminals, and of what only looks as if it did.
var hostile = rapid.Custom(func(t *rapid.T) string {
	pieces := rapid.SliceOfN(rapid.OneOf(
		rapid.SampledFrom([]string{
			"'", "''", "'''", "$", "${", "}", "$$", "''$", "''\\", `\`, `\n`, `"`, "\n", "\r", "\r\n", "\t", " ", "  ", "\n\n",
			"${builtins.readFile /etc/passwd}", `"; boom = "`, "''; boom = ''", "/*", "*/", "#", "../", "<nixpkgs>", "~", "@", ":", ";", "=",
			"é", "\u2028", "\u200b", "\ufeff", "\U0001f600", "\u0085", "\x7f", "\x1b[0m", "\x01", "in", "let", "rec", "a", "x y", "0",
		}),
		rapid.StringOfN(rapid.Rune().Filter(func(r rune) bool { return r != 0 }), 0, 4, -1),
	), 0, 12).Draw(t, "pieces")
	return strings.ToValidUTF8(strings.Join(pieces, ""), "?")
})

// Whatever text goes in, a real Nix gives it back: as a string, as an indented
// string at any depth, and as the name of an attribute.
func TestNixGivesBackWhatWentIn(t *testing.T) {
	nix := findNix(t)
	n := 2000
	if testing.Short() {
		n = 200
	}
	var in []string
	var b strings.Builder
	b.WriteString("[\n")
	for i := range n {
		s := hostile.Example(i)
		in = append(in, s)
		fmt.Fprintf(&b, "{ q = %s; i = %s; a = builtins.attrNames { %s = 1; }; }\n",
			nixflake.Quote(s), nixflake.Indented(s, strings.Repeat(" ", i%9)), nixflake.Quote(s))
	}
	b.WriteString("]\n")
	var out []struct {
		Q, I string
		A    []string
	}
	if err := json.Unmarshal(nixEval(t, nix, b.String()), &out); err != nil {
		t.Fatal(err)
	}
	if len(out) != n {
		t.Fatalf("%d of %d came back", len(out), n)
	}
	for i, s := range in {
		if o := out[i]; o.Q != s || o.I != s || len(o.A) != 1 || o.A[0] != s {
			t.Errorf("%q came back as %q\n%s", s, o, nixflake.Indented(s, strings.Repeat(" ", i%9)))
		}
	}
}

// drawSpec draws a NixOS spec that no validation has seen.
func drawSpec(t *rapid.T) (string, *blixardv1.VMSpec) {
	n := &blixardv1.Nixos{Init: hostile.Draw(t, "init"), Kernel: &blixardv1.Kernel{
		Package: hostile.Draw(t, "kernel"), Params: rapid.SliceOfN(hostile, 0, 3).Draw(t, "params")}}
	for range rapid.IntRange(0, 2).Draw(t, "taps") {
		n.Networks = append(n.Networks, &blixardv1.Network{Kind: &blixardv1.Network_Tap{Tap: &blixardv1.Tap{
			Id: hostile.Draw(t, "id"), Bridge: hostile.Draw(t, "bridge"), Mac: hostile.Draw(t, "mac")}}})
	}
	for range rapid.IntRange(0, 2).Draw(t, "volumes") {
		n.Volumes = append(n.Volumes, &blixardv1.Volume{Kind: &blixardv1.Volume_Data{Data: &blixardv1.DataVolume{
			Path: hostile.Draw(t, "path"), MountPoint: hostile.Draw(t, "mount"), SizeMib: rapid.Uint64Range(0, 1<<40).Draw(t, "size")}}})
	}
	for range rapid.IntRange(0, 2).Draw(t, "shares") {
		n.Shares = append(n.Shares, &blixardv1.Share{Tag: hostile.Draw(t, "tag"), Source: hostile.Draw(t, "source"),
			MountPoint: hostile.Draw(t, "mount"), ReadOnly: rapid.Bool().Draw(t, "ro")})
	}
	for range rapid.IntRange(0, 2).Draw(t, "modules") {
		n.Modules = append(n.Modules, &blixardv1.NixosModule{Source: &blixardv1.NixosModule_FlakePart{FlakePart: hostile.Draw(t, "part")}})
	}
	n.FlakeModules = rapid.SliceOfN(hostile, 0, 2).Draw(t, "flakes")
	return hostile.Draw(t, "name"), &blixardv1.VMSpec{Vcpus: 3, MemoryMib: 77, Source: &blixardv1.VMSpec_Nixos{Nixos: n}}
}

// A whole flake of hostile text is, to a real Nix, the values that went in. The
// inputs are stand-ins: what is looked up in them by name gives the name back.
func TestRenderedFlakesAreData(t *testing.T) {
	nix := findNix(t)
	dir := t.TempDir()
	type vm struct {
		name string
		spec *blixardv1.VMSpec
	}
	var vms []vm
	var names []string
	for i := range 150 {
		v := rapid.Custom(func(t *rapid.T) vm { n, s := drawSpec(t); return vm{n, s} }).Example(i)
		files, err := nixflake.Render("c", nixflake.VM{Name: v.name, UID: "1-7", Spec: v.spec}, nixflake.Pins{Nixpkgs: v.name, Modules: "x" + v.name})
		if err != nil {
			t.Fatal(err)
		}
		if len(files) != 1 || files[0].Path != "flake.nix" {
			t.Fatalf("%v", files)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.nix", i)), []byte(files[0].Text), 0o644); err != nil {
			t.Fatal(err)
		}
		vms = append(vms, v)
		for _, m := range v.spec.GetNixos().Modules {
			names = append(names, m.GetFlakePart())
		}
		names = append(names, v.spec.GetNixos().FlakeModules...)
	}
	list, err := json.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "names.json"), list, 0o644); err != nil {
		t.Fatal(err)
	}
	out := nixEval(t, nix, `
		let
		  dir = `+nixflake.Quote(dir)+`;
		  named = builtins.listToAttrs (map (name: { inherit name; value = name; }) (builtins.fromJSON (builtins.readFile (dir + "/names.json")) ++ [ "default" ]));
		  inputs = { blixard-modules = { flakeModules = named; nixosModules = named; }; flake-parts.lib.mkFlake = _: m: { packages = m; }; };
		  one = i: let f = import (dir + "/${toString i}.nix"); m = (f.outputs inputs).packages; in { inherit (f) description; nixpkgs = f.inputs.nixpkgs.url; inherit (m.blixard) vms; inherit (m) imports; };
		in builtins.genList one `+fmt.Sprint(len(vms)))
	var got []struct {
		Description, Nixpkgs string
		Imports              []string
		Vms                  map[string]struct {
			Vcpus, Memory uint64
			Kernel        struct {
				Package string
				Params  []string
			}
			Init     string
			Networks []struct {
				Tap struct{ ID, Mac, Bridge string }
			}
			Volumes []struct {
				Data struct {
					Path, MountPoint string
					Size             uint64
				}
			}
			Shares []struct {
				Tag, Source, MountPoint string
				ReadOnly                bool
			}
			Modules []string
		}
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	id := nixflake.Identify("c", "1-7")
	or := func(a, b string) string {
		if a == "" {
			return b
		}
		return a
	}
	for i, v := range vms {
		g, n := got[i], v.spec.GetNixos()
		same := func(what string, got, want any) {
			if !reflect.DeepEqual(got, want) && fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
				t.Errorf("flake %d: %s is %q, want %q", i, what, got, want)
			}
		}
		same("description", g.Description, "VM "+v.name)
		same("nixpkgs", g.Nixpkgs, or(v.name, nixflake.DefaultNixpkgs))
		same("imports", g.Imports, append([]string{"default"}, n.FlakeModules...))
		vm, ok := g.Vms[v.name]
		if !ok || len(g.Vms) != 1 {
			t.Errorf("flake %d: no VM %q", i, v.name)
			continue
		}
		same("vcpus", vm.Vcpus, uint64(3))
		same("memory", vm.Memory, uint64(77))
		same("init", vm.Init, n.Init)
		same("package", vm.Kernel.Package, n.Kernel.Package)
		same("params", append([]string{}, vm.Kernel.Params...), append([]string{}, n.Kernel.Params...))
		for j, w := range n.Networks {
			same("tap", vm.Networks[j].Tap, struct{ ID, Mac, Bridge string }{
				or(w.GetTap().Id, id.TapID(j)), or(w.GetTap().Mac, id.MAC(j)), w.GetTap().Bridge})
		}
		for j, w := range n.Volumes {
			same("path", vm.Volumes[j].Data.Path, w.GetData().Path)
			same("mount", vm.Volumes[j].Data.MountPoint, w.GetData().MountPoint)
			same("size", vm.Volumes[j].Data.Size, w.GetData().SizeMib)
		}
		for j, w := range n.Shares {
			same("share", vm.Shares[j], struct {
				Tag, Source, MountPoint string
				ReadOnly                bool
			}{w.Tag, w.Source, w.MountPoint, w.ReadOnly})
		}
		for j, w := range n.Modules {
			same("module", vm.Modules[j], w.GetFlakePart())
		}
	}
}

// Every module of ours, and every golden flake, is Nix. One parser reads them
// all: a lambda that is never called is parsed all the same.
func TestEverythingParses(t *testing.T) {
	nix := findNix(t)
	var files []string
	for _, root := range []string{"modules", "../testdata"} {
		err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() && strings.HasSuffix(path, ".nix") {
				path, err = filepath.Abs(path)
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	files = append(files, absolute(t, "../flake.nix"))
	var b strings.Builder
	b.WriteString("map (f: builtins.typeOf (import f)) [\n")
	for _, f := range files {
		b.WriteString(nixflake.Quote(f) + "\n")
	}
	b.WriteString("]")
	var types []string
	if err := json.Unmarshal(nixEval(t, nix, b.String()), &types); err != nil {
		t.Fatal(err)
	}
	if len(types) != len(files) || len(files) < 40 {
		t.Errorf("%d of %d files", len(types), len(files))
	}
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
