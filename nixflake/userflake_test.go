package nixflake_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/blixard/blixard/nixflake"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func userFlake(t *testing.T, f *blixardv1.Flake) []nixflake.File {
	t.Helper()
	files, err := nixflake.Render("c", nixflake.VM{Name: "web", UID: "1-7",
		Spec: &blixardv1.VMSpec{Source: &blixardv1.VMSpec_Flake{Flake: f}}}, nixflake.Pins{})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// extensible is a stand-in for a NixOS system with microvm.nix: the name of its runner is
// the extraArgsScript that it was given.
func extensible(hypervisor, options string) string {
	return `{ extendModules = { modules }: let
		lib = { mkIf = c: v: if c then v else "nothing"; mkDefault = v: v; optionalAttrs = c: v: if c then v else { }; };
		config.microvm.hypervisor = "` + hypervisor + `";
		given = (builtins.head modules { inherit config lib; options = { ` + options + ` }; pkgs = null; }).config;
	in { config.microvm.declaredRunner = { type = "derivation"; name = given.microvm.extraArgsScript or "nothing"; }; }; }`
}

// The runner is found where people put their VMs. The user's flake is a stand-in
// here, of which Nix reads no more than it must.
func TestRunnerIsFound(t *testing.T) {
	nix := findNix(t)
	const system = `{ config.microvm.declaredRunner = { type = "derivation"; name = "system"; }; }`
	const runner = `{ type = "derivation"; name = "package"; }`
	dir := t.TempDir()
	var b strings.Builder
	b.WriteString("[\n")
	cases := []struct{ attribute, source, want string }{
		{"", `{ nixosConfigurations.web = ` + system + `; }`, "system"},
		{"", `{ packages.x86_64-linux.web = ` + runner + `; }`, "package"},
		{"", `{ packages.x86_64-linux.web = ` + runner + `; nixosConfigurations.web = ` + system + `; }`, "package"},
		{"", `{ packages.x86_64-linux.web = "no package"; nixosConfigurations.web = ` + system + `; }`, "system"},
		{"api", `{ nixosConfigurations.api = ` + system + `; }`, "system"},
		{"packages.x86_64-linux.a-b", `{ packages.x86_64-linux.a-b = ` + runner + `; }`, "package"},
		{"deep.er.still", `{ deep.er.still = ` + system + `; }`, "system"},
		{"", `{ }`, ""},
		{"", `{ nixosConfigurations.web = { config = { }; }; }`, ""},
		{"a.b", `{ a = 1; }`, ""},
		// A NixOS system is asked for more; this one stands for its module system.
		{"", `{ nixosConfigurations.web = ` + extensible("qemu", "microvm.extraArgsScript = { };") + `; }`, `printf %s "${BLIXARD_QEMU_ARGS:-}"`},
		{"", `{ nixosConfigurations.web = ` + extensible("firecracker", "microvm.extraArgsScript = { };") + `; }`, "nothing"},
		{"", `{ nixosConfigurations.web = ` + extensible("qemu", "microvm.mem = { };") + `; }`, "nothing"},
	}
	for i, c := range cases {
		files := userFlake(t, &blixardv1.Flake{From: &blixardv1.Flake_Ref{Ref: "github:me/infra"}, Attribute: c.attribute})
		path := filepath.Join(dir, fmt.Sprintf("%d.nix", i))
		if err := os.WriteFile(path, []byte(files[0].Text), 0o644); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "(let r = builtins.tryEval ((import %s).outputs { source = %s; }).packages.x86_64-linux.web; in if r.success then r.value.name else \"\")\n",
			nixflake.Quote(path), c.source)
	}
	b.WriteString("]")
	var got []string
	if err := json.Unmarshal(nixEval(t, nix, b.String()), &got); err != nil {
		t.Fatal(err)
	}
	for i, c := range cases {
		if got[i] != c.want {
			t.Errorf("%q in %s: %q, want %q", c.attribute, c.source, got[i], c.want)
		}
	}
}

// A folder travels packed, and is unpacked beside a flake that Nix locks and
// finds the runner in, also the second time, by the lock.
func TestPackedFlakeIsFound(t *testing.T) {
	nix := findNix(t)
	packed, err := nixflake.Pack(os.DirFS("../testdata/runner-flake"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	put := func(name string, text []byte) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range userFlake(t, &blixardv1.Flake{From: &blixardv1.Flake_Packed{Packed: &blixardv1.Artifact{Digest: "d", Size: 1}},
		Attribute: "packed"}) {
		if !f.Unpack {
			put(f.Path, []byte(f.Text))
			continue
		}
		err := nixflake.Unpack(strings.NewReader(string(packed)), func(name string, _ bool, content []byte) error {
			put(filepath.Join(f.Path, name), content)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	home := t.TempDir()
	t.Cleanup(func() { exec.Command("chmod", "-R", "u+w", home).Run() }) // stores are read-only
	for _, args := range [][]string{
		{"flake", "lock", "path:" + dir},
		{"eval", "--raw", "path:" + dir + "#packages.x86_64-linux.web.drvPath"},
	} {
		cmd := exec.Command(nix, append([]string{"--offline"}, args...)...)
		cmd.Env = append(os.Environ(), "HOME="+home, "NIX_CONF_DIR="+home, "NIX_USER_CONF_FILES=",
			"NIX_CONFIG=experimental-features = nix-command flakes\nstore = local?root="+home+"/store\nsubstituters =\nbuild-users-group =\nflake-registry =\n")
		out, err := cmd.CombinedOutput()
		if err != nil || args[0] == "eval" && !strings.Contains(string(out), "-runner.drv") {
			t.Fatalf("nix %v: %v\n%s", args, err, out)
		}
	}
}
