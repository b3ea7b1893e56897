package runner

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/blixard/blixard/vmm"
)

// A hypervisor that puts something else where its socket was is not listened to, and
// the daemon does to nobody else what was meant for it: not where a link leads, not
// whoever listens there as another user, nor another process of its own user.
func TestAHypervisorThatMovesItsSocket(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can have VMs run as other users")
	}
	b := fakeBench(t, firecrackerKind)
	i, other := instance("1-5", 1), instance("1-6", 1)
	a := b.faked(firecrackerKind, i.UID, "blixard.tick=50ms")
	b.must(vmm.Start, i, a)
	b.must(vmm.Start, other, b.faked(firecrackerKind, other.UID, "blixard.tick=50ms"))
	b.ready(i)
	b.ready(other)
	at := filepath.Join(b.h.at.runOf(i.UID), hypervisorDir, apiSocket)
	kept := at + "-kept"
	if err := os.Rename(at, kept); err != nil {
		t.Fatal(err)
	}
	refused := func(what, why string) {
		t.Helper()
		err := b.do(vmm.Pause, i, a)
		if err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := meet(t.Context(), filepath.Join(b.h.at.runOf(i.UID), apiSocket)); !errors.Is(err, errStranger) {
			t.Errorf("%s: %v", what, err)
		}
		if err := os.Remove(at); err != nil {
			t.Fatal(err)
		}
	}

	if err := os.Symlink(filepath.Join(b.h.at.runOf(other.UID), hypervisorDir, apiSocket), at); err != nil {
		t.Fatal(err)
	}
	refused("a link to another VM's", "something else in its place")
	if err := os.WriteFile(at, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refused("a file", "something else in its place")

	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: at, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	refused("the socket of another user", "of user 0 does")
	l.Close()

	user := readUser(t, b.h.at.stateOf(i.UID)).UID
	stranger := exec.Command(b.cfg.Programs[firecrackerKind], "--id", "x", "--api-sock", at)
	stranger.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: 262144}}
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	defer stranger.Process.Kill()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if _, err := net.Dial("unix", at); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	refused("the socket of another process", "does not descend from")

	if err := os.Rename(kept, at); err != nil {
		t.Fatal(err)
	}
	b.must(vmm.Pause, i, a)
	b.mu.Lock()
	seen := b.seen
	b.mu.Unlock()
	for _, r := range seen { // all that was ever said of the other
		for _, r := range r.Reports {
			if r.Instance == other && r.Paused {
				t.Error("another VM was paused")
			}
		}
	}
	b.awaitConsole(other.UID, "tick 2 ")
	for _, i := range []struct{ uid string }{{i.UID}, {other.UID}} {
		b.must(vmm.Kill, instance(i.uid, 1), nil)
		b.must(vmm.Remove, instance(i.uid, 1), nil)
	}
}
