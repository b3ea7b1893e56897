package shimproc

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/vmm/shim"
)

// stepper is an init that carries out steps around its program. It forks from
// the thread that it began on and waits in one place, for children, signals and
// time alike.
type stepper struct {
	steps   *shim.Steps
	user    *shim.User
	signals chan os.Signal

	main, stop int              // pids; 0: none
	beside     map[int][]string // what runs beside the program, by pid
}

const (
	stepPatience = 60 * time.Second
	socketLook   = 20 * time.Millisecond
	// lonePatience is for a program that ends together with what runs beside it, of which
	// either may be the first to be seen.
	lonePatience = 5 * time.Second
)

func newStepper(steps *shim.Steps, user *shim.User) *stepper {
	s := &stepper{steps: steps, user: user, signals: make(chan os.Signal, 64)}
	signal.Notify(s.signals, append(passedOn, unix.SIGCHLD)...)
	return s
}

// run gives init's exit code. The program's own end has been told by then.
func (s *stepper) run(argv []string) int {
	// Without a namespace, what lost its parent is ours all the same.
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	limits()
	unix.Write(initCtl, []byte("started"))
	end := s.around(argv)
	if unix.Getpid() != 1 {
		killChildren()
	}
	tellEnd(end)
	return 0
}

// around carries out the steps, and gives the program's end.
func (s *stepper) around(argv []string) shim.Status {
	for _, step := range s.steps.Before {
		if end := s.before(step); end != nil {
			return *end
		}
	}
	if end := s.start(); end != nil {
		return *end
	}
	var err error
	if s.main, err = s.fork(argv, s.user, true); err != nil {
		return s.fail(argv, err.Error())
	}
	for {
		ended, end := s.next(nil)
		if end != nil {
			return *end
		}
		if beside := s.beside[ended.pid]; beside != nil {
			return s.alone(beside, ended.status)
		}
	}
}

// alone gives the end of a program of which something beside it has ended: its own, when
// it ends as well, and a failure of it all when it goes on. What it has of the other it
// waits for in vain (a guest hangs in a share for ever).
func (s *stepper) alone(argv []string, st shim.Status) shim.Status {
	late := time.NewTimer(lonePatience)
	defer late.Stop()
	for {
		switch ended, end := s.next(late.C); {
		case end != nil:
			return *end
		case ended == nil:
			return s.fail(argv, "it ended with "+ending(st)+shim.WhileItRan)
		}
	}
}

// before runs one step to its end; nil: it succeeded.
func (s *stepper) before(argv []string) *shim.Status {
	pid, err := s.fork(argv, nil, false)
	if err != nil {
		return s.failed(argv, err.Error())
	}
	late := time.NewTimer(s.patience())
	defer late.Stop()
	for {
		ended, end := s.next(late.C)
		switch {
		case end != nil:
			return end
		case ended == nil:
			return s.failed(argv, fmt.Sprintf("it has not ended after %v", s.patience()))
		case ended.pid != pid:
		case ended.status == shim.Status{}:
			return nil
		default:
			return s.failed(argv, "it ended with "+ending(ended.status))
		}
	}
}

// start starts what runs beside the program, and waits until all their sockets are
// there; nil: they are.
func (s *stepper) start() *shim.Status {
	if len(s.steps.Beside) == 0 {
		return nil
	}
	for _, p := range s.steps.Sockets { // of the life before
		if socket(p) {
			os.Remove(p)
		}
	}
	s.beside = map[int][]string{}
	for _, argv := range s.steps.Beside {
		pid, err := s.fork(argv, nil, false)
		if err != nil {
			return s.failed(argv, err.Error())
		}
		s.beside[pid] = argv
	}
	look := time.NewTicker(socketLook)
	defer look.Stop()
	for late := time.Now().Add(s.patience()); ; {
		ended, end := s.next(look.C)
		switch {
		case end != nil:
			return end
		case ended != nil && s.beside[ended.pid] != nil:
			return s.failed(s.beside[ended.pid], "it ended with "+ending(ended.status))
		}
		missing := ""
		for _, p := range s.steps.Sockets {
			if !socket(p) {
				missing = p
			}
		}
		if missing == "" {
			return nil
		}
		if time.Now().After(late) {
			return s.failed(s.steps.Beside[0], fmt.Sprintf("after %v there is no socket %s", s.patience(), missing))
		}
	}
}

// ended is a child that was reaped.
type ended struct {
	pid    int
	status shim.Status
}

// next waits for a child to end or for time to come (nil and nil), and meanwhile
// heeds signals. An end is the program's, or of who was told to stop before the
// program was started.
func (s *stepper) next(timer <-chan time.Time) (*ended, *shim.Status) {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if err == nil && pid > 0 {
			st := status(ws)
			switch pid {
			case s.main:
				return nil, &st
			case s.stop:
				s.stop = 0
			}
			return &ended{pid, st}, nil
		}
		select {
		case <-timer:
			return nil, nil
		case sig := <-s.signals:
			if end := s.heed(sig.(syscall.Signal)); end != nil {
				return nil, end
			}
		}
	}
}

// heed passes a signal on.
func (s *stepper) heed(sig syscall.Signal) *shim.Status {
	switch {
	case sig == unix.SIGCHLD:
	case s.main == 0 && (sig == unix.SIGTERM || sig == unix.SIGINT):
		return &shim.Status{Signal: int(sig)}
	case s.main == 0:
	case sig != unix.SIGTERM || len(s.steps.Stop) == 0:
		unix.Kill(s.main, sig) // not reaped: it is still that one
	case s.stop == 0:
		var err error
		if s.stop, err = s.fork(s.steps.Stop, s.user, true, "MAINPID="+strconv.Itoa(s.main)); err != nil {
			s.fail(s.steps.Stop, err.Error())
		}
	}
	return nil
}

// fork starts a program with our console. It dies with us.
func (s *stepper) fork(argv []string, user *shim.User, open bool, more ...string) (int, error) {
	attr := &syscall.ProcAttr{Env: append(os.Environ(), more...), Files: []uintptr{0, 1, 2}}
	attr.Sys = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if user != nil {
		attr.Sys.Credential = credential(user)
	}
	if open {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			return 0, err
		}
		defer unix.Close(p[0]) // and p[1] stays open until we end
		attr.Files[0] = uintptr(p[0])
	}
	path := argv[0]
	if path == shim.Self {
		argv = append([]string{Name}, argv[1:]...)
	}
	return syscall.ForkExec(path, argv, attr)
}

func (s *stepper) patience() time.Duration {
	if n := s.steps.Seconds; n != 0 {
		return time.Duration(n) * time.Second
	}
	return stepPatience
}

// fail says on the console what went wrong.
func (s *stepper) fail(argv []string, why string) shim.Status {
	os.Stderr.WriteString(shim.StepSays + stepName(argv) + " failed: " + strings.TrimSpace(why) + "\n")
	return shim.Status{Code: shim.StepFailed}
}

// stepName is that of the program, also where we become it (see share.go).
func stepName(argv []string) string {
	if i := slices.Index(argv, "--"); argv[0] == shim.Self && i > 0 && i+1 < len(argv) {
		argv = argv[i+1:]
	}
	return filepath.Base(argv[0])
}

func (s *stepper) failed(argv []string, why string) *shim.Status {
	end := s.fail(argv, why)
	return &end
}

func ending(s shim.Status) string {
	if s.Signal != 0 {
		return fmt.Sprintf("signal %d", s.Signal)
	}
	return fmt.Sprintf("exit code %d", s.Code)
}

func socket(path string) bool {
	st, err := os.Lstat(path)
	return err == nil && st.Mode()&os.ModeSocket != 0
}

// limits are those that microvm.nix gives its units, as far as we may.
func limits() {
	const files = 1048576
	var l syscall.Rlimit
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: files, Max: files}); err != nil &&
		syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) == nil {
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: min(files, l.Max), Max: l.Max})
	}
	infinity := ^uint64(0)
	_ = syscall.Setrlimit(unix.RLIMIT_MEMLOCK, &syscall.Rlimit{Cur: infinity, Max: infinity})
}

// killChildren kills what is left of the VM where no namespace does. What loses
// its parent by that becomes our child, and is killed in the next round.
func killChildren() {
	me := " " + strconv.Itoa(unix.Getpid()) + " "
	for {
		stats, _ := filepath.Glob("/proc/[0-9]*/stat")
		for _, file := range stats {
			b, err := os.ReadFile(file)
			if err != nil {
				continue
			}
			// After the name, which is in parentheses: state, and parent.
			if i := strings.LastIndexByte(string(b), ')'); i > 0 && len(b) > i+4 && strings.HasPrefix(string(b[i+3:]), me) {
				if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
					unix.Kill(pid, unix.SIGKILL)
				}
			}
		}
		var ws unix.WaitStatus
		if _, err := unix.Wait4(-1, &ws, 0, nil); err == unix.ECHILD {
			return
		}
	}
}
