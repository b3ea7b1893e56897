package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// What a user is told while, and after, something does not come to be.

func TestVMThatDoesNotStart(t *testing.T) {
	t.Parallel()
	c := up(t, 2)
	junk := filepath.Join(t.TempDir(), "junk")
	if err := os.WriteFile(junk, []byte("no kernel"), 0o600); err != nil {
		t.Fatal(err)
	}
	// Off a terminal, too, one learns why before the time is over.
	r := c.Fails(exitTimeout, []string{"last seen: Pending", "explain far"},
		"--timeout", "5s", "vm", "create", "far", "--require", "zone=mars", "--process", "--", "/bin/sleep", "1000")
	if n := strings.Count(r.err, "create far: Pending: no host"); n != 1 {
		t.Errorf("said %d times:\n%s", n, r.err)
	}
	c.Must("--no-wait", "vm", "create", "bad", "--hypervisor", "process", "--require", "zone=mars", "--process", "--", "/bin/true")
	c.Fails(exitConflict, []string{"is on no host"}, "vm", "logs", "bad")
	c.Must("image", "push", junk, "junk")
	if r := c.Run("--no-wait", "vm", "create", "bare", "--kernel", "junk"); r.code == 0 {
		// Whichever server is asked, what was never started has no console.
		for _, n := range c.nodes {
			r := c.Run("--server", n.Addr, "vm", "logs", "bare")
			if r.code != exitConflict || strings.Contains(r.err, "cannot be reached") {
				t.Errorf("asked %s: %v", n.Name, r)
			}
		}
	}
}

// Who stops waiting is told that it goes on, and where to look.
func TestInterruptedWait(t *testing.T) {
	t.Parallel()
	c := up(t, 1)
	cmd := c.Command(ctx(t), "vm", "create", "far", "--require", "zone=mars", "--process", "--", "/bin/sleep", "1000")
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.Eventually(10*time.Second, "the VM exists", func() error {
		if r := c.Run("vm", "get", "far"); r.code != 0 {
			return usagef("%v", r)
		}
		return nil
	})
	time.Sleep(200 * time.Millisecond)
	cmd.Process.Signal(syscall.SIGINT)
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitInterrupted || !strings.Contains(said.String(), "it goes on") || !strings.Contains(said.String(), "explain far") {
		t.Errorf("exit %d:\n%s", code, said.String())
	}
}

func TestSeveralFilesAndNodes(t *testing.T) {
	t.Parallel()
	c := up(t, 2)
	dir := t.TempDir()
	args := []string{"vm", "create"}
	for _, name := range []string{"one", "two"} {
		file := filepath.Join(dir, name+".yaml")
		if err := os.WriteFile(file, []byte("name: "+name+"\nprocess: {argv: [/bin/sleep, '1000']}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "-f", file)
	}
	c.Must(args...)
	if out := c.Must("vm", "list", "-o", "name"); out != "one\ntwo\n" {
		t.Errorf("of two files came %q", out)
	}
	if out := c.Must("node", "cordon", "n1", "n2"); strings.Count(out, "Cordoned") != 2 {
		t.Errorf("cordon of two: %s", out)
	}
	c.Fails(exitPartial, []string{"n9"}, "node", "uncordon", "n1", "n9")
}

// An image has one name, and a name is of one image: who loses it is told.
func TestImageNames(t *testing.T) {
	t.Parallel()
	c := up(t, 1)
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	a, b := file("bzImage", "a"), file("b", "b")
	c.Fails(exitUsage, []string{"bzImage is no name", "image push " + a + " NAME"}, "image", "push", a)
	for _, push := range []struct {
		file, name, note string
	}{
		{a, "old", ""},
		{a, "old", ""},
		{a, "new", "old names nothing now"},
		{b, "new", "new was sha256:"},
	} {
		r := c.Run("image", "push", push.file, push.name)
		if r.code != 0 || (push.note == "") != (r.err == "") || !strings.Contains(r.err, push.note) {
			t.Errorf("%s as %s: %v", push.file, push.name, r)
		}
	}
}

func TestJoinNobody(t *testing.T) {
	t.Parallel()
	c := &Cluster{t: t, dir: t.TempDir()}
	t.Cleanup(c.down)
	c.Add().Start().Await()
	nobody, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	c.Fails(exitConflict, []string{"cannot ask " + nobody, "refused"}, "cluster", "join", nobody)
	if d := time.Since(began); d > 20*time.Second {
		t.Errorf("that took %s", d)
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"n1": "n1:7946", "10.0.0.1": "10.0.0.1:7946", "n1:80": "n1:80", " n1:80 ": "n1:80", ":80": ":80",
		"[fd00::1]:80": "[fd00::1]:80", "fd00::1": "[fd00::1]:7946", "[fd00::1]": "[fd00::1]:7946",
	} {
		if got, err := addresses([]string{"", given}); err != nil || !slices.Equal(got, []string{want}) {
			t.Errorf("%q: %q, %v", given, got, err)
		}
	}
	for _, bad := range []string{"", " ", "http://n1:80", "n1:", "n1:0", "n1:99999", "n1:x", "a b"} {
		if got, err := addresses([]string{bad}); err == nil {
			t.Errorf("%q is taken as %q", bad, got)
		}
	}
}

// What is asked of what is not there, or of what has nothing left to give, says so,
// with a code that scripts can tell.
func TestNothingToShowOrGive(t *testing.T) {
	t.Parallel()
	c := up(t, 1)
	c.Fails(exitNotFound, []string{`no VM named "nope"`, "vm list"}, "events", "--vm", "nope")
	c.Must(create("some")...)
	if out := c.Must("events", "--vm", "some"); !strings.Contains(out, "VMPlaced") {
		t.Errorf("events: %s", out)
	}
	c.Must("network", "create", "tiny", "10.253.77.0/30") // the gateway, and one more
	c.Fails(exitConflict, []string{"overlaps the network tiny"}, "network", "create", "other", "10.253.0.0/16", "--bridge", "br9")
	c.Fails(exitUsage, []string{"a program has its host's own network", "leave out --network"}, create("p", "--network", "tiny")...)
	kernel := filepath.Join(t.TempDir(), "kernel")
	if err := os.WriteFile(kernel, []byte("\x7fELF not really"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Must("image", "push", kernel, "kernel")
	image := func(name string, more ...string) []string {
		return append([]string{"--no-wait", "vm", "create", name, "--kernel", "kernel", "--network", "tiny"}, more...)
	}
	if r := c.Run(image("one")...); r.code != 0 {
		t.Fatal(r)
	}
	c.Fails(exitConflict, []string{"the network tiny has no free address", "network get tiny"}, image("two")...)
	// A port of the host that another program has: which, whose, and what to do.
	l, err := net.Listen("tcp4", "127.0.0.5:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	c.Must("--no-wait", "vm", "create", "port", "--kernel", "kernel", "-p", fmt.Sprintf("%d:80", port))
	c.Await("port", 30*time.Second, "says whose its port is", func(v *blixardv1.VM, _ string) bool {
		f := v.GetStatus().GetLastFailure()
		return f.GetReason() == "PortTaken" && strings.Contains(f.GetMessage(), fmt.Sprintf("TCP port %d of its host is in use by", port)) &&
			strings.Contains(f.GetMessage(), fmt.Sprintf("(pid %d)", os.Getpid())) && strings.Contains(f.GetMessage(), "vm update --port")
	})
	c.Fails(exitUsage, []string{"127.0.0.1 is the host itself", "guest's own address"}, image("three", "--health", "tcp://127.0.0.1:80")...)
}

// Many names share one time, and what was not begun is not said to be unanswered.
func TestOutOfTimeForTheRest(t *testing.T) {
	t.Parallel()
	c := up(t, 1)
	stuck := func(name string) {
		c.Must("--no-wait", "vm", "create", name, "--require", "zone=mars", "--process", "--", "/bin/true")
	}
	stuck("a")
	stuck("b")
	c.Must("--no-wait", "vm", "stop", "a", "b")
	r := c.Fails(exitTimeout, []string{"start a: not done within 2s", "nothing was asked for b", "2s, was over"}, "--timeout", "2s", "vm", "start", "a", "b")
	if strings.Contains(r.err, "no answer") {
		t.Errorf("it answers:\n%s", r.err)
	}
}
