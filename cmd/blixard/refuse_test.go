package main

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What cannot be done is refused in words: what, why, what next, and an exit
// code that scripts can tell apart.

func TestBadInput(t *testing.T) {
	t.Parallel()
	c := up(t, 1)
	dir := t.TempDir()
	junk := filepath.Join(dir, "junk")
	if err := os.WriteFile(junk, []byte("no kernel"), 0o600); err != nil {
		t.Fatal(err)
	}
	sleep := []string{"--process", "--", "/bin/sleep", "1000"}
	with := func(a ...string) []string { return append(append([]string{"vm", "create"}, a...), sleep...) }

	for _, name := range []string{"Web", "-web", "web-", "we b", "web/..", "../web", "wéb", "web\n", "$(reboot)", "'; drop",
		strings.Repeat("a", 64), "..", ".", "%2e", `a"b`, "a\\b", "a\x1b[2Jb"} {
		r := c.Fails(exitUsage, nil, append([]string{"vm", "create", "--process", "--", name}, sleep[2:]...)...)
		if strings.Contains(r.err, "\x1b[2J") {
			t.Errorf("the name %q draws on the terminal", name)
		}
	}
	for _, test := range []struct {
		args  []string
		words []string
	}{
		{[]string{"vm", "creat", "web"}, []string{"creat"}},
		{[]string{"vm", "create"}, []string{"name"}},
		{[]string{"vm", "create", "web"}, []string{"--kernel"}},
		{[]string{"vm", "create", "web", "--bogus"}, []string{"--bogus"}},
		{with("web", "--vcpus", "-1"), nil},
		{with("web", "--vcpus", "99999999999999"), nil},
		{with("web", "--vcpus", "257"), []string{"vcpus"}},
		{with("web", "--memory", "18446744073709551615"), []string{"memory"}},
		{with("web", "--memory", "3"), []string{"memory"}},
		{with("web", "--restart", "sometimes"), []string{"always, on-failure, never"}},
		{with("web", "--hypervisor", "vmware"), []string{"qemu"}},
		{with("web", "--label", "a b=c"), []string{"label"}},
		{with("web", "--priority", "2000"), []string{"priority"}},
		{[]string{"vm", "create", "web", "--kernel", dir}, []string{"no plain file"}},
		{[]string{"vm", "create", "web", "--kernel", junk, "--disk", "size=abc"}, []string{"size=abc"}},
		{[]string{"vm", "create", "web", "--process"}, []string{"after --"}},
		{[]string{"-o", "xml", "vm", "list"}, []string{"xml"}},
		{[]string{"--timeout", "-3s", "vm", "list"}, []string{"--timeout"}},
	} {
		c.Fails(exitUsage, append(test.words, "blixard:"), test.args...)
	}
	if out := c.Must(append([]string{"vm", "create", "ok", "--validate-only"}, sleep...)...); out != "VM ok is valid; nothing was created\n" {
		t.Errorf("--validate-only says %q", out)
	}
	c.Fails(exitNotFound, []string{"vmlinuz-none"}, "vm", "create", "web", "--kernel", "vmlinuz-none")
	c.Fails(exitNotFound, nil, "vm", "create", "web", "--kernel", "sha256:"+strings.Repeat("0", 64))
	c.Fails(exitNotFound, []string{"nobody"}, "vm", "delete", "nobody")
	c.Fails(exitNotFound, nil, "vm", "logs", "nobody")
	c.Fails(exitNotFound, nil, "node", "get", "nobody")
	if out := c.Must("vm", "list", "-o", "name"); out != "" {
		t.Errorf("these were made: %s", out)
	}
}

func TestBadSpecFiles(t *testing.T) {
	t.Parallel()
	c := up(t, 1)
	r := c.RunInput("name: web\nvcpu: 2\nprocess: {argv: [/bin/true]}\n", "vm", "create", "-f", "-")
	if r.code != exitUsage || !strings.Contains(r.err, `standard input:2: unknown field "vcpu"; did you mean "vcpus"`) {
		t.Errorf("unknown field: %v", r)
	}
	r = c.RunInput("name: one\nprocess: {argv: [/bin/sleep, '1000']}\n---\nname: two\nprocess: {argv: [/bin/sleep, '1000']}\n", "vm", "create", "-f", "-")
	if r.code != 0 {
		t.Errorf("two documents: %v", r)
	}
	r = c.RunInput("name: one\nprocess: {argv: [/bin/true]}\n---\nname: three\nprocess: {argv: [/bin/sleep, '1000']}\n", "vm", "create", "-f", "-")
	if r.code != exitPartial {
		t.Errorf("one of two documents is there already: %v", r)
	}
}

func TestServeRefuses(t *testing.T) {
	t.Parallel()
	c := up(t, 1)
	n := c.Node(1)
	expect := func(what string, r result, code int, words ...string) {
		t.Helper()
		if r.code != code {
			t.Errorf("%s: want exit %d, got %v", what, code, r)
		}
		for _, w := range words {
			if !strings.Contains(r.err, w) {
				t.Errorf("%s: %q is not in\n%s", what, w, r.err)
			}
		}
	}

	other := c.Add()
	expect("port in use", run1(t, other.serve("--listen", n.Addr), ""), 1, "cannot listen on "+n.Addr, "in use", "--listen")
	free, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	expect("two daemons on one data directory", run1(t, n.serve("--listen", free), ""), 1, "in use by another daemon", "data directory")
	expect("beyond loopback without TLS", run1(t, other.serve("--listen", "0.0.0.0:0", "--advertise", "127.0.0.1:1"), ""), 1, "tls")
	expect("half of TLS", run1(t, other.serve("--tls-cert", "/nonexistent"), ""), exitUsage, "cert, key and ca")
	expect("no such address", run1(t, other.serve("--listen", "192.0.2.1:7946"), ""), 1)
	expect("a bad role", run1(t, other.serve("--role", "boss"), ""), exitUsage, "server or host")

	toml := filepath.Join(t.TempDir(), "blixard.toml")
	if err := os.WriteFile(toml, []byte("name = \"x\"\nlisten_on = \"y\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect("an unknown key", run1(t, other.serve("--config", toml), ""), exitUsage, "line 2", "listen_on")

	n.Stop()
	expect("the data directory of another node", run1(t, n.serve("--name", "somebody"), ""), 1, "belongs to node n1", "somebody")
	expect("other roles", run1(t, n.serve("--role", "server"), ""), 1, "other roles")
	n.Start().Await()
	os.RemoveAll(other.RunAt)
	c.nodes = c.nodes[:1]
	c.AwaitReady()
}

// A node in no cluster says so, and what to do.
func TestInitSaysWhichFlag(t *testing.T) {
	t.Parallel()
	c := &Cluster{t: t}
	c.Fails(exitUsage, []string{"--renew", "blixard cluster init --lease 3s --renew 600ms"}, "cluster", "init", "--lease", "3s")
}

func TestNoCluster(t *testing.T) {
	t.Parallel()
	c := &Cluster{t: t, dir: t.TempDir()}
	t.Cleanup(c.down)
	c.Add().Start().Await()
	c.Fails(exitConflict, []string{"in no cluster", "cluster init"}, "vm", "list")
	c.Must("cluster", "status")
	c.Must("cluster", "init", "--lease", "3s", "--renew", "600ms")
	c.Fails(exitConflict, []string{"already"}, "cluster", "init")
	c.Must(create("web")...)
}

func TestNobodyListens(t *testing.T) {
	t.Parallel()
	c := &Cluster{t: t}
	address, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	c.Fails(exitError, []string{"blixard serve"}, "--server", address, "vm", "list")
}

func postJSON(t *testing.T, url, body string) string {
	t.Helper()
	r, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != 200 {
		t.Fatalf("%s: %d %v %s", url, r.StatusCode, err, b)
	}
	return string(b)
}

// What is empty is no kernel, initrd or disk: it is said of which file.
func TestAnEmptyFileIsNamed(t *testing.T) {
	t.Parallel()
	c := up(t, 1)
	kernel, _ := guestFiles(t)
	empty := filepath.Join(t.TempDir(), "initrd")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.Fails(exitUsage, []string{empty + " is empty", "next:"}, "vm", "create", "web", "--kernel", kernel, "--initrd", empty)
	c.Fails(exitUsage, []string{empty + " is empty", "next:"}, "image", "push", empty, "initrd")
}
