package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/blixard/blixard/vmm/runner/qmp"
	"github.com/blixard/blixard/vmm/runner/shims"
)

// autopsy says of each hypervisor that a failed test has left where it stands: what
// its threads have done within half a second, and what its guest's processor and its
// interrupts look like. A guest that says nothing any more either loops, or waits for
// an interrupt that does not come. Nobody else may hold QEMU's socket: it is called
// when the daemon is dead and its VMs are not.
func (n *Node) autopsy() (text string) {
	for _, dir := range n.vmDirs() {
		s, state, err := shims.Adopt(dir)
		if err != nil || state.Shim == nil {
			continue
		}
		if s != nil {
			s.Close()
		}
		pid := state.Shim.VM.PID
		before := threads(pid)
		time.Sleep(500 * time.Millisecond)
		text += fmt.Sprintf("--- %s: VM %s, process %d\n%s%s", n.Name, state.Shim.Instance.UID, pid, before, threads(pid)) +
			monitor(filepath.Join(dir, "qmp"), "info status", "info registers", "info lapic", "info pic", "info irq")
	}
	return text
}

// threads are those of a process: state, what it waits in, ticks of user and system time.
func threads(pid int) (text string) {
	all, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	for _, task := range all {
		name, _ := os.ReadFile(task + "/comm")
		stat, _ := os.ReadFile(task + "/stat")
		in, _ := os.ReadFile(task + "/wchan")
		if f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:])); len(f) > 13 {
			text += fmt.Sprintf("%s %s: %s in %q, user %s system %s\n", filepath.Base(task), strings.TrimSpace(string(name)), f[0], in, f[11], f[12])
		}
	}
	return text
}

// monitor asks QEMU's human monitor.
func monitor(socket string, commands ...string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	c, err := qmp.Dial(ctx, socket, func(qmp.Event) {})
	if err != nil {
		return fmt.Sprintf("its monitor: %v\n", err)
	}
	defer c.Close()
	text := ""
	for _, line := range commands {
		answer, err := c.Monitor(ctx, line)
		if err != nil {
			return text + fmt.Sprintf("%s: %v\n", line, err)
		}
		text += fmt.Sprintf("(%s)\n%s", line, answer)
	}
	return text
}

func TestAutopsy(t *testing.T) {
	guestFiles(t)
	t.Parallel()
	c := up(t, 1)
	create := pushGuest(c)
	c.Must(create("a")...)
	n := c.Node(1)
	n.Kill()
	text := n.autopsy()
	for _, want := range []string{"VM status: running", "CPU#0", "RIP=", "user "} {
		if !strings.Contains(text, want) {
			t.Errorf("an autopsy that does not say %q:\n%s", want, text)
		}
	}
}
