package main

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A host that is no server joins, runs VMs, and takes requests; its server is
// no host.
func TestHostThatIsNoServer(t *testing.T) {
	t.Parallel()
	c := &Cluster{t: t, dir: t.TempDir()}
	t.Cleanup(c.down)
	c.Add("--role", "server").Start().Await()
	c.Must("cluster", "init", "--lease", "3s", "--renew", "600ms")
	c.Add("--role", "host", "--label", "zone=b").Start().Join(c.Node(1))
	c.AwaitReady()
	c.Must("--server", c.Node(2).Addr, "vm", "list")
	// Its settings are asked of a server for us.
	if one, other := c.Must("cluster", "settings"), c.Must("--server", c.Node(2).Addr, "cluster", "settings"); one != other || !strings.Contains(one, "lease") {
		t.Errorf("a server says\n%s, and a host\n%s", one, other)
	}
	c.Must("--server", c.Node(2).Addr, "cluster", "settings", "set", "--lease", "4s")
	c.Must("cluster", "settings", "set", "--lease", "3s")
	if out := c.Must("--server", c.Node(2).Addr, "cluster", "status"); !strings.Contains(out, "SERVER   ADDRESS") || strings.Contains(out, "VCPUS") || strings.Contains(out, "Applied") {
		t.Errorf("a host says:\n%s", out)
	}
	c.Must(create("web", "--require", "zone=b")...)
	if h := c.HostOf("web"); h.Name != "n2" {
		t.Errorf("it is on %s", h.Name)
	}
	c.Must("--server", c.Node(2).Addr, "vm", "logs", "web")
	vm, _ := c.VM("web")
	pid := c.Node(2).PID(vm)
	c.Node(2).Kill()
	c.Node(2).Start().Await()
	c.AwaitReady()
	c.Await("web", 20*time.Second, "runs", phaseIs(blixardv1.Phase_PHASE_RUNNING))
	if now := c.Node(2).PID(vm); now != pid {
		t.Errorf("it was process %d and is %d", pid, now)
	}
}

// A node that leaves is gone, and one that VMs run on is kept.
func TestRemoveNode(t *testing.T) {
	t.Parallel()
	c := up(t, 3)
	c.Must(create("web")...)
	host := c.HostOf("web")
	c.Fails(exitConflict, []string{"next:"}, "-y", "cluster", "remove", host.Name)
	c.Must("vm", "delete", "-y", "web")
	if out := c.Must("-y", "cluster", "remove", host.Name); out != "Node "+host.Name+" is removed\n" {
		t.Errorf("it says %q", out)
	}
	host.Kill()
	if out := c.Must("node", "list", "-o", "name"); strings.Contains(out, host.Name) {
		t.Errorf("who waited for it finds %s", out)
	}
}

// A host is given up while its VM, which no lease binds, runs on: its daemon ends
// it when it comes back, and the VM's name is free before.
func TestRemoveLostHost(t *testing.T) {
	t.Parallel()
	c := &Cluster{t: t, dir: t.TempDir()}
	t.Cleanup(c.down)
	c.Add("--role", "server").Start().Await()
	c.Must("cluster", "init", "--lease", "3s", "--renew", "600ms")
	host := c.Add("--role", "host").Start()
	host.Join(c.Node(1))
	c.AwaitReady()
	c.Must(create("web")...)
	vm, _ := c.VM("web")
	c.Fails(exitUsage, []string{"somebody's word"}, "cluster", "remove", "--lost", host.Name)
	c.Fails(exitConflict, []string{"is heard of", "off"}, "-y", "cluster", "remove", "--lost", host.Name)
	host.Kill()
	c.Must("--no-wait", "-y", "vm", "delete", "web")
	c.Eventually(30*time.Second, "it is fenced", func() error {
		if out := c.Must("node", "get", host.Name); !strings.Contains(out, "Fenced") {
			return errors.New(out)
		}
		return nil
	})
	if v, _ := c.VM("web"); v == nil {
		t.Fatal("a window has ended what nothing binds")
	}
	c.Fails(exitConflict, []string{"1 VM is placed", "--lost"}, "-y", "cluster", "remove", host.Name)
	r := c.Run("-y", "cluster", "remove", "--lost", host.Name)
	if r.code != 0 || !strings.Contains(r.err, "never run again") || !strings.Contains(r.err, "web") {
		t.Fatal(r)
	}
	c.Fails(exitNotFound, nil, "vm", "get", "web")
	runs := func() bool { return host.Running()[vm.GetUid()].VM.PID != 0 }
	if !runs() {
		t.Fatal("this test shows nothing: the VM is dead already")
	}
	host.Start().Await()
	c.Eventually(20*time.Second, "its VM has ended", func() error {
		if runs() {
			return errors.New("it runs")
		}
		return nil
	})
	if out := c.Must("--server", host.Addr, "cluster", "status"); !strings.Contains(out, "was removed") {
		t.Error(out)
	}
}

// systemd hears when we are ready and when we stop.
func TestNotify(t *testing.T) {
	t.Parallel()
	c := &Cluster{t: t, dir: t.TempDir()}
	t.Cleanup(c.down)
	n := c.Add()
	path := filepath.Join(n.RunAt, "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	n.env = []string{"NOTIFY_SOCKET=" + path}
	n.Start().Await()
	heard := func() string {
		b := make([]byte, 100)
		l.SetReadDeadline(time.Now().Add(10 * time.Second))
		k, err := l.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:k])
	}
	if s := heard(); s != "READY=1" {
		t.Errorf("heard %q", s)
	}
	n.Stop()
	if s := heard(); s != "STOPPING=1" {
		t.Errorf("heard %q", s)
	}
}

// up brings up a cluster that is gone after Ctrl-C, VMs included.
// startUp runs blixard up until it has introduced itself.
func startUp(c *Cluster, env string, args ...string) (cmd *exec.Cmd, out string, said *strings.Builder) {
	c.t.Helper()
	cmd = c.Command(ctx(c.t), append([]string{"up"}, args...)...)
	said = &strings.Builder{}
	cmd.Env, cmd.Stderr = append(cmd.Env, env), said
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	for b := make([]byte, 1000); !strings.Contains(out, "Ctrl-C"); {
		n, err := pipe.Read(b)
		out += string(b[:n])
		if err != nil {
			cmd.Wait()
			c.t.Fatalf("up ended: %s%s", out, said)
		}
	}
	return cmd, out, said
}

func TestUp(t *testing.T) {
	t.Parallel()
	c := &Cluster{t: t}
	dir := filepath.Join(t.TempDir(), "kept")
	for i := range 2 { // the second time takes up what the first has kept
		cmd, text, _ := startUp(c, "", "--nodes", "2", "--dir", dir, "--keep", "--lease", "3s")
		_, server, _ := strings.Cut(text, "BLIXARD_SERVER=")
		server, _, _ = strings.Cut(server, "\n")
		if i == 0 {
			c.Must("--server", server, "vm", "create", "web", "--process", "--", "/bin/sleep", "1000")
		} else if out := c.Must("--server", server, "vm", "list", "-o", "name"); out != "web\n" {
			t.Errorf("it has kept %q", out)
		}
		if r := c.Run("up", "--nodes", "2", "--dir", dir); r.code == 0 || !strings.Contains(r.err, "another 'blixard up'") {
			t.Errorf("a second one on the same folder: %v", r)
		}
		if strings.Count(text, "127.0.0.1:") < 4 {
			t.Errorf("up says %s", text)
		}
		cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Errorf("up ended with %v", err)
		}
	}
}

// Whatever else is in a folder, blixard up leaves it there.
func TestUpRemovesOnlyItsOwn(t *testing.T) {
	t.Parallel()
	c := &Cluster{t: t}
	dir := t.TempDir()
	mine := filepath.Join(dir, "mine")
	if err := os.WriteFile(mine, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Fails(exitUsage, []string{"holds other things, such as mine"}, "up", "--nodes", "1", "--dir", dir)
	c.Fails(exitUsage, []string{"not a directory"}, "up", "--nodes", "1", "--dir", mine)
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 || entries[0].Name() != "mine" {
		t.Fatalf("what is left: %v, %v", entries, err)
	}
	if err := os.Remove(mine); err != nil {
		t.Fatal(err)
	}
	cmd, text, _ := startUp(c, "", "--nodes", "1", "--dir", dir)
	if !strings.Contains(text, "removed at the end") {
		t.Errorf("up says %s", text)
	}
	if err := os.WriteFile(mine, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Signal(os.Interrupt)
	if err := cmd.Wait(); err != nil {
		t.Errorf("up ended with %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 || entries[0].Name() != "mine" {
		t.Errorf("what is left: %v, %v", entries, err)
	}
}

// What a blixard up that was killed has left is ended by the next one: in a
// cluster of one host nothing else would end its VMs.
func TestUpAfterAKill(t *testing.T) {
	t.Parallel()
	c := &Cluster{t: t}
	tmp := "TMPDIR=" + t.TempDir()
	cmd, _, _ := startUp(c, tmp, "--nodes", "1")
	files, _ := filepath.Glob(filepath.Join(strings.TrimPrefix(tmp, "TMPDIR="), "blixard-up-*", "up.json"))
	if len(files) != 1 {
		t.Fatalf("%q", files)
	}
	var state upState
	b, err := os.ReadFile(files[0])
	if err != nil || json.Unmarshal(b, &state) != nil {
		t.Fatalf("%s, %v", b, err)
	}
	n := state.Nodes[0]
	t.Cleanup(func() { n.sweep() })
	c.Must("--server", n.Address, "vm", "create", "web", "--process", "--", "/bin/sleep", "1000")
	host := &Node{t: t, RunAt: n.Run}
	cmd.Process.Kill()
	cmd.Wait()
	c.Eventually(20*time.Second, "the node ends", func() error {
		if syscall.Kill(n.PID, 0) == nil {
			return errors.New("it lives")
		}
		return nil
	})
	if len(host.Running()) != 1 {
		t.Fatal("this test shows nothing: the VM is dead already")
	}
	cmd, _, said := startUp(c, tmp, "--nodes", "1")
	if !strings.Contains(said.String(), "was killed") || !strings.Contains(said.String(), "was ended") {
		t.Errorf("said %q", said)
	}
	if exists(files[0]) || len(host.Running()) != 0 {
		t.Error("something is left")
	}
	cmd.Process.Signal(os.Interrupt)
	if err := cmd.Wait(); err != nil {
		t.Errorf("up ended with %v", err)
	}
}
