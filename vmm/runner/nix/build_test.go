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
	"sync"
	"testing"
	"time"

	"github.com/blixard/blixard/nixflake"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func logOf(o *Order) *bytes.Buffer {
	log := &bytes.Buffer{}
	o.Log = log
	return log
}

func TestOnlyWhatChangedIsBuilt(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := h.open()
	flake := `{ outputs = _: { packages.x86_64-linux = let vm = memory: derivation {
  name = "runner"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ ./build.sh ]; inherit memory tool;
}; tool = derivation { name = "tool"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo the tool is built; echo > $out" ]; };
in { web = vm 512; "7" = vm 256; }; }; }`
	script := "echo the runner is built\n" + good
	first := orderOf(t, "1-7", "web", flake, script)
	log := logOf(&first)
	r := build(t, b, first)
	if !strings.Contains(log.String(), "the tool is built") || !strings.Contains(log.String(), "the runner is built") {
		t.Fatal(log)
	}
	for name, c := range map[string]struct {
		order Order
		other bool // than the first one's runner
	}{
		"memory":        {orderOf(t, "1-7", "web", strings.Replace(flake, "512", "1024", 1), script), true},
		"attribute":     {orderOf(t, "1-7", "7", flake, script), true},
		"a comment":     {orderOf(t, "1-7", "web", flake+" # the same", script), false},
		"another VM":    {orderOf(t, "1-8", "web", flake, script), false},
		"the same once": {first, false},
	} {
		h.calls()
		log := logOf(&c.order)
		got := build(t, b, c.order)
		if other := got.StorePath != r.StorePath; other != c.other {
			t.Errorf("%s: %v and %v", name, got, r)
		}
		if built := strings.Contains(log.String(), "the runner is built"); built != c.other {
			t.Errorf("%s: %s", name, log)
		}
		if strings.Contains(log.String(), "the tool is built") {
			t.Errorf("%s: built what was there", name)
		}
		// Of these two, Nix would see the very same.
		if calls := h.calls(); (name == "another VM" || name == "the same once") != (len(calls) == 0) {
			t.Errorf("%s: %q", name, calls)
		}
	}
	if got := b.Holding(); len(got["1-7"]) != 3 || len(got["1-8"]) != 1 {
		t.Error(got)
	}
}

func TestTheKeyIsOfWhatNixSees(t *testing.T) {
	base := func() Order {
		return Order{UID: "1-7", Name: "web", Files: []nixflake.File{{Path: "flake.nix", Text: "{ }"}, {Path: "a", Digest: "d"}}}
	}
	b := &Builder{system: "x86_64-linux"}
	key := func(change func(o *Order)) string {
		o := base()
		change(&o)
		return b.newJob(o).key
	}
	same := key(func(*Order) {})
	for name, change := range map[string]func(o *Order){
		"order":  func(o *Order) { slices.Reverse(o.Files) },
		"uid":    func(o *Order) { o.UID = "1-8" },
		"fresh":  func(o *Order) { o.Fresh = true },
		"record": func(o *Order) { o.Want = &blixardv1.Runner{StorePath: "/nix/store/x"} },
	} {
		if key(change) != same {
			t.Errorf("%s changes the key", name)
		}
	}
	seen := map[string]string{same: "nothing"}
	for name, change := range map[string]func(o *Order){
		"name":   func(o *Order) { o.Name = "db" },
		"text":   func(o *Order) { o.Files[0].Text = "{  }" },
		"path":   func(o *Order) { o.Files[1].Path = "b" },
		"digest": func(o *Order) { o.Files[1].Digest = "e" },
		"unpack": func(o *Order) { o.Files[1].Unpack = true },
		"text for digest": func(o *Order) {
			o.Files[1].Text, o.Files[1].Digest = "d", ""
		},
		"lock":           func(o *Order) { o.Files = append(o.Files, nixflake.File{Path: "flake.lock", Text: "{}"}) },
		"locked":         func(o *Order) { o.Want = &blixardv1.Runner{Locked: "{ }"} },
		"moved boundary": func(o *Order) { o.Files[0] = nixflake.File{Path: "flake.ni", Text: "x{ }"} },
	} {
		k := key(change)
		if other, found := seen[k]; found {
			t.Errorf("%s gives the key of %s", name, other)
		}
		seen[k] = name
	}
	if arm := (&Builder{system: "aarch64-linux"}).newJob(base()).key; arm == same {
		t.Error("the system does not change the key")
	}
	// What was locked takes the place of the lock that came with the files.
	given := key(func(o *Order) { o.Files = append(o.Files, nixflake.File{Path: "flake.lock", Text: "{ }"}) })
	if seen[given] != "locked" {
		t.Errorf("a lock given and one recorded differ: %q", seen[given])
	}
}

func TestBadOrders(t *testing.T) {
	h := newHost(t)
	b := h.open()
	o := func(change func(o *Order)) Order {
		x := Order{UID: "1-7", Name: "web", Files: []nixflake.File{{Path: "flake.nix", Text: "{ outputs = _: { }; }"}}}
		change(&x)
		return x
	}
	content := "the content"
	for name, x := range map[string]Order{
		"uid":      o(func(o *Order) { o.UID = "../x" }),
		"no uid":   o(func(o *Order) { o.UID = "" }),
		"name":     o(func(o *Order) { o.Name = `web" --option x "` }),
		"flag":     o(func(o *Order) { o.Name = `--help` }),
		"files":    o(func(o *Order) { o.Files = nil }),
		"path":     o(func(o *Order) { o.Files[0].Path = "../flake.nix" }),
		"absolute": o(func(o *Order) { o.Files[0].Path = "/etc/passwd" }),
		"twice":    o(func(o *Order) { o.Files = append(o.Files, o.Files[0]) }),
		"want":     o(func(o *Order) { o.Want = &blixardv1.Runner{StorePath: "--help"} }),
		"want 2":   o(func(o *Order) { o.Want = &blixardv1.Runner{StorePath: "/nix/store/../../etc/passwd"} }),
		"nobody":   o(func(o *Order) { o.Files = append(o.Files, nixflake.File{Path: "a", Digest: strings.Repeat("a", 64)}) }),
		"wrong": o(func(o *Order) {
			o.Files = append(o.Files, nixflake.File{Path: "a", Digest: strings.Repeat("a", 64)})
			o.Open = func(string) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(content)), nil }
		}),
	} {
		if _, err := b.Build(context.Background(), x); err == nil {
			t.Errorf("%s: no error", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
	if calls := h.calls(); len(calls) > 0 {
		t.Error(calls)
	}
	h.nothingLeft(b, "")
}

// Whatever has become of what is remembered: it is built again, or found to be
// right, and never believed.
func TestWhatIsRememberedIsChecked(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	o := order(t, "1-7", "web", good)
	b := h.open()
	r := build(t, b, o)
	dir := b.runners[r.StorePath].dir
	if reg := b.runners[r.StorePath].Registered; !strings.HasPrefix(reg, h.dir) {
		t.Fatalf("where Nix registers it was not found: %q", reg)
	}
	gc := func() { h.nix("nix-store", "--gc") }
	for _, c := range []struct {
		name string
		harm func(dir string)
	}{
		{"the root", func(dir string) { os.Remove(filepath.Join(dir, "root")) }},
		{"the root and the path", func(dir string) { os.Remove(filepath.Join(dir, "root")); gc() }},
		{"the registration", func(dir string) {
			auto, _ := filepath.Glob(filepath.Join(h.dir, "state/gcroots/auto/*"))
			for _, a := range auto {
				os.Remove(a)
			}
		}},
		{"the path behind its back", func(dir string) {
			h.nix("nix-store", "--delete", "--ignore-liveness", r.StorePath)
		}},
		{"runner.json", func(dir string) {
			os.WriteFile(filepath.Join(dir, "runner.json"), []byte(`{"path":"`+r.StorePath), 0o600)
		}},
		{"half a runner.json", func(dir string) {
			os.Rename(filepath.Join(dir, "runner.json"), filepath.Join(dir, "runner.json.new"))
		}},
		{"the whole of it", func(dir string) { os.RemoveAll(dir) }},
	} {
		for _, reopen := range []bool{false, true} {
			name := fmt.Sprintf("%s, reopened %v", c.name, reopen)
			if !reopen && strings.Contains(c.name, "runner.json") {
				continue // it is read once
			}
			h.calls()
			c.harm(dir)
			if reopen {
				b.Close()
				b = h.open()
			}
			got := build(t, b, o)
			if got.StorePath != r.StorePath {
				t.Fatalf("%s: %v", name, got)
			}
			if len(h.calls()) == 0 {
				t.Errorf("%s: it was believed", name)
			}
			// Now it is as it should be: rooted, once, for Nix too.
			gc()
			if !exists(r.StorePath) {
				t.Fatalf("%s: the garbage collector took it", name)
			}
			if left, _ := os.ReadDir(b.runnersRoot()); len(left) != 1 {
				t.Errorf("%s: %v", name, left)
			}
			h.calls()
			build(t, b, o)
			b.Close()
			b = h.open()
			build(t, b, o)
			if calls := h.calls(); len(calls) != 0 {
				t.Errorf("%s: afterwards: %q", name, calls)
			}
			if got := b.Holding(); len(got) != 1 || !slices.Equal(got["1-7"], []string{r.StorePath}) {
				t.Errorf("%s: %v", name, got)
			}
			dir = b.runners[r.StorePath].dir
		}
	}
}

func TestHoldAndGarbage(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := h.open()
	version := func(n int) Order { return order(t, "1-7", "web", fmt.Sprintf("# %d\n%secho %d >$out/n\n", n, good, n)) }
	var p []string
	for n := range 3 {
		p = append(p, build(t, b, version(n)).StorePath)
	}
	other := version(0)
	other.UID = "1-8"
	build(t, b, other)
	gc := func(want ...string) {
		t.Helper()
		h.nix("nix-store", "--gc")
		for i := range p {
			if kept := slices.Contains(want, p[i]); exists(p[i]) != kept {
				t.Errorf("%d: kept %v, want %v", i, exists(p[i]), kept)
			}
		}
	}
	holding := func(want map[string][]string) {
		t.Helper()
		for range 2 {
			if got, w := fmt.Sprint(b.Holding()), fmt.Sprint(want); got != w {
				t.Errorf("%s, not %s", got, w)
			}
			b.Close()
			b = h.open()
		}
	}
	sorted := func(p ...string) []string { slices.Sort(p); return p }
	gc(p...)
	// The newest was never named: it stays although it is not.
	if err := b.Hold("1-7", p[1]); err != nil {
		t.Fatal(err)
	}
	gc(p...)
	holding(map[string][]string{"1-7": sorted(p[1], p[2]), "1-8": {p[0]}})
	// Once named, it is like any other.
	if err := errors.Join(b.Hold("1-7", p[1], p[2]), b.Hold("1-7", p[1])); err != nil {
		t.Fatal(err)
	}
	gc(p[0], p[1])
	holding(map[string][]string{"1-7": {p[1]}, "1-8": {p[0]}})
	// What another holds can be held, and what nobody holds if it is there.
	h.calls()
	if err := b.Hold("1-7", p[0]); err != nil {
		t.Fatal(err)
	}
	if calls := h.calls(); len(calls) > 0 {
		t.Error(calls)
	}
	if !exists(p[1]) {
		t.Fatal("collected by itself")
	}
	if err := b.Hold("1-7", p[1], p[0]); err != nil {
		t.Fatal(err)
	}
	gc(p[0], p[1])
	// What is nowhere cannot be held; the rest is done.
	err := b.Hold("1-7", p[2], p[1])
	if !errors.Is(err, ErrNotHeld) || !strings.Contains(err.Error(), p[2]) {
		t.Error(err)
	}
	if err := b.Hold("1-7", "/etc/passwd", p[1]); !errors.Is(err, ErrNotHeld) {
		t.Error(err)
	}
	holding(map[string][]string{"1-7": {p[1]}, "1-8": {p[0]}})
	gc(p[0], p[1])
	// Two VMs that are gone.
	if err := errors.Join(b.Hold("1-7"), b.Hold("1-8"), b.Hold("1-9"), b.Hold("1-7")); err != nil {
		t.Fatal(err)
	}
	holding(map[string][]string{})
	gc()
	h.nothingLeft(b, "")
	if auto, _ := os.ReadDir(filepath.Join(h.dir, "state/gcroots/auto")); len(auto) > 0 {
		t.Error("links are left:", auto)
	}
	// A released one is built again, not found.
	if got := build(t, b, version(0)); got.StorePath != p[0] || !exists(p[0]) {
		t.Error(got)
	}
}

func TestOneBuildForTheSame(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := h.open()
	count, gate := filepath.Join(h.dir, "count"), filepath.Join(h.dir, "gate")
	script := fmt.Sprintf("PATH=/usr/bin:/bin\necho once >>%s\nuntil [ -e %s ]; do sleep 0.02; done\n%s", count, gate, good)
	type result struct {
		r   *blixardv1.Runner
		err error
	}
	results := make(chan result, 3)
	var logs [3]bytes.Buffer
	start := func(ctx context.Context, i int) {
		o := order(t, fmt.Sprintf("1-%d", i), "web", script)
		o.Log = &logs[i]
		go func() {
			r, err := b.Build(ctx, o)
			results <- result{r, err}
		}()
	}
	first, cancel := context.WithCancel(context.Background())
	start(first, 0)
	waitFor(t, "the build", func() bool { return exists(count) })
	start(context.Background(), 1)
	start(context.Background(), 2)
	waitFor(t, "all to join", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, f := range b.flights {
			return len(f.uids) == 3
		}
		return false
	})
	// Who began it may go; the others still have it.
	cancel()
	if got := <-results; !errors.Is(got.err, context.Canceled) {
		t.Error(got)
	}
	os.WriteFile(gate, nil, 0o600)
	for range 2 {
		if got := <-results; got.err != nil {
			t.Error(got.err)
		}
	}
	if n, _ := os.ReadFile(count); string(n) != "once\n" {
		t.Errorf("built: %q", n)
	}
	if got := b.Holding(); len(got) != 2 || len(got["1-1"]) != 1 || len(got["1-2"]) != 1 {
		t.Error(got)
	}
	if !strings.Contains(logs[2].String(), "blixard: built ") || strings.Contains(logs[0].String(), "blixard: built ") {
		t.Errorf("the logs: %s\n%s", &logs[0], &logs[2])
	}
}

func TestAFailureIsToldToAll(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := h.open()
	count := filepath.Join(h.dir, "count")
	script := fmt.Sprintf("PATH=/usr/bin:/bin\necho once >>%s\nsleep 1\nexit 7", count)
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			if _, err := b.Build(context.Background(), order(t, fmt.Sprintf("1-%d", i), "web", script)); err == nil || !strings.Contains(err.Error(), "exit code 7") {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n, _ := os.ReadFile(count); string(n) != "once\n" {
		t.Errorf("built: %q", n)
	}
	h.nothingLeft(b, "")
}

func TestBuildsAtOnce(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.cfg.Jobs = 2
	b := h.open()
	// Two of Nix that are the first in a store both make its links, and one fails.
	if _, err := b.Build(context.Background(), order(t, "1-9", "first", good)); err != nil {
		t.Fatal(err)
	}
	gate := filepath.Join(h.dir, "gate")
	script := fmt.Sprintf("PATH=/usr/bin:/bin\ntouch %[1]s/at-work-$$\nuntil [ -e %[2]s ]; do sleep 0.02; done\nrm %[1]s/at-work-$$\n", h.dir, gate)
	var wg sync.WaitGroup
	var logs [5]*bytes.Buffer
	for i := range 5 {
		o := order(t, fmt.Sprintf("1-%d", i), fmt.Sprintf("vm%d", i), fmt.Sprintf("# %d\n", i)+script+good)
		logs[i] = logOf(&o)
		wg.Go(func() {
			if _, err := b.Build(context.Background(), o); err != nil {
				t.Error(err)
			}
		})
	}
	waitFor(t, "two to build and three to wait", func() bool {
		b.builds.mu.Lock()
		defer b.builds.mu.Unlock()
		atWork, _ := filepath.Glob(filepath.Join(h.dir, "at-work-*"))
		if len(atWork) > 2 {
			t.Fatal(atWork)
		}
		return len(atWork) == 2 && b.builds.waiting.Len() == 3
	})
	if left, _ := os.ReadDir(b.workRoot()); len(left) != 2 {
		t.Error(left)
	}
	os.WriteFile(gate, nil, 0o600)
	wg.Wait()
	waited := 0
	for _, l := range logs {
		waited += strings.Count(l.String(), "blixard: waiting for a place to build, behind")
	}
	if waited != 3 {
		t.Errorf("%d say that they waited", waited)
	}
}

func TestQueueIsFair(t *testing.T) {
	q := newQueue(1)
	ctx := context.Background()
	if err := q.enter(ctx, func(int) { t.Error("had to wait") }); err != nil {
		t.Fatal(err)
	}
	var turns []int
	var wg sync.WaitGroup
	var mu sync.Mutex
	impatient, cancel := context.WithCancel(ctx)
	for i := range 5 {
		said := make(chan int)
		c := ctx
		if i == 2 {
			c = impatient
		}
		wg.Go(func() {
			if err := q.enter(c, func(n int) { said <- n }); err != nil {
				if i != 2 || !errors.Is(err, context.Canceled) {
					t.Error(i, err)
				}
				return
			}
			mu.Lock()
			turns = append(turns, i)
			mu.Unlock()
			q.leave()
		})
		if n := <-said; n != i {
			t.Errorf("%d has %d ahead", i, n)
		}
	}
	cancel()
	for waiting := 5; waiting != 4; {
		q.mu.Lock()
		waiting = q.waiting.Len()
		q.mu.Unlock()
	}
	q.leave()
	wg.Wait()
	if !slices.Equal(turns, []int{0, 1, 3, 4}) || q.free != 1 {
		t.Error(turns, q.free)
	}
}

// A flake elsewhere moves on; what was locked stays, until somebody says fresh.
func TestLocked(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("there is no git")
	}
	h := newHost(t)
	repo := filepath.Join(h.dir, "repo")
	os.Mkdir(repo, 0o755)
	commit := func(script string) {
		t.Helper()
		flake := inline("web", script)
		if err := os.WriteFile(filepath.Join(repo, "flake.nix"), []byte(flake), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sh", "-ec", "[ -d .git ] || git init -q; git add -A; git -c user.name=a -c user.email=a@b commit -qm x")
		cmd.Dir = repo
		cmd.Env = append(os.Environ(), h.cfg.Env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	commit("# one\n" + good)
	files, err := nixflake.Render("cluster", nixflake.VM{Name: "web", UID: "1-7", Spec: &blixardv1.VMSpec{
		Source: &blixardv1.VMSpec_Flake{Flake: &blixardv1.Flake{From: &blixardv1.Flake_Ref{Ref: "git+file://" + repo}}},
	}}, nixflake.Pins{})
	if err != nil {
		t.Fatal(err)
	}
	o := Order{UID: "1-7", Name: "web", Files: files}
	b := h.open()
	one := build(t, b, o)
	if !json.Valid([]byte(one.Locked)) || !strings.Contains(one.Locked, `"rev"`) {
		t.Fatal(one.Locked)
	}
	commit("# two\n" + good)
	if got := build(t, b, o); got.String() != one.String() {
		t.Error("it moved on by itself:", got)
	}
	o.Fresh = true
	two := build(t, b, o)
	if two.StorePath == one.StorePath || two.Locked == one.Locked {
		t.Error("it did not move on:", two)
	}
	o.Fresh = false
	h.calls()
	if got := build(t, b, o); got.String() != two.String() {
		t.Error("it moved back:", got)
	}
	o.Want = one
	if got := build(t, b, o); got.String() != one.String() {
		t.Error("not what was recorded:", got)
	}
	if calls := h.calls(); len(calls) > 0 {
		t.Error(calls)
	}

	// On a host that can get it from nobody, it is built from what was locked.
	elsewhere := newHost(t)
	o.Want = &blixardv1.Runner{StorePath: strings.Replace(one.StorePath, h.store, elsewhere.store, 1), Locked: one.Locked}
	o.Addresses = []string{"10.0.0.1:7946"}
	elsewhere.cfg.Peer = func(context.Context, string, string) (io.ReadCloser, error) { return nil, errors.New("it is on fire") }
	log := logOf(&o)
	eb := elsewhere.open()
	got := build(t, eb, o)
	if got.Locked != one.Locked {
		t.Error(got.Locked)
	}
	if script, _ := os.ReadFile(filepath.Join(got.StorePath, "bin/microvm-run")); len(script) == 0 {
		t.Error("nothing was built")
	}
	for _, s := range []string{"not from 10.0.0.1:7946: it is on fire", "is nowhere to be had: building it here"} {
		if !strings.Contains(log.String(), s) {
			t.Errorf("the log does not say %q: %s", s, log)
		}
	}
	elsewhere.calls()
	o.Want = got
	if again := build(t, eb, o); again.String() != got.String() || len(elsewhere.calls()) > 0 {
		t.Error(again)
	}
}

// The figures of the three ways to an answer.
func TestTimes(t *testing.T) {
	h := newHost(t)
	b := h.open()
	took := func(what string, o Order) {
		begin := time.Now()
		build(t, b, o)
		processes := len(h.calls())
		t.Logf("%-40s %8.2f ms, %d processes", what, float64(time.Since(begin).Microseconds())/1000, processes)
		if cached := strings.HasPrefix(what, "cached"); cached != (processes == 0) {
			t.Errorf("%s: %d processes", what, processes)
		}
	}
	o := order(t, "1-7", "web", good)
	took("cold: nothing in the store", o)
	took("cached", o)
	o.Fresh = true
	took("warm: forgotten here, all in the store", o)
	o.Fresh = false
	b.Close()
	b = h.open()
	took("cached, after a restart", o)
}

func BenchmarkCached(b *testing.B) {
	h := newHost(b)
	builder := h.open()
	o := order(b, "1-7", "web", good)
	build(b, builder, o)
	for b.Loop() {
		build(b, builder, o)
	}
}
