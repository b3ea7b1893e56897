package main

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
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
	c.Must("-y", "cluster", "remove", host.Name)
	host.Kill()
	c.Eventually(20*time.Second, "it is gone", func() error {
		out := c.Must("node", "list", "-o", "name")
		if strings.Contains(out, host.Name) {
			return errors.New(out)
		}
		return nil
	})
}

// systemd hears when we are ready and when we stop.
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
func TestUp(t *testing.T) {
	t.Parallel()
	c := &Cluster{t: t}
	dir := filepath.Join(t.TempDir(), "kept")
	for range 2 { // the second time takes up what the first has kept
		cmd := c.Command(ctx(t), "up", "--nodes", "2", "--dir", dir, "--keep", "--lease", "3s")
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		text := ""
		for b := make([]byte, 1000); !strings.Contains(text, "Ctrl-C"); {
			n, err := pipe.Read(b)
			text += string(b[:n])
			if err != nil {
				t.Fatalf("up ended: %s", text)
			}
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
