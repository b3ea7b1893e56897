package nix

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/blixard/blixard/nixflake"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Two hosts have stores at the same path, and one machine has one such path: the
// other host is a process that sees its own folder there.

// elsewhere runs a helper that sees a folder where another host's is.
func (h *host) elsewhere(name, dir string, stdin io.Reader, extra ...*os.File) (stdout []byte, err error) {
	h.t.Helper()
	return h.mounted(name, "mount --bind '"+dir+"'", stdin, extra...)
}

func (h *host) mounted(name, mount string, stdin io.Reader, extra ...*os.File) ([]byte, error) {
	h.t.Helper()
	if os.Geteuid() != 0 || exec.Command("unshare", "-m", "true").Run() != nil {
		h.t.Skip("this takes a mount namespace, and root for it")
	}
	self, err := os.Executable()
	if err != nil {
		h.t.Fatal(err)
	}
	cmd := exec.Command("unshare", "-m", "sh", "-ec", mount+` "$1"; exec "$2"`, "sh", h.dir, self)
	cmd.Env = append(append(os.Environ(), h.cfg.Env...), helperEnv+"="+name, "DIR="+h.cfg.Dir, "NIXPATH="+h.cfg.Path)
	cmd.ExtraFiles = extra
	cmd.Stdin = stdin
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, &errs)
	}
	return out.Bytes(), nil
}

// fetchOrder is what the other host is told to do, and fetched what came of it.
type fetchOrder struct {
	Want      *blixardv1.Runner
	Addresses []string
	// Closures are files with what an address gives; the third file is another.
	Closures map[string]string
	Flake    string // empty: no files
	NixConf  string
}

type fetched struct {
	Runner  *blixardv1.Runner
	Err     string
	Log     string
	Calls   []string
	Holding map[string][]string
	// Again is what a second order, and one after a restart, called.
	Again []string
}

func init() {
	helpers["fetch"] = func() error {
		var o fetchOrder
		if err := json.NewDecoder(os.Stdin).Decode(&o); err != nil {
			return err
		}
		cfg := Config{Dir: os.Getenv("DIR"), Path: os.Getenv("NIXPATH")}
		if o.NixConf != "" {
			cfg.Env = []string{"NIX_CONFIG=" + os.Getenv("NIX_CONFIG") + o.NixConf}
		}
		cfg.Peer = func(_ context.Context, address, path string) (io.ReadCloser, error) {
			if path != o.Want.GetStorePath() {
				return nil, errors.New("asked for " + path)
			}
			switch file, ok := o.Closures[address]; {
			case file == "fd 3":
				return os.NewFile(3, "peer"), nil
			case file == "nothing":
				r, _, err := os.Pipe()
				return r, err
			case file == "breaks":
				b, err := os.ReadFile(o.Closures["whole"])
				if err != nil {
					return nil, err
				}
				return io.NopCloser(io.MultiReader(bytes.NewReader(b[:len(b)/2]), brokenReader{})), nil
			case ok:
				return os.Open(file)
			}
			return nil, errors.New("no route to host")
		}
		h := &host{dir: filepath.Dir(cfg.Dir)}
		b, err := Open(cfg)
		if err != nil {
			return err
		}
		b.silence = 500 * time.Millisecond
		var log bytes.Buffer
		order := Order{UID: "1-7", Name: "web", Files: []nixflake.File{{Path: "flake.nix", Text: o.Flake}},
			Want: o.Want, Addresses: o.Addresses, Log: &log}
		if o.Flake == "" {
			order.Files = nil
		}
		var res fetched
		if res.Runner, err = b.Build(context.Background(), order); err != nil {
			res.Err = err.Error()
		}
		res.Log, res.Calls, res.Holding = log.String(), h.calls(), b.Holding()
		if err == nil {
			order.Want = res.Runner
			for range 2 {
				if _, err := b.Build(context.Background(), order); err != nil {
					return err
				}
				b.Close()
				if b, err = Open(cfg); err != nil {
					return err
				}
			}
			res.Again = h.calls()
			cmd := exec.Command(filepath.Join(cfg.Path, "nix-store"), "--gc")
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			if _, err := shape(res.Runner.StorePath); err != nil {
				return fmt.Errorf("after the garbage collection: %w", err)
			}
		}
		return json.NewEncoder(os.Stdout).Encode(res)
	}
	helpers["full"] = func() error {
		b, err := Open(Config{Dir: os.Getenv("DIR"), Path: os.Getenv("NIXPATH")})
		if err != nil {
			return err
		}
		script, err := io.ReadAll(os.Stdin)
		if err != nil {
			return err
		}
		o := Order{UID: "1-7", Name: "web", Files: []nixflake.File{{Path: "flake.nix", Text: inline("web", string(script))}}}
		_, builder := b.Build(context.Background(), o)
		// And one for which not even the flake has room.
		o.Files = append(o.Files, nixflake.File{Path: "large", Text: strings.Repeat("x", 64<<20)})
		_, flake := b.Build(context.Background(), o)
		for _, err := range []error{builder, flake} {
			fmt.Println(errors.Is(err, ErrFull), err)
		}
		left, _ := os.ReadDir(b.workRoot())
		fmt.Println("left", left)
		return nil
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("the connection was reset") }

func TestCopyFromAPeer(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	second := func(name string) string { // another host's folder
		t.Helper()
		dir := t.TempDir()
		if err := os.CopyFS(filepath.Join(dir, "bin"), os.DirFS(h.cfg.Path)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup((&host{t: t, dir: dir, store: filepath.Join(dir, "store")}).writable)
		return dir
	}
	out, err := h.elsewhere("fetch", second("first"), strings.NewReader(`{"Want":{"store_path":"/nowhere"},"Flake":"{ }"}`))
	if err != nil || !strings.Contains(string(out), "is no store path") {
		t.Fatalf("%s %v", out, err)
	}
	// A runner that refers to something else, as a real one does.
	flake := `{ outputs = _: { packages.x86_64-linux.web = derivation {
  name = "runner"; system = "x86_64-linux"; builder = "/bin/sh";
  args = [ "-c" "` + strings.NewReplacer("\"", "\\\"", "$", "\\$").Replace(good) + ` echo $tool >>$out/bin/microvm-run" ];
  tool = derivation { name = "tool"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo a tool >$out" ]; };
}; }; }`
	b := h.open()
	o := Order{UID: "1-7", Name: "web", Files: []nixflake.File{{Path: "flake.nix", Text: flake}}}
	r := build(t, b, o)
	wrong := build(t, b, order(t, "1-8", "other", "# other\n"+good))
	save := func(name, path string) string {
		t.Helper()
		f, err := os.Create(filepath.Join(t.TempDir(), name))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(b.Export(context.Background(), path, f), f.Close()); err != nil {
			t.Fatal(err)
		}
		return f.Name()
	}
	whole := save("whole", r.StorePath)
	closures := map[string]string{
		"a": "fd 3", "whole": whole, "wrong": save("wrong", wrong.StorePath), "silent": "nothing", "breaks": "breaks",
		"truncated": filepath.Join(t.TempDir(), "truncated"), "garbage": filepath.Join(t.TempDir(), "garbage"),
	}
	bytes, _ := os.ReadFile(whole)
	os.WriteFile(closures["truncated"], bytes[:len(bytes)-20], 0o600)
	os.WriteFile(closures["garbage"], []byte("Bad Gateway"), 0o600)

	get := func(name string, o fetchOrder, extra ...*os.File) fetched {
		t.Helper()
		o.Want, o.Closures, o.Flake = r, closures, flake
		in, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		out, err := h.elsewhere("fetch", second(name), strings.NewReader(string(in)), extra...)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var res fetched
		if err := json.Unmarshal(out, &res); err != nil {
			t.Fatal(err)
		}
		if res.Err != "" || res.Runner.GetStorePath() != r.StorePath || res.Runner.GetLocked() != r.Locked ||
			res.Runner.GetClosureBytes() != r.ClosureBytes || res.Runner.GetHypervisor() != r.Hypervisor {
			t.Errorf("%s: %v %s\n%s", name, res.Runner, res.Err, res.Log)
		}
		if !slices.Equal(res.Holding["1-7"], []string{r.StorePath}) {
			t.Errorf("%s: holding %v", name, res.Holding)
		}
		if len(res.Again) > 0 {
			t.Errorf("%s: called again: %q", name, res.Again)
		}
		return res
	}
	evaluated := func(f fetched) bool {
		return slices.ContainsFunc(f.Calls, func(c string) bool { return strings.Contains(c, "--derivation") || strings.Contains(c, " lock ") })
	}
	says := func(f fetched, words ...string) {
		t.Helper()
		for _, w := range words {
			if !strings.Contains(f.Log, w) {
				t.Errorf("the log does not say %q:\n%s", w, f.Log)
			}
		}
	}

	// Streamed from one host into the other.
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() { sent <- errors.Join(b.Export(context.Background(), r.StorePath, pw), pw.Close()) }()
	f := get("a peer", fetchOrder{Addresses: []string{"nobody", "a"}}, pr)
	pr.Close()
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if evaluated(f) {
		t.Errorf("evaluated: %q", f.Calls)
	}
	says(f, "not from nobody: no route to host", "came from a in")
	t.Logf("%q\n%s", f.Calls, f.Log)

	// Peers that give something else, until one does not.
	f = get("bad peers", fetchOrder{Addresses: []string{"garbage", "truncated", "breaks", "wrong", "silent", "whole", "a"}})
	if evaluated(f) {
		t.Errorf("evaluated: %q", f.Calls)
	}
	says(f, "not from garbage: the import of ", "not from truncated: the import of ", "not from breaks: the import of ",
		"the connection was reset", "not from wrong: what came is not "+r.StorePath, "not from silent: ", "it sent nothing for 500ms", "came from whole in")

	// Nobody has it.
	f = get("nobody", fetchOrder{Addresses: []string{"nobody", "wrong"}})
	if !evaluated(f) {
		t.Errorf("not built, and there: %q", f.Calls)
	}
	says(f, "is nowhere to be had: building it here", "blixard: built "+r.StorePath)

	// Nobody has it, and there is nothing to build it from.
	out, err = h.elsewhere("fetch", second("no files"), strings.NewReader(fmt.Sprintf(`{"Want":{"store_path":%q},"Addresses":["nobody"]}`, r.StorePath)))
	if err != nil || !strings.Contains(string(out), r.StorePath+" is nowhere to be had: no route to host") {
		t.Errorf("%s %v", out, err)
	}

	// A cache that the host is configured with comes before all peers.
	cache := "file://" + filepath.Join(t.TempDir(), "cache")
	h.nix("nix", "copy", "--to", cache, r.StorePath)
	f = get("a cache", fetchOrder{Addresses: []string{"a"}, NixConf: "\nsubstituters = " + cache + "\nrequire-sigs = false\n"})
	if evaluated(f) || slices.ContainsFunc(f.Calls, func(c string) bool { return strings.Contains(c, "--import") }) {
		t.Errorf("%q", f.Calls)
	}
	says(f, "came from the store or a substituter in")
}

func TestExportOnlyWhatIsHeld(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := h.open()
	r := build(t, b, order(t, "1-7", "web", good))
	refused := func(path string) {
		t.Helper()
		var out bytes.Buffer
		if err := b.Export(context.Background(), path, &out); !errors.Is(err, ErrNotHeld) || out.Len() > 0 {
			t.Errorf("%s: %v, %d bytes", path, err, out.Len())
		}
	}
	h.calls()
	for _, path := range []string{"", "/etc/passwd", "--help", strings.TrimSuffix(r.StorePath, "r"), r.StorePath + "/bin"} {
		refused(path)
	}
	if calls := h.calls(); len(calls) > 0 {
		t.Error(calls)
	}
	// One that is on its way is kept until it has arrived.
	pr, pw := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- b.Export(context.Background(), r.StorePath, pw) }()
	one := make([]byte, 1)
	if _, err := pr.Read(one); err != nil {
		t.Fatal(err)
	}
	if err := b.Hold("1-7"); err != nil {
		t.Fatal(err)
	}
	h.nix("nix-store", "--gc")
	if !exists(r.StorePath) {
		t.Error("collected on its way")
	}
	go io.Copy(io.Discard, pr)
	if err := <-done; err != nil {
		t.Error(err)
	}
	h.nix("nix-store", "--gc")
	if exists(r.StorePath) {
		t.Error("kept for ever")
	}
	refused(r.StorePath)
	// Whoever reads may go away.
	r = build(t, b, order(t, "1-7", "web", "PATH=/usr/bin:/bin\nmkdir -p $out; head -c 3000000 /dev/urandom >$out/x\n"+good))
	pr, pw = io.Pipe()
	pr.Close()
	if err := b.Export(context.Background(), r.StorePath, pw); err == nil {
		t.Error("written to nobody")
	}
}

func TestNoRoom(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	saved := filepath.Join(t.TempDir(), "bin")
	if err := os.CopyFS(saved, os.DirFS(h.cfg.Path)); err != nil {
		t.Fatal(err)
	}
	// All of the host is on a small disk.
	mount := fmt.Sprintf("small() { mount -t tmpfs -o size=40m small \"$1\"; cp -r '%s' \"$1/bin\"; }; small", saved)
	out, err := h.mounted("full", mount, strings.NewReader("PATH=/usr/bin:/bin\nmkdir $out\nhead -c 80000000 /dev/zero >$out/large || exit 1\n"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", out)
	if s := string(out); strings.Count(s, "true no space left on this host: ") != 2 || !strings.Contains(s, "left []") {
		t.Errorf("%s", out)
	}
}
