package nix

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A runner is a user's: what it says of itself is read in the store and nowhere else.
func TestFact(t *testing.T) {
	dir := t.TempDir()
	store := filepath.Join(dir, "store")
	runner := filepath.Join(store, "runner")
	facts := filepath.Join(runner, "share", "microvm")
	write := func(path, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, name string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(facts, name)); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(facts, "hypervisor"), "qemu\n")
	write(filepath.Join(facts, "virtiofs", "a", "socket"), "a.sock")
	write(filepath.Join(store, "other", "file"), "from elsewhere\n")
	write(filepath.Join(dir, "secret"), "of the host")
	write(filepath.Join(store+"2", "file"), "not ours")
	write(filepath.Join(facts, "long"), strings.Repeat("x", maxFact+1))
	link(filepath.Join(store, "other", "file"), "linked")
	link(filepath.Join(dir, "secret"), "absolute")
	link("../../../../secret", "relative")
	link(store+"2/file", "beside")
	link("/dev/zero", "device")
	if err := unix.Mkfifo(filepath.Join(facts, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"hypervisor": "qemu", "virtiofs/a/socket": "a.sock", "linked": "from elsewhere"} {
		if got, err := Fact(runner, strings.Split(name, "/")...); err != nil || got != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for _, name := range []string{"absolute", "relative", "beside", "device", "fifo", "long", "virtiofs"} {
		if got, err := Fact(runner, name); !errors.Is(err, ErrShape) || got != "" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := Fact(runner, "nothing"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
