package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/blixard/blixard/core"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/runner/nix"
	"github.com/blixard/blixard/vmm/runner/shims"
	"github.com/blixard/blixard/vmm/shim"
)

// store is a fake Builder. What it builds are runners of shell scripts; what is
// not held is deleted at once, as the harshest of collectors would.
type store struct {
	t   *testing.T
	dir string

	mu     sync.Mutex
	held   map[string]map[string]bool // paths by uid
	orders []nix.Order
	before func(ctx context.Context, o nix.Order) error // a build, when set
	script map[string]string                            // of the next runner, by name in bin; "share/..." for facts
}

func newStore(t *testing.T) *store {
	return &store{t: t, dir: t.TempDir(), held: map[string]map[string]bool{}, script: map[string]string{}}
}

func (s *store) Build(ctx context.Context, o nix.Order) (*blixardv1.Runner, error) {
	s.mu.Lock()
	s.orders = append(s.orders, o)
	before := s.before
	s.mu.Unlock()
	if before != nil {
		if err := before(ctx, o); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	path := o.Want.GetStorePath()
	if path == "" {
		path = filepath.Join(s.dir, fmt.Sprintf("runner-%d", len(s.orders)))
		fmt.Fprintf(o.Log, "building %s\n", path)
		s.write(path)
	} else if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	if s.held[o.UID] == nil {
		s.held[o.UID] = map[string]bool{}
	}
	s.held[o.UID][path] = true
	return &blixardv1.Runner{StorePath: path, ClosureBytes: 1000, Hypervisor: blixardv1.Hypervisor_HYPERVISOR_FIRECRACKER}, nil
}

func (s *store) write(path string) {
	for name, text := range s.script {
		file, mode := filepath.Join(path, "bin", name), os.FileMode(0o755)
		if strings.HasPrefix(name, "share/") {
			file, mode = filepath.Join(path, name), 0o644
		} else {
			text = "#!/bin/sh\n" + text
		}
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			s.t.Error(err)
		}
		if err := os.WriteFile(file, []byte(text), mode); err != nil {
			s.t.Error(err)
		}
	}
}

func (s *store) Hold(uid string, paths ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range paths {
		if !s.held[uid][p] {
			return fmt.Errorf("%s is not here", p)
		}
	}
	for p := range s.held[uid] {
		if !slices.Contains(paths, p) {
			delete(s.held[uid], p)
			if !s.needed(p) {
				os.RemoveAll(p)
			}
		}
	}
	if len(s.held[uid]) == 0 {
		delete(s.held, uid)
	}
	return nil
}

func (s *store) needed(path string) bool {
	for _, paths := range s.held {
		if paths[path] {
			return true
		}
	}
	return false
}

func (s *store) Holding() map[string][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string][]string{}
	for uid, paths := range s.held {
		all[uid] = slices.Sorted(maps.Keys(paths))
	}
	return all
}

func (s *store) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.orders)
}

// serves is a script that is a hypervisor with Firecracker's interface: it runs
// until it is sent SIGUSR1.
func serves(socket string) string {
	return "BLIXARD_TEST_API=" + socket + " exec " + os.Args[0] + " 300.0331\n"
}

// serveAPI is that hypervisor.
func serveAPI(socket string) {
	os.Remove(socket)
	l, err := net.Listen("unix", socket)
	if err != nil {
		panic(err)
	}
	fmt.Println("guest of", os.Getenv("BLIXARD_NAME"), "attempt", os.Getenv("BLIXARD_ATTEMPT"))
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGUSR1)
	begin := time.Now()
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		state := "Not started"
		if time.Since(begin) > 300*time.Millisecond {
			state = "Running"
		}
		fmt.Fprintf(w, `{"id":"x","state":%q}`, state)
	}))
	<-end
	fmt.Println("powered off")
}

// usual is a runner with everything.
func (s *store) usual(mark string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = map[string]string{
		"tap-up":                   "touch " + mark + "; echo tap up",
		"tap-down":                 "rm -f " + mark + "; echo down >>" + mark + ".downs",
		"microvm-run":              "echo run in $(basename $(pwd)) notify=$NOTIFY_SOCKET\n" + serves("web.sock"),
		"microvm-shutdown":         "kill -USR1 $MAINPID; exec cat",
		"share/microvm/hypervisor": "firecracker\n",
	}
}

func nixBench(t *testing.T) (*bench, *store) {
	s := newStore(t)
	return newBench(t, func(c *Config) { c.Nix = s }), s
}

func flake(uid string, generation uint32) *blixardv1.Assignment {
	return &blixardv1.Assignment{
		Uid: uid, Name: "web", Incarnation: &blixardv1.Incarnation{Generation: 1, Index: 7}, RunGeneration: 1, SpecGeneration: generation,
		Lease: blixardv1.LeaseClass_LEASE_CLASS_NONE, Hypervisor: blixardv1.Hypervisor_HYPERVISOR_CLOUD_HYPERVISOR,
		Spec: &blixardv1.VMSpec{Source: &blixardv1.VMSpec_Flake{Flake: &blixardv1.Flake{
			From: &blixardv1.Flake_Ref{Ref: "github:me/infra"}, Attribute: fmt.Sprint("v", generation)}}},
	}
}

// build orders a Build, and gives the path.
func (b *bench) build(i shim.Instance, a *blixardv1.Assignment) string {
	b.t.Helper()
	b.must(vmm.Build, i, a)
	path := ""
	b.await("the runner", func(o core.Observed) bool {
		for _, d := range o.Done {
			if d.Action == b.last {
				path = d.Runner.GetStorePath()
				return true
			}
		}
		return false
	})
	return path
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestARunnersLife(t *testing.T) {
	b, s := nixBench(t)
	if first := b.await("inventory", func(o core.Observed) bool { return o.Inventory }); !first.Facts.Nix {
		t.Error("a host with Nix does not say so")
	}
	tap := filepath.Join(t.TempDir(), "tap")
	s.usual(tap)
	t.Setenv("NOTIFY_SOCKET", "/nowhere") // of this process: no test runs beside this one
	one, two := instance("1-7", 1), instance("1-7", 2)
	v1 := b.build(one, flake("1-7", 1))
	// It has a directory, and counts as a VM that is down and has never run.
	b.report("never run", instance("1-7", 0), func(r vmm.Report) bool { return r.Liveness == vmm.Down && r.Exit == nil && r.SpecGeneration == 0 })
	b.must(vmm.Start, one, flake("1-7", 1))
	if r := b.ready(one); r.SpecGeneration != 1 {
		t.Errorf("%+v", r)
	}
	b.awaitConsole("1-7", "--- attempt 1 ---\ntap up\nrun in vm notify=\nguest of web attempt 1\n")
	if n := s.count(); n != 1 || !exists(tap) {
		t.Errorf("%d orders to build; the tap is up: %v", n, exists(tap))
	}
	// An update is built while it runs. What runs keeps its root.
	v2 := b.build(one, flake("1-7", 2))
	if got := s.Holding()["1-7"]; v1 == v2 || !slices.Equal(got, []string{v1, v2}) {
		t.Errorf("held %v", got)
	}
	state := b.h.at.stateOf("1-7")
	for name, want := range map[string]string{"booted": v1, "current": v2} {
		if got, _ := os.Readlink(filepath.Join(state, name)); got != want {
			t.Errorf("%s is %s, not %s", name, got, want)
		}
	}
	b.must(vmm.Stop, one, nil)
	if e := b.exit(one, Exited); e.Code != 0 {
		t.Errorf("%+v", e)
	}
	b.awaitConsole("1-7", "powered off")
	if exists(tap) {
		t.Error("the tap is still there")
	}
	b.must(vmm.Start, two, flake("1-7", 2))
	if r := b.ready(two); r.SpecGeneration != 2 {
		t.Errorf("%+v", r)
	}
	if got, _ := os.Readlink(filepath.Join(state, "booted")); got != v2 {
		t.Errorf("booted is %s", got)
	}
	// Back to the first: what was built for it is named by the cluster.
	back := flake("1-7", 3)
	back.Runner = &blixardv1.Runner{StorePath: v1}
	if got := b.build(two, back); got != v1 {
		t.Errorf("rolled back to %s", got)
	}
	// The third spec: the one before it goes only when it is neither booted nor
	// previous.
	v3 := b.build(two, flake("1-7", 4))
	if got := s.Holding()["1-7"]; !slices.Equal(got, []string{v1, v2, v3}) {
		t.Errorf("held %v", got)
	}
	b.must(vmm.Kill, two, nil)
	b.exit(two, Killed)
	b.must(vmm.Remove, two, nil)
	if got := s.Holding(); len(got) != 0 {
		t.Errorf("held after the end: %v", got)
	}
	if downs, _ := os.ReadFile(tap + ".downs"); string(downs) != "down\ndown\n" {
		t.Errorf("taken down %q", downs)
	}
	for _, dir := range []string{b.h.at.states(), b.h.at.runs(), b.h.at.trash()} {
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("left %v", left)
		}
	}
}

func TestARunnerOutlivesTheDaemon(t *testing.T) {
	t.Parallel()
	b, s := nixBench(t)
	tap := filepath.Join(t.TempDir(), "tap")
	s.usual(tap)
	i, lost := instance("1-1", 1), instance("1-2", 1)
	for _, i := range []shim.Instance{i, lost} {
		b.build(i, flake(i.UID, 1))
		b.must(vmm.Start, i, flake(i.UID, 1))
		b.ready(i)
	}
	never := instance("1-3", 1)
	b.build(never, flake("1-3", 1))
	held, before := s.Holding(), b.state(i)
	s.held["gone"] = map[string]bool{"x": true} // as of a build that a kill ended
	b.h.Close()
	_ = shims.Sweep(b.h.at.runOf("1-2"))
	b.open()
	r := b.ready(i)
	if b.state(i).VM != before.VM || r.SpecGeneration != 1 {
		t.Errorf("disturbed: %+v", r)
	}
	b.down(lost)
	if got := s.Holding(); !maps.EqualFunc(got, held, slices.Equal) {
		t.Errorf("held %v, and before %v", got, held)
	}
	if downs, _ := os.ReadFile(tap + ".downs"); string(downs) != "down\n" {
		t.Errorf("what was found dead is taken down once, not %q", downs)
	}
	// What is there needs no builder to start again.
	n := s.count()
	b.must(vmm.Start, instance("1-3", 1), flake("1-3", 1))
	b.ready(never)
	b.must(vmm.Start, instance("1-2", 2), flake("1-2", 1))
	b.ready(instance("1-2", 2))
	if s.count() != n {
		t.Error("a start built again")
	}
	b.must(vmm.Stop, i, nil)
	b.exit(i, Exited)
	b.reopen()
	b.must(vmm.Remove, i, nil)
	if got := s.Holding()["1-1"]; got != nil {
		t.Errorf("held %v", got)
	}
}

// A Build that takes long holds up nothing.
func TestABuildsLane(t *testing.T) {
	t.Parallel()
	b, s := nixBench(t)
	s.usual(filepath.Join(t.TempDir(), "tap"))
	i := instance("1-1", 1)
	b.build(i, flake("1-1", 1))
	b.must(vmm.Start, i, flake("1-1", 1))
	b.ready(i)
	began, ended := make(chan string, 10), make(chan string, 10)
	s.mu.Lock()
	s.before = func(ctx context.Context, o nix.Order) error {
		began <- o.Files[0].Text
		fmt.Fprintln(o.Log, "hard at work")
		<-ctx.Done()
		time.Sleep(100 * time.Millisecond) // some are slow to end
		ended <- "ended"
		return ctx.Err()
	}
	s.mu.Unlock()
	order := func(generation uint32) uint64 {
		b.last++
		b.give(vmm.Action{ID: b.last, Verb: vmm.Build, Instance: i, Assignment: flake("1-1", generation), Host: b.host()})
		return b.last
	}
	answer := func(id uint64) (found vmm.Done) {
		b.await("an answer", func(o core.Observed) bool {
			for _, d := range o.Done {
				if found = d; d.Action == id {
					return true
				}
			}
			return false
		})
		return found
	}
	second := order(2)
	<-began
	third := order(3) // a newer one ends it, and begins when it has ended
	if d := answer(second); d.Err == "" || d.Runner != nil {
		t.Errorf("%+v", d)
	}
	<-ended
	if text := <-began; !strings.Contains(text, `"v3"`) {
		t.Errorf("builds %s", text)
	}
	b.must(vmm.Stop, i, nil)
	b.exit(i, Exited)
	i.Attempt = 2
	b.must(vmm.Start, i, flake("1-1", 1)) // an older spec, while the newer is built
	b.ready(i)
	time.Sleep(buildHeld + 100*time.Millisecond)
	logs, err := b.h.BuildLogs(context.Background(), "1-1", true, 0)
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan string)
	go func() { // until the build is over
		text, _ := io.ReadAll(logs)
		logs.Close()
		read <- string(text)
	}()
	select {
	case text := <-read:
		t.Errorf("not followed: %q", text)
	case <-time.After(300 * time.Millisecond):
	}
	b.must(vmm.Kill, i, nil)
	if text := <-read; text != "--- generation 3 ---\nhard at work\nfailed: context canceled\n" {
		t.Errorf("the log of the newest build: %q", text)
	}
	if d := answer(third); !strings.Contains(d.Err, errOvertaken.Error()) {
		t.Errorf("%+v", d)
	}
	b.exit(i, Killed)
	<-ended
	fourth := order(4)
	<-began
	b.must(vmm.Remove, i, nil)
	select {
	case <-ended:
	default:
		t.Error("removed under a build")
	}
	if d := answer(fourth); d.Err == "" {
		t.Errorf("%+v", d)
	}
	if got := s.Holding(); len(got) != 0 {
		t.Errorf("held %v", got)
	}
	if _, err := b.h.BuildLogs(context.Background(), "1-1", false, 0); !errors.Is(err, ErrNoLog) {
		t.Error(err)
	}
	// The first build of all, ended by a Remove, leaves nothing either.
	fifth := order(5)
	<-began
	b.report("never run", instance("1-1", 0), func(r vmm.Report) bool { return r.Liveness == vmm.Down })
	b.must(vmm.Remove, instance("1-1", 0), nil)
	if d := answer(fifth); d.Err == "" {
		t.Errorf("%+v", d)
	}
	if left, _ := os.ReadDir(b.h.at.states()); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

// A start of what is not here waits for it beside a Build; a Kill ends both, also
// when the start has had its own.
func TestAKillEndsABuildAndAStart(t *testing.T) {
	t.Parallel()
	b, s := nixBench(t)
	s.usual(filepath.Join(t.TempDir(), "tap"))
	i := instance("1-1", 1)
	b.build(i, flake("1-1", 1))
	began := make(chan string, 10)
	s.mu.Lock()
	s.before = func(ctx context.Context, o nix.Order) error {
		if !strings.Contains(o.Files[0].Text, `"v9"`) {
			began <- o.Files[0].Text
			<-ctx.Done()
		}
		return ctx.Err()
	}
	s.mu.Unlock()
	order := func(verb vmm.Verb, generation uint32) uint64 {
		b.last++
		b.give(vmm.Action{ID: b.last, Verb: verb, Instance: i, Assignment: flake("1-1", generation), Host: b.host()})
		return b.last
	}
	fails := func(id uint64) {
		t.Helper()
		b.await("an answer", func(o core.Observed) bool {
			for _, d := range o.Done {
				if d.Action == id {
					return d.Err != ""
				}
			}
			return false
		})
	}
	build := order(vmm.Build, 2)
	<-began
	start := order(vmm.Start, 3)
	<-began
	b.must(vmm.Kill, i, nil)
	fails(build)
	fails(start)

	i.Attempt++
	build = order(vmm.Build, 4)
	<-began
	b.must(vmm.Start, i, flake("1-1", 9)) // it was never here, and is had at once
	b.ready(i)
	b.must(vmm.Kill, i, nil)
	b.exit(i, Killed)
	fails(build)
}

func TestFreshOnce(t *testing.T) {
	t.Parallel()
	b, s := nixBench(t)
	s.usual(filepath.Join(t.TempDir(), "tap"))
	i, a := instance("1-1", 1), flake("1-1", 2)
	a.Fresh = true
	s.before = func(_ context.Context, o nix.Order) error {
		if o.Fresh {
			fmt.Fprintln(o.Log, "a long story")
		}
		return nil
	}
	b.build(i, a)
	b.reopen()
	b.build(i, a)
	// A build that says one thing leaves the log of the one before.
	logs, err := b.h.BuildLogs(context.Background(), "1-1", true, 0)
	if err != nil {
		t.Fatal(err)
	}
	if text, _ := io.ReadAll(logs); !strings.Contains(string(text), "a long story\nbuilding ") {
		t.Errorf("%q", text)
	}
	logs.Close()
	if !s.orders[0].Fresh || s.orders[1].Fresh {
		t.Errorf("fresh: %v, then %v", s.orders[0].Fresh, s.orders[1].Fresh)
	}
}

func TestARunnerThatCannotStart(t *testing.T) {
	t.Parallel()
	for words, script := range map[string]map[string]string{
		"tap-up failed: it ended with exit code 3": {"tap-up": "echo no such bridge; exit 3", "microvm-run": "echo never"},
		"no such kernel": {"microvm-run": "echo no such kernel; exit 1"},
		"(seccomp)":      {"microvm-run": "exit 148", "share/microvm/hypervisor": "firecracker\n"},
		"exit code 148:": {"microvm-run": "exit 148", "share/microvm/hypervisor": "qemu\n"},
		"fs.sock":        {"virtiofsd-run": "sleep 1", "share/microvm/virtiofs/a/socket": "fs.sock", "microvm-run": "echo never"},
	} {
		b, s := nixBench(t)
		s.script = script
		i := instance("1-1", 1)
		b.build(i, flake("1-1", 1))
		b.must(vmm.Start, i, flake("1-1", 1))
		if e := b.exit(i, BootFailed); words != "fs.sock" && !strings.Contains(e.Message, words) || strings.Contains(b.console("1-1"), "never") {
			t.Errorf("%+v, not %q\n%s", e, words, b.console("1-1"))
		}
	}
}

// Each hypervisor is asked in its own way what its guest does.
func TestEachIsAskedInItsOwnWay(t *testing.T) {
	dir := t.TempDir()
	answers := map[string]string{}
	l, err := net.Listen("unix", filepath.Join(dir, "a.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || answers[r.URL.Path] == "" {
			http.Error(w, "[]", http.StatusInternalServerError) // as cloud-hypervisor before its VM is made
			return
		}
		fmt.Fprint(w, answers[r.URL.Path])
	}))
	const cloud, firecracker = blixardv1.Hypervisor_HYPERVISOR_CLOUD_HYPERVISOR, blixardv1.Hypervisor_HYPERVISOR_FIRECRACKER
	state := func(h blixardv1.Hypervisor, socket string) (state guestState) {
		_ = once(t.Context(), h, filepath.Join(dir, socket), func(ctx context.Context, c control) (err error) {
			state, err = c.state(ctx)
			return err
		})
		return state
	}
	for _, c := range []struct {
		hypervisor   blixardv1.Hypervisor
		path, answer string
		want         guestState
	}{
		{firecracker, "/", `{"id":"a","state":"Running","vmm_version":"1"}`, running},
		{firecracker, "/", `{"id":"a","state":"Paused"}`, paused},
		{firecracker, "/", `{"id":"a","state":"Not started"}`, notYet},
		{firecracker, "/api/v1/vm.info", `{"state":"Running"}`, notYet},
		{cloud, "/api/v1/vm.info", `{"config":{"cpus":{}},"state":"Running","memory_actual_size":1}`, running},
		{cloud, "/api/v1/vm.info", `{"state":"Paused"}`, paused},
		{cloud, "/api/v1/vm.info", `{"state":"Created"}`, notYet},
		{cloud, "/", `{"state":"Running"}`, notYet},
		{cloud, "/api/v1/vm.info", `"state"`, notYet},
		{blixardv1.Hypervisor_HYPERVISOR_QEMU, "/", `{"state":"Running"}`, notYet},
	} {
		clear(answers)
		answers[c.path] = c.answer
		if got := state(c.hypervisor, "a.sock"); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
	if state(firecracker, "none.sock") != notYet {
		t.Error("nobody runs")
	}
}

// One without a socket is ready when it has lived for a while.
func TestARunnerWithoutASocket(t *testing.T) {
	t.Parallel()
	b, s := nixBench(t)
	s.script = map[string]string{"microvm-run": "exec sleep 300", "share/microvm/hypervisor": "kvmtool"}
	i := instance("1-1", 1)
	b.build(i, flake("1-1", 1))
	b.must(vmm.Start, i, flake("1-1", 1))
	b.ready(i)
	b.must(vmm.Stop, i, nil) // SIGTERM, as nothing better is to be had
	b.down(i)
}

// Hypervisors do not run as root where there is the user microvm: they have a
// folder of their own, and what stands beside it is not theirs.
func TestARunnersUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can run something as another user")
	}
	b, s := nixBench(t)
	b.h.nix.user = &shim.User{UID: 65534, GID: 65533}
	if err := errors.Join(os.Chmod(filepath.Dir(s.dir), 0o755), os.Chmod(s.dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	s.script = map[string]string{
		"tap-up":           "echo tap $(id -u)",
		"microvm-run":      "touch mine && touch ../theirs || echo refused; echo run $(id -u):$(id -g), files: $([ $(ulimit -n) = $(ulimit -Hn) ] && echo all); cat",
		"microvm-shutdown": "echo stop $(id -u); kill $MAINPID",
	}
	i := instance("1-1", 1)
	b.build(i, flake("1-1", 1))
	b.must(vmm.Start, i, flake("1-1", 1))
	b.awaitConsole("1-1", "tap 0\n")
	b.awaitConsole("1-1", "refused\nrun 65534:65533, files: all\n")
	b.must(vmm.Stop, i, nil)
	b.down(i)
	b.awaitConsole("1-1", "stop 65534\n")
	if dir := machineDir(b.h.newVM("1-1").at); !exists(filepath.Join(dir, "mine")) || exists(filepath.Join(dir, "..", "theirs")) {
		t.Error("it may write where it should not, or not where it should")
	}
}

func TestAllowedPaths(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	b := newBench(t, func(c *Config) { c.Nix, c.AllowPaths = s, []string{"/srv/vms", "/data/"} })
	s.usual("/nowhere/tap")
	nixos := func(path, source string) *blixardv1.Assignment {
		a := flake("1-1", 1)
		n := &blixardv1.Nixos{Volumes: []*blixardv1.Volume{{Kind: &blixardv1.Volume_Data{Data: &blixardv1.DataVolume{Path: path, SizeMib: 20}}}}}
		if source != "" {
			n.Shares = []*blixardv1.Share{{Tag: "t", Source: source, MountPoint: "/mnt"}}
		}
		a.Spec = &blixardv1.VMSpec{Source: &blixardv1.VMSpec_Nixos{Nixos: n}}
		return a
	}
	i := instance("1-1", 1)
	for _, c := range []struct {
		path, source string
		ok           bool
	}{
		{"db.img", "", true}, {"/srv/vms/db.img", "/data/x", true}, {"/data/db.img", "/srv/vms", true},
		{"/srv/vms2/db.img", "", false}, {"/etc/shadow", "", false}, {"/srv/vms/../shadow", "", false}, {"db.img", "/", false}, {"db.img", "/srv", false},
	} {
		err := b.do(vmm.Build, i, nixos(c.path, c.source))
		if (err == nil) != c.ok || err != nil && !strings.Contains(err.Error(), "nix.allow_paths") {
			t.Errorf("%+v: %v", c, err)
		}
	}
	// What a runner itself says counts as well.
	s.script["share/microvm/virtiofs/root/source"] = "/root"
	if err := b.do(vmm.Build, i, flake("1-1", 2)); err == nil || !strings.Contains(err.Error(), "/root") {
		t.Error(err)
	}
	if got := s.Holding(); len(got["1-1"]) > 2 {
		t.Errorf("what is refused is held: %v", got)
	}
	s.script["share/microvm/virtiofs/root/source"] = s.dir // the store
	b.must(vmm.Build, i, flake("1-1", 3))
}

func TestPrepare(t *testing.T) {
	before := prepareAgain
	t.Cleanup(func() { prepareAgain = before })
	prepareAgain = 100 * time.Millisecond
	b, s := nixBench(t)
	s.usual("/nowhere/tap")
	s.write(filepath.Join(s.dir, "r1"))
	preparation := func(uid, path string) *blixardv1.Preparation {
		return &blixardv1.Preparation{Uid: uid, Runner: &blixardv1.Runner{StorePath: filepath.Join(s.dir, path)}, Addresses: []string{"n2:1"}}
	}
	says := func(want ...string) {
		t.Helper()
		b.await(fmt.Sprint("prepared ", want), func(o core.Observed) bool {
			var got []string
			for _, p := range o.Prepared {
				got = append(got, p.Uid+" "+filepath.Base(p.StorePath))
			}
			return o.Prepared != nil && slices.Equal(got, want)
		})
	}
	prepare := func(list ...*blixardv1.Preparation) {
		b.give(vmm.Action{Verb: vmm.Prepare, Preparations: list})
	}
	prepare(preparation("1-1", "r1"), preparation("1-2", "r2"))
	says("1-1 r1")
	s.write(filepath.Join(s.dir, "r2")) // its host has come back
	says("1-1 r1", "1-2 r2")
	if o := s.orders[0]; len(o.Files) != 0 || o.Want == nil || len(o.Addresses) != 1 {
		t.Errorf("%+v", o)
	}
	// What was prepared is the VM's when it comes here, and is prepared no more.
	a := flake("1-1", 1)
	a.Runner = preparation("1-1", "r1").Runner
	b.build(instance("1-1", 1), a)
	b.reopen()
	if got := s.Holding(); len(got) != 3 {
		t.Errorf("held %v", got)
	}
	prepare(preparation("1-2", "r2"))
	says("1-2 r2")
	if got := s.Holding(); len(got) != 2 || !exists(filepath.Join(s.dir, "r1")) {
		t.Errorf("held %v", got)
	}
	prepare()
	says()
	b.must(vmm.Remove, instance("1-1", 1), nil)
	if got := s.Holding(); len(got) != 0 || exists(filepath.Join(s.dir, "r1")) || exists(filepath.Join(s.dir, "r2")) {
		t.Errorf("held %v", got)
	}
}

// A host without Nix says so, and no more.
func TestNoNix(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	if err := b.do(vmm.Build, instance("1-1", 1), flake("1-1", 1)); err == nil || !strings.Contains(err.Error(), "install Nix") {
		t.Error(err)
	}
	b.give(vmm.Action{Verb: vmm.Prepare})
	b.must(vmm.Remove, instance("1-1", 1), nil)
}

// A paused guest hears its power button running, and is known to run if it does not
// heed it.
func TestAPausedRunnerThatIsDeaf(t *testing.T) {
	t.Parallel()
	b, s := nixBench(t)
	s.usual(filepath.Join(t.TempDir(), "tap"))
	s.script["microvm-shutdown"] = "exec sleep 300"
	i := instance("1-7", 1)
	b.build(i, flake("1-7", 1))
	b.must(vmm.Start, i, flake("1-7", 1))
	b.ready(i)
	b.must(vmm.Pause, i, nil)
	b.report("paused", i, func(r vmm.Report) bool { return r.Paused })
	b.mu.Lock()
	b.seen = nil
	b.mu.Unlock()
	b.must(vmm.Stop, i, nil)
	b.report("going on", i, func(r vmm.Report) bool { return r.Ready && !r.Paused })
	b.must(vmm.Kill, i, nil)
	b.down(i)
}
