package main

import (
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/runner/cgroup"
)

// How many lifecycles TestNothingIsLeft lives, and with which chance; scripts/soak
// lifecycles sets them.
const (
	lifecyclesEnv = "BLIXARD_LIFECYCLES"
	leakSeedEnv   = "BLIXARD_LEAK_SEED"
)

// VMs live random lives while daemons, shims and hypervisors are killed. When all are
// deleted, the machine is as it was: no process, link, socket, cgroup or file more,
// and no address or room in use.
func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	lives := 8
	if text := os.Getenv(lifecyclesEnv); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			t.Fatalf("%s=%q is no number of lifecycles", lifecyclesEnv, text)
		}
		lives = n
	}
	seed, err := strconv.ParseUint(os.Getenv(leakSeedEnv), 10, 64)
	if err != nil {
		seed = rand.Uint64() % 1_000_000
	}
	t.Logf("%s=%d %s=%d", lifecyclesEnv, lives, leakSeedEnv, seed)
	c := up(t, 3, networked(t))
	l := &leaks{Cluster: c, mark: fmt.Sprintf("leak-%d-%d", os.Getpid(), seed), qemu: realGuests(t)}
	if l.qemu {
		pushGuest(c)
		c.Must("network", "create", "lan", "10.253.9.0/24")
	}
	l.sees()
	// Once through everything first, so that what is made once is there.
	l.live("warm", rand.New(rand.NewPCG(seed, 0)), false)
	if l.qemu {
		l.live("warmer", rand.New(rand.NewPCG(seed, 1)), true)
	}
	l.settle()
	before := l.list()

	names := make(chan int)
	done := make(chan struct{})
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			for i := range names {
				l.live(fmt.Sprintf("vm%d", i), rand.New(rand.NewPCG(seed, uint64(i)+10)), l.qemu && i%5 == 0)
			}
		})
	}
	var killer sync.WaitGroup
	killer.Go(func() { l.kills(rand.New(rand.NewPCG(seed, 2)), done) })
	for i := range lives {
		names <- i
	}
	close(names)
	wait.Wait()
	close(done)
	killer.Wait()
	l.settle()
	t.Logf("%d lifecycles: %v", lives, l.counts)

	// What is on its way out has a while to go.
	var more []string
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(time.Second) {
		if more = l.more(before); len(more) == 0 || time.Now().After(end) {
			break
		}
	}
	for _, m := range more {
		t.Errorf("left behind: %s", m)
	}
	if t.Failed() {
		t.Logf("again: %s=%d %s=%d go test ./cmd/blixard -run TestNothingIsLeft", lifecyclesEnv, lives, leakSeedEnv, seed)
	}
}

// realGuests says whether there is what a real guest needs.
func realGuests(t *testing.T) bool {
	skipped := true
	t.Run("with real guests", func(t *testing.T) {
		guestFiles(t)
		skipped = false
	})
	return !skipped
}

// leaks are VMs that live at random.
type leaks struct {
	*Cluster
	mark string // in the environment of every program
	qemu bool
	// cgroups are the names of the daemons' own.
	cgroups []string

	mu     sync.Mutex
	counts map[string]int
	daemon sync.RWMutex // held while one is down: nobody looks into its directories
}

// sees makes sure that what lives is seen: a list of nothing would be of no use.
func (l *leaks) sees() {
	l.t.Helper()
	for _, n := range l.nodes {
		st, err := n.Status()
		if err != nil {
			l.t.Fatal(err)
		}
		l.cgroups = append(l.cgroups, cgroup.Name(fmt.Sprintf("%s %d", st.GetClusterId(), st.GetNodeId())))
	}
	before := l.list()
	l.Must("vm", "create", "seen", "--process", "--memory", "32", "--env", "LEAK="+l.mark, "--", "/bin/sh", "-c", "while :; do sleep 0.2; done")
	want := []string{"process 1 of sh -c", "file " + l.HostOf("seen").Data, "socket ", "room on"}
	if tree, err := cgroup.Open("", "seen"); err == nil {
		tree.Close()
		want = append(want, "cgroup /sys/fs/cgroup")
	}
	if l.qemu {
		l.Must("vm", "create", "seen2", "--kernel", "kernel", "--initrd", "guest", "--memory", "128", "--network", "lan")
		want = append(want, "process 1 of qemu-system-x86_64", "link bt", "link bb", "addresses: ")
	}
	more := strings.Join(l.more(before), "\n")
	for _, w := range want {
		if !strings.Contains(more, w) {
			l.t.Errorf("a VM lives, and %q is not in what is seen of it:\n%s", w, more)
		}
	}
	l.settle()
}

func (l *leaks) count(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.counts == nil {
		l.counts = map[string]int{}
	}
	l.counts[what]++
}

// live is the life of one VM. What is asked at a bad moment may be refused.
func (l *leaks) live(name string, r *rand.Rand, guest bool) {
	args := []string{"--no-wait", "vm", "create", name, "--process", "--memory", "32", "--env", "LEAK=" + l.mark, "--stop-grace", "500ms", "--", "/bin/sh", "-c", "while :; do sleep 0.2; done"}
	if guest {
		args = []string{"--no-wait", "vm", "create", name, "--kernel", "kernel", "--initrd", "guest", "--memory", "128", "--network", "lan", "--disk", "name=data,size=16", "--on-host-loss", "replace", "--stop-grace", "500ms"}
		switch r.IntN(3) {
		case 0: // one that has a saved boot
			args = []string{"--no-wait", "vm", "create", name, "--kernel", "kernel", "--initrd", "guest", "--memory", "128", "--network", "lan", "--warm", "--stop-grace", "500ms"}
		case 1: // one with a volume of the cluster, and a port of its host
			l.try("create volume", "--no-wait", "volume", "create", "data-"+name, "--size", "16")
			args = []string{"--no-wait", "vm", "create", name, "--kernel", "kernel", "--initrd", "guest", "--memory", "128", "--volume", "data-" + name, "-p", fmt.Sprintf("127.0.0.1:%d:7", 20000+r.IntN(10000)), "--stop-grace", "500ms"}
		}
	}
	l.try("create", args...)
	verbs := []string{"stop", "start", "restart", "pause", "resume", "update", "kill", "kill shim", "migrate", "migrate offline"}
	if guest {
		verbs = append(verbs, "snapshot", "go back", "clone", "snapshot", "migrate", "migrate")
	}
	for range 2 + r.IntN(4) {
		time.Sleep(time.Duration(r.IntN(1500)) * time.Millisecond)
		switch what := verbs[r.IntN(len(verbs))]; what {
		case "update":
			l.try(what, "--no-wait", "vm", "update", name, "--memory", fmt.Sprint(64+r.IntN(64)), "--restart")
		case "kill", "kill shim":
			l.kill(name, what)
		case "migrate offline":
			l.try(what, "--no-wait", "vm", "migrate", "--offline", name)
		case "snapshot":
			l.try(what, "--no-wait", "snapshot", "create", name, "snap-"+name)
		case "go back":
			l.try(what, "--no-wait", "snapshot", "restore", "snap-"+name)
		case "clone":
			l.try(what, "--no-wait", "vm", "clone", "snap-"+name, name+"-clone")
		default:
			l.try(what, "--no-wait", "vm", what, name)
		}
	}
	time.Sleep(time.Duration(r.IntN(1000)) * time.Millisecond)
	l.try("delete", "--no-wait", "vm", "delete", "-y", name)
}

// try does what may be refused, and is done again where nobody answers.
func (l *leaks) try(what string, args ...string) {
	end := time.Now().Add(90 * time.Second)
	for {
		r := l.Run(args...)
		switch r.code {
		case 0:
			l.count(what)
			return
		case exitConflict, exitNotFound, exitUsage: // as things are
			l.count(what + " refused")
			return
		}
		if time.Now().After(end) {
			l.t.Errorf("%s: %v", strings.Join(args, " "), r)
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// kill ends the program of a VM, or its shim, wherever it runs.
func (l *leaks) kill(name, what string) {
	l.daemon.RLock()
	defer l.daemon.RUnlock()
	r, err := l.Client().VM.Get(ctx(l.t), connect.NewRequest(&blixardv1.GetRequest{Name: name, Stale: true}))
	if err != nil {
		return
	}
	for _, n := range l.nodes {
		s, ok := n.Running()[r.Msg.GetVm().GetUid()]
		if !ok {
			continue
		}
		pid := s.VM.PID
		if what == "kill shim" {
			pid = parentOf(pid)
		}
		if pid > 1 && syscall.Kill(pid, syscall.SIGKILL) == nil {
			l.count(what)
		}
	}
}

func parentOf(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	ppid, _ := strconv.Atoi(fields[1])
	return ppid
}

// kills kills daemons, one at a time, and starts them again, at once or after their
// lease.
func (l *leaks) kills(r *rand.Rand, done chan struct{}) {
	for {
		select {
		case <-done:
			return
		case <-time.After(time.Duration(2000+r.IntN(4000)) * time.Millisecond):
		}
		n := l.nodes[r.IntN(len(l.nodes))]
		l.daemon.Lock()
		n.Kill()
		l.count("kill daemon")
		l.daemon.Unlock()
		if r.IntN(3) == 0 {
			time.Sleep(6 * time.Second)
			l.count("kill daemon for long")
		}
		l.daemon.Lock()
		n.Start()
		l.daemon.Unlock()
	}
}

// settle deletes whatever there is, and waits until the cluster knows of none.
func (l *leaks) settle() {
	l.t.Helper()
	for _, n := range l.nodes {
		n.Await()
	}
	l.AwaitReady()
	// A snapshot goes before its VM does, and a volume after: each is removed in turn.
	for _, kind := range []string{"snapshot", "vm", "volume"} {
		l.Eventually(2*time.Minute, "no "+kind+" is left", func() error {
			r := l.Run(kind, "list", "-o", "name")
			if r.code != 0 {
				return fmt.Errorf("%v", r)
			}
			names := strings.Fields(r.out)
			if len(names) == 0 {
				return nil
			}
			gone := l.Run(append([]string{"--no-wait", kind, "delete", "-y"}, names...)...)
			time.Sleep(500 * time.Millisecond)
			return fmt.Errorf("%v; there is still %s", gone, l.Run(kind, "list", "-o", "wide").out)
		})
	}
}

// list is everything of ours on this machine, in words.
func (l *leaks) list() map[string]bool {
	all := map[string]bool{}
	add := func(format string, args ...any) { all[fmt.Sprintf(format, args...)] = true }
	for _, p := range l.processes() {
		add("process %s", p)
	}
	for i, n := range l.nodes {
		out, err := exec.Command("ip", "-n", l.network.ns(i+1), "-o", "link").CombinedOutput()
		if err != nil {
			l.t.Fatalf("list the links of %s: %v: %s", n.Name, err, out)
		}
		for line := range strings.Lines(string(out)) {
			add("link %s on %s", strings.TrimSuffix(strings.Fields(line)[1], ":"), n.Name)
		}
		for _, dir := range []string{n.RunAt, n.Data} {
			filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				if err == nil && !passing.MatchString(path) {
					add("%s %s", map[bool]string{true: "socket", false: "file"}[d.Type()&fs.ModeSocket != 0], path)
				}
				return nil
			})
		}
	}
	filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && slices.ContainsFunc(l.cgroups, func(own string) bool { return strings.Contains(path, "/"+own+"/") }) {
			add("cgroup %s", path)
		}
		return nil
	})
	r, err := l.Client().Node.List(ctx(l.t), connect.NewRequest(&blixardv1.NodeServiceListRequest{}))
	if err != nil {
		l.t.Fatal(err)
	}
	for _, n := range r.Msg.GetNodes() {
		if a := n.GetHost().GetAllocated(); a.GetVcpus() != 0 || a.GetMemoryMib() != 0 || a.GetDiskMib() != 0 || n.GetHost().GetInstances() != 0 {
			add("room on %s: %v, %d instances", n.GetName(), a, n.GetHost().GetInstances())
		}
	}
	if l.qemu {
		if out := l.Must("network", "get", "lan"); !strings.Contains(out, "0 of 253") {
			add("addresses: %s", oneLine(out))
		}
	}
	return all
}

// passing names files that come and go with no VM: the databases' own, and the leases
// of each epoch, of which the newest stay.
var passing = regexp.MustCompile(`/leases/|/artifacts/|\.tmp$`)

// processes are those that have to do with this cluster, by what they are and have:
// how many there are of each.
func (l *leaks) processes() []string {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	found := map[string]int{}
	for _, dir := range dirs {
		if filepath.Base(dir) == strconv.Itoa(os.Getpid()) {
			continue
		}
		cmdline, _ := os.ReadFile(dir + "/cmdline")
		environ, _ := os.ReadFile(dir + "/environ")
		cwd, _ := os.Readlink(dir + "/cwd")
		text := string(cmdline) + string(environ) + cwd
		ours := strings.Contains(text, l.mark)
		for _, n := range l.nodes {
			ours = ours || strings.Contains(text, n.RunAt) || strings.Contains(text, n.Data)
		}
		if words := strings.Split(string(cmdline), "\x00"); ours && len(words) > 1 {
			found[filepath.Base(words[0])+" "+words[1]]++
		}
	}
	var list []string
	for _, what := range slices.Sorted(maps.Keys(found)) {
		list = append(list, fmt.Sprintf("%d of %s", found[what], what))
	}
	return list
}

// more is what is there now and was not.
func (l *leaks) more(before map[string]bool) (more []string) {
	now := l.list()
	for _, what := range slices.Sorted(maps.Keys(now)) {
		if !before[what] {
			more = append(more, what)
		}
	}
	return more
}
