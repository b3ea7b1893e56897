package nixflake_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/blixard/blixard/nixflake"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// aLock is what Nix 2.26 made of a rendered flake (its hashes are not real).
const aLock = `{"nodes": {
  "blixard-modules": {"locked": {"path": "./blixard-modules", "type": "path"}, "original": {"path": "./blixard-modules", "type": "path"}, "parent": []},
  "flake-parts": {"inputs": {"nixpkgs-lib": ["nixpkgs"]},
    "locked": {"lastModified": 1, "narHash": "sha256-a", "owner": "hercules-ci", "repo": "flake-parts", "rev": "aa", "type": "github"},
    "original": {"owner": "hercules-ci", "repo": "flake-parts", "type": "github"}},
  "microvm": {"inputs": {"nixpkgs": ["nixpkgs"], "spectrum": ["nixpkgs"]},
    "locked": {"lastModified": 1, "narHash": "sha256-b", "owner": "microvm-nix", "repo": "microvm.nix", "rev": "bb", "type": "github"},
    "original": {"owner": "microvm-nix", "repo": "microvm.nix", "type": "github"}},
  "nixpkgs": {
    "locked": {"lastModified": 1, "narHash": "sha256-c", "owner": "NixOS", "repo": "nixpkgs", "rev": "cc", "type": "github"},
    "original": {"owner": "NixOS", "ref": "nixos-unstable", "repo": "nixpkgs", "type": "github"}},
  "root": {"inputs": {"blixard-modules": "blixard-modules", "flake-parts": "flake-parts", "microvm": "microvm", "nixpkgs": "nixpkgs"}}
}, "root": "root", "version": 7}`

func TestCheckLock(t *testing.T) {
	change := func(pairs ...string) string {
		s := strings.NewReplacer(pairs...).Replace(aLock)
		if s == aLock {
			t.Fatalf("%q is not in it", pairs)
		}
		return s
	}
	for _, c := range []struct {
		lock string
		pins nixflake.Pins
		want string
	}{
		{lock: aLock},
		{lock: change(`"blixard-modules": "blixard-modules", `, ``, `"blixard-modules": {"locked": {"path": "./blixard-modules", "type": "path"}, "original": {"path": "./blixard-modules", "type": "path"}, "parent": []},`, ``)},
		{lock: change(`"ref": "nixos-unstable"`, `"ref": "nixos-25.11"`), pins: nixflake.Pins{Nixpkgs: "github:NixOS/nixpkgs/nixos-25.11"}},
		{lock: change(`"ref": "nixos-unstable"`, `"ref": "nixos-25.11"`),
			want: "it has nixpkgs from github:NixOS/nixpkgs/nixos-25.11, and the pins say github:NixOS/nixpkgs/nixos-unstable"},
		{lock: aLock, pins: nixflake.Pins{Microvm: "git+https://example.org/microvm"}, want: "it has microvm from github:microvm-nix/microvm.nix, and"},
		{lock: aLock, pins: nixflake.Pins{Modules: "github:me/modules"}, want: "it has blixard-modules from path:./blixard-modules, and"},
		{lock: change(`"nixpkgs": "nixpkgs"}}`, `"nixpkgs": "nixpkgs", "home-manager": "nixpkgs"}}`), want: "it has an input home-manager"},
		{lock: change(`"microvm": "microvm", `, ``), want: "it does not lock microvm"},
		{lock: change(`"locked": {"lastModified": 1, "narHash": "sha256-c"`, `"x": {"lastModified": 1, "narHash": "sha256-c"`), want: "it does not lock nixpkgs"},
		{lock: change(`"spectrum": ["nixpkgs"]`, `"spectrum": "spectrum"`, `"root": {`, `"spectrum": {"locked": {}, "original": {}}, "root": {`), want: "it also locks spectrum"},
		{lock: `{}`, want: "no flake.lock of version"},
		{lock: `inputs: 1`, want: "it is no flake.lock"},
		{lock: change(`"version": 7`, `"version": 8`), want: "of version 5 to 7"},
		{lock: change(`"root": "root"`, `"root": "toor"`), want: "it does not lock"},
	} {
		err := nixflake.CheckLock([]byte(c.lock), c.pins)
		if (err == nil) != (c.want == "") || err != nil && (!errors.Is(err, nixflake.ErrLock) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("want %q, got %v", c.want, err)
		}
	}
}

// What a real Nix makes of what we render passes, and Nix goes on with it.
func TestCheckLockOfRealNix(t *testing.T) {
	nix := findNix(t)
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return "path:" + filepath.Dir(path)
	}
	pins := nixflake.Pins{
		Nixpkgs:    write("nixpkgs/flake.nix", `{ outputs = _: { }; }`),
		FlakeParts: write("flake-parts/flake.nix", `{ inputs.nixpkgs-lib.url = "github:nix-community/nixpkgs.lib"; outputs = _: { }; }`),
		Microvm: write("microvm/flake.nix", `{ inputs = { nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
			spectrum = { url = "git+https://spectrum-os.org/git/spectrum"; flake = false; }; }; outputs = _: { }; }`),
	}
	spec := &blixardv1.VMSpec{Source: &blixardv1.VMSpec_Nixos{Nixos: &blixardv1.Nixos{}}}
	render := func(to string) string {
		files, err := nixflake.Render("c", nixflake.VM{Name: "web", UID: "1-1", Spec: spec}, pins)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			write(filepath.Join(to, f.Path), f.Text)
		}
		return filepath.Join(dir, to)
	}
	lock := func(folder string, args ...string) (string, error) {
		cmd := exec.Command(nix, append([]string{"flake", "lock", "--offline", "path:" + folder}, args...)...)
		cmd.Env = append(os.Environ(), "HOME="+dir, "NIX_CONF_DIR="+dir, "NIX_USER_CONF_FILES=",
			"NIX_CONFIG=experimental-features = nix-command flakes\nstore = local?root="+dir+"/root\nsubstituters =\nflake-registry =\n")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	first := render("first")
	if out, err := lock(first); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(first, "flake.lock"))
	if err != nil {
		t.Fatal(err)
	}
	if err := nixflake.CheckLock(b, pins); err != nil {
		t.Errorf("%v\n%s", err, b)
	}
	pins.Lock = string(b)
	if out, err := lock(render("second"), "--no-update-lock-file"); err != nil {
		t.Errorf("another VM's flake with that lock: %v\n%s", err, out)
	}
	pins.Microvm = write("other/flake.nix", `{ outputs = _: { }; }`)
	if err := nixflake.CheckLock(b, pins); err == nil {
		t.Error("a lock for another microvm passes")
	}
	if out, err := lock(render("third"), "--no-update-lock-file"); err == nil {
		t.Errorf("and Nix takes it:\n%s", out)
	}
}
