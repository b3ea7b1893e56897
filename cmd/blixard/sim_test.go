package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// blixard becomes the simulator that is beside it, with its arguments and its exit code;
// and says what to do where there is none.
func TestSim(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program := filepath.Join(dir, "blixard")
	if err := os.Link(filepath.Join(bin, "blixard"), program); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, int) {
		cmd := exec.CommandContext(t.Context(), program, append([]string{"sim"}, args...)...)
		cmd.Env = []string{"PATH=/nowhere", "HOME=" + dir}
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil && cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	if out, code := run("run", "-seed", "1"); code != exitError || !strings.Contains(out, "there is no blixard-sim beside this program nor in the PATH: scripts/build makes both") {
		t.Fatalf("%d: %s", code, out)
	}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "blixard-sim"), "github.com/blixard/blixard/cmd/blixard-sim").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, code := run("run", "-seed", "1", "-until", "2s")
	_, hash, told := strings.Cut(out, "trace hash: ")
	if code != 0 || !strings.Contains(out, "seed 1: 2s simulated") || !told {
		t.Fatalf("%d: %s", code, out)
	}
	if again, _ := run("run", "-seed", "1", "-until", "2s"); !strings.HasSuffix(again, hash) {
		t.Errorf("a seed tells two stories:\n%s\n%s", out, again)
	}
	if out, code := run("run", "-seed", "nonsense"); code == 0 || !strings.Contains(out, "nonsense") {
		t.Fatalf("%d: %s", code, out)
	}
}
