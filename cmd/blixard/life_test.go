package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/rpc"
)

// ticker is a program that says something every 50 ms.
var ticker = []string{"--process", "--memory", "64", "--", "/bin/sh", "-c", `i=0; while :; do i=$((i+1)); echo "tick $i"; sleep 0.05; done`}

func create(name string, more ...string) []string {
	return append([]string{"vm", "create", name}, append(more, ticker...)...)
}

func phaseIs(p blixardv1.Phase) func(*blixardv1.VM, string) bool {
	return func(v *blixardv1.VM, _ string) bool { return v.GetStatus().GetPhase() == p }
}

// One node and one program: every verb of a VM's life.
func TestLifeOfAVM(t *testing.T) {
	t.Parallel()
	c := up(t, 1)
	n := c.Node(1)

	out := c.Must(create("web", "--label", "app=web")...)
	if !strings.Contains(out, "Running") || !strings.Contains(out, "process (no isolation)") {
		t.Errorf("create says:\n%s", out)
	}
	vm, node := c.VM("web")
	if node != "n1" || vm.GetStatus().GetAttempt() != 1 {
		t.Errorf("it is on %q: %v", node, vm)
	}
	first := n.PID(vm)

	if out := c.Must("vm", "get", "web", "-o", "json"); !strings.Contains(out, `"name": "web"`) {
		t.Errorf("get -o json: %s", out)
	}
	if out := c.Must("vm", "get", "web", "-o", "yaml"); !strings.Contains(out, "\nuid: "+vm.GetUid()) && !strings.Contains(out, "uid: \""+vm.GetUid()) {
		t.Errorf("get -o yaml: %s", out)
	}
	if out := c.Must("vm", "ls", "-o", "name"); out != "web\n" {
		t.Errorf("ls -o name: %q", out)
	}
	if out := c.Must("vm", "list", "-l", "app=other", "-o", "name"); out != "" {
		t.Errorf("list of another label: %q", out)
	}
	if out := c.Must("vm", "explain", "web"); !strings.Contains(out, "n1") {
		t.Errorf("explain: %s", out)
	}
	if out := c.Must("vm", "logs", "web"); !strings.Contains(out, "tick 1\n") {
		t.Errorf("logs: %s", out)
	}

	c.Must("vm", "stop", "web")
	if _, ok := n.Running()[vm.GetUid()]; ok {
		t.Error("stop returned while the VM runs")
	}
	time.Sleep(time.Second)
	c.Await("web", 10*time.Second, "stays stopped", phaseIs(blixardv1.Phase_PHASE_STOPPED))

	c.Must("vm", "start", "web")
	vm, _ = c.VM("web")
	second := n.PID(vm)
	if second == first {
		t.Error("the process of the second attempt is the first's")
	}
	c.Must("vm", "restart", "web")
	vm, _ = c.VM("web")
	if third := n.PID(vm); third == second {
		t.Error("restart returned before the VM was another process")
	}

	c.Must("vm", "delete", "web")
	if vm, _ := c.VM("web"); vm != nil {
		t.Errorf("delete returned while the VM is there: %v", vm)
	}
	if left := n.Running(); len(left) != 0 {
		t.Errorf("something runs on: %v", left)
	}
	c.Fails(exitNotFound, []string{"web"}, "vm", "get", "web")
}

func TestLogsFollow(t *testing.T) {
	t.Parallel()
	c := up(t, 3)
	c.Must(create("web")...)
	// From every node, also those that do not run it.
	for i := 1; i <= 3; i++ {
		cancelled, cancel := context.WithCancel(ctx(t))
		cmd := c.Command(cancelled, "--server", c.Node(i).Addr, "vm", "logs", "-f", "web")
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := 0
		deadline := time.AfterFunc(20*time.Second, cancel)
		last := 0
		for s := bufio.NewScanner(pipe); lines < 40 && s.Scan(); lines++ {
			n := 0
			if _, err := fmt.Sscanf(s.Text(), "tick %d", &n); err == nil {
				if n != last+1 {
					t.Errorf("node %d: after tick %d comes %d", i, last, n)
				}
				last = n
			}
		}
		deadline.Stop()
		cancel()
		cmd.Wait()
		if lines < 40 {
			t.Errorf("node %d showed %d lines", i, lines)
		}
	}
}

func TestRequestIDs(t *testing.T) {
	t.Parallel()
	c := up(t, 1)
	id := rpc.NewRequestID()
	c.Must(create("web", "--request-id", id)...)
	first, _ := c.VM("web")
	c.Must(create("web", "--request-id", id)...) // the same again: the first answer
	if again, _ := c.VM("web"); again.GetUid() != first.GetUid() {
		t.Errorf("a retry made %s of %s", again.GetUid(), first.GetUid())
	}
	r := c.Fails(exitConflict, nil, create("other", "--request-id", id)...)
	if !strings.Contains(r.err, id) {
		t.Errorf("the request id is not in: %s", r.err)
	}
	c.Fails(exitConflict, []string{"web", "next:", "request:"}, create("web")...)
	c.Eventually(10*time.Second, "its node's log tells of all three by that id", func() error {
		log, err := os.ReadFile(c.Node(1).log)
		var codes []string
		for line := range strings.Lines(string(log)) {
			if _, rest, ok := strings.Cut(line, "INFO msg=request procedure=VM.Create principal=anonymous code="); ok && strings.Contains(line, "request_id="+id) {
				code, _, _ := strings.Cut(rest, " ")
				codes = append(codes, code)
			}
		}
		if got := strings.Join(codes, " "); err != nil || got != "ok ok aborted" {
			return fmt.Errorf("%q, %v", got, err)
		}
		return nil
	})
}

// A client that goes away loses nothing, and holds up nobody.
func TestClientDisconnects(t *testing.T) {
	t.Parallel()
	c := up(t, 1)
	cancelled, cancel := context.WithCancel(ctx(t))
	cmd := c.Command(cancelled, create("web")...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.Eventually(20*time.Second, "web is there", func() error {
		if vm, _ := c.VM("web"); vm == nil {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	cancel()
	cmd.Wait()
	c.Await("web", 20*time.Second, "runs", phaseIs(blixardv1.Phase_PHASE_RUNNING))
}

func TestThreeNodes(t *testing.T) {
	t.Parallel()
	c := up(t, 3)
	for i := range 3 {
		c.Must(create(fmt.Sprintf("vm%d", i))...)
	}
	on := map[string]bool{}
	for i := range 3 {
		on[c.HostOf(fmt.Sprintf("vm%d", i)).Name] = true
	}
	if len(on) != 3 {
		t.Errorf("three VMs are on %v", on)
	}
	out := c.Must("cluster", "status")
	if !strings.Contains(out, "Leader:") || strings.Count(out, "voter") != 3 {
		t.Errorf("status:\n%s", out)
	}
	// Any server takes any request.
	for i := 1; i <= 3; i++ {
		c.Must("--server", c.Node(i).Addr, "vm", "restart", fmt.Sprintf("vm%d", i-1))
	}
	c.Must("node", "cordon", "n2")
	if out := c.Must("node", "get", "n2"); !strings.Contains(out, "Cordoned") {
		t.Errorf("node get: %s", out)
	}
	c.Must(create("more", "--require", "none=such", "--no-wait")...)
	c.Must("node", "uncordon", "n2")
	if out := c.Must("vm", "explain", "more"); !strings.Contains(out, "none") {
		t.Errorf("explain: %s", out)
	}
	c.Must("vm", "delete", "more", "vm0", "vm1", "vm2")
	c.Fails(exitNotFound, nil, "vm", "stop", "nobody", "nothing")
	c.Must(create("last")...)
	c.Fails(exitPartial, []string{"1 of 2"}, "vm", "delete", "last", "nobody")
}

func TestKillLeader(t *testing.T) {
	t.Parallel()
	c := up(t, 3, longLease)
	c.Must(create("web")...)
	vm, _ := c.VM("web")
	pid := c.HostOf("web").PID(vm)
	host := c.HostOf("web")

	leader := c.Leader()
	leader.Kill()
	begin := time.Now()
	c.Must(create("second", "--no-wait")...)
	t.Logf("first write %s after the kill of the leader", time.Since(begin))
	leader.Start().Await()
	c.AwaitReady()
	if now := host.PID(vm); now != pid {
		t.Errorf("web was process %d and is %d", pid, now)
	}
	c.Await("second", 30*time.Second, "runs", phaseIs(blixardv1.Phase_PHASE_RUNNING))
}

// The daemon of a VM's host is restarted and killed; the VM does not notice.
func TestDaemonRestart(t *testing.T) {
	t.Parallel()
	c := up(t, 1)
	c.Must(create("web")...)
	vm, _ := c.VM("web")
	n := c.Node(1)
	pid := n.PID(vm)
	for i := range 3 {
		if i%2 == 0 {
			n.Stop()
		} else {
			n.Kill()
		}
		if now := n.PID(vm); now != pid {
			t.Fatalf("round %d: the VM died with its daemon", i)
		}
		n.Start().Await()
		c.AwaitReady()
		c.Await("web", 20*time.Second, "runs", phaseIs(blixardv1.Phase_PHASE_RUNNING))
		if now := n.PID(vm); now != pid {
			t.Fatalf("round %d: the VM was process %d and is %d", i, pid, now)
		}
	}
	if v, _ := c.VM("web"); v.GetStatus().GetAttempt() != 1 {
		t.Errorf("it was started anew: %v", v.GetStatus())
	}
	if out := c.Must("vm", "logs", "web"); !strings.Contains(out, "tick 1\n") {
		t.Error("the console lost its beginning")
	}
	c.Must("vm", "stop", "web") // the adopted VM obeys
}

// The host of a VM is lost; the VM comes up on another one, never twice.
func TestLoseHost(t *testing.T) {
	t.Parallel()
	c := up(t, 3)
	c.Must(create("web")...)
	vm, _ := c.VM("web")
	lost := c.HostOf("web")
	lost.Lose()
	begin := time.Now()
	c.Await("web", 60*time.Second, "runs elsewhere", func(v *blixardv1.VM, node string) bool {
		return node != lost.Name && v.GetStatus().GetPhase() == blixardv1.Phase_PHASE_RUNNING
	})
	t.Logf("it moved in %s", time.Since(begin))
	if v, _ := c.VM("web"); v.GetUid() != vm.GetUid() {
		t.Errorf("its uid was %s and is %s", vm.GetUid(), v.GetUid())
	}
	lost.Start().Await()
	c.AwaitReady()
	if _, ok := lost.Running()[vm.GetUid()]; ok {
		t.Error("the host that came back runs it again")
	}
}

// A minority answers stale reads and status, and says what is wrong with the rest.
func TestNoQuorum(t *testing.T) {
	t.Parallel()
	c := up(t, 3)
	c.Must(create("web")...)
	c.Node(2).Signal(syscall.SIGSTOP)
	c.Node(3).Signal(syscall.SIGSTOP)
	defer c.Node(2).Signal(syscall.SIGCONT)
	defer c.Node(3).Signal(syscall.SIGCONT)
	one := []string{"--server", c.Node(1).Addr, "--timeout", "6s"}
	r := c.Run(append(one, create("late")...)...)
	if r.code != exitNoQuorum && r.code != exitTimeout {
		t.Errorf("create without a quorum: %v", r)
	}
	if r := c.Run(append(one, "cluster", "status")...); r.code != 0 {
		t.Errorf("status without a quorum: %v", r)
	}
	if r := c.Run(append(one, "vm", "get", "web", "--stale")...); r.code != 0 {
		t.Errorf("stale get without a quorum: %v", r)
	}
}

// A real microVM: its console, the power button, and the loss of its host. The
// client's files are gone once create has returned.
func TestRealVM(t *testing.T) {
	kernel, initrd := guestFiles(t)
	t.Parallel()
	c := up(t, 3)
	client := t.TempDir()
	for _, f := range []string{kernel, initrd} {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(client, filepath.Base(f)), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	spec := "name: web\nmemory_mib: 192\nimage:\n  kernel: ./vmlinuz\n  initrd: initrd\n"
	file := filepath.Join(client, "web.yaml")
	if err := os.WriteFile(file, []byte(spec), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Must("--timeout", "120s", "vm", "create", "-f", file)
	os.RemoveAll(client)
	c.Eventually(60*time.Second, "the guest is up", func() error {
		if out := c.Must("vm", "logs", "web"); !strings.Contains(out, "blixard-guest: tick") {
			return fmt.Errorf("its console says %q", out)
		}
		return nil
	})
	begin := time.Now()
	c.Must("vm", "stop", "web")
	if out := c.Must("vm", "logs", "web"); !strings.Contains(out, "power button") {
		t.Errorf("it was not asked to stop (%s): %s", time.Since(begin), out)
	}
	c.Must("--timeout", "120s", "vm", "start", "web")
	lost := c.HostOf("web")
	lost.Lose()
	c.Await("web", 90*time.Second, "runs elsewhere", func(v *blixardv1.VM, node string) bool {
		return node != lost.Name && v.GetStatus().GetPhase() == blixardv1.Phase_PHASE_RUNNING
	})
	c.Eventually(60*time.Second, "the guest is up again", func() error {
		if out := c.Must("vm", "logs", "web"); !strings.Contains(out, "blixard-guest: tick") {
			return fmt.Errorf("its console says %q", out)
		}
		return nil
	})
	c.Must("vm", "delete", "web")
}

// curl is a client, too.
func TestCurl(t *testing.T) {
	t.Parallel()
	c := up(t, 1)
	r, err := c.Client().VM.List(ctx(t), connect.NewRequest(&blixardv1.ListRequest{}))
	if err != nil || len(r.Msg.GetVms()) != 0 {
		t.Fatal(r, err)
	}
	body := postJSON(t, "http://"+c.Node(1).Addr+"/blixard.v1.VMService/List", `{}`)
	if !strings.Contains(body, "revision") {
		t.Errorf("curl sees %s", body)
	}
}
