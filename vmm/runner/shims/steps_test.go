package shims

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/vmm/runner/lease"
	"github.com/blixard/blixard/vmm/shim"
)

// stepped is a Start with steps, and where its console is.
func stepped(h *host, namespace bool, steps shim.Steps, script string) (shim.Start, string) {
	start := h.program("sh", "-c", script)
	start.PIDNamespace, start.Steps = namespace, &steps
	start.Dir = filepath.Join(h.run, fmt.Sprint("cwd", h.n))
	start.Console = start.Dir + "/console"
	if err := os.Mkdir(start.Dir, 0o777); err != nil {
		h.Fatal(err)
	}
	os.Chmod(h.run, 0o755)
	os.Chmod(start.Dir, 0o777)
	return start, start.Console
}

func sh(script string) []string { return []string{"/bin/sh", "-c", script} }

func (h *host) says(console, want string) {
	h.Helper()
	h.eventually(fmt.Sprintf("%q on the console", want), func() bool {
		b, _ := os.ReadFile(console)
		return strings.Contains(string(b), want)
	})
}

// bothWays runs a test with a PID namespace and without one.
func bothWays(t *testing.T, try func(h *host, namespace bool)) {
	t.Run("plain", func(t *testing.T) { try(newHost(t), false) })
	t.Run("namespace", func(t *testing.T) {
		needNamespaces(t)
		try(newHost(t), true)
	})
}

// listens makes a socket in its directory, as virtiofsd does, and stays.
func listens(name string) string {
	return "BLIXARD_TEST_LISTEN=" + name + " " + os.Args[0] + " 300.0445"
}

func TestSteps(t *testing.T) {
	bothWays(t, func(h *host, namespace bool) {
		start, console := stepped(h, namespace, shim.Steps{
			Before:  [][]string{sh("echo one $(id -u); (sleep 300.0551 &)"), sh("sleep 0.2; echo two")},
			Beside:  shim.Programs{sh("sleep 0.3; echo beside $(id -u); " + listens("fs.sock")), sh(listens("fs2.sock"))},
			Sockets: []string{"fs.sock", "fs2.sock"},
			Stop:    sh(`echo stop $(id -u); kill -USR1 "$MAINPID"; exec cat`),
		}, `test -S fs.sock && test -S fs2.sock && echo main $(id -u); trap 'echo told; exit 5' USR1; while :; do sleep 0.05; done`)
		user := os.Getuid()
		if user == 0 {
			user = 65534
			start.User = &shim.User{UID: 65534, GID: 65533}
		}
		// Of the life before: whoever waits for the socket must not find this one.
		if fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0); err != nil || unix.Bind(fd, &unix.SockaddrUnix{Name: start.Dir + "/fs.sock"}) != nil {
			h.Fatal(err)
		}
		s := h.spawn(start)
		h.says(console, "main")
		if err := s.Kill(h.ctx(), syscall.SIGTERM); err != nil {
			h.Fatal(err)
		}
		e := h.wait(s)
		if e.Reason != shim.ReasonKilled || e.Code != 5 || e.Asked != 15 {
			h.Errorf("%+v", e)
		}
		want := fmt.Sprintf("one %d\ntwo\nbeside %d\nmain %d\nstop %d\ntold\n", os.Getuid(), os.Getuid(), user, user)
		if b, _ := os.ReadFile(console); string(b) != want {
			h.Errorf("console\n%s\nwant\n%s", b, want)
		}
		// The fork of the first step and virtiofsd have ended with it.
		if n := running("300.0551") + running("300.0445"); n != 0 {
			h.Errorf("%d processes are left", n)
		}
	})
}

func TestStepsThatFail(t *testing.T) {
	bothWays(t, func(h *host, namespace bool) {
		for words, steps := range map[string]shim.Steps{
			"blixard: false failed: it ended with exit code 1": {Before: [][]string{{"/bin/true"}, {"/bin/false"}, sh("echo never")}},
			"blixard: nothing failed: no such file":            {Before: [][]string{{"/nowhere/nothing"}}},
			"failed: it has not ended after 1s":                {Before: [][]string{sh("sleep 300.0662")}, Seconds: 1},
			"failed: after 1s there is no socket fs.sock":      {Beside: shim.Programs{sh("sleep 300.0662")}, Sockets: []string{"fs.sock"}, Seconds: 1},
			"failed: it ended with signal 9":                   {Beside: shim.Programs{sh("kill -9 $$")}, Sockets: []string{"fs.sock"}},
		} {
			start, console := stepped(h, namespace, steps, "echo never")
			e := h.wait(h.spawn(start))
			b, _ := os.ReadFile(console)
			if e.Code != shim.StepFailed || !strings.Contains(string(b), words) || strings.Contains(string(b), "never") {
				h.Errorf("%+v, and the console\n%s\nhas no %q", e, b, words)
			}
			if n := running("300.0662"); n != 0 {
				h.Errorf("%s: %d processes are left", words, n)
			}
		}
	})
}

// What ends beside a program that goes on fails it all: it is needed. What ends a moment
// before the program, as when that lets go of it, says nothing.
func TestAProgramLeftAlone(t *testing.T) {
	bothWays(t, func(h *host, namespace bool) {
		for _, c := range []struct {
			beside, main, says string
			code               int
		}{
			{"exit 3", "exec sleep 300.0995", "blixard: sh failed: it ended with exit code 3 while the VM ran\n", shim.StepFailed},
			{"exit 0", "exec sleep 300.0995", "blixard: sh failed: it ended with exit code 0 while the VM ran\n", shim.StepFailed},
			{"exit 0", "sleep 2; exit 5", "", 5},
		} {
			start, console := stepped(h, namespace, shim.Steps{
				Beside:  shim.Programs{sh("(" + listens("fs.sock") + ") & while ! test -e here; do sleep 0.02; done; " + c.beside)},
				Sockets: []string{"fs.sock"},
			}, "echo > here; "+c.main)
			e := h.wait(h.spawn(start))
			if b, _ := os.ReadFile(console); e.Code != c.code || e.Reason != shim.ReasonExited || string(b) != c.says {
				h.Errorf("beside: %s, the program: %s: %+v, and on the console %q", c.beside, c.main, e, b)
			}
			if n := running("300.0995") + running("300.0445"); n != 0 {
				h.Errorf("%d processes are left", n)
			}
		}
	})
}

// The program's standard input neither ends nor says anything.
func TestStepsKeepTheInputOpen(t *testing.T) {
	h := newHost(t)
	start, _ := stepped(h, false, shim.Steps{}, "exec cat")
	s := h.spawn(start)
	time.Sleep(300 * time.Millisecond)
	h.lives(h.status(s).VM)
	// Without Stop, SIGTERM is the program's.
	if err := s.Kill(h.ctx(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if e := h.wait(s); e.Signal != 15 {
		t.Errorf("%+v", e)
	}
}

// Who is told to stop before his program was started, stops.
func TestStepsCanBeStopped(t *testing.T) {
	h := newHost(t)
	start, console := stepped(h, false, shim.Steps{Before: [][]string{sh("echo here; sleep 300.0773")}, Stop: sh("echo never")}, "echo never")
	s := h.spawn(start)
	h.says(console, "here")
	if err := s.Kill(h.ctx(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if e := h.wait(s); e.Reason != shim.ReasonKilled || e.Signal != 15 || running("300.0773") != 0 {
		t.Errorf("%+v, %d left", e, running("300.0773"))
	}
	if b, _ := os.ReadFile(console); string(b) != "here\n" {
		t.Errorf("%s", b)
	}
}

// A shim that is killed at its deadline, while a step hangs or the program runs,
// takes all of it along. A long step does not keep the page from being looked at.
func TestStepsDieWithTheShim(t *testing.T) {
	needNamespaces(t)
	for _, script := range []string{"sleep 300.0884", ":"} {
		h := newHost(t)
		page := h.page(1, 4*time.Second)
		start, console := stepped(h, true, shim.Steps{
			Before: [][]string{sh("(setsid sleep 300.0884 &) ; echo here; " + script)}, Stop: sh("sleep 300.0884"),
		}, "setsid sleep 300.0884 & exec sleep 300.0884")
		start.Page = page.Path()
		s := h.spawn(start)
		h.says(console, "here")
		for range 3 {
			time.Sleep(2 * time.Second)
			if err := page.Extend(lease.Now() + uint64(4*time.Second)); err != nil {
				t.Fatal(err)
			}
		}
		h.lives(h.status(s).VM)
		h.dies(s.Dir(), 4*time.Second+slack)
		if n := running("300.0884"); n != 0 {
			t.Errorf("%d processes outlived the deadline", n)
		}
	}
}

func TestBadSteps(t *testing.T) {
	h := newHost(t)
	for _, steps := range []shim.Steps{
		{Before: [][]string{{}}}, {Before: [][]string{{"sh"}}}, {Beside: shim.Programs{{"sh"}}}, {Beside: shim.Programs{{"/bin/sh"}, {}}}, {Stop: []string{"sh"}},
		{Stop: []string{"/bin/sh", "a\x00"}}, {Sockets: []string{""}}, {Seconds: 3601},
	} {
		start := h.program("true")
		start.Steps = &steps
		if err := start.Validate(); err == nil {
			t.Errorf("%+v is accepted", steps)
		}
	}
}
