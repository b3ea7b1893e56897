package nix

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/blixard/blixard/nixflake"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// host is one machine with a Nix of its own: a store, and programs that count how
// often they are called.
type host struct {
	t     testing.TB
	dir   string // all of it
	store string
	cfg   Config
}

// realNix finds the folder of a real Nix, or skips.
func realNix(t testing.TB) string {
	t.Helper()
	cache := os.Getenv("BLIXARD_CACHE")
	if cache == "" {
		if dir, err := os.UserCacheDir(); err == nil {
			cache = filepath.Join(dir, "blixard")
		}
	}
	candidates := []string{filepath.Join(cache, "nix", "bin")}
	if nix := os.Getenv("BLIXARD_NIX"); nix != "" {
		candidates = []string{filepath.Dir(nix)}
	}
	if nix, err := exec.LookPath("nix"); err == nil {
		candidates = append(candidates, filepath.Dir(nix))
	}
	for _, dir := range candidates {
		if _, err := exec.LookPath(filepath.Join(dir, "nix-store")); err == nil {
			return dir
		}
	}
	t.Skip("there is no Nix: scripts/nix --setup brings one, where it can")
	return ""
}

func newHost(t testing.TB) *host {
	t.Helper()
	return newHostIn(t, t.TempDir())
}

func newHostIn(t testing.TB, dir string) *host {
	real := realNix(t)
	h := &host{t: t, dir: dir}
	h.store = filepath.Join(h.dir, "store")
	bin := filepath.Join(h.dir, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"nix", "nix-store"} {
		script := fmt.Sprintf("#!/bin/sh\necho \"%s $*\" >>'%s/calls'\nexec '%s/%s' \"$@\"\n", name, h.dir, real, name)
		if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h.cfg = Config{Dir: filepath.Join(h.dir, "nix"), Path: bin, Env: nixEnv(h.dir), Jobs: 2}
	t.Cleanup(h.writable)
	return h
}

// nixEnv is the environment of a Nix whose store is below a folder.
func nixEnv(dir string) []string {
	return []string{
		"HOME=" + filepath.Join(dir, "home"), "NIX_CONF_DIR=" + filepath.Join(dir, "conf"), "NIX_USER_CONF_FILES=",
		"NIX_STORE_DIR=" + filepath.Join(dir, "store"), "NIX_STATE_DIR=" + filepath.Join(dir, "state"), "NIX_LOG_DIR=" + filepath.Join(dir, "log"),
		"TMPDIR=" + dir,
		"NIX_CONFIG=build-hook =\nsandbox = false\nexperimental-features = nix-command flakes\nsubstituters =\nflake-registry =\nbuild-users-group =\n",
	}
}

// writable makes a store such that the test can delete it.
func (h *host) writable() {
	filepath.WalkDir(h.store, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			os.Chmod(path, 0o755)
		}
		return nil
	})
}

func (h *host) open() *Builder {
	h.t.Helper()
	b, err := Open(h.cfg)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { b.Close() })
	return b
}

// calls gives what was called since the last time, without --version.
func (h *host) calls() (list []string) {
	b, err := os.ReadFile(filepath.Join(h.dir, "calls"))
	if err != nil && !os.IsNotExist(err) {
		panic(err)
	}
	os.Remove(filepath.Join(h.dir, "calls"))
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "nix --version" {
			list = append(list, line)
		}
	}
	return list
}

// nix runs a program of the host's Nix by itself.
func (h *host) nix(program string, args ...string) string {
	h.t.Helper()
	cmd := exec.Command(filepath.Join(h.cfg.Path, program), args...)
	cmd.Env = append(os.Environ(), h.cfg.Env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		h.t.Fatalf("%s %v: %v\n%s", program, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// good is a build.sh that makes a runner; more goes before it.
const good = `PATH=/usr/bin:/bin
mkdir -p "$out/bin" "$out/share/microvm"
echo qemu >"$out/share/microvm/hypervisor"
printf '#!/bin/sh\necho a microVM\n' >"$out/bin/microvm-run"
chmod +x "$out/bin/microvm-run"
`

// order is one for a flake of a user's own, packed, with a package NAME that a
// script builds.
func order(t testing.TB, uid, name, script string) Order {
	return orderOf(t, uid, name, fmt.Sprintf(`{
  outputs = _: {
    packages.x86_64-linux.%q = derivation {
      name = "runner";
      system = "x86_64-linux";
      builder = "/bin/sh";
      args = [ ./build.sh ];
    };
  };
}`, name), script)
}

func orderOf(t testing.TB, uid, name, flake, script string) Order {
	t.Helper()
	packed, err := nixflake.Pack(fstest.MapFS{"flake.nix": {Data: []byte(flake)}, "build.sh": {Data: []byte(script)}})
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(packed)
	digest := hex.EncodeToString(sum[:])
	files, err := nixflake.Render("cluster", nixflake.VM{Name: name, UID: uid, Spec: &blixardv1.VMSpec{
		Source: &blixardv1.VMSpec_Flake{Flake: &blixardv1.Flake{
			From: &blixardv1.Flake_Packed{Packed: &blixardv1.Artifact{Digest: digest, Size: uint64(len(packed))}},
		}},
	}}, nixflake.Pins{})
	if err != nil {
		t.Fatal(err)
	}
	return Order{UID: uid, Name: name, Files: files, Open: func(d string) (io.ReadCloser, error) {
		if d != digest {
			return nil, fs.ErrNotExist
		}
		return io.NopCloser(bytes.NewReader(packed)), nil
	}}
}

func build(t testing.TB, b *Builder, o Order) *blixardv1.Runner {
	t.Helper()
	r, err := b.Build(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestBuild(t *testing.T) {
	h := newHost(t)
	b := h.open()
	var log bytes.Buffer
	o := order(t, "1-7", "web", "echo building it now\n"+good)
	o.Log = &log
	r := build(t, b, o)
	t.Logf("%v\n%s", r, &log)
	if r.Hypervisor != blixardv1.Hypervisor_HYPERVISOR_QEMU || r.ClosureBytes == 0 {
		t.Error(r)
	}
	if out, err := exec.Command(filepath.Join(r.StorePath, "bin", "microvm-run")).Output(); err != nil || string(out) != "a microVM\n" {
		t.Error(string(out), err)
	}
	if !strings.Contains(log.String(), "\nbuilding it now\n") {
		t.Errorf("the log: %s", &log)
	}
	if left, _ := os.ReadDir(b.workRoot()); len(left) > 0 {
		t.Error("work is left:", left)
	}
	if first := h.calls(); len(first) < 3 {
		t.Error("it was not counted:", first)
	}
	log.Reset()

	// The same once more, and by a daemon that knows only what is on the disk.
	again := build(t, b, o)
	b.Close()
	b = h.open()
	third := build(t, b, o)
	if again.String() != r.String() || third.String() != r.String() {
		t.Errorf("%v\n%v\n%v", r, again, third)
	}
	// Another host's record of it, without the files being looked at.
	o.Want, o.Files = r, []nixflake.File{{Path: "flake.nix", Text: "not even Nix"}}
	if got := build(t, b, o); got.StorePath != r.StorePath || got.Locked != r.Locked {
		t.Error(got)
	}
	o.Files = nil
	if got := build(t, b, o); got.StorePath != r.StorePath {
		t.Error(got)
	}
	if calls := h.calls(); len(calls) > 0 {
		t.Errorf("Nix was called: %q", calls)
	}
	if log.Len() > 0 {
		t.Errorf("something is said of nothing: %s", &log)
	}
}
