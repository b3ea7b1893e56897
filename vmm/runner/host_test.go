package runner

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/blixard/blixard/core"
	"github.com/blixard/blixard/core/hosttest"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/runner/artifact"
	"github.com/blixard/blixard/vmm/runner/fakevmm"
	"github.com/blixard/blixard/vmm/runner/lease"
	"github.com/blixard/blixard/vmm/runner/shims"
	"github.com/blixard/blixard/vmm/shim"
)

// TestMain lets the test program be the shim, and a hypervisor.
func TestMain(m *testing.M) {
	if shims.Called() {
		os.Exit(shims.Main())
	}
	if fakevmm.Called() {
		fakevmm.Main()
	}
	if socket := os.Getenv("BLIXARD_TEST_API"); socket != "" {
		serveAPI(socket)
		os.Exit(0)
	}
	// These tests mostly wait, also where there are few cores; but a guest under emulation
	// takes one of its own to boot, and beside too many others it boots too late.
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = f.Value.Set("4")
	}
	code := m.Run()
	if staticFakeDir != "" {
		os.RemoveAll(staticFakeDir)
	}
	os.Exit(code)
}

// patience is for a machine that does much else.
const patience = 90 * time.Second

// someUsers are nobody's on a machine for tests: whatever root does with a hypervisor
// here, it does with one that runs as another user.
const someUsers = "262144-262207"

// bench is a host under test, which can be closed and made again.
type bench struct {
	t     testing.TB
	cfg   Config
	store *artifact.Store
	h     *Host
	last  uint64

	mu       sync.Mutex
	seen     []core.Observed
	more     chan struct{}
	contract hosttest.Contract // which every host keeps in every test
}

func newBench(t testing.TB, change ...func(*Config)) *bench {
	t.Helper()
	run, err := os.MkdirTemp("", "bx") // t.TempDir is too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	state := t.TempDir()
	store, err := artifact.Open(filepath.Join(state, "artifacts"))
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, store: store, cfg: Config{
		ClusterID: filepath.Base(run), HostID: "1", StateDir: state, RunRoot: run, Store: store, NoKVM: true,
		Capacity: &blixardv1.Resources{Vcpus: 4, MemoryMib: 4096, DiskMib: 1000}, Version: "test",
	}}
	if os.Geteuid() == 0 {
		b.cfg.Users = someUsers
	}
	if testing.Verbose() {
		b.cfg.Log = slog.New(slog.NewTextHandler(logTo{t}, nil))
	}
	for _, f := range change {
		f(&b.cfg)
	}
	b.open()
	t.Cleanup(func() {
		if b.h != nil {
			b.h.Close()
		}
		dirs, _ := filepath.Glob(filepath.Join(run, "*", "v", "*"))
		for _, d := range dirs {
			_ = shims.Sweep(d)
		}
		if b.h != nil && b.h.cgroups != nil {
			_ = b.h.cgroups.Sweep(nil)
			b.h.cgroups.Close()
		}
		os.RemoveAll(run)
	})
	return b
}

type logTo struct{ t testing.TB }

func (l logTo) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// open makes the host; what the one before it saw is forgotten.
func (b *bench) open() {
	b.t.Helper()
	b.mu.Lock()
	b.seen, b.more = nil, make(chan struct{}, 1)
	b.contract.Begins()
	b.mu.Unlock()
	b.cfg.Observe = func(o core.Observed) {
		b.mu.Lock()
		b.seen = append(b.seen, o)
		for _, why := range b.contract.Observed(o) {
			b.t.Errorf("the host does not keep its contract: %s", why)
		}
		b.mu.Unlock()
		select {
		case b.more <- struct{}{}:
		default:
		}
	}
	h, err := New(b.cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	b.h = h
}

// give gives the host an order.
func (b *bench) give(a vmm.Action) {
	b.mu.Lock()
	b.contract.Ordered(a)
	b.mu.Unlock()
	b.h.Do(a)
}

func (b *bench) reopen() {
	b.t.Helper()
	b.h.Close()
	b.open()
}

// await waits until f is true of some observation, and returns what came since
// the host was opened.
func (b *bench) await(what string, f func(core.Observed) bool) core.Observed {
	b.t.Helper()
	end := time.After(patience)
	for {
		b.mu.Lock()
		seen := b.seen
		b.mu.Unlock()
		for _, o := range seen {
			if f(o) {
				return o
			}
		}
		select {
		case <-b.more:
		case <-end:
			b.t.Fatalf("no %s in %+v", what, seen)
		}
	}
}

// do orders something and waits for its answer.
func (b *bench) do(verb vmm.Verb, i shim.Instance, a *blixardv1.Assignment) error {
	b.t.Helper()
	_, err := b.order(vmm.Action{Verb: verb, Instance: i, Assignment: a})
	return err
}

func (b *bench) order(a vmm.Action) (done vmm.Done, err error) {
	b.t.Helper()
	b.last++
	a.ID, a.Host = b.last, b.host()
	b.give(a)
	b.await(fmt.Sprintf("answer to %v", a.Verb), func(o core.Observed) bool {
		for _, d := range o.Done {
			if d.Action == a.ID {
				done = d
				return true
			}
		}
		return false
	})
	if done.Err != "" {
		err = errors.New(done.Err)
	}
	return done, err
}

func (b *bench) must(verb vmm.Verb, i shim.Instance, a *blixardv1.Assignment) {
	b.t.Helper()
	if err := b.do(verb, i, a); err != nil {
		b.t.Fatalf("%v: %v", verb, err)
	}
}

// report waits for a report of an instance.
func (b *bench) report(what string, i shim.Instance, f func(vmm.Report) bool) (found vmm.Report) {
	b.t.Helper()
	b.await(what, func(o core.Observed) bool {
		for _, r := range o.Reports {
			if r.Instance == i && f(r) {
				found = r
				return true
			}
		}
		return false
	})
	return found
}

func (b *bench) ready(i shim.Instance) vmm.Report {
	b.t.Helper()
	return b.report("ready", i, func(r vmm.Report) bool { return r.Liveness == vmm.Alive && r.Ready })
}

func (b *bench) down(i shim.Instance) vmm.Report {
	b.t.Helper()
	return b.report("end", i, func(r vmm.Report) bool { return r.Liveness == vmm.Down })
}

func (b *bench) exit(i shim.Instance, reason string) *vmm.Exit {
	b.t.Helper()
	r := b.down(i)
	if r.Exit == nil || r.Exit.Reason != reason || r.Exit.Message == "" {
		b.t.Fatalf("ended %+v, want %s\nconsole: %s", r.Exit, reason, b.console(i.UID))
	}
	b.t.Logf("ended %+v", *r.Exit)
	return r.Exit
}

func (b *bench) host() shim.Host {
	boot, err := lease.BootID()
	if err != nil {
		b.t.Fatal(err)
	}
	return shim.Host{ID: b.cfg.HostID, Generation: 1, Boot: boot, Epoch: 3}
}

func (b *bench) extend(ms uint32, ahead time.Duration) {
	b.give(vmm.Action{Verb: vmm.Extend, Host: b.host(), Leases: []vmm.Lease{{Length: ms, Deadline: int64(lease.Now()) + int64(ahead)}}})
}

func (b *bench) console(uid string) string {
	text, _ := os.ReadFile(b.h.at.console(uid))
	return string(text)
}

func (b *bench) awaitConsole(uid, word string) {
	b.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if strings.Contains(b.console(uid), word) {
			return
		}
	}
	b.t.Fatalf("no %q on the console: %s", word, b.console(uid))
}

func (b *bench) put(data []byte) *blixardv1.Artifact {
	b.t.Helper()
	sum := sha256.Sum256(data)
	a := &blixardv1.Artifact{Digest: hex.EncodeToString(sum[:]), Size: uint64(len(data))}
	if err := b.store.Put(context.Background(), bytes.NewReader(data), a.Digest, a.Size); err != nil {
		b.t.Fatal(err)
	}
	return a
}

func instance(uid string, attempt uint32) shim.Instance {
	return shim.Instance{UID: uid, Generation: 1, Index: 7, Attempt: attempt}
}

// program is an assignment of a shell script.
func program(uid, script string) *blixardv1.Assignment {
	return &blixardv1.Assignment{
		Uid: uid, Name: "vm-" + uid, Incarnation: &blixardv1.Incarnation{Generation: 1, Index: 7},
		Hypervisor: blixardv1.Hypervisor_HYPERVISOR_PROCESS, Lease: blixardv1.LeaseClass_LEASE_CLASS_NONE,
		RunGeneration: 4,
		Spec: &blixardv1.VMSpec{Source: &blixardv1.VMSpec_Process{Process: &blixardv1.Process{
			Argv: []string{"/bin/sh", "-c", script}, Env: map[string]string{"SAY": "hello"},
		}}},
	}
}

func TestAProgramsLife(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	first := b.await("inventory", func(o core.Observed) bool { return o.Inventory })
	if len(first.Reports) != 0 || first.Facts.GetCapacity().GetMemoryMib() != 4096 || first.Facts.Version != "test" {
		t.Errorf("inventory %+v", first)
	}
	t.Logf("facts %v", first.Facts)
	a := program("1-5", `echo $SAY $BLIXARD_ATTEMPT; trap "echo bye; exit 3" TERM; while :; do sleep 0.02; done`)
	i := instance("1-5", 1)
	b.must(vmm.Build, i, a)
	if dirs, _ := os.ReadDir(b.h.at.states()); len(dirs) != 0 {
		t.Error("Build made a directory: it would be taken for an attempt")
	}
	b.must(vmm.Start, i, a)
	r := b.ready(i)
	if r.Lease != blixardv1.LeaseClass_LEASE_CLASS_NONE || r.LeaseMs != 0 || r.RunGeneration != 4 {
		t.Errorf("report %+v", r)
	}
	b.awaitConsole("1-5", "hello 1\n")
	b.must(vmm.Start, i, a) // what runs
	if err := b.do(vmm.Start, instance("1-5", 2), a); err == nil || !strings.Contains(err.Error(), "alive") {
		t.Errorf("a second one was started: %v", err)
	}
	if err := b.do(vmm.Remove, i, nil); err == nil || !strings.Contains(err.Error(), "alive") {
		t.Errorf("removed while alive: %v", err)
	}
	if err := b.do(vmm.Kill, instance("1-5", 9), nil); err == nil {
		t.Error("an order for another instance was carried out")
	}
	b.must(vmm.Stop, i, a)
	if e := b.exit(i, Exited); e.Code != 3 {
		t.Errorf("exit %+v", e)
	}
	second := instance("1-5", 2)
	b.must(vmm.Start, second, a)
	b.ready(second)
	b.awaitConsole("1-5", "--- attempt 1 ---\nhello 1\nbye\n--- attempt 2 ---\nhello 2\n")
	logs, err := b.h.Logs(context.Background(), "1-5", true, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	ended := make(chan string, 1)
	go func() {
		var all bytes.Buffer
		_, err := all.ReadFrom(logs)
		ended <- fmt.Sprint(all.String(), err)
	}()
	b.must(vmm.Kill, second, nil)
	if e := b.exit(second, Killed); e.Code != 137 {
		t.Errorf("exit %+v", e)
	}
	if err := b.do(vmm.Start, shim.Instance{UID: "1-5", Generation: 1, Index: 8, Attempt: 1}, a); err == nil || !strings.Contains(err.Error(), "removed first") {
		t.Errorf("another incarnation took over the files: %v", err)
	}
	b.must(vmm.Remove, second, nil)
	b.report("absent", second, func(r vmm.Report) bool { return r.Liveness == vmm.Absent })
	b.must(vmm.Remove, second, nil)
	if text := <-ended; !strings.Contains(text, "hello 2\n") || !strings.HasSuffix(text, "<nil>") {
		t.Errorf("followed %q", text)
	}
	for _, dir := range []string{b.h.at.states(), b.h.at.runs(), b.h.at.trash()} {
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("left %v", left)
		}
	}
	if _, err := b.h.Logs(context.Background(), "1-5", false, 0); !errors.Is(err, ErrNoLog) {
		t.Error(err)
	}
}

func TestAHostThatComesBackFindsEverything(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	const forever = `while :; do sleep 0.05; done`
	alive, died, lost, failed := instance("1-1", 1), instance("1-2", 1), instance("1-3", 1), instance("1-4", 1)
	b.must(vmm.Start, alive, program("1-1", forever))
	b.must(vmm.Start, died, program("1-2", `sleep 0.3; exit 5`))
	b.must(vmm.Start, lost, program("1-3", forever))
	broken := program("1-4", "")
	broken.Spec.GetProcess().Argv = []string{"/no/such/program"}
	if err := b.do(vmm.Start, failed, broken); err == nil || !strings.Contains(err.Error(), "/no/such/program") {
		t.Fatal(err)
	}
	b.exit(failed, BootFailed)
	before := b.state(alive)
	b.h.Close()
	_ = shims.Sweep(b.h.at.runOf("1-3")) // kills the shim too
	for !shims.Dead(b.h.at.runOf("1-2")) {
		time.Sleep(10 * time.Millisecond)
	}
	b.open()
	first := b.await("inventory", func(o core.Observed) bool { return o.Inventory })
	if len(first.Reports) != 4 {
		t.Fatalf("%+v", first.Reports)
	}
	if r := b.ready(alive); r.RunGeneration != 4 {
		t.Errorf("%+v", r)
	}
	if b.state(alive).VM != before.VM {
		t.Error("the VM was disturbed")
	}
	if e := b.exit(died, Exited); e.Code != 5 {
		t.Errorf("%+v", e)
	}
	if r := b.down(lost); r.Exit != nil {
		t.Errorf("nobody saw it, and yet: %+v", r.Exit)
	}
	b.exit(failed, BootFailed)
	b.must(vmm.Stop, alive, nil)
	b.down(alive)
}

// state is what the shim of a live instance notes.
func (b *bench) state(i shim.Instance) shim.State {
	b.t.Helper()
	s, st, err := shims.Adopt(b.h.at.runOf(i.UID))
	if err != nil || s == nil {
		b.t.Fatalf("%v: %+v %v", i, st, err)
	}
	s.Close()
	return s.Hello()
}

func TestLeases(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := program("1-1", `while :; do sleep 0.05; done`)
	a.Lease, a.LeaseMs = blixardv1.LeaseClass_LEASE_CLASS_SHORT, 1500
	i := instance("1-1", 1)
	if err := b.do(vmm.Start, i, a); err == nil {
		t.Fatal("started without a page")
	}
	b.exit(i, StartFailed)
	i.Attempt = 2
	b.extend(1500, 10*time.Second)
	b.must(vmm.Start, i, a)
	r := b.ready(i)
	if r.Lease != a.Lease || r.LeaseMs != 1500 || r.Epoch != 3 {
		t.Fatalf("%+v", r)
	}
	// To the long lease, to none, and back; a host that comes back knows which.
	for _, c := range []struct {
		class blixardv1.LeaseClass
		ms    uint32
	}{{blixardv1.LeaseClass_LEASE_CLASS_LONG, 60_000}, {blixardv1.LeaseClass_LEASE_CLASS_NONE, 0}, {blixardv1.LeaseClass_LEASE_CLASS_SHORT, 1501}} {
		a.Lease, a.LeaseMs = c.class, c.ms
		if c.ms > 0 {
			b.extend(c.ms, 6*time.Second)
		}
		b.must(vmm.Rebind, i, a)
		has := func(r vmm.Report) bool { return r.Liveness == vmm.Alive && r.Lease == c.class && r.LeaseMs == c.ms }
		b.report("rebound", i, has)
		b.reopen()
		b.report("rebound, after a restart", i, has)
	}
	a.Lease, a.LeaseMs = blixardv1.LeaseClass_LEASE_CLASS_SHORT, 9999
	if err := b.do(vmm.Rebind, i, a); err == nil {
		t.Error("bound by a page that is not there")
	}
	b.report("what it had", i, func(r vmm.Report) bool { return r.LeaseMs == 1501 })
	// Extended, it lives; not extended, it ends.
	b.extend(1501, 8*time.Second)
	time.Sleep(6500 * time.Millisecond)
	if shims.Dead(b.h.at.runOf("1-1")) {
		t.Fatal("it ended although its lease was extended")
	}
	b.exit(i, Lapsed)
	b.extend(1501, time.Minute)
	b.await("word that the epoch is over", func(o core.Observed) bool { return o.Lapsed == 3 })
	a.LeaseMs = 1501
	i.Attempt = 3
	if err := b.do(vmm.Start, i, a); err == nil {
		t.Error("started under a lease that had lapsed")
	}
	b.exit(i, Lapsed)
}

func TestAShimThatDoesNotAnswerIsKilledWithItsVM(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	i := instance("1-1", 1)
	b.must(vmm.Start, i, program("1-1", `while :; do sleep 0.05; done`))
	freeze(t, b.state(i).Shim.PID)
	if err := b.do(vmm.Stop, i, nil); err == nil {
		t.Error("a stopped shim pressed the button")
	}
	b.must(vmm.Kill, i, nil)
	b.exit(i, Killed)
	b.must(vmm.Remove, i, nil)
}

func TestAForkingProgramIsHeld(t *testing.T) {
	t.Parallel()
	if !pidNamespaces() {
		t.Skip("no PID namespaces here (needs root)")
	}
	b := newBench(t)
	i := instance("1-1", 1)
	b.must(vmm.Start, i, program("1-1", `setsid sh -c 'while :; do echo beat; sleep 0.02; done' & sleep 1000`))
	b.awaitConsole("1-1", "beat")
	kill9(t, b.state(i).Shim.PID)
	if r := b.down(i); r.Exit != nil {
		t.Errorf("%+v", r.Exit)
	}
	n := len(b.console("1-1"))
	time.Sleep(200 * time.Millisecond)
	if len(b.console("1-1")) != n {
		t.Error("it beats on")
	}
}

func TestOneDaemonOneHost(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for name, change := range map[string]func(*Config){
		"a copy of the data": func(c *Config) { c.StateDir = t.TempDir() },
		"another run root": func(c *Config) {
			c.RunRoot = t.TempDir()
		},
	} {
		cfg := b.cfg
		change(&cfg)
		if h, err := New(cfg); !errors.Is(err, ErrTaken) {
			t.Errorf("%s: %v", name, err)
			if h != nil {
				h.Close()
			}
		}
	}
	cfg := b.cfg
	cfg.HostID, cfg.StateDir = "2", t.TempDir()
	h, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h.Close()
	// What is just being started has copies of what a daemon holds, until it is executed.
	copied, err := b.h.guard.socket.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(guardPatience/3, func() { copied.Close() })
	b.reopen()
}

func TestHostileOrders(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, uid := range []string{"", "..", ".", "../../x", "a/b", "a\x00b", "-rf", strings.Repeat("x", 200), "a b", "ü"} {
		if err := b.do(vmm.Start, instance(uid, 1), program(uid, "true")); err == nil || !strings.Contains(err.Error(), "uid") {
			t.Errorf("%q: %v", uid, err)
		}
		if _, err := b.h.Logs(context.Background(), uid, false, 0); err == nil {
			t.Errorf("%q: logs", uid)
		}
	}
	a := program("1-1", "")
	a.Name = "x$(touch /tmp/pwned);\n\"',"
	a.Spec.GetProcess().Argv = []string{"/bin/echo", "$(id)", "--", ";", "\n", "ü"}
	a.Spec.GetProcess().Env = map[string]string{"A": "$(id) \n", "BLIXARD_NAME": "mine"}
	b.must(vmm.Start, instance("1-1", 1), a)
	b.exit(instance("1-1", 1), Exited)
	if got := b.console("1-1"); !strings.Contains(got, "$(id) -- ; \n ü\n") {
		t.Errorf("%q", got)
	}
	for name, change := range map[string]func(*blixardv1.Assignment){
		"NUL in argv":   func(a *blixardv1.Assignment) { a.Spec.GetProcess().Argv[1] = "\x00" },
		"env name":      func(a *blixardv1.Assignment) { a.Spec.GetProcess().Env["A=B"] = "" },
		"relative":      func(a *blixardv1.Assignment) { a.Spec.GetProcess().Argv[0] = "echo" },
		"no argv":       func(a *blixardv1.Assignment) { a.Spec.GetProcess().Argv = nil },
		"no spec":       func(a *blixardv1.Assignment) { a.Spec = nil },
		"no hypervisor": func(a *blixardv1.Assignment) { a.Hypervisor = 0 },
	} {
		a := program("1-2", "true")
		change(a)
		if err := b.do(vmm.Start, instance("1-2", 1), a); err == nil {
			t.Errorf("%s: started", name)
		}
	}
	if err := b.do(vmm.Start, instance("1-3", 1), nil); err == nil {
		t.Error("started without an assignment")
	}
}

func TestOneVMHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(c *Config) { c.Fetcher = hangs{} })
	slow := program("1-1", "")
	slow.Hypervisor = blixardv1.Hypervisor_HYPERVISOR_QEMU
	gone := &blixardv1.Artifact{Digest: strings.Repeat("a", 64), Size: 1}
	slow.Spec = &blixardv1.VMSpec{Source: &blixardv1.VMSpec_Image{Image: &blixardv1.Image{Kernel: gone}}}
	slow.Sources = []*blixardv1.ArtifactSource{{Artifact: gone, Addresses: []string{"hangs:1"}}}
	if b.h.drivers[slow.Hypervisor] == nil {
		t.Skip("no QEMU: run scripts/setup")
	}
	i := instance("1-1", 1)
	b.give(vmm.Action{ID: 1000, Verb: vmm.Build, Instance: i, Assignment: slow, Host: b.host()})
	b.must(vmm.Start, instance("1-2", 1), program("1-2", "echo hi"))
	b.exit(instance("1-2", 1), Exited)
	time.Sleep(50 * time.Millisecond)
	b.must(vmm.Remove, i, nil) // ends the Build
	b.await("the Build's answer", func(o core.Observed) bool {
		return len(o.Done) == 1 && o.Done[0].Action == 1000 && strings.Contains(o.Done[0].Err, "canceled")
	})
}

// hangs is a Fetcher whose peer says nothing.
type hangs struct{}

func (hangs) Fetch(ctx context.Context, _ *blixardv1.ArtifactSource) (io.ReadCloser, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}
