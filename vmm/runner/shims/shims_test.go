package shims

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/vmm/runner/vmdir"
	"github.com/blixard/blixard/vmm/shim"
)

func needNamespaces(t *testing.T) {
	t.Helper()
	cmd := exec.Command("/bin/true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	if err := cmd.Run(); err != nil {
		t.Skipf("no PID namespace to be had here: %v", err)
	}
}

func TestExitReports(t *testing.T) {
	h := newHost(t)
	try := func(t *testing.T, namespace bool) {
		for _, c := range []struct {
			script string
			kill   syscall.Signal
			want   shim.Exit
		}{
			{"exit 0", 0, shim.Exit{Reason: shim.ReasonExited}},
			{"exit 7", 0, shim.Exit{Reason: shim.ReasonExited, Code: 7}},
			{"kill -9 $$", 0, shim.Exit{Reason: shim.ReasonSignaled, Signal: 9}},
			{"exec sleep 300", syscall.SIGKILL, shim.Exit{Reason: shim.ReasonKilled, Signal: 9, Asked: 9}},
			{"exec sleep 300", syscall.SIGTERM, shim.Exit{Reason: shim.ReasonKilled, Signal: 15, Asked: 15}},
			{"trap 'exit 3' TERM; touch trapped; while :; do sleep 0.05; done", syscall.SIGTERM, shim.Exit{Reason: shim.ReasonKilled, Code: 3, Asked: 15}},
		} {
			start := h.program("sh", "-c", c.script)
			start.PIDNamespace = namespace
			s := h.spawn(start)
			if c.kill != 0 {
				if strings.HasPrefix(c.script, "trap") {
					h.eventually("the trap stands", func() bool {
						_, err := os.Stat(filepath.Join(s.Dir(), "trapped"))
						return err == nil
					})
				}
				if err := s.Kill(h.ctx(), c.kill); err != nil {
					t.Fatal(err)
				}
			}
			got := h.wait(s)
			if got.Instance != start.Instance || got.Start == 0 || got.End < got.Start {
				t.Errorf("%s: %+v", c.script, got)
			}
			got = shim.Exit{Reason: got.Reason, Code: got.Code, Signal: got.Signal, Asked: got.Asked}
			if got != c.want {
				t.Errorf("%s, signal %d: %+v, want %+v", c.script, c.kill, got, c.want)
			}
		}
	}
	t.Run("plain", func(t *testing.T) { try(t, false) })
	t.Run("namespace", func(t *testing.T) {
		needNamespaces(t)
		try(t, true)
	})
}

// A program that leaves its process group and its session is still held.
const forking = "sleep 300.%s & setsid sleep 300.%s & setsid setsid sh -c 'sleep 300.%s; :' & sleep 300.%s"

func forkingProgram(h *host, mark string) shim.Start {
	return h.program("sh", "-c", strings.ReplaceAll(forking, "%s", mark))
}

func TestNamespaceHoldsForks(t *testing.T) {
	needNamespaces(t)
	h := newHost(t)
	for _, how := range []syscall.Signal{syscall.SIGKILL, 0} {
		mark := fmt.Sprintf("077%d", how)
		start := forkingProgram(h, mark)
		start.PIDNamespace = true
		s := h.spawn(start)
		h.eventually("it forked", func() bool { return running("300."+mark) >= 5 })
		if how != 0 {
			unix.Kill(h.status(s).Shim.PID, unix.SIGKILL)
		} else if err := s.Kill(h.ctx(), unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		h.dies(s.Dir(), slack)
		if n := running("300." + mark); n != 0 {
			t.Errorf("%d processes outlived a dead directory", n)
		}
	}
}

// What neither namespace nor cgroup holds keeps the lock, and the directory is
// not dead: this is why a forking program must be held.
func TestLooseForksKeepTheLock(t *testing.T) {
	h := newHost(t)
	s := h.spawn(h.program("sh", "-c", "setsid sleep 3.0881 & exec sleep 300"))
	h.eventually("it forked", func() bool { return running("3.0881") > 0 })
	time.Sleep(50 * time.Millisecond)
	unix.Kill(h.status(s).Shim.PID, unix.SIGKILL)
	h.eventually("the VM died", func() bool { return !vmdir.Alive(s.Hello().VM) })
	if Dead(s.Dir()) {
		t.Fatal("dead, with a fork alive")
	}
	if _, err := Spawn(h.ctx(), s.Dir(), h.program("sleep", "300")); !errors.Is(err, ErrLocked) {
		t.Errorf("spawn: %v", err)
	}
	h.dies(s.Dir(), 3*time.Second+slack)
}

func TestCgroupHoldsForks(t *testing.T) {
	parent := ""
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		dir := fmt.Sprintf("%s/bxtest%d", root, os.Getpid())
		if os.Mkdir(dir, 0o755) == nil {
			if _, err := os.Stat(dir + "/cgroup.kill"); err == nil {
				parent = dir
				break
			}
			os.Remove(dir)
		}
	}
	if parent == "" {
		t.Skip("no cgroup2 that we may write to")
	}
	t.Cleanup(func() { os.Remove(parent) })
	h := newHost(t)
	start := forkingProgram(h, "0991")
	start.Cgroup = parent + "/a"
	s := h.spawn(start)
	h.eventually("it forked", func() bool { return running("300.0991") >= 5 })
	if err := s.Kill(h.ctx(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := h.wait(s); e.Reason != shim.ReasonKilled {
		t.Errorf("%+v", e)
	}
	if n := running("300.0991"); n != 0 {
		t.Errorf("%d alive", n)
	}
	if _, err := os.Stat(start.Cgroup); err == nil {
		t.Error("the cgroup is still there")
	}
	// A shim that is killed leaves the cgroup to the daemon.
	start.Cgroup = parent + "/b"
	s = h.spawn(start)
	h.eventually("it forked", func() bool { return running("300.0991") >= 5 })
	unix.Kill(h.status(s).Shim.PID, unix.SIGKILL)
	h.eventually("the shim died", func() bool { return !vmdir.Alive(s.Hello().Shim) })
	if Dead(s.Dir()) {
		t.Error("dead, with a full cgroup")
	}
	if err := Sweep(s.Dir()); err != nil {
		t.Error(err)
	}
	h.dies(s.Dir(), slack)
	// A cgroup that exists is refused: it may have been killed once.
	os.Mkdir(parent+"/c", 0o755)
	defer os.Remove(parent + "/c")
	start.Cgroup = parent + "/c"
	if _, err := Spawn(h.ctx(), h.nextDir(), start); !errors.Is(err, ErrExec) {
		t.Error(err)
	}
}

func TestSecondShimTouchesNothing(t *testing.T) {
	h := newHost(t)
	s := h.spawn(h.program("sleep", "300"))
	before := listing(t, s.Dir())
	out, err := exec.Command(shimBinary, "-dir", s.Dir()).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != shim.CodeLocked || !bytes.Contains(out, []byte("locked")) {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := Spawn(h.ctx(), s.Dir(), h.program("sleep", "301")); !errors.Is(err, ErrLocked) {
		t.Errorf("spawn: %v", err)
	}
	if after := listing(t, s.Dir()); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	h.lives(h.status(s).VM)
}

func listing(t *testing.T, dir string) string {
	var b strings.Builder
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		st, _ := e.Info()
		text, _ := os.ReadFile(filepath.Join(dir, e.Name()))
		fmt.Fprintln(&b, e.Name(), st.Mode(), st.ModTime(), string(text))
	}
	return b.String()
}

func TestHostileStart(t *testing.T) {
	h := newHost(t)
	good := string(shim.EncodeLine(h.program("sleep", "300")))
	for name, text := range map[string]string{
		"half": good[:len(good)/2], "empty": "", "list": "[]", "twice": good + good,
		"unknown": strings.Replace(good, "{", `{"moreSafety":true,`, 1),
		"boot":    strings.Replace(good, h.boot, "00000000-0000-0000-0000-000000000000", 1),
		"deep":    strings.Repeat(`{"argv":[`, 50000), "huge": strings.Repeat("x", shim.MaxStart+1),
	} {
		dir := h.nextDir()
		os.Mkdir(dir, 0o700)
		os.WriteFile(filepath.Join(dir, vmdir.StartFile), []byte(text), 0o600)
		refused(h, name, dir)
	}
	dir := h.nextDir()
	os.Mkdir(dir, 0o700)
	refused(h, "missing", dir)
	dir = h.nextDir()
	os.Mkdir(dir, 0o700)
	unix.Mkfifo(filepath.Join(dir, vmdir.StartFile), 0o600)
	refused(h, "fifo", dir)
}

func refused(h *host, name, dir string) {
	h.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err := exec.CommandContext(ctx, shimBinary, "-dir", dir).Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != shim.CodeStart {
		h.Errorf("%s: %v", name, err)
	}
	if _, found, err := Adopt(dir); err != nil || found.Exit == nil || found.Exit.Reason != shim.ReasonStart || found.Exit.Error == "" {
		h.Errorf("%s: %+v, %v", name, found, err)
	}
}

func TestPathTooLong(t *testing.T) {
	h := newHost(t)
	dir := filepath.Join(h.run, strings.Repeat("x", 100))
	if _, err := Spawn(h.ctx(), dir, h.program("sleep", "300")); !errors.Is(err, vmdir.ErrPathTooLong) {
		t.Error(err)
	}
	if _, _, err := Adopt(dir); !errors.Is(err, vmdir.ErrPathTooLong) {
		t.Error(err)
	}
	out, err := exec.Command(shimBinary, "-dir", dir).CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("shorter run directory")) {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("made the directory all the same")
	}
}

func TestExecFails(t *testing.T) {
	h := newHost(t)
	for _, namespace := range []bool{false, os.Getuid() == 0} {
		start := h.program("sleep", "300")
		start.Argv[0] = "/nowhere/vm"
		start.PIDNamespace = namespace
		if _, err := Spawn(h.ctx(), h.nextDir(), start); !errors.Is(err, ErrExec) || !strings.Contains(err.Error(), "no such file") {
			t.Error(err)
		}
		if !Dead(h.dir(h.n - 1)) {
			t.Error("alive")
		}
	}
}

func TestProgramsSurroundings(t *testing.T) {
	h := newHost(t)
	for _, namespace := range []bool{false, os.Getuid() == 0} {
		console := filepath.Join(h.run, fmt.Sprint("console", namespace))
		start := h.program("sh", "-c", `cat; echo "$0 $X $(id -u):$(id -g) $(pwd)"; echo err >&2; ls -l /proc/self/fd`)
		start.Argv = append(start.Argv, "arg with space")
		start.Env = append(start.Env, "X=y z")
		start.Console, start.Dir, start.PIDNamespace = console, "/", namespace
		want := fmt.Sprintf("arg with space y z %d:%d /\nerr\n", os.Getuid(), os.Getgid())
		if os.Getuid() == 0 {
			start.User = &shim.User{UID: 65534, GID: 65533}
			want = "arg with space y z 65534:65533 /\nerr\n"
		}
		if e := h.wait(h.spawn(start)); e.Code != 0 {
			t.Errorf("%+v", e)
		}
		b, _ := os.ReadFile(console)
		if !strings.HasPrefix(string(b), want) {
			t.Errorf("namespace %v: console\n%s\nwant\n%s", namespace, b, want)
		}
		// Of ours it has the lock, and nothing else.
		if strings.Contains(string(b), "socket:") || strings.Contains(string(b), "pidfd") || !strings.Contains(string(b), "/lock\n") {
			t.Errorf("namespace %v: it inherited\n%s", namespace, b)
		}
	}
}

func TestSIGTERMToTheShimIsTheVMs(t *testing.T) {
	h := newHost(t)
	s := h.spawn(h.program("sleep", "300"))
	unix.Kill(h.status(s).Shim.PID, unix.SIGHUP)
	unix.Kill(h.status(s).Shim.PID, unix.SIGTERM)
	if e := h.wait(s); e.Reason != shim.ReasonKilled || e.Signal != 15 {
		t.Errorf("%+v", e)
	}
}

func TestRudeDaemons(t *testing.T) {
	h := newHost(t)
	s := h.spawn(h.program("sleep", "300"))
	path, _ := vmdir.SocketPath(s.Dir())
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", st.Mode(), err)
	}
	dialRaw := func() net.Conn {
		var c net.Conn
		h.eventually("the shim lets us in", func() (ok bool) { // its queue may be full
			var err error
			c, err = net.Dial("unix", path)
			return err == nil
		})
		t.Cleanup(func() { c.Close() })
		return c
	}
	c := dialRaw() // never reads, always asks
	c.SetWriteDeadline(time.Now().Add(time.Second))
	for range 20000 {
		if _, err := c.Write([]byte(`{"v":1,"id":1,"type":"status"}` + "\n")); err != nil {
			break
		}
	}
	for _, words := range []string{"GET / HTTP/1.1\r\n\r\n", strings.Repeat("x", 100000), "\n\n\n", "{\n"} {
		c := dialRaw()
		c.Write([]byte(words))
	}
	for range 40 {
		dialRaw()
	}
	// One that speaks a newer version, and a word we do not know, is answered.
	c = dialRaw()
	in := bufio.NewReader(c)
	in.ReadString('\n')
	fmt.Fprint(c, `{"v":9,"id":1,"type":"kill","signal":9}`+"\n"+`{"v":1,"id":2,"type":"teleport"}`+"\n")
	for id := range 2 {
		line, err := in.ReadString('\n')
		if !strings.Contains(line, shim.ErrorUnknown) {
			t.Errorf("%d: %q, %v", id, line, err)
		}
	}
	again, found, err := Adopt(s.Dir())
	if err != nil || found.Fate != Alive {
		t.Fatalf("%+v, %v", found, err)
	}
	h.lives(h.status(again).VM)
}

func TestStoppedShimIsSilent(t *testing.T) {
	h := newHost(t)
	s := h.spawn(h.program("sleep", "300"))
	pid := h.status(s).Shim.PID
	unix.Kill(pid, unix.SIGSTOP)
	if _, found, err := Adopt(s.Dir()); err != nil || found.Fate != Silent || found.Shim.Shim.PID != pid {
		t.Errorf("%+v, %v", found, err)
	}
	ctx, cancel := context.WithTimeout(h.ctx(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.Status(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if err := Sweep(s.Dir()); err != nil {
		t.Error(err)
	}
	h.dies(s.Dir(), slack)
}

// A record may be older than the processes that have the numbers in it now. They are
// strangers: the VM is dead, and they live on.
func TestARecordThatNamesStrangers(t *testing.T) {
	h := newHost(t)
	s := h.spawn(h.program("sleep", "300"))
	dir := s.Dir()
	unix.Kill(h.status(s).Shim.PID, unix.SIGKILL)
	h.dies(dir, slack)
	stranger := exec.Command("sleep", "300")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- stranger.Wait() }()
	is := vmdir.Identify(stranger.Process.Pid)
	defer stranger.Process.Kill()
	st, err := readState(dir)
	if err != nil {
		t.Fatal(err)
	}
	was := is
	was.Start--
	st.Shim, st.VM = was, was
	if err := vmdir.WriteJSON(dir, vmdir.StateFile, st); err != nil {
		t.Fatal(err)
	}
	if !Dead(dir) {
		t.Error("a stranger is taken for the VM")
	}
	if found, state, err := Adopt(dir); err != nil || found != nil || state.Fate != Vanished {
		t.Errorf("%v %+v %v", found, state, err)
	}
	if err := Sweep(dir); err != nil {
		t.Error(err)
	}
	select {
	case err := <-ended:
		t.Fatal("the stranger was killed:", err)
	case <-time.After(50 * time.Millisecond):
	}
	// The very process is found, and ended.
	st.Shim, st.VM = is, is
	if err := vmdir.WriteJSON(dir, vmdir.StateFile, st); err != nil {
		t.Fatal(err)
	}
	if Dead(dir) {
		t.Error("what runs is not seen")
	}
	if err := Sweep(dir); err != nil {
		t.Error(err)
	}
	<-ended
	if !Dead(dir) {
		t.Error("what was swept lives")
	}
}

// Where no blixard-shim is installed the daemon's own binary will do.
func TestOwnExecutableAsShim(t *testing.T) {
	h := newHost(t)
	t.Setenv("BLIXARD_SHIM", "")
	start := h.program("sh", "-c", "exit 4")
	if e := h.wait(h.spawn(start)); e.Code != 4 {
		t.Errorf("%+v", e)
	}
	if os.Getuid() == 0 {
		needNamespaces(t)
		start.PIDNamespace = true
		if e := h.wait(h.spawn(start)); e.Code != 4 {
			t.Errorf("%+v", e)
		}
	}
}

func TestNothingThere(t *testing.T) {
	h := newHost(t)
	if !Dead(h.run) || !Dead(filepath.Join(h.run, "none")) {
		t.Error("an empty directory is not dead")
	}
	if _, found, err := Adopt(h.run); err != nil || found.Fate != None {
		t.Errorf("%+v, %v", found, err)
	}
}
