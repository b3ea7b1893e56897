package nixflake_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// findNix finds a real Nix, or skips: BLIXARD_NIX, what scripts/nix unpacked, or
// the machine's own.
func findNix(t testing.TB) string {
	t.Helper()
	cache := os.Getenv("BLIXARD_CACHE")
	if cache == "" {
		if dir, err := os.UserCacheDir(); err == nil {
			cache = filepath.Join(dir, "blixard")
		}
	}
	for _, nix := range []string{os.Getenv("BLIXARD_NIX"), filepath.Join(cache, "nix", "bin", "nix")} {
		if _, err := os.Stat(nix); nix != "" && err == nil {
			return nix
		}
	}
	nix, err := exec.LookPath("nix")
	if err != nil {
		t.Skip("there is no Nix: scripts/nix --setup brings one, where it can")
	}
	return nix
}

// nixRun runs Nix on a world of its own: no store, no network, no configuration.
func nixRun(t testing.TB, nix string, args ...string) ([]byte, string, error) {
	t.Helper()
	home := t.TempDir()
	cmd := exec.Command(nix, args...)
	cmd.Env = append(os.Environ(), "HOME="+home, "NIX_CONF_DIR="+home, "NIX_USER_CONF_FILES=", "NIX_STATE_DIR="+home,
		"NIX_CONFIG=experimental-features = nix-command flakes\nstore = dummy://\nsubstituters =\nflake-registry =\n")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	return out.Bytes(), errs.String(), err
}

// nixEval evaluates an expression to JSON.
func nixEval(t testing.TB, nix, expr string) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "expr.nix")
	if err := os.WriteFile(file, []byte(expr), 0o644); err != nil {
		t.Fatal(err)
	}
	out, errs, err := nixRun(t, nix, "eval", "--offline", "--impure", "--json", "--file", file)
	if err != nil {
		t.Fatalf("%v\n%s", err, errs)
	}
	return out
}
