package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/blixard/blixard/nixflake"
)

func packedNames(t *testing.T, r ref) (names []string, said string, err error) {
	t.Helper()
	f, said, err := r.open()
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	err = nixflake.Unpack(f, func(name string, _ bool, _ []byte) error { names = append(names, name); return nil })
	return names, said, err
}

func TestFolderTravelsAsOneFile(t *testing.T) {
	var want []string
	folder := os.DirFS(filepath.Join(testdata, "runner-flake"))
	err := fs.WalkDir(folder, ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			want = append(want, name)
		}
		return err
	})
	if err != nil || !slices.Contains(want, "flake.nix") {
		t.Fatal(want, err)
	}
	for _, text := range []string{"runner-flake", "runner-flake/", "./runner-flake/flake.nix"} {
		names, said, err := packedNames(t, ref{text: text, base: testdata, folder: true})
		if err != nil || !slices.Equal(names, want) || !strings.Contains(said, fmt.Sprintf("runner-flake: %d files, ", len(want))) {
			t.Errorf("%s: %q, %q, %v", text, names, said, err)
		}
	}
	for r, want := range map[ref]string{
		{text: ".", base: testdata, folder: true}:       "there is no flake.nix",
		{text: "nowhere", base: testdata, folder: true}: "no such file",
		{text: "runner-flake", base: testdata}:          "no plain file", // a module is no folder
		{text: "evaluate.nix", base: testdata, most: 5}: "may have 5 B",
	} {
		if _, _, err := r.open(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", r, err)
		}
	}
}

// What git ignores is not for the cluster to see.
func TestPackLeavesOutWhatGitIgnores(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("there is no git")
	}
	top := t.TempDir()
	dir := filepath.Join(top, "infra")
	for name, text := range map[string]string{
		".gitignore": ".env\ntarget/\n*.qcow2\n", "infra/flake.nix": "{ }", "infra/.env": "TOKEN=1", "infra/new.nix": "{ }",
		"infra/target/big": "x", "infra/sub/disk.qcow2": "x", "infra/sub/web.nix": "{ }", "other/private": "x",
	} {
		if err := writeFile(filepath.Join(top, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", top, "-c", "user.name=x", "-c", "user.email=x"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	all := []string{".env", "flake.nix", "new.nix", "sub/disk.qcow2", "sub/web.nix", "target/big"}
	if names, said, err := packedNames(t, ref{text: dir, folder: true}); err != nil || !slices.Equal(names, all) || strings.Contains(said, "git") {
		t.Errorf("without git: %q, %q, %v", names, said, err)
	}
	git("init", "-q")
	git("add", "infra/flake.nix", "infra/sub/web.nix", ".gitignore")
	if err := os.Symlink("/nix/store/x", filepath.Join(dir, "result-x")); err != nil {
		t.Fatal(err)
	}
	want := []string{"flake.nix", "new.nix", "sub/web.nix"}
	names, said, err := packedNames(t, ref{text: dir, folder: true})
	if err != nil || !slices.Equal(names, want) || !strings.Contains(said, "3 files") || !strings.Contains(said, "without what git ignores (.env, sub/disk.qcow2, target/)") {
		t.Errorf("%q, %q, %v", names, said, err)
	}
	// Without git's word, everything goes, and that is said.
	t.Setenv("PATH", t.TempDir())
	if names, said, err := packedNames(t, ref{text: dir, folder: true}); err != nil || !slices.Equal(names, all) || !strings.Contains(said, "git could not be asked") {
		t.Errorf("git fails: %q, %q, %v", names, said, err)
	}
}

// A module that is too large is refused before it travels.
func TestModuleIsBounded(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "big.nix"), make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	drafts, err := parseSpecs([]byte("name: a\nnixos: {modules: [{file: big.nix}]}"), "f", dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := drafts[0].refs[0].open(); err == nil || !strings.Contains(err.Error(), "2.0 MiB long, and may have 1.0 MiB") {
		t.Error(err)
	}
	drafts, err = parseSpecs([]byte("name: a\nimage: {kernel: big.nix}"), "f", dir)
	if err != nil {
		t.Fatal(err)
	}
	f, _, err := drafts[0].refs[0].open()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n, err := io.Copy(io.Discard, f); n != 2<<20 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}
