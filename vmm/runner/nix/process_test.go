package nix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/nixflake"
)

// helpers are what this program does when it is started to be another process.
var helpers = map[string]func() error{}

const helperEnv = "BLIXARD_NIX_TEST_HELPER"

func TestMain(m *testing.M) {
	if name := os.Getenv(helperEnv); name != "" {
		if err := helpers[name](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// withWord gives the processes that have a word among their arguments.
func withWord(word string) (pids []int) {
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, n := range names {
		b, _ := os.ReadFile(n)
		for arg := range strings.SplitSeq(string(b), "\x00") {
			if arg == word {
				pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(n)))
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// hanging is a builder that never ends, and leaves processes where a kill of its
// group does not find them. They all sleep for a number of seconds that nobody
// else sleeps for. It makes a file when all of them run.
func hanging(dir string) (script, word, started string) {
	started = filepath.Join(dir, "started")
	word = fmt.Sprint(100_000_000 + os.Getpid()*1000 + int(time.Now().UnixNano()%1000))
	return fmt.Sprintf(`PATH=/usr/bin:/bin
echo about to hang
setsid sleep %[1]s &
(setsid setsid sleep %[1]s & )
sleep %[1]s &
until [ "$(ps -eo args | grep -c "^[s]leep %[1]s")" -ge 3 ]; do sleep 0.05; done
touch %[2]s
wait
`, word, started), word, started
}

func waitFor(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

func exists(path string) bool { _, err := os.Lstat(path); return err == nil }

// nothingLeft asserts that a build has left nothing.
func (h *host) nothingLeft(b *Builder, word string) {
	h.t.Helper()
	if pids := withWord(word); word != "" && len(pids) > 0 {
		h.t.Errorf("processes are left: %v", pids)
	}
	for _, dir := range []string{b.workRoot(), b.runnersRoot()} {
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			h.t.Errorf("in %s is left: %v", dir, left)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(h.dir, "nix-build-*")); len(left) > 0 {
		h.t.Errorf("Nix has left %v", left)
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := h.open()
	script, word, started := hanging(h.dir)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	result := make(chan error, 1)
	go func() {
		_, err := b.Build(ctx, order(t, "1-7", "web", script))
		result <- err
	}()
	waitFor(t, "the build", func() bool { return exists(started) })
	if n := len(withWord(word)); n < 3 {
		t.Fatalf("%d processes", n)
	}
	begin := time.Now()
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	t.Logf("gone after %v", time.Since(begin))
	h.nothingLeft(b, word)
}

func TestClose(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := h.open()
	script, word, started := hanging(h.dir)
	result := make(chan error, 1)
	go func() {
		_, err := b.Build(context.Background(), order(t, "1-7", "web", script))
		result <- err
	}()
	waitFor(t, "the build", func() bool { return exists(started) })
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	h.nothingLeft(b, word)
	if err := <-result; !errors.Is(err, errClosed) {
		t.Error(err)
	}
	if _, err := b.Build(context.Background(), order(t, "1-7", "web", good)); !errors.Is(err, errClosed) {
		t.Error(err)
	}
	h.open() // the lock is free
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.cfg.Timeout = 10 * time.Second
	b := h.open()
	script, word, started := hanging(h.dir)
	begin := time.Now()
	_, err := b.Build(context.Background(), order(t, "1-7", "web", script))
	t.Logf("after %v: %v", time.Since(begin), err)
	if !exists(started) {
		t.Fatal("it did not get as far as that")
	}
	if !errors.Is(err, ErrTimeout) || !strings.Contains(err.Error(), "within 10s") || !strings.Contains(err.Error(), "about to hang") {
		t.Error(err)
	}
	h.nothingLeft(b, word)
}

func init() {
	// A daemon with a build under way.
	helpers["build"] = func() error {
		b, err := Open(Config{Dir: os.Getenv("DIR"), Path: os.Getenv("NIXPATH")})
		if err != nil {
			return err
		}
		flake, err := os.ReadFile(os.Getenv("FLAKE"))
		if err != nil {
			return err
		}
		_, err = b.Build(context.Background(), Order{UID: "1-7", Name: "web", Files: []nixflake.File{{Path: "flake.nix", Text: string(flake)}}})
		return err
	}
}

// variant is one of some flakes that are built quickly.
func variant(n int) Order {
	return Order{UID: "1-7", Name: "web", Files: []nixflake.File{{Path: "flake.nix", Text: inline("web", fmt.Sprintf("# %d\n%s", n, good))}}}
}

func init() {
	// A daemon that builds and holds, one after another, until it is killed.
	helpers["life"] = func() error {
		b, err := Open(Config{Dir: os.Getenv("DIR"), Path: os.Getenv("NIXPATH")})
		if err != nil {
			return err
		}
		fmt.Println("open")
		for n := 0; ; n++ {
			o := variant(n % 3)
			o.Fresh = n%2 == 0
			r, err := b.Build(context.Background(), o)
			if err == nil {
				err = b.Hold(o.UID, r.StorePath)
			}
			if err == nil && n%5 == 4 {
				err = b.Hold(o.UID)
			}
			if err != nil {
				return err
			}
		}
	}
}

// A daemon is killed at ten moments, early and late. What is held afterwards is
// whole, and nothing else is kept.
func TestKilledAtAnyMoment(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	// Killed while it makes its own store, Nix leaves one that it finds corrupt (its
	// db/schema is written in place): a host has had its store for long.
	h.nix("nix-store", "--init")
	held, swept := 0, 0
	for n := range 10 {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(append(os.Environ(), h.cfg.Env...), helperEnv+"=life", "DIR="+h.cfg.Dir, "NIXPATH="+h.cfg.Path)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 1)); err != nil {
			t.Fatal(err, &errs)
		}
		time.Sleep(time.Duration(n*n) * 53 * time.Millisecond)
		cmd.Process.Kill()
		if err := cmd.Wait(); err == nil || errs.Len() > 0 {
			t.Fatalf("it ended by itself: %v %s", err, &errs)
		}
		if left, _ := os.ReadDir(filepath.Join(h.cfg.Dir, "work")); len(left) > 0 {
			swept++
		}
		b := h.open()
		h.nix("nix-store", "--gc")
		names, _ := os.ReadDir(b.runnersRoot())
		holding := b.Holding()["1-7"]
		if len(names) != len(holding) {
			t.Errorf("round %d: %v for %v", n, names, holding)
		}
		for _, path := range holding {
			held++
			if _, err := shape(path); err != nil {
				t.Errorf("round %d: %v", n, err)
			}
		}
		r := build(t, b, variant(n%3))
		if err := b.Hold("1-7", r.StorePath); err != nil {
			t.Error(err)
		}
		if n%2 == 0 {
			if err := b.Hold("1-7"); err != nil {
				t.Error(err)
			}
			h.nix("nix-store", "--gc")
			h.nothingLeft(b, "")
			if left, _ := filepath.Glob(filepath.Join(h.store, "*-runner")); len(left) > 0 {
				t.Errorf("round %d: in the store is left: %v", n, left)
			}
		}
		b.Close()
	}
	t.Logf("%d were held at the end, and %d times there was work to sweep", held, swept)
	if held == 0 || swept == 0 {
		t.Error("no moment was of use")
	}
}

// inline is a flake in one file.
func inline(name, script string) string {
	text := strings.ReplaceAll(strconv.Quote(script), "${", "\\${")
	return fmt.Sprintf(`{ outputs = _: { packages.x86_64-linux.%q = derivation {
  name = "runner"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" %s ];
}; }; }`, name, text)
}

// keeperOf finds the keeper that works in a folder.
func keeperOf(t testing.TB, dir string) int {
	t.Helper()
	for _, pid := range withWord(keeperName) {
		if b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); bytes.Contains(b, []byte(dir)) {
			return pid
		}
	}
	t.Fatal("there is no keeper")
	return 0
}

func TestKilledDaemon(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	script, word, started := hanging(h.dir)
	flake := filepath.Join(h.dir, "flake.nix")
	if err := os.WriteFile(flake, []byte(inline("web", script)), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(append(os.Environ(), h.cfg.Env...), helperEnv+"=build", "DIR="+h.cfg.Dir, "NIXPATH="+h.cfg.Path, "FLAKE="+flake)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	waitFor(t, "the build", func() bool {
		select {
		case err := <-ended:
			t.Fatalf("%v: %s", err, &out)
		default:
		}
		return exists(started)
	})
	if _, err := Open(h.cfg); err == nil || !strings.Contains(err.Error(), "another one uses") {
		t.Errorf("a second daemon: %v", err)
	}
	keeper := keeperOf(t, h.cfg.Dir)
	unix.Kill(keeper, unix.SIGSTOP) // so that it is still there
	cmd.Process.Kill()
	<-ended
	lock, err := os.Open(filepath.Join(h.cfg.Dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != unix.EWOULDBLOCK {
		t.Errorf("the lock is free while a build is under way: %v", err)
	}
	lock.Close()
	unix.Kill(keeper, unix.SIGCONT)
	if left, _ := os.ReadDir(filepath.Join(h.cfg.Dir, "work")); len(left) == 0 {
		t.Error("a daemon that was killed has tidied up?")
	}
	// At once: the next one waits until nothing of this one is left.
	begin := time.Now()
	h.nothingLeft(h.open(), word)
	t.Logf("open %v after the end of the daemon", time.Since(begin))
}

func TestMemory(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.cfg.MemoryMiB = 512
	b := h.open()
	// A list that grows for ever, and is needed whole.
	bomb := `{ outputs = _: let grow = l: n: if n == 0 then l else grow (l ++ l) (n - 1); in {
  packages.x86_64-linux.web = derivation {
    name = "runner"; system = "x86_64-linux"; builder = "/bin/sh";
    args = [ (toString (builtins.length (grow [ 1 2 3 4 ] 60))) ];
  };
}; }`
	begin := time.Now()
	_, err := b.Build(context.Background(), orderOf(t, "1-7", "web", bomb, ""))
	t.Logf("after %v: %v", time.Since(begin), err)
	if !errors.Is(err, ErrMemory) || !strings.Contains(err.Error(), "the evaluation of packages.x86_64-linux.web took more than 512 MiB") {
		t.Error(err)
	}
	h.nothingLeft(b, "")
	// A builder is no evaluation.
	build(t, b, order(t, "1-7", "web", "ulimit -v; [ \"$(ulimit -v)\" = unlimited ] || exit 9\n"+good))
}

func TestFailures(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := h.open()
	for name, c := range map[string]struct {
		order Order
		want  error
		says  []string
		not   string
	}{
		"a builder": {
			order: order(t, "1-7", "web", `PATH=/usr/bin:/bin
seq -f 'line %g' 1000
printf 'no \377compiler \033[31mhere\033[0m\007\n'
exit 3`),
			says: []string{"the build of packages.x86_64-linux.web failed", "no \ufffdcompiler here", "exit code 3", "line 1000"},
			not:  "line 900",
		},
		"one long line": {
			order: order(t, "1-7", "web", "PATH=/usr/bin:/bin\nhead -c 3000000 /dev/zero | tr '\\0' é >&2\nexit 3"),
			says:  []string{"exit code 3", "\ufffd\ufffd\ufffd ..."},
		},
		"an evaluation": {
			order: orderOf(t, "1-7", "web", `{ outputs = _: { packages.x86_64-linux.web = throw "the moon is full"; }; }`, ""),
			says:  []string{"the evaluation of packages.x86_64-linux.web failed: error: the moon is full\n"},
		},
		"no such VM": {
			order: orderOf(t, "1-7", "web", `{ outputs = _: { packages.x86_64-linux.other = 1; }; }`, ""),
			says:  []string{"the flake has no microVM web for x86_64-linux"},
		},
		"no Nix": {
			order: orderOf(t, "1-7", "web", `{ outputs = `, ""),
			says:  []string{"syntax error", "flake.nix"},
		},
		"no runner": {
			order: order(t, "1-7", "web", "PATH=/usr/bin:/bin\nmkdir $out"),
			want:  ErrShape, says: []string{"there is no program bin/microvm-run in " + h.store},
		},
		"silent": {
			order: order(t, "1-7", "web", good+`rm "$out/share/microvm/hypervisor"`),
			want:  ErrShape, says: []string{"does not say what it runs"},
		},
		"another hypervisor": {
			order: order(t, "1-7", "web", good+`echo crosvm >"$out/share/microvm/hypervisor"`),
			want:  ErrShape, says: []string{`"crosvm"`, "qemu"},
		},
		"no disk": {
			order: order(t, "1-7", "web", "echo 'cp: error writing x: No space left on device' >&2; exit 1"),
			want:  ErrFull, says: []string{"no space left on this host", "nix-collect-garbage"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			c.order.Log = &log
			_, err := b.Build(context.Background(), c.order)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Fatal(err)
			}
			t.Log(err)
			text := err.Error()
			for _, s := range c.says {
				if !strings.Contains(text, s) {
					t.Errorf("it does not say %q", s)
				}
			}
			if c.not != "" && strings.Contains(text, c.not) {
				t.Errorf("it says %q", c.not)
			}
			if len(text) > tailBytes+600 || !utf8.ValidString(text) || strings.ContainsAny(text, "\x1b\a\r") {
				t.Errorf("%d bytes: %q", len(text), text)
			}
			if !utf8.Valid(log.Bytes()) || log.Len() > 100_000 {
				t.Errorf("a log of %d bytes", log.Len())
			}
		})
	}
	h.nothingLeft(b, "")
}
