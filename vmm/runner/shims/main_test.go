package shims

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/blixard/blixard/vmm/runner/lease"
	"github.com/blixard/blixard/vmm/runner/vmdir"
	"github.com/blixard/blixard/vmm/shim"
)

// slack is how late a kill may be seen: on a loaded machine they were 4.4 s
// late. Never assert anything tighter.
const slack = 10 * time.Second

var shimBinary string

func TestMain(m *testing.M) {
	switch {
	case Called():
		os.Exit(Main())
	case os.Getenv("BLIXARD_TEST_DAEMON") != "":
		daemonMain()
	case os.Getenv("BLIXARD_TEST_LISTEN") != "":
		if _, err := net.Listen("unix", os.Getenv("BLIXARD_TEST_LISTEN")); err != nil {
			panic(err)
		}
		select {}
	}
	tmp, err := os.MkdirTemp("", "shims")
	if err != nil {
		panic(err)
	}
	shimBinary = filepath.Join(tmp, "blixard-shim")
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", shimBinary, "github.com/blixard/blixard/cmd/blixard-shim")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the shim: %v\n%s", err, out)
		os.Exit(1)
	}
	os.Setenv("BLIXARD_SHIM", shimBinary)
	code := m.Run()
	os.RemoveAll(tmp)
	os.Exit(code)
}

// daemonMain is a daemon that starts one VM and then only hangs around.
func daemonMain() {
	var start shim.Start
	if err := json.Unmarshal([]byte(os.Getenv("BLIXARD_TEST_DAEMON")), &start); err != nil {
		panic(err)
	}
	if _, err := Spawn(context.Background(), os.Args[1], start); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("running")
	select {}
}

// host is one test's host: a run directory on tmpfs, and a way to start VMs.
type host struct {
	*testing.T
	run  string
	boot string
	n    int
}

func newHost(t *testing.T) *host {
	base := "/dev/shm"
	if _, err := os.Stat(base); err != nil {
		base = "/tmp"
	}
	run, err := os.MkdirTemp(base, "bx")
	if err != nil {
		t.Fatal(err)
	}
	boot, err := lease.BootID()
	if err != nil {
		t.Fatal(err)
	}
	h := &host{T: t, run: run, boot: boot}
	t.Cleanup(func() {
		for i := range h.n {
			dir := h.dir(i)
			Sweep(dir)
			if t.Failed() {
				for _, f := range []string{"shim.log", "shim.json", "exit.json", "console"} {
					if b, err := os.ReadFile(filepath.Join(dir, f)); err == nil && len(b) > 0 {
						t.Logf("%s: %s", filepath.Join(dir, f), b)
					}
				}
			}
		}
		os.RemoveAll(run)
	})
	return h
}

func (h *host) dir(i int) string { return filepath.Join(h.run, fmt.Sprint("v", i)) }

func (h *host) nextDir() string {
	h.n++
	return h.dir(h.n - 1)
}

func (h *host) host(epoch uint64) shim.Host {
	return shim.Host{ID: "h1", Generation: 1, Boot: h.boot, Epoch: epoch}
}

// page makes a lease page that ends in d.
func (h *host) page(epoch uint64, d time.Duration) *lease.Page {
	h.Helper()
	p, err := lease.Create(filepath.Join(h.run, "leases"), shim.Page{
		Host: h.host(epoch), Lease: uint64(d), Deadline: lease.Now() + uint64(d),
	})
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { p.Close() })
	return p
}

// program is a Start for argv, which a shell finds the way it always does.
func (h *host) program(argv ...string) shim.Start {
	h.Helper()
	path, err := exec.LookPath(argv[0])
	if err != nil {
		h.Fatal(err)
	}
	argv[0] = path
	return shim.Start{
		Version: shim.StartVersion, Instance: shim.Instance{UID: "u1", Generation: 1, Index: 5, Attempt: 1},
		Host: h.host(1), Argv: argv, Env: []string{"PATH=" + os.Getenv("PATH")},
	}
}

func (h *host) spawn(start shim.Start) *Shim {
	h.Helper()
	s, err := Spawn(h.ctx(), h.nextDir(), start)
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { s.Close() })
	return s
}

func (h *host) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	h.Cleanup(cancel)
	return ctx
}

func (h *host) status(s *Shim) shim.State {
	h.Helper()
	st, err := s.Status(h.ctx())
	if err != nil {
		h.Fatal(err)
	}
	return st
}

func (h *host) wait(s *Shim) shim.Exit {
	h.Helper()
	e, err := s.Wait(h.ctx())
	if err != nil {
		h.Fatal(err)
	}
	return e
}

// dies waits until nothing lives in dir.
func (h *host) dies(dir string, within time.Duration) {
	h.Helper()
	for end := time.Now().Add(within); !Dead(dir); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			h.Fatalf("%s still lives after %v", dir, within)
		}
	}
}

func (h *host) lives(p shim.Process) {
	h.Helper()
	if !vmdir.Alive(p) {
		h.Fatalf("process %d is dead", p.PID)
	}
}

// eventually waits for something that takes a moment.
func (h *host) eventually(what string, ok func() bool) {
	h.Helper()
	for end := time.Now().Add(slack); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			h.Fatalf("never: %s", what)
		}
	}
}

// running counts the processes whose command line has the mark.
func running(mark string) int {
	n := 0
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), mark) {
			n++
		}
	}
	return n
}
