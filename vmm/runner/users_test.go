package runner

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/core"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/shim"
)

func TestWhoVMsRunAs(t *testing.T) {
	for _, bad := range []string{"0-5", "9-3", "root", "no-such-user-here", "1-4294967295", "5-"} {
		if u, err := parseUsers(bad); err == nil {
			t.Errorf("%s: %+v", bad, u)
		}
	}
	u, err := parseUsers("200-202")
	if err != nil {
		t.Fatal(err)
	}
	a, b, c := u.of("a", nil), u.of("b", nil), u.of("c", nil)
	if a.UID == b.UID || b.UID == c.UID || a.UID == c.UID || a.GID != 200 || c.UID > 202 {
		t.Errorf("%+v %+v %+v", a, b, c)
	}
	if again := u.of("b", b); again.UID != b.UID {
		t.Errorf("another user at the next start: %+v", again)
	}
	if d := u.of("d", nil); d.UID < 200 || d.UID > 202 { // more VMs than users
		t.Errorf("%+v", d)
	}
	u.forget("d")
	u.forget("b")
	if e := u.of("e", &shim.User{UID: 9}); e.UID != b.UID {
		t.Errorf("the one that is free is %d, not %d", b.UID, e.UID)
	}
	spec := &blixardv1.VMSpec{Networks: []*blixardv1.Interface{{
		Kind: &blixardv1.Interface_User{User: &blixardv1.UserInterface{}}, Ports: []*blixardv1.PortForward{{HostPort: 80, GuestPort: 80}},
	}}}
	if b, _ := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"); strings.TrimSpace(string(b)) != "1024" {
		t.Logf("not tried: ports from %s on are everybody's", b)
	} else if err := unprivileged(spec); err == nil || !strings.Contains(err.Error(), "port 80 of its host") {
		t.Error(err)
	}
}

// A real guest's hypervisor runs as a user of its own, has its files, and nothing of
// the shim's or of another VM's. One that an older daemon has started as root is
// adopted, and runs as that user from its next start.
func TestAHypervisorOfAnotherUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can have VMs run as other users")
	}
	b := newGuestBench(t)
	if f := b.await("inventory", func(o core.Observed) bool { return o.Inventory }).Facts; f.Isolation.Users != someUsers {
		t.Errorf("facts %v", f.Isolation)
	}
	b.cfg.Users = "" // as before
	b.reopen()
	a, i := b.image("1-5", "blixard.tick=50ms"), instance("1-5", 1)
	a.Spec.GetImage().Disks = []*blixardv1.Disk{{Name: "data", SizeMib: 1}}
	b.must(vmm.Start, i, a)
	b.ready(i)
	if uid := runsAs(t, b.h.at.runOf("1-5")); uid != 0 {
		t.Errorf("without users it runs as %d", uid)
	}
	b.cfg.Users = someUsers
	b.reopen()
	b.ready(i)
	b.must(vmm.Pause, i, a)
	b.must(vmm.Resume, i, a)
	b.must(vmm.Kill, i, a)
	b.exit(i, Killed)
	second, mark := instance("1-5", 2), len(b.console("1-5"))
	b.must(vmm.Start, second, a)
	b.awaitConsoleFrom("1-5", mark, "tick 3 ")
	run, state := b.h.at.runOf("1-5"), b.h.at.stateOf("1-5")
	uid := runsAs(t, run)
	if uid < 262144 || uid > 262207 {
		t.Errorf("it runs as %d", uid)
	}
	other, oi := b.image("1-6", "blixard.tick=50ms"), instance("1-6", 1)
	b.must(vmm.Start, oi, other)
	b.ready(oi)
	if u := runsAs(t, b.h.at.runOf("1-6")); u == uid || u == 0 {
		t.Errorf("two VMs run as %d", u)
	}
	may := func(path string, want bool, mode uint32) {
		t.Helper()
		if can := accessAs(uid, 262144, path, mode) == nil; can != want {
			t.Errorf("user %d may %s: %v", uid, path, can)
		}
	}
	may(filepath.Join(state, "disks", "data.raw"), true, unix.R_OK|unix.W_OK)
	may(filepath.Join(run, hypervisorDir), true, unix.W_OK)
	for _, path := range []string{
		run, state, filepath.Join(run, "lock"), filepath.Join(run, "start.json"), filepath.Join(run, "shim.json"),
		filepath.Join(run, "shim.sock"), filepath.Join(state, recordFile), b.h.at.leases(), b.cfg.StateDir,
		filepath.Join(b.h.at.runOf("1-6"), hypervisorDir),
	} {
		may(path, false, unix.W_OK)
	}
	for _, path := range []string{
		filepath.Join(b.h.at.stateOf("1-6"), "console.log"), filepath.Join(b.h.at.runOf("1-6"), qmpSocket), filepath.Join(state, recordFile),
	} {
		may(path, false, unix.R_OK)
	}
	for _, dir := range []string{b.cfg.RunRoot, b.cfg.StateDir} {
		if st, err := os.Stat(dir); err != nil || st.Mode()&0o007 != 0 && dir == b.cfg.RunRoot {
			t.Errorf("%s: %v %v", dir, st.Mode(), err)
		}
	}
	b.must(vmm.Pause, second, a)
	b.must(vmm.Resume, second, a)
	b.must(vmm.Stop, second, a)
	b.exit(second, Exited)
	// A daemon without them, an older one say, takes over what runs.
	b.cfg.Users = ""
	b.reopen()
	b.ready(oi)
	b.must(vmm.Kill, oi, other)
	b.exit(oi, Killed)
	b.must(vmm.Remove, oi, other)
	b.must(vmm.Remove, second, a)
}

// runsAs is the user of the hypervisor of a run directory.
func runsAs(t *testing.T, run string) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", shimState(t, run).VM.PID))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); f[0] == "Uid:" {
			uid, _ := strconv.Atoi(f[1])
			return uid
		}
	}
	t.Fatal("a process without a user")
	return 0
}

// accessAs tries what a user may, as that user.
func accessAs(uid, gid int, path string, mode uint32) error {
	test := map[uint32]string{unix.R_OK: "-r", unix.W_OK: "-w"}
	for bit, flag := range test {
		if mode&bit == 0 {
			continue
		}
		cmd := exec.Command("/usr/bin/test", flag, path)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
		if err := cmd.Run(); err != nil {
			return err
		}
	}
	return nil
}
