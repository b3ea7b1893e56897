package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// VMs that a real Nix builds, each host with a store of its own. What is built
// has the shape of a microvm.nix runner, and runs a shell: what counts here is
// the way from a flake of one's own to something that runs, and back.

// nixHosts gives each node a Nix with a store of its own, at the one path that
// they all have it at, as real hosts have: by a mount namespace. Every call is
// counted.
type nixHosts struct {
	t     *testing.T
	dir   string
	nodes map[string]string // folder by node
}

func nixStores(t *testing.T) (*nixHosts, func(*options)) {
	nix := realNix(t)
	if nix == "" {
		t.Skip("the test's own store is for the Nix that scripts/nix unpacks")
	}
	if exec.Command("unshare", "-m", "true").Run() != nil {
		t.Skip("no mount namespaces: hosts cannot have stores of their own")
	}
	dir, err := os.MkdirTemp("", "bx-nix-")
	if err != nil {
		t.Fatal(err)
	}
	h := &nixHosts{t: t, dir: dir, nodes: map[string]string{}}
	t.Cleanup(func() {
		filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				os.Chmod(path, 0o755)
			}
			return nil
		})
		os.RemoveAll(dir)
	})
	at := filepath.Join(dir, "at") // where every host has its own
	bin := filepath.Join(dir, "bin")
	for _, d := range []string{at, bin} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"nix", "nix-store", "nix-instantiate"} {
		script := fmt.Sprintf("#!/bin/sh\necho \"%s $*\" >>'%s/calls'\nexec '%s/%s' \"$@\"\n", name, at, filepath.Dir(nix), name)
		if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return h, func(o *options) {
		o.change = func(_ int, n *Node) {
			own := filepath.Join(dir, n.Name)
			if err := os.MkdirAll(own, 0o755); err != nil {
				t.Fatal(err)
			}
			h.nodes[n.Name] = own
			n.under = []string{"unshare", "-m", "--propagation", "private", "--", "sh", "-c",
				`mount --bind "$1" "$2" && shift 2 && exec "$@"`, "sh", own, at}
			n.env = []string{"BLIXARD_NIX=" + bin + "/nix", "HOME=" + at, "NIX_CONF_DIR=" + at + "/conf", "NIX_USER_CONF_FILES=",
				"NIX_STORE_DIR=" + at + "/store", "NIX_STATE_DIR=" + at + "/state", "NIX_LOG_DIR=" + at + "/log",
				"NIX_CONFIG=build-hook =\nsandbox = false\nexperimental-features = nix-command flakes\nsubstituters =\nflake-registry =\nbuild-users-group =\n"}
		}
	}
}

// called is whether a node's Nix was called in a way, since it began.
func (h *nixHosts) called(node, how string) bool {
	b, err := os.ReadFile(filepath.Join(h.nodes[node], "calls"))
	if err != nil {
		h.t.Fatal(err)
	}
	return regexp.MustCompile(how).Match(b)
}

// has is whether a store path is in a node's own store.
func (h *nixHosts) has(node, path string) bool {
	return exists(filepath.Join(h.nodes[node], "store", filepath.Base(path)))
}

const evaluates = `(?m)^nix .*(path-info --derivation|flake lock)`

// infra writes a flake of somebody's own, whose runner says a word.
func infra(t *testing.T, dir, word string) {
	t.Helper()
	for name, text := range map[string]string{
		"flake.nix": `{
  outputs = _: {
    packages.x86_64-linux.web = derivation {
      name = "runner"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ ./build.sh ];
    };
  };
}
`,
		"build.sh": `PATH=/usr/bin:/bin
mkdir -p "$out/bin" "$out/share/microvm"
echo qemu >"$out/share/microvm/hypervisor"
echo "making one that says ` + word + `"
sleep 3
printf '#!/bin/sh\necho it says ` + word + `\nexec sleep 100000\n' >"$out/bin/microvm-run"
chmod +x "$out/bin/microvm-run"
`} {
		if err := writeFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// onTerminal runs a command whose standard error is a terminal.
func onTerminal(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	control, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	n, err := unix.IoctlGetInt(int(control.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(control.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(int(control.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 160})
	}
	if err != nil {
		t.Fatal(err)
	}
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out, shown bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, terminal
	read := make(chan struct{})
	go func() {
		defer close(read)
		io.Copy(&shown, control) // until nobody has the terminal any more
	}()
	err = cmd.Run()
	terminal.Close()
	<-read
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), shown.String()}
}

func TestFlakeOfOnesOwn(t *testing.T) {
	t.Parallel()
	hosts, stores := nixStores(t)
	c := up(t, 3, stores, func(o *options) { // the third for the quorum: one host is lost at the end
		o.flags = func(i int) []string {
			if i == 3 {
				return []string{"--role", "server"}
			}
			return nil
		}
	})
	flake := filepath.Join(t.TempDir(), "infra")
	infra(t, flake, "one")
	says := func(word string) {
		t.Helper()
		c.Eventually(20*time.Second, "the VM says "+word, func() error {
			out := c.Must("vm", "logs", "web")
			if lines := strings.Fields(out); len(lines) == 0 || lines[len(lines)-1] != word {
				return fmt.Errorf("it said %q", out)
			}
			return nil
		})
	}

	// A typing error is told with its line, before anything is placed.
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("name: bad\nnixos: {modules: [{inline: '{ a = ; }'}]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Fails(exitUsage, []string{"spec.nixos.modules[0].inline: line 1, column 7: syntax error, unexpected ';'"}, "vm", "create", "-f", bad)

	r := onTerminal(t, c.Command(ctx(t), "vm", "create", "web", "--flake", flake+"#web", "--memory", "64"))
	if r.code != 0 || !strings.Contains(r.err, "packed "+flake+": 2 files, ") || !strings.Contains(r.out, "Running") || !strings.Contains(r.out, "Runner: ") {
		t.Fatal(r)
	}
	if !regexp.MustCompile(`\rcreate web: Building on n\d: [^\r]* \| making one that says one`).MatchString(strings.ReplaceAll(r.err, "\x1b[K", "")) {
		t.Errorf("the progress does not show the build: %q", r.err)
	}
	says("one")
	home := c.HostOf("web")
	other := c.Node(1)
	if other == home {
		other = c.Node(2)
	}
	if out := c.Must("vm", "logs", "--build", "web"); !strings.Contains(out, "making one that says one") {
		t.Errorf("the build's log: %q", out)
	}
	if out := c.Must("vm", "logs", "--build", "-f", "web"); !strings.Contains(out, "says one") { // it ends
		t.Errorf("the build's log, followed: %q", out)
	}

	// Built once: the other host copies it.
	if out := c.Must("vm", "build", "web", "--prebuild", "1"); !strings.Contains(out, "Held ready on "+other.Name+"\n") {
		t.Errorf("prebuild: %s", out)
	}
	v, _ := c.VM("web")
	first := v.GetRunner().GetStorePath()
	if !hosts.has(other.Name, first) || hosts.called(other.Name, evaluates) {
		t.Errorf("%s: has it %t, evaluated %t", other.Name, hosts.has(other.Name, first), hosts.called(other.Name, evaluates))
	}

	// An update is built while the old one runs, and counts when it is asked to.
	infra(t, flake, "two")
	if r := c.Run("vm", "update", "web", "--flake", flake+"#web", "--validate-only"); r.code != 0 {
		t.Error(r)
	}
	if v, _ := c.VM("web"); v.GetSpecGeneration() != 1 {
		t.Errorf("--validate-only made generation %d", v.GetSpecGeneration())
	}
	if out := c.Must("vm", "update", "web", "--flake", flake+"#web"); !strings.Contains(out, "Spec generation 2 is built, and counts from its next start (blixard vm restart web); it runs with 1") {
		t.Errorf("update: %s", out)
	}
	says("one")
	c.Must("vm", "restart", "web")
	says("two")
	if out := c.Must("vm", "history", "web"); !regexp.MustCompile(`(?m)^2 +newest, running +flake packed sha256:\w{12}#web `).MatchString(out) || !regexp.MustCompile(`(?m)^1 +- +flake packed`).MatchString(out) {
		t.Errorf("history:\n%s", out)
	}

	// One that cannot be built changes nothing that runs.
	infra(t, flake, "three'")
	r = c.Fails(exitError, []string{"spec generation 3 of VM web could not be built; it goes on with generation 2", "vm logs --build web", "vm rollback web"},
		"vm", "update", "web", "--flake", flake+"#web", "--restart")
	if out := c.Must("vm", "logs", "--build", "web"); !strings.Contains(out, "failed: ") {
		t.Errorf("the log of a build that failed: %q", out)
	}
	if out := c.Must("vm", "get", "web"); !strings.Contains(out, "Running") || !strings.Contains(out, "Spec generation 3 could not be built, and it runs with 2") {
		t.Errorf("get: %s", out)
	}
	says("two")
	if out := c.Must("vm", "rollback", "web", "--to", "1", "--restart"); !strings.Contains(out, "Running") {
		t.Errorf("rollback: %s", out)
	}
	says("one")
	if v, _ := c.VM("web"); v.GetRunner().GetStorePath() != first || v.GetSpecGeneration() != 4 {
		t.Errorf("rolled back to %s, generation %d; want %s", v.GetRunner().GetStorePath(), v.GetSpecGeneration(), first)
	}
	c.Fails(exitNotFound, []string{"no spec generation 77"}, "vm", "rollback", "web", "--to", "77")

	// Who waits for the other hosts waits for them after a restart, too.
	infra(t, flake, "four")
	c.Must("vm", "update", "web", "--flake", flake+"#web", "--restart")
	if out := c.Must("vm", "build", "web", "--prebuild", "1"); !strings.Contains(out, "Held ready on "+other.Name+"\n") {
		t.Errorf("prebuild after a restart: %s", out)
	}
	says("four")

	// The host is lost: the other one has it, and evaluates nothing.
	home.Lose()
	c.Await("web", 60*time.Second, "runs on "+other.Name, func(v *blixardv1.VM, node string) bool {
		return node == other.Name && v.GetStatus().GetPhase() == blixardv1.Phase_PHASE_RUNNING
	})
	says("four")
	if hosts.called(other.Name, evaluates) {
		t.Errorf("%s evaluated, though it had the runner", other.Name)
	}
}

// Pins are the cluster's, and a lock that does not belong to them is told.
func TestPins(t *testing.T) {
	t.Parallel()
	c := up(t, 1)
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	github := func(owner, repo string) string {
		return fmt.Sprintf(`{"locked": {"narHash": "x"}, "original": {"type": "github", "owner": %q, "repo": %q}}`, owner, repo)
	}
	lock := write("flake.lock", fmt.Sprintf(`{"version": 7, "root": "root", "nodes": {"nixpkgs": %s, "flake-parts": %s, "microvm": %s,
		"root": {"inputs": {"nixpkgs": "nixpkgs", "flake-parts": "flake-parts", "microvm": "microvm"}}}}`,
		github("me", "nixpkgs"), github("hercules-ci", "flake-parts"), github("microvm-nix", "microvm.nix")))
	shown := func(words ...string) {
		t.Helper()
		out := strings.Join(strings.Fields(c.Must("cluster", "pins", "show")), " ")
		for _, w := range words {
			if !strings.Contains(out, w) {
				t.Errorf("%q is not in %s", w, out)
			}
		}
	}
	shown("nixpkgs github:NixOS/nixpkgs/nixos-unstable (the default)", "blixard-modules those of the daemon that builds", "Not locked")
	c.Fails(exitUsage, []string{"it has nixpkgs from github:me/nixpkgs, and the pins say github:NixOS/nixpkgs/nixos-unstable"}, "cluster", "pins", "set", "--lock", lock)
	c.Fails(exitUsage, []string{"no flake reference"}, "cluster", "pins", "set", "--microvm", "nonsense")
	c.Fails(exitUsage, []string{"nothing was said"}, "cluster", "pins", "set")
	c.Fails(exitNotFound, []string{"there is no nowhere"}, "cluster", "pins", "set", "--lock", "nowhere")
	shown("Not locked")
	c.Must("cluster", "pins", "set", "--nixpkgs", "github:me/nixpkgs", "--lock", lock)
	shown("nixpkgs github:me/nixpkgs flake-parts", "Locked by sha256:")
	// The reference moves away under a lock that the cluster has.
	c.Fails(exitUsage, []string{"it has microvm from github:microvm-nix/microvm.nix, and the pins say github:me/microvm"}, "cluster", "pins", "set", "--microvm", "github:me/microvm")
	c.Must("cluster", "pins", "set", "--microvm", "github:me/microvm", "--lock", "")
	shown("microvm github:me/microvm", "Not locked")
	// A file says all of them; what it leaves out has its default again.
	c.Must("cluster", "pins", "set", "-f", write("pins.yaml", "nixpkgs: github:me/nixpkgs\nlock: ./flake.lock\n"))
	shown("nixpkgs github:me/nixpkgs", "microvm github:microvm-nix/microvm.nix (the default)", "Locked by sha256:")
	c.Fails(exitUsage, []string{`pins.yaml:1: unknown field "nixpgs"; did you mean "nixpkgs"?`}, "cluster", "pins", "set", "-f", write("pins.yaml", "nixpgs: a"))
	if out := c.Must("cluster", "pins", "show", "-o", "yaml"); !strings.HasPrefix(out, "nixpkgs: github:me/nixpkgs\nlock:\n") {
		t.Errorf("as YAML: %s", out)
	}
}
