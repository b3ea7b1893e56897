package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/guest/tsc"
)

// These tests have a real Nix build runners that boot real microVMs: see
// testdata/runner-flake. The store is one of the test's own, and what is run of
// Nix is counted, by programs that stand before it.

// nixCluster is a cluster whose hosts share a store.
type nixCluster struct {
	*Cluster
	real  string // folder of the programs
	world string // store, state and calls
}

func upNix(t *testing.T, n int, change ...func(*options)) *nixCluster {
	t.Helper()
	nix := realNix(t)
	if nix == "" {
		nix, _ = exec.LookPath("nix")
	}
	c := &nixCluster{real: filepath.Dir(nix), world: t.TempDir()}
	if !exists(filepath.Join(c.real, "nix-store")) {
		t.Skip("there is no nix-store beside the Nix here: scripts/nix --setup brings one")
	}
	t.Cleanup(func() { // a store cannot be written, nor deleted
		filepath.WalkDir(c.world, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				os.Chmod(path, 0o755)
			}
			return nil
		})
	})
	nixOptions := func(o *options) {
		o.flags = func(i int) []string { return []string{"--nix", c.count(t, i)} }
		o.change = func(_ int, n *Node) { n.env = append(n.env, c.environment()...) }
	}
	c.Cluster = up(t, n, append([]func(*options){nixOptions}, change...)...)
	return c
}

// count makes a Nix for a node that writes down each call, and gives its nix.
func (c *nixCluster) count(t *testing.T, i int) string {
	bin := filepath.Join(c.world, fmt.Sprint("bin", i))
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"nix", "nix-store", "nix-instantiate"} {
		script := fmt.Sprintf("#!/bin/sh\n[ \"$*\" = --version ] || echo \"%s $*\" >>'%s/calls%d'\nexec '%s/%s' \"$@\"\n", name, c.world, i, c.real, name)
		if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(bin, "nix")
}

func (c *nixCluster) environment() []string {
	at := func(name string) string { return filepath.Join(c.world, name) }
	return []string{
		"HOME=" + at("home"), "NIX_CONF_DIR=" + at("conf"), "NIX_USER_CONF_FILES=",
		"NIX_STORE_DIR=" + at("store"), "NIX_STATE_DIR=" + at("state"), "NIX_LOG_DIR=" + at("log"), "TMPDIR=" + c.world,
		"NIX_CONFIG=build-hook =\nsandbox = false\nexperimental-features = nix-command flakes\nsubstituters =\nflake-registry =\nbuild-users-group =\n",
	}
}

// calls are what a node has run of Nix since the last time.
func (c *nixCluster) calls(node *Node) (list []string) {
	file := filepath.Join(c.world, "calls"+strings.TrimPrefix(node.Name, "n"))
	b, _ := os.ReadFile(file)
	os.Remove(file)
	for line := range strings.Lines(string(b)) {
		list = append(list, strings.TrimSpace(line))
	}
	return list
}

// evaluating says whether one of the calls evaluates or builds something. What
// else there is roots, copies and asks.
func evaluating(calls []string) bool {
	return slices.ContainsFunc(calls, func(call string) bool {
		return !strings.HasPrefix(call, "nix-store ") && !strings.HasPrefix(call, "nix path-info") || strings.Contains(call, ".drv")
	})
}

// collect has Nix collect what nobody keeps.
func (c *nixCluster) collect() {
	c.t.Helper()
	cmd := exec.Command(filepath.Join(c.real, "nix-store"), "--gc")
	cmd.Env = append(os.Environ(), c.environment()...)
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("nix-store --gc: %v\n%s", err, out)
	}
}

// flake makes a folder with the flake of a VM, and gives its reference. More
// lines are added to the file "here".
func (c *nixCluster) flake(version string, more ...string) string {
	c.t.Helper()
	dir := filepath.Join(c.t.TempDir(), "flake")
	if err := os.CopyFS(dir, os.DirFS("../../testdata/runner-flake")); err != nil {
		c.t.Fatal(err)
	}
	lines := append([]string{"version=" + version}, more...)
	if err := os.WriteFile(filepath.Join(dir, "here"), []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		c.t.Fatal(err)
	}
	return dir + "#packed"
}

// booting are the lines for a flake whose runner boots our guest.
func booting(t *testing.T) []string {
	kernel, initrd := guestFiles(t)
	args := "nokaslr mitigations=off cryptomgr.notests"
	if khz, err := tsc.KHz(); err == nil {
		args += fmt.Sprintf(" tsc_early_khz=%d tsc=reliable", khz)
	}
	return []string{"kernel=" + kernel, "initrd=" + initrd, "client=" + os.Args[0], "append='" + args + "'"}
}

// sleeping are those for one that boots nothing.
var sleeping = []string{"boots=no"}

const socatEnv = "BLIXARD_TEST_SOCAT"

// socat copies between us and a socket, until that ends. It never returns.
func socat(socket string) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go io.Copy(conn, os.Stdin)
	io.Copy(os.Stdout, conn)
	os.Exit(0)
}

// awaitUps waits until a guest has come up so often under a name.
func (c *nixCluster) awaitUps(vm, name string, n int) {
	c.t.Helper()
	c.Eventually(120*time.Second, fmt.Sprintf("start %d of %s", n, name), func() error {
		if r := c.Run("vm", "logs", vm); strings.Count(r.out, "blixard-guest: up name="+name+" ") < n {
			return fmt.Errorf("it says %s", tailOf(r.String(), 500))
		}
		return nil
	})
}

func ranWith(generation uint32) func(*blixardv1.VM, string) bool {
	return func(v *blixardv1.VM, _ string) bool {
		return v.GetStatus().GetPhase() == blixardv1.Phase_PHASE_RUNNING && v.GetStatus().GetSpecGeneration() == generation
	}
}

// runner is the path of what was built for a VM's present spec.
func (c *nixCluster) runner(vm string) string {
	c.t.Helper()
	v, _ := c.VM(vm)
	path := v.GetRunner().GetStorePath()
	if !strings.HasPrefix(path, filepath.Join(c.world, "store")+"/") {
		c.t.Fatalf("VM %s has the runner %q", vm, path)
	}
	return path
}

func TestFlakeVM(t *testing.T) {
	t.Parallel()
	boot := booting(t)
	c := upNix(t, 1)
	n := c.Node(1)
	c.Must("--timeout", "180s", "vm", "create", "web", "--memory", "192", "--flake", c.flake("one", boot...))
	c.Await("web", 10*time.Second, "runs", ranWith(1))
	c.awaitUps("web", "web-one", 1)
	// One that came up without a timer is reset, and hears no button meanwhile.
	c.Eventually(90*time.Second, "its clock goes", func() error {
		if said := c.Must("vm", "logs", "web"); !strings.Contains(said, "tick 1 name=web-one") {
			return errors.New("no tick is on its console")
		}
		return nil
	})
	console := c.Must("vm", "logs", "web")
	for _, line := range []string{"tap-up as " + fmt.Sprint(os.Getuid()) + ", without a notify socket\n", "runner version one, stdin pipe\n"} {
		if !strings.Contains(console, line) {
			t.Errorf("%q is not on the console\n%s", line, console)
		}
	}
	if said := c.Must("vm", "logs", "--build", "web"); !strings.Contains(said, "building version one") {
		t.Errorf("the build's log: %s", said)
	} else {
		t.Log(said)
	}
	one := c.runner("web")
	if v, _ := c.VM("web"); v.GetRunner().GetHypervisor() != blixardv1.Hypervisor_HYPERVISOR_QEMU || v.GetRunner().GetClosureBytes() == 0 {
		t.Errorf("the runner: %v", v.GetRunner())
	}
	if calls := c.calls(n); !evaluating(calls) {
		t.Errorf("built with %q", calls)
	}

	// Stopped as one stops a machine, and started again without Nix.
	c.Must("vm", "stop", "web")
	if console := c.Must("vm", "logs", "web"); !strings.Contains(console, "power button, shutting down") {
		t.Errorf("it was not asked to power off\n%s", console)
	}
	vm, _ := c.VM("web")
	if down, _ := os.ReadFile(filepath.Join(n.Data, "host", "vms", vm.Uid, "down")); string(down) != "of version one\n" {
		t.Errorf("taken down: %q", down)
	}
	c.collect()
	c.Must("--timeout", "120s", "vm", "start", "web")
	c.awaitUps("web", "web-one", 2)

	// An update is built beside what runs, and counts from the next start.
	before := n.PID(vm)
	c.Must("--timeout", "180s", "vm", "update", "web", "--flake", c.flake("two", boot...))
	c.Await("web", 10*time.Second, "still runs the first", ranWith(1))
	if n.PID(vm) != before {
		t.Error("the update disturbed what runs")
	}
	c.collect()
	two := c.runner("web")
	if one == two || !exists(one) || !exists(two) {
		t.Errorf("%s is booted and %s current: there are %v and %v", one, two, exists(one), exists(two))
	}
	c.calls(n)
	c.Must("--timeout", "180s", "vm", "restart", "web")
	c.Await("web", 10*time.Second, "runs the second", ranWith(2))
	c.awaitUps("web", "web-two", 1)

	// Back, and nothing is built for that.
	c.collect()
	c.Must("--timeout", "180s", "vm", "rollback", "web", "--restart")
	c.Await("web", 120*time.Second, "runs the first again", ranWith(3))
	c.awaitUps("web", "web-one", 3)
	if got := c.runner("web"); got != one {
		t.Errorf("rolled back to %s, not %s", got, one)
	}

	// A daemon that was killed finds all of it again, and a restart needs no Nix.
	vm, _ = c.VM("web")
	before = n.PID(vm)
	n.Kill()
	n.Start().Await()
	c.Await("web", 60*time.Second, "runs", ranWith(3))
	if n.PID(vm) != before {
		t.Error("the VM was disturbed")
	}
	c.collect()
	c.Must("--timeout", "120s", "vm", "restart", "web")
	if calls := c.calls(n); len(calls) != 0 {
		t.Errorf("what was built before started Nix: %q", calls)
	}

	// With the VM its roots go.
	c.Must("--timeout", "120s", "vm", "delete", "-y", "web")
	c.collect()
	if left, _ := os.ReadDir(filepath.Join(n.Data, "nix", "runners")); exists(one) || exists(two) || len(left) != 0 {
		t.Errorf("left: %v, %v, %v", exists(one), exists(two), left)
	}
}

// A daemon that is killed in the middle of a build leaves nothing of it, and the
// next one builds.
func TestFlakeKilledWhileItBuilds(t *testing.T) {
	t.Parallel()
	c := upNix(t, 1)
	n := c.Node(1)
	gate := filepath.Join(c.dir, "gate")
	c.Must("vm", "create", "web", "--no-wait", "--memory", "64", "--flake", c.flake("one", append(sleeping, "gate="+gate)...))
	log := func() string { return c.Run("vm", "logs", "--build", "web").out }
	c.Eventually(60*time.Second, "the build is under way", func() error {
		if said := log(); !strings.Contains(said, "building version one") {
			return fmt.Errorf("it says %s", said)
		}
		return nil
	})
	n.Kill()
	c.Eventually(30*time.Second, "nothing of the build lives", func() error {
		if left := c.builders(); len(left) > 0 {
			return fmt.Errorf("%q", left)
		}
		return nil
	})
	n.Start().Await()
	c.Eventually(60*time.Second, "the next build is under way", func() error {
		if len(c.builders()) == 0 {
			return fmt.Errorf("it says %s", log())
		}
		return nil
	})
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.Await("web", 90*time.Second, "runs", ranWith(1))
	// And one that is deleted while it builds.
	c.Must("vm", "create", "other", "--no-wait", "--memory", "64", "--flake", c.flake("two", append(sleeping, "gate="+gate+".never")...))
	c.Eventually(60*time.Second, "a build is under way", func() error {
		if len(c.builders()) == 0 {
			return fmt.Errorf("none is")
		}
		return nil
	})
	// One that is stopped meanwhile is not built any more, and can be deleted.
	c.Must("--timeout", "60s", "vm", "stop", "other")
	c.Eventually(30*time.Second, "the build has ended", func() error {
		if left := c.builders(); len(left) > 0 {
			return fmt.Errorf("%q", left)
		}
		return nil
	})
	c.Must("vm", "start", "--no-wait", "other")
	c.Eventually(60*time.Second, "it is built again", func() error {
		if len(c.builders()) == 0 {
			return errors.New("it is not")
		}
		return nil
	})
	c.Must("--timeout", "60s", "vm", "delete", "-y", "other", "web")
	if left := c.builders(); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	if left, _ := os.ReadDir(filepath.Join(n.Data, "nix", "runners")); len(left) != 0 {
		t.Errorf("roots are left: %v", left)
	}
}

// builders are the processes that build with the test's store.
func (c *nixCluster) builders() (list []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, f := range files {
		b, _ := os.ReadFile(f)
		if strings.Contains(string(b), "NIX_BUILD_TOP="+c.world) {
			cmdline, _ := os.ReadFile(filepath.Dir(f) + "/cmdline")
			list = append(list, strings.ReplaceAll(string(cmdline), "\x00", " "))
		}
	}
	return list
}

// A VM whose host is lost runs elsewhere with what was built once.
func TestFlakeVMMoves(t *testing.T) {
	t.Parallel()
	boot := booting(t)
	c := upNix(t, 3)
	c.Must("--timeout", "180s", "vm", "create", "web", "--memory", "192", "--flake", c.flake("one", boot...))
	c.awaitUps("web", "web-one", 1)
	lost, one := c.HostOf("web"), c.runner("web")
	for _, n := range c.nodes {
		c.calls(n)
	}
	lost.Lose()
	c.Await("web", 120*time.Second, "runs elsewhere", func(v *blixardv1.VM, node string) bool {
		return node != lost.Name && ranWith(1)(v, node)
	})
	c.awaitUps("web", "web-one", 1)
	for _, n := range c.nodes {
		if calls := c.calls(n); n != lost && evaluating(calls) {
			t.Errorf("%s has run %q", n.Name, calls)
		}
	}
	if got := c.runner("web"); got != one {
		t.Errorf("it runs %s, not %s", got, one)
	}
	// The host that comes back lets go of it.
	lost.Start().Await()
	c.Eventually(90*time.Second, "the roots of the lost host are released", func() error {
		if left, _ := os.ReadDir(filepath.Join(lost.Data, "nix", "runners")); len(left) > 0 {
			return fmt.Errorf("%v", left)
		}
		return nil
	})
	c.collect()
	if !exists(one) {
		t.Error("what runs was collected")
	}
}

// Recovering ten VMs starts no evaluation.
func TestTenFlakeVMsRecover(t *testing.T) {
	t.Parallel()
	c := upNix(t, 3)
	host := c.Node(c.other(c.Leader()))
	for _, n := range c.nodes {
		if n != host {
			c.Must("node", "cordon", n.Name)
		}
	}
	const vms = 10
	ref := c.flake("one", sleeping...)
	for i := range vms {
		c.Must("vm", "create", fmt.Sprint("vm", i), "--no-wait", "--memory", "64", "--flake", ref)
	}
	all := func(is func(*blixardv1.VM, string) bool) error {
		r, err := c.Client().VM.List(ctx(t), connect.NewRequest(&blixardv1.ListRequest{}))
		if err != nil {
			return err
		}
		for _, v := range r.Msg.Vms {
			if node := r.Msg.Nodes[v.GetPlacement().GetNodeId()]; !is(v, node) {
				return fmt.Errorf("%s is %s on %q: %s", v.Name, phaseText(v), node, v.GetStatus().GetMessage())
			}
		}
		if len(r.Msg.Vms) != vms {
			return fmt.Errorf("%d VMs", len(r.Msg.Vms))
		}
		return nil
	}
	c.Eventually(180*time.Second, "all run", func() error { return all(ranWith(1)) })
	for _, n := range c.nodes {
		if n != host {
			c.Must("node", "uncordon", n.Name)
		}
		c.calls(n)
	}
	host.Lose()
	lost := time.Now()
	c.Eventually(180*time.Second, "all run elsewhere", func() error {
		return all(func(v *blixardv1.VM, node string) bool { return node != host.Name && ranWith(1)(v, node) })
	})
	count := 0
	for _, n := range c.nodes {
		calls := c.calls(n)
		count += len(calls)
		if evaluating(calls) {
			t.Errorf("%s has run %q", n.Name, calls)
		}
	}
	t.Logf("%d VMs ran elsewhere after %s, with %d calls of Nix", vms, time.Since(lost).Round(100*time.Millisecond), count)
}

// ownStores gives each host a store of its own: one path, and another folder there for
// each daemon.
func ownStores(t *testing.T) func(*options) {
	t.Helper()
	if os.Getuid() != 0 || exec.Command("unshare", "--mount", "true").Run() != nil {
		t.Skip("a store for each host takes mount namespaces: run as root, with unshare")
	}
	return func(o *options) {
		change := o.change
		o.change = func(i int, n *Node) {
			change(i, n)
			world := n.env[slices.IndexFunc(n.env, func(s string) bool { return strings.HasPrefix(s, "TMPDIR=") })][len("TMPDIR="):]
			script := ""
			for _, name := range []string{"store", "state", "log"} {
				at := filepath.Join(world, name)
				if err := errors.Join(os.MkdirAll(at, 0o755), os.MkdirAll(fmt.Sprint(at, i), 0o755)); err != nil {
					t.Fatal(err)
				}
				script += fmt.Sprintf("mount --bind '%s%d' '%s' && ", at, i, at)
			}
			n.under = []string{"unshare", "--mount", "/bin/sh", "-c", script + `exec "$@"`, "sh"}
		}
	}
}

// on is where a path of the store is, for a host with one of its own.
func (c *nixCluster) on(n *Node, path string) string {
	return filepath.Join(c.world, "store"+strings.TrimPrefix(n.Name, "n"), filepath.Base(path))
}

// Hosts with a store each: what was built once is copied, ahead of need to the
// hosts that hold it ready, and at need to any other.
func TestFlakeVMIsCopied(t *testing.T) {
	t.Parallel()
	c := upNix(t, 3, ownStores(t))
	c.Must("--timeout", "120s", "vm", "create", "web", "--memory", "64", "--prebuild", "1", "--flake", c.flake("one", sleeping...))
	host, one := c.HostOf("web"), c.runner("web")
	var holder, third *Node
	c.Eventually(60*time.Second, "another host holds it ready", func() error {
		v, _ := c.VM("web")
		if len(v.PreparedNodes) != 1 {
			return fmt.Errorf("%v do", v.PreparedNodes)
		}
		for i, n := range c.nodes {
			if s, err := n.Status(); err == nil && s.NodeId == v.PreparedNodes[0] {
				holder, third = n, c.nodes[3-i-slices.Index(c.nodes, host)]
			}
		}
		if holder == nil || !exists(c.on(holder, one)) {
			return errors.New("it has not said so, or has not got it")
		}
		return nil
	})
	if calls := c.calls(holder); evaluating(calls) || !slices.Contains(calls, "nix-store --import") {
		t.Errorf("%s has run %q", holder.Name, calls)
	}
	if exists(c.on(third, one)) {
		t.Fatal("the third has it too")
	}
	if said := c.Must("--server", third.Addr, "vm", "logs", "--build", "web"); !strings.Contains(said, "building version one") {
		t.Errorf("the build's log, asked of another node: %s", said)
	}
	// Its host is lost, and the one that holds it ready takes no VMs: the third
	// copies it from there.
	c.Must("node", "cordon", holder.Name)
	host.Lose()
	c.Await("web", 90*time.Second, "runs on the third", func(v *blixardv1.VM, node string) bool {
		return node == third.Name && ranWith(1)(v, node)
	})
	if calls := c.calls(third); evaluating(calls) || !slices.Contains(calls, "nix-store --import") {
		t.Errorf("%s has run %q", third.Name, calls)
	}
	if c.runner("web") != one || !exists(c.on(third, one)) {
		t.Errorf("it runs %s, not %s", c.runner("web"), one)
	}
	c.Must("--timeout", "60s", "vm", "delete", "-y", "web")
	c.Eventually(60*time.Second, "nothing is held", func() error {
		for _, n := range []*Node{holder, third} {
			if left, _ := os.ReadDir(filepath.Join(n.Data, "nix", "runners")); len(left) > 0 {
				return fmt.Errorf("%s holds %v", n.Name, left)
			}
		}
		return nil
	})
}

// A share is served by virtiofsd, which must be there before the VM and ends with
// it; and it is refused, in words, where the host's operator has not allowed it.
func TestFlakeVMWithAShare(t *testing.T) {
	const virtiofsd = "/usr/lib/qemu/virtiofsd"
	if !exists(virtiofsd) {
		t.Skipf("there is no %s, which Debian 12's QEMU has", virtiofsd)
	}
	t.Parallel()
	boot := booting(t)
	folders := t.TempDir()
	allowed, other := filepath.Join(folders, "allowed", "data"), filepath.Join(folders, "other")
	config := filepath.Join(folders, "blixard.toml")
	err := errors.Join(os.MkdirAll(allowed, 0o755), os.MkdirAll(other, 0o755),
		os.WriteFile(config, []byte(fmt.Sprintf("[nix]\nallow_paths = [%q]\njobs = 1\ntimeout = \"2m\"\n", filepath.Dir(allowed))), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	c := upNix(t, 1, func(o *options) {
		flags := o.flags
		o.flags = func(i int) []string { return append(flags(i), "--config", config) }
	})
	n := c.Node(1)
	sharing := func(folder string) string {
		return c.flake("one", append(boot, "virtiofsd="+virtiofsd, "share="+folder)...)
	}
	c.Fails(exitError, []string{"the share data is " + other, "this host allows " + filepath.Dir(allowed)},
		"--timeout", "60s", "vm", "create", "bad", "--memory", "192", "--flake", sharing(other))
	c.Must("vm", "delete", "-y", "bad")
	c.Must("--timeout", "120s", "vm", "create", "web", "--memory", "192", "--flake", sharing(allowed))
	c.awaitUps("web", "web-one", 1)
	serving := func() (list []string) {
		for _, p := range c.strays() {
			if strings.Contains(p, virtiofsd) {
				list = append(list, p)
			}
		}
		return list
	}
	if len(serving()) == 0 {
		t.Error("nobody serves the share")
	}
	if vm, _ := c.VM("web"); !exists(filepath.Join(n.Data, "host", "vms", vm.Uid, "vm", "share.sock")) {
		t.Error("its socket is not in the VM's folder")
	}
	c.Must("vm", "stop", "web")
	if left := serving(); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	if console := c.Must("vm", "logs", "web"); !strings.Contains(console, "power button, shutting down") {
		t.Errorf("it was not asked to power off\n%s", console)
	}
}

// A share that the host's operator has not allowed is refused in words.
func TestForbiddenShare(t *testing.T) {
	t.Parallel()
	c := upNix(t, 1)
	spec := filepath.Join(t.TempDir(), "spec.yaml")
	if err := os.WriteFile(spec, []byte("name: web\nhypervisor: qemu\nnixos: {shares: [{tag: etc, source: /etc, mount_point: /mnt}]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Fails(exitConflict, []string{"/etc", "--allow-path"}, "--timeout", "60s", "vm", "create", "-f", spec)
	if calls := c.calls(c.Node(1)); evaluating(calls) {
		t.Errorf("it was built: %q", calls)
	}
}
