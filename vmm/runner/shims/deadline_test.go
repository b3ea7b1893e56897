package shims

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/vmm/runner/lease"
	"github.com/blixard/blixard/vmm/runner/vmdir"
	"github.com/blixard/blixard/vmm/shim"
)

func until(p *lease.Page, more time.Duration) time.Duration {
	pg, _ := p.Load()
	return time.Duration(pg.Deadline-lease.Now()) + more
}

func TestShimKilledKillsVM(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	s := h.spawn(h.program("sleep", "300"))
	st := h.status(s)
	unix.Kill(st.Shim.PID, unix.SIGKILL)
	h.dies(s.Dir(), slack)
	if vmdir.Alive(st.VM) {
		t.Fatal("the VM outlived its shim")
	}
	if _, err := s.Wait(h.ctx()); !errors.Is(err, ErrVanished) {
		t.Errorf("wait: %v", err)
	}
	if _, found, err := Adopt(s.Dir()); err != nil || found.Fate != Vanished {
		t.Errorf("found %+v, %v", found, err)
	}
}

func TestDeadlineEndsVM(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	p := h.page(1, 2*time.Second)
	start := h.program("sleep", "300")
	start.Page = p.Path()
	s := h.spawn(start)
	time.Sleep(until(p, -300*time.Millisecond))
	h.lives(h.status(s).VM)
	h.dies(s.Dir(), until(p, slack))
}

func TestStoppedShimEndsVM(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	p := h.page(1, 2*time.Second)
	start := h.program("sleep", "300")
	start.Page = p.Path()
	s := h.spawn(start)
	st := h.status(s)
	unix.Kill(st.Shim.PID, unix.SIGSTOP)
	// It is stopped before it can see this: the old deadline counts.
	if err := p.Extend(lease.Now() + uint64(time.Hour)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	h.lives(st.VM)
	h.dies(s.Dir(), 2*time.Second+slack)
	if vmdir.Alive(st.VM) || vmdir.Alive(st.Shim) {
		t.Fatal("alive")
	}
}

func TestExtendedVMLivesOn(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	p := h.page(1, 3*time.Second)
	start := h.program("sleep", "300")
	start.Page = p.Path()
	s := h.spawn(start)
	st := h.status(s)
	old := until(p, 0)
	if err := p.Extend(lease.Now() + uint64(8*time.Second)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(old + 500*time.Millisecond)
	h.lives(st.VM)
	if now := h.status(s); now.Deadline <= st.Deadline {
		t.Errorf("armed at %d, was %d", now.Deadline, st.Deadline)
	}
	// A smaller deadline changes nothing.
	if err := p.Extend(1); err != nil {
		t.Error(err)
	}
	h.dies(s.Dir(), until(p, slack))
}

func TestLapsedIsForEver(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	p := h.page(1, 700*time.Millisecond)
	start := h.program("sleep", "300")
	start.Page = p.Path()
	s, err := Spawn(h.ctx(), h.nextDir(), start)
	if err != nil && !errors.Is(err, ErrLapsed) { // a slow machine
		t.Logf("spawn: %v", err)
	}
	time.Sleep(until(p, 0))
	if err := p.Extend(lease.Now() + uint64(time.Hour)); !errors.Is(err, ErrLapsed) {
		t.Fatalf("extend: %v", err)
	}
	h.dies(h.dir(0), slack)
	// Even a page that somebody forces up does not bring the VM back.
	f, err := os.OpenFile(p.Path(), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte{0, 0, 0, 0, 0, 0, 0, 1}, shim.DeadlineAt)
	f.Close()
	time.Sleep(500 * time.Millisecond)
	if !Dead(h.dir(0)) {
		t.Error("revived")
	}
	if s != nil {
		s.Close()
	}
}

func TestLapsedBeforeStart(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	p := h.page(1, time.Millisecond)
	time.Sleep(5 * time.Millisecond)
	mark := filepath.Join(h.run, "ran")
	start := h.program("touch", mark)
	start.Page = p.Path()
	_, err := Spawn(h.ctx(), h.nextDir(), start)
	if !errors.Is(err, ErrLapsed) {
		t.Fatal(err)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("the VM ran")
	}
	if _, found, _ := Adopt(h.dir(0)); found.Exit == nil || found.Exit.Reason != shim.ReasonLapsed {
		t.Errorf("found %+v", found)
	}
}

// The deadline falls anywhere in the start: before the lock, between arming and
// forking, in the fork, after it. Whatever came of it, nothing lives in the end.
func TestLapseDuringStart(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	ways := map[string]int{}
	for i := range 60 {
		p := h.page(1, time.Duration(i)*500*time.Microsecond+time.Duration(i))
		start := h.program("sleep", "300.0423")
		start.Page = p.Path()
		start.PIDNamespace = i%2 == 0 && os.Getuid() == 0
		s, err := Spawn(h.ctx(), h.nextDir(), start)
		switch {
		case err == nil:
			ways["ran"]++
			defer s.Close()
		case errors.Is(err, ErrLapsed):
			ways["refused"]++
		default:
			ways["killed in the start"]++
		}
	}
	t.Log(ways)
	for i := range h.n {
		h.dies(h.dir(i), slack)
	}
	h.eventually("all dead", func() bool { return running("300.0423") == 0 })
}

func TestBadPages(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	good := h.page(1, time.Hour)
	other, err := lease.Create(filepath.Join(h.run, "other"), shim.Page{
		Host: shim.Host{ID: "h2", Generation: 1, Boot: h.boot, Epoch: 1}, Deadline: 1 << 62,
	})
	if err != nil {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(good.Path())
	write := func(name string, b []byte) string {
		path := filepath.Join(h.run, name)
		os.WriteFile(path, b, 0o600)
		return path
	}
	rotten := append([]byte(nil), b...)
	rotten[20] ^= 1
	fifo := filepath.Join(h.run, "fifo")
	unix.Mkfifo(fifo, 0o600)
	link := filepath.Join(h.run, "link")
	os.Symlink(good.Path(), link)
	for name, path := range map[string]string{
		"missing": filepath.Join(h.run, "none"), "short": write("short", b[:100]), "long": write("long", append(b, 0)),
		"rotten": write("rotten", rotten), "other host": other.Path(), "other epoch": h.page(2, time.Hour).Path(),
		"fifo": fifo, "link": link, "directory": h.run,
	} {
		start := h.program("sleep", "300")
		start.Page = path
		_, err := Spawn(h.ctx(), h.nextDir(), start)
		if !errors.Is(err, ErrPage) {
			t.Errorf("%s: %v", name, err)
		}
		if !Dead(h.dir(h.n - 1)) {
			t.Errorf("%s: alive", name)
		}
	}
}

func TestRebind(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	a, b := h.page(1, 3*time.Second), h.page(2, time.Hour)
	lapsed := h.page(1, time.Millisecond)
	s := h.spawn(h.program("sleep", "300"))
	if st := h.status(s); st.Deadline != 0 || st.Page != "" {
		t.Fatalf("%+v", st)
	}
	refused := func(page, word string) {
		t.Helper()
		var r *RefusedError
		if err := s.Rebind(h.ctx(), page); !errors.As(err, &r) || r.Text[:len(word)] != word {
			t.Errorf("%s: %v", word, err)
		}
	}
	refused(lapsed.Path(), shim.ErrorLapsed)
	refused(filepath.Join(h.run, "none"), shim.ErrorPage)
	refused("relative", shim.ErrorInvalid)
	if err := s.Rebind(h.ctx(), a.Path()); err != nil {
		t.Fatal(err)
	}
	pg, _ := a.Load()
	if st := h.status(s); st.Deadline != pg.Deadline || st.Page != a.Path() {
		t.Errorf("%+v", st)
	}
	if err := s.Rebind(h.ctx(), b.Path()); err != nil { // looser, and a newer epoch
		t.Fatal(err)
	}
	refused(a.Path(), shim.ErrorPage) // an older epoch binds no more
	if err := s.Rebind(h.ctx(), ""); err != nil {
		t.Fatal(err)
	}
	time.Sleep(until(a, 300*time.Millisecond))
	if st := h.status(s); st.Deadline != 0 || st.Page != "" {
		t.Errorf("%+v", st)
	}
	// Bound again, it ends with the page.
	c := h.page(3, 2*time.Second)
	if err := s.Rebind(h.ctx(), c.Path()); err != nil {
		t.Fatal(err)
	}
	h.dies(s.Dir(), until(c, slack))
}

// A second daemon opens the page, extends it, and finds what the first one left.
func TestPageOutlivesDaemons(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	p := h.page(1, time.Hour)
	before, _ := p.Load()
	again, err := lease.Create(filepath.Dir(p.Path()), shim.Page{Host: h.host(1), Lease: before.Lease, Deadline: 5})
	if err != nil {
		t.Fatal(err)
	}
	if now, _ := again.Load(); now != before {
		t.Errorf("%+v, was %+v", now, before)
	}
	more := before.Deadline + 1
	if err := again.Extend(more); err != nil {
		t.Fatal(err)
	}
	if now, _ := p.Load(); now.Deadline != more {
		t.Error("the first mapping does not see it")
	}
}

func TestDaemonKilledLeavesVMAlone(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	dir := h.nextDir()
	start := h.program("sleep", "300")
	start.Page = h.page(1, time.Hour).Path()
	startDaemonAndKillIt(h, dir, start)
	s, found, err := Adopt(dir)
	if err != nil || found.Fate != Alive {
		t.Fatalf("%+v, %v", found, err)
	}
	time.Sleep(200 * time.Millisecond)
	h.lives(found.Shim.VM)
	if found.Shim.Instance != start.Instance {
		t.Errorf("%+v", found.Shim)
	}
	if err := s.Kill(h.ctx(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if e := h.wait(s); e.Reason != shim.ReasonKilled || e.Signal != 15 {
		t.Errorf("%+v", e)
	}
}

func TestExitedWhileNoDaemonLooked(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	dir := h.nextDir()
	startDaemonAndKillIt(h, dir, h.program("sh", "-c", "sleep 1; exit 9"))
	h.dies(dir, slack)
	s, found, err := Adopt(dir)
	if err != nil || s != nil || found.Fate != Ended || found.Exit.Code != 9 || found.Exit.Reason != shim.ReasonExited {
		t.Fatalf("%+v, %v", found, err)
	}
	if found.Exit.End <= found.Exit.Start || found.Exit.Wall == "" {
		t.Errorf("%+v", found.Exit)
	}
}

// startDaemonAndKillIt kills it the hard way, with its whole process group.
func startDaemonAndKillIt(h *host, dir string, start shim.Start) {
	h.Helper()
	b := shim.EncodeLine(start)
	daemon := exec.Command("/proc/self/exe", dir)
	daemon.Env = append(os.Environ(), "BLIXARD_TEST_DAEMON="+string(b))
	daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := daemon.StdoutPipe()
	if err != nil {
		h.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		h.Fatal(err)
	}
	word := make([]byte, 200)
	n, _ := out.Read(word)
	if string(word[:n]) != "running\n" {
		h.Fatalf("daemon: %s", word[:n])
	}
	unix.Kill(-daemon.Process.Pid, unix.SIGKILL)
	daemon.Wait()
}
