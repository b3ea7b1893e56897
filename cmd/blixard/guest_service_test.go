package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// What VMs take is seen from any node, in numbers that only grow and as rates.
func TestTop(t *testing.T) {
	t.Parallel()
	c := up(t, 2, func(o *options) { o.settings = &blixardv1.Settings{LeaseMs: 60_000, RenewMs: 600} })
	c.Must("vm", "create", "busy", "--process", "--memory", "64", "--", "/bin/sh", "-c", "while :; do :; done")
	c.Must("vm", "create", "idle", "--process", "--memory", "64", "--", "/bin/sleep", "1000")
	for _, n := range c.nodes {
		var out struct {
			Vms []struct {
				Name, Node  string
				MemoryBytes string `json:"memory_bytes"`
				CPUNs       string `json:"cpu_ns"`
			}
		}
		text := c.Must("--server", n.Addr, "vm", "top", "-o", "json")
		if err := json.Unmarshal([]byte(text), &out); err != nil || len(out.Vms) != 2 || out.Vms[0].Name != "busy" || out.Vms[1].Name != "idle" ||
			out.Vms[0].Node != c.HostOf("busy").Name || len(out.Vms[1].MemoryBytes) < 5 || out.Vms[0].CPUNs == "" {
			t.Errorf("%s says %v:\n%s", n.Name, err, text)
		}
	}
	c.Eventually(30*time.Second, "the busy one is first, and busy", func() error {
		lines := strings.Split(c.Must("vm", "top", "--sort", "cpu", "--interval", "1s"), "\n")
		fields := strings.Fields(lines[1])
		if len(fields) < 3 || fields[0] != "busy" || len(fields[2]) < 4 || !strings.Contains(lines[2], "idle") || !strings.Contains(lines[2], " 0.0%") {
			return usagef("%s", strings.Join(lines, "\n"))
		}
		return nil
	})
	if out := c.Must("vm", "top", "idle", "-o", "name"); out != "idle\n" {
		t.Errorf("one alone: %q", out)
	}
	c.Fails(exitNotFound, []string{`no VM named "none"`}, "vm", "top", "none")
	c.Fails(exitUsage, []string{"--interval 1ms is out of range"}, "vm", "top", "--interval", "1ms")
	// Of a host that is stopped, it is said so.
	other := c.HostOf("busy")
	asked := c.Named(map[string]string{"n1": "n2", "n2": "n1"}[other.Name])
	other.Signal(syscall.SIGSTOP)
	out := c.Must("--server", asked.Addr, "vm", "top", "--once", "--interval", "100ms")
	other.Signal(syscall.SIGCONT)
	if !strings.Contains(out, other.Name+" did not answer") || strings.Contains(out, "busy") {
		t.Errorf("one host is stopped:\n%s", out)
	}
	// A program has no agent, and no keyboard.
	c.Fails(exitConflict, []string{"the VM idle: no agent answers in it", "process runs a program, which has no agent"}, "vm", "exec", "idle", "--", "true")
	r := c.RunInput("x", "vm", "console", "idle")
	if r.code != exitConflict || !strings.Contains(r.err, "its console cannot be typed on") {
		t.Errorf("console: %v", r)
	}
	c.Must("--no-wait", "vm", "stop", "idle")
	c.Await("idle", 30*time.Second, "is stopped", phaseIs(blixardv1.Phase_PHASE_STOPPED))
	c.Fails(exitConflict, []string{"it does not run"}, "vm", "exec", "idle", "--", "true")
	c.Fails(exitUsage, []string{"a file of ours and one in a VM"}, "vm", "copy", "a", "b")
	c.Fails(exitUsage, []string{"absolute path"}, "vm", "copy", "a", "idle:b")
}

// A program is run in a real guest, files go in and out, and its console is read by
// several and typed on by several: asked of a node that is not its host.
func TestInsideARealGuest(t *testing.T) {
	guestFiles(t)
	t.Parallel()
	c := up(t, 2)
	pushGuest(c)
	c.Must("--timeout", "120s", "vm", "create", "web", "--memory", "192", "--kernel", "kernel", "--initrd", "guest", "--health", "agent")
	c.Await("web", 90*time.Second, "is well", healthIs(blixardv1.HealthState_HEALTH_STATE_HEALTHY))
	far := "n1"
	if c.HostOf("web").Name == far {
		far = "n2"
	}
	at := func(args ...string) []string { return append([]string{"--server", c.Named(far).Addr}, args...) }
	if out := c.Must(at("vm", "exec", "web", "--env", "A=b", "--", "env")...); !strings.Contains(out, "A=b\n") {
		t.Errorf("env says %q", out)
	}
	if r := c.RunInput("through\n", at("vm", "exec", "-i", "web", "--", "cat")...); r.code != 0 || r.out != "through\n" {
		t.Errorf("cat: %v", r)
	}
	if r := c.Run(at("vm", "exec", "web", "--", "false")...); r.code != 1 || r.err != "" {
		t.Errorf("false: %v", r)
	}
	c.Fails(exitConflict, []string{"the agent says: run /none"}, at("vm", "exec", "web", "--", "/none")...)
	c.Fails(exitTimeout, []string{"sleep was ended after 1s"}, at("--timeout", "1s", "vm", "exec", "web", "--", "sleep", "100")...)

	dir := t.TempDir()
	whole := bytes.Repeat([]byte("0123456789abcdef"), 50_000) // 800 kB
	in := filepath.Join(dir, "in")
	if err := os.WriteFile(in, whole, 0o640); err != nil {
		t.Fatal(err)
	}
	c.Must(at("vm", "copy", in, "web:/file")...)
	c.Must(at("vm", "copy", "web:/file", filepath.Join(dir, "out"))...)
	if got, err := os.ReadFile(filepath.Join(dir, "out")); err != nil || !bytes.Equal(got, whole) {
		t.Errorf("%d bytes came back: %v", len(got), err)
	}
	if info, _ := os.Stat(filepath.Join(dir, "out")); info.Mode().Perm() != 0o640 {
		t.Errorf("its mode is %s", info.Mode())
	}
	c.Fails(exitConflict, []string{"no such file"}, at("vm", "copy", "web:/none", dir)...)

	// Two read the console, and two type on it; the guest's terminal echoes.
	readers := make([]*bytes.Buffer, 2)
	for i := range readers {
		readers[i] = new(bytes.Buffer)
		cmd := c.Command(t.Context(), at("vm", "console", "-r", "web")...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		got := make(chan []byte)
		go func() {
			b, _ := io.ReadAll(out)
			got <- b
		}()
		defer func() {
			cmd.Process.Signal(syscall.SIGINT)
			readers[i].Write(<-got)
			cmd.Wait()
			for _, word := range []string{"one-types", "two-types"} {
				if !strings.Contains(readers[i].String(), word) {
					t.Errorf("reader %d saw no %s:\n%s", i, word, readers[i])
				}
			}
		}()
	}
	for _, word := range []string{"one-types", "two-types"} {
		// Ctrl-] ends it; what comes after is not typed.
		if r := c.RunInput(word+"\n\x1dnot-typed\n", at("vm", "console", "web")...); r.code != 0 {
			t.Errorf("type: %v", r)
		}
	}
	c.Eventually(20*time.Second, "the console shows what was typed", func() error {
		out := c.Must("vm", "logs", "web")
		if !strings.Contains(out, "one-types") || !strings.Contains(out, "two-types") {
			return usagef("%s", out)
		}
		if strings.Contains(out, "not-typed") {
			t.Error("what comes after the escape was typed")
		}
		return nil
	})
	vm, _ := c.VM("web")
	confined(t, c.HostOf("web"), vm)
	if vm.GetStatus().GetAttempt() != 1 || vm.GetStatus().GetHealth() != blixardv1.HealthState_HEALTH_STATE_HEALTHY {
		t.Errorf("it was disturbed: %v", vm.GetStatus())
	}
	if out := c.Must("vm", "top", "--once", "--interval", "200ms", "-o", "wide"); !strings.Contains(out, "web") {
		t.Errorf("top:\n%s", out)
	}
}

// confined: a real VM's hypervisor is under seccomp and gains no rights, and what the
// daemon keeps of it is for its user alone.
func confined(t *testing.T, n *Node, vm *blixardv1.VM) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.PID(vm)))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Seccomp:\t2", "NoNewPrivs:\t1"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("its hypervisor's status does not say %q", want)
		}
	}
	looked := 0
	for _, dir := range append(n.vmDirs(), filepath.Join(n.Data, "vms")) {
		filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			info, err := d.Info()
			if err != nil {
				return nil
			}
			looked++
			if d.Type()&fs.ModeSocket == 0 && info.Mode().Perm()&0o077 != 0 { // a socket is behind its directory
				t.Errorf("%s is %s: for others, too", path, info.Mode())
			}
			return nil
		})
	}
	if looked < 6 {
		t.Errorf("only %d files were looked at", looked)
	}
}
