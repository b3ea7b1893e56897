package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/rpc"
	"github.com/blixard/blixard/vmm/runner/shims"
	"github.com/blixard/blixard/vmm/runner/vmdir"
	"github.com/blixard/blixard/vmm/shim"
)

// The end-to-end tests run the real programs as real processes:
//
//	c := up(t, 3)
//	c.Must("vm", "create", "web", "--process", "--", "/bin/sleep", "1000")
//	c.HostOf("web").Lose()
//	c.Await("web", runsElsewhere)
//
// Each node has private directories. Whatever a test leaves alive is killed at
// its end, and a test that fails shows the end of every node's log.

// bin has the programs, built once.
var bin string

func TestMain(m *testing.M) {
	if file := os.Getenv(witnessEnv); file != "" {
		witness(file)
	}
	if socket := os.Getenv(socatEnv); socket != "" {
		socat(socket)
	}
	// These tests mostly wait (for leases to end, for guests to boot), also where there are
	// few cores: four at once leave two cores half idle.
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		f.Value.Set("5")
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "blixard-e2e-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		build := exec.Command("go", "build", "-o", dir+"/",
			"github.com/blixard/blixard/cmd/blixard", "github.com/blixard/blixard/cmd/blixard-shim")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build the programs: %v\n%s", err, out)
			return 1
		}
		bin = dir
		return m.Run()
	}())
}

// Cluster is some nodes on this machine, and a client.
type Cluster struct {
	t       testing.TB
	nodes   []*Node
	dir     string
	network *network // nil: all on loopback
	tls     *rpc.TLS
	env     []string // of command lines
}

// Node is one serve process.
type Node struct {
	t     testing.TB
	Name  string
	Addr  string
	Data  string
	RunAt string
	log   string
	flags []string
	env   []string // beside our own
	ns    string   // network namespace; empty: ours
	under []string // a command that becomes the daemon's
	tls   *rpc.TLS
	cmd   *exec.Cmd
	ended chan struct{}
}

// options of a cluster.
type options struct {
	settings *blixardv1.Settings
	flags    func(i int) []string // of node i, from 1
	network  *network
	change   func(i int, n *Node) // before it starts
}

// shortLease makes losses be noticed in seconds. K stays: kills are as slow as
// they are.
func shortLease() *blixardv1.Settings {
	return &blixardv1.Settings{LeaseMs: 3000, RenewMs: 600}
}

// longLease is for tests of which it is no part: a daemon that is started again, or that
// stands still, is back within it, also on a machine that does much else.
func longLease(o *options) { o.settings = &blixardv1.Settings{LeaseMs: 15_000, RenewMs: 1000} }

// up brings up a cluster of n nodes and waits until all may run VMs.
func up(t testing.TB, n int, change ...func(*options)) *Cluster {
	t.Helper()
	o := options{settings: shortLease(), flags: func(int) []string { return nil }}
	for _, f := range change {
		f(&o)
	}
	c := &Cluster{t: t, dir: t.TempDir(), network: o.network}
	if c.network != nil {
		c.tls, c.env = c.network.client()
	}
	t.Cleanup(c.down)
	for i := 1; i <= n; i++ {
		n := c.Add(o.flags(i)...)
		if o.change != nil {
			o.change(i, n)
		}
		n.Start()
	}
	c.nodes[0].Await()
	if _, err := c.Node(1).Client().Cluster.Init(ctx(t), connect.NewRequest(&blixardv1.InitRequest{Settings: o.settings})); err != nil {
		t.Fatalf("init: %v", err)
	}
	for _, node := range c.nodes[1:] {
		node.Join(c.Node(1))
	}
	c.AwaitReady()
	return c
}

// Add makes a node that is in no cluster and does not run yet.
func (c *Cluster) Add(flags ...string) *Node {
	c.t.Helper()
	addr, err := freeAddress()
	if err != nil {
		c.t.Fatal(err)
	}
	run, err := os.MkdirTemp(runBase(), "bx-")
	if err != nil {
		c.t.Fatal(err)
	}
	name := fmt.Sprintf("n%d", len(c.nodes)+1)
	n := &Node{t: c.t, Name: name, Addr: addr, Data: filepath.Join(c.dir, name), RunAt: run,
		log: filepath.Join(c.dir, name+".log"), flags: append([]string{"--vcpus", "8", "--memory", "4096", "--disk", "8192"}, flags...)}
	c.nodes = append(c.nodes, n)
	if c.network != nil {
		n.tls = c.tls
		c.network.add(len(c.nodes), n)
	}
	return n
}

func (c *Cluster) down() {
	for _, n := range c.nodes {
		n.Kill()
		if c.t.Failed() {
			c.t.Log(n.autopsy())
		}
		n.Lose()
	}
	c.neverTwo()
	for _, n := range c.nodes {
		if c.t.Failed() {
			c.t.Logf("--- the end of %s's log\n%s", n.Name, tail(n.log, 6000))
		}
		os.RemoveAll(n.RunAt)
	}
}

// Node is the i-th, from 1.
func (c *Cluster) Node(i int) *Node { return c.nodes[i-1] }

// Named is the node of that name.
func (c *Cluster) Named(name string) *Node {
	c.t.Helper()
	for _, n := range c.nodes {
		if n.Name == name {
			return n
		}
	}
	c.t.Fatalf("there is no node %q", name)
	return nil
}

func (c *Cluster) servers() string {
	var a []string
	for _, n := range c.nodes {
		if n.Alive() {
			a = append(a, n.Addr)
		}
	}
	return strings.Join(a, ",")
}

// Client asks whichever nodes run now.
func (c *Cluster) Client() *rpc.Client {
	r := rpc.Dial(strings.Split(c.servers(), ","), c.tls)
	c.t.Cleanup(r.Close)
	return r
}

// result is what a command did.
type result struct {
	code     int
	out, err string
}

func (r result) String() string { return fmt.Sprintf("exit %d\n%s%s", r.code, r.out, r.err) }

// Command is the command line, to be run by the caller.
func (c *Cluster) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "blixard"), args...)
	cmd.Env = append(os.Environ(), "BLIXARD_SERVER="+c.servers(), "BLIXARD_TIMEOUT=60s")
	cmd.Env = append(cmd.Env, c.env...)
	return cmd
}

// Run runs a command line against the cluster.
func (c *Cluster) Run(args ...string) result { return c.RunInput("", args...) }

// RunInput has a standard input, too.
func (c *Cluster) RunInput(input string, args ...string) result {
	c.t.Helper()
	return run1(c.t, c.Command(ctx(c.t), args...), input)
}

func run1(t testing.TB, cmd *exec.Cmd, input string) result {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v: %v", cmd.Args, err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// Must runs a command line that has to succeed, and returns what it printed.
func (c *Cluster) Must(args ...string) string {
	c.t.Helper()
	r := c.Run(args...)
	if r.code != 0 {
		c.t.Fatalf("blixard %s: %v", strings.Join(args, " "), r)
	}
	return r.out
}

// Fails runs a command line that has to exit with code and say all of words.
func (c *Cluster) Fails(code int, words []string, args ...string) result {
	c.t.Helper()
	r := c.Run(args...)
	if r.code != code {
		c.t.Errorf("blixard %s: want exit %d, got %v", strings.Join(args, " "), code, r)
	}
	for _, w := range words {
		if !strings.Contains(r.err, w) {
			c.t.Errorf("blixard %s: %q is not in what it says:\n%s", strings.Join(args, " "), w, r.err)
		}
	}
	return r
}

// VM is what the cluster knows of a VM, and its node's name; nil when there is none.
func (c *Cluster) VM(name string) (*blixardv1.VM, string) {
	c.t.Helper()
	var vm *blixardv1.VM
	node := ""
	c.Eventually(30*time.Second, "an answer about "+name, func() error {
		r, err := c.Client().VM.Get(ctx(c.t), connect.NewRequest(&blixardv1.GetRequest{Name: name}))
		if connect.CodeOf(err) == connect.CodeNotFound {
			vm = nil
			return nil
		}
		if err != nil {
			return err
		}
		vm, node = r.Msg.GetVm(), r.Msg.GetNode()
		return nil
	})
	return vm, node
}

// HostOf is the node that a VM is placed on.
func (c *Cluster) HostOf(vm string) *Node {
	c.t.Helper()
	v, node := c.VM(vm)
	if v == nil || node == "" {
		c.t.Fatalf("VM %s is on no node: %v", vm, v)
	}
	return c.Named(node)
}

// Await waits until a VM is as wanted.
func (c *Cluster) Await(name string, d time.Duration, what string, is func(v *blixardv1.VM, node string) bool) {
	c.t.Helper()
	c.Eventually(d, name+" "+what, func() error {
		v, node := c.VM(name)
		if !is(v, node) {
			return fmt.Errorf("it is %s on %q: %s", phaseText(v), node, v.GetStatus().GetMessage())
		}
		return nil
	})
}

// Leader is the node that leads.
func (c *Cluster) Leader() *Node {
	c.t.Helper()
	var leader *Node
	c.Eventually(20*time.Second, "a leader", func() error {
		for _, n := range c.nodes {
			if !n.Alive() {
				continue
			}
			s, err := n.Status()
			if err != nil {
				return err
			}
			if s.GetLeaderId() != 0 && s.GetLeaderId() == s.GetNodeId() {
				leader = n
				return nil
			}
		}
		return errors.New("nobody leads")
	})
	return leader
}

// AwaitReady waits until every node that runs is a voter, and a host with a lease.
func (c *Cluster) AwaitReady() {
	c.t.Helper()
	c.Eventually(60*time.Second, "all nodes ready", func() error {
		r, err := c.Client().Node.List(ctx(c.t), connect.NewRequest(&blixardv1.NodeServiceListRequest{}))
		if err != nil {
			return err
		}
		for _, n := range r.Msg.GetNodes() {
			if c.Named(n.GetName()).Alive() && (strings.TrimSuffix(nodeStatus(n), ",Cordoned") != "Ready" ||
				n.GetServer() != blixardv1.ServerState_SERVER_STATE_VOTER && n.GetServer() != 0) {
				return fmt.Errorf("%s is %s, server: %s", n.GetName(), nodeStatus(n), serverText(n))
			}
		}
		if len(r.Msg.GetNodes()) != len(c.nodes) {
			return fmt.Errorf("%d nodes of %d", len(r.Msg.GetNodes()), len(c.nodes))
		}
		return nil
	})
}

// Eventually tries until it works or d has passed.
func (c *Cluster) Eventually(d time.Duration, what string, try func() error) {
	c.t.Helper()
	eventually(c.t, d, what, try)
}

func eventually(t testing.TB, d time.Duration, what string, try func() error) {
	t.Helper()
	end := time.Now().Add(d)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: not within %s: %v", what, d, err)
		}
		time.Sleep(30 * time.Millisecond)
	}
}

// Start starts the daemon, for the first time or again.
func (n *Node) Start() *Node {
	n.t.Helper()
	n.cmd = n.serve()
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		n.t.Fatal(err)
	}
	defer log.Close()
	n.cmd.Stdout, n.cmd.Stderr = log, log
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	cmd, ended := n.cmd, make(chan struct{})
	n.ended = ended
	go func() { cmd.Wait(); close(ended) }()
	return n
}

// serve is the daemon's command.
func (n *Node) serve(flags ...string) *exec.Cmd {
	args := append([]string{"serve", "--name", n.Name, "--data-dir", n.Data, "--run-dir", n.RunAt, "--listen", n.Addr}, n.flags...)
	cmd := exec.Command(filepath.Join(bin, "blixard"), append(args, flags...)...)
	if n.ns != "" { // nsenter becomes the daemon
		cmd = exec.Command("nsenter", append([]string{"--net=/var/run/netns/" + n.ns, "--"}, cmd.Args...)...)
	}
	if n.under != nil {
		cmd = exec.Command(n.under[0], append(n.under[1:], cmd.Args...)...)
	}
	cmd.Env = append(os.Environ(), n.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// Await waits until the daemon answers.
func (n *Node) Await() *Node {
	n.t.Helper()
	eventually(n.t, 30*time.Second, n.Name+" answers", func() error {
		if !n.Alive() {
			n.t.Fatalf("%s ended: %s\n%s", n.Name, n.cmd.ProcessState, tail(n.log, 3000))
		}
		_, err := n.Status()
		return err
	})
	return n
}

// Join brings the node into the cluster of another.
func (n *Node) Join(other *Node) {
	n.t.Helper()
	n.Await()
	if _, err := n.Client().Cluster.Join(ctx(n.t), connect.NewRequest(&blixardv1.JoinRequest{Server: other.Addr})); err != nil {
		n.t.Fatalf("join %s: %v", n.Name, err)
	}
}

// Client asks this node only.
func (n *Node) Client() *rpc.Client {
	c := rpc.Dial([]string{n.Addr}, n.tls)
	n.t.Cleanup(c.Close)
	return c
}

// Status is what the node knows of itself and its cluster.
func (n *Node) Status() (*blixardv1.StatusResponse, error) {
	short, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	r, err := n.Client().Cluster.Status(short, connect.NewRequest(&blixardv1.StatusRequest{}))
	if err != nil {
		return nil, err
	}
	return r.Msg, nil
}

// Alive says that the daemon's process is there.
func (n *Node) Alive() bool {
	if n.ended == nil {
		return false
	}
	select {
	case <-n.ended:
		return false
	default:
		return true
	}
}

// Kill kills the daemon; its shims and VMs live on.
func (n *Node) Kill() {
	if n.Alive() {
		n.cmd.Process.Kill()
		<-n.ended
	}
}

// Stop asks the daemon to stop; its shims and VMs live on.
func (n *Node) Stop() {
	n.t.Helper()
	if !n.Alive() {
		return
	}
	n.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-n.ended:
	case <-time.After(20 * time.Second):
		n.Kill()
		n.t.Fatalf("%s did not stop within 20 s of SIGTERM", n.Name)
	}
	if code := n.cmd.ProcessState.ExitCode(); code != 0 {
		n.t.Fatalf("%s stopped with exit code %d\n%s", n.Name, code, tail(n.log, 3000))
	}
}

// Signal sends a signal to the daemon alone.
func (n *Node) Signal(s syscall.Signal) { n.cmd.Process.Signal(s) }

// Lose kills the whole node as a loss of power would: daemon, shims and VMs.
func (n *Node) Lose() {
	n.Kill()
	for _, dir := range n.vmDirs() {
		if err := shims.Sweep(dir); err != nil {
			n.t.Errorf("kill what runs in %s: %v", dir, err)
		}
	}
}

func (n *Node) vmDirs() []string {
	dirs, _ := filepath.Glob(filepath.Join(n.RunAt, "*", "v", "*"))
	return dirs
}

// Running are the shims of this node that live, by the uid of their VM.
func (n *Node) Running() map[string]shim.State {
	n.t.Helper()
	all := map[string]shim.State{}
	for _, dir := range n.vmDirs() {
		s, state, err := shims.Adopt(dir)
		if err != nil {
			continue
		}
		if s != nil {
			s.Close()
		}
		if state.Shim != nil && vmdir.Alive(state.Shim.VM) {
			all[state.Shim.Instance.UID] = *state.Shim
		}
	}
	return all
}

// PID of the process of a VM that runs here.
func (n *Node) PID(vm *blixardv1.VM) int {
	n.t.Helper()
	s, ok := n.Running()[vm.GetUid()]
	if !ok {
		n.t.Fatalf("VM %s does not run on %s", vm.GetName(), n.Name)
	}
	return s.VM.PID
}

func ctx(t testing.TB) context.Context {
	c, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return c
}

// guestFiles are a real kernel and our guest, as scripts/setup left them, and
// skips the test where there are none or no QEMU.
func guestFiles(t testing.TB) (kernel, initrd string) {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("our guest is for amd64")
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("there is no qemu-system-x86_64: scripts/setup installs it")
	}
	cache := os.Getenv("BLIXARD_CACHE")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			t.Skip(err)
		}
		cache = filepath.Join(user, "blixard")
	}
	kernel, initrd = filepath.Join(cache, "vmlinuz"), filepath.Join(cache, "initrd")
	for _, f := range []string{kernel, initrd} {
		if !exists(f) {
			t.Skipf("there is no %s: scripts/setup makes it", f)
		}
	}
	return kernel, initrd
}
