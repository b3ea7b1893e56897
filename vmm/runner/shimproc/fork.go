package shimproc

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/vmm/runner/vmdir"
	"github.com/blixard/blixard/vmm/shim"
)

// vm is the child: the program itself, or the init of its PID namespace.
type vm struct {
	process shim.Process
	pid     int
	pidfd   int
	ctl     int // to the namespace's init; -1: the child is the program
	cgroup  string
}

const (
	inheritedLock = 100 // at least: low numbers are the program's to play with
	sweepPatience = 30 * time.Second
)

// fork starts the VM from this thread. The kernel's timer stands already.
func (p *process) fork() error {
	s := p.start
	dir := s.Dir
	if dir == "" {
		dir = p.dir
	}
	attr := &syscall.ProcAttr{Dir: dir, Env: s.Env}
	attr.Sys = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	p.vm = vm{pidfd: -1, ctl: -1}
	attr.Sys.PidFD = &p.vm.pidfd

	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", os.DevNull, err)
	}
	defer unix.Close(null)
	console := null
	if s.Console != "" {
		console, err = unix.Open(s.Console, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return fmt.Errorf("console %s: %w", s.Console, err)
		}
		defer unix.Close(console)
		unix.SetNonblock(console, false)
	}
	attr.Files = []uintptr{uintptr(null), uintptr(console), uintptr(console)}

	// The lock goes with the VM, under a number nobody uses by accident.
	held, err := unix.FcntlInt(uintptr(p.lockFD), unix.F_DUPFD, inheritedLock)
	if err != nil {
		return fmt.Errorf("pass on the lock: %w", err)
	}
	defer unix.Close(held)

	if s.Cgroup != "" {
		fd, err := freshCgroup(s.Cgroup)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		p.vm.cgroup = s.Cgroup
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, fd
		// Whoever finds us dead must know where to look.
		if err := vmdir.WriteJSON(p.dir, vmdir.StateFile, p.state()); err != nil {
			p.vm.discard()
			return fmt.Errorf("shim.json: %w", err)
		}
	}
	if s.PIDNamespace || s.Steps != nil {
		err = p.forkInit(attr)
	} else {
		if u := s.User; u != nil {
			attr.Sys.Credential = credential(u)
		}
		p.vm.pid, err = syscall.ForkExec(s.Argv[0], s.Argv, attr)
	}
	if err == nil && p.vm.pidfd < 0 {
		unix.Kill(p.vm.pid, unix.SIGKILL)
		err = errors.New("the kernel gives no pidfd (Linux 5.4 does)")
	}
	if err != nil {
		p.vm.discard()
		return fmt.Errorf("start %s: %w", s.Argv[0], err)
	}
	p.vm.process = vmdir.Identify(p.vm.pid)
	return nil
}

func credential(u *shim.User) *syscall.Credential {
	return &syscall.Credential{Uid: u.UID, Gid: u.GID, Groups: u.Groups}
}

// freshCgroup makes the cgroup. One that is there already may have been killed
// once, and then the kernel kills newborns in it.
func freshCgroup(dir string) (fd int, err error) {
	if err := unix.Mkdir(dir, 0o755); err != nil {
		return -1, fmt.Errorf("fresh cgroup %s: %w", dir, err)
	}
	if _, err := vmdir.CgroupEmpty(dir); err != nil {
		unix.Rmdir(dir)
		return -1, err
	}
	return unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// forkInit starts an init, of a namespace of its own where there is to be one,
// and through it the program.
func (p *process) forkInit(attr *syscall.ProcAttr) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	args := []string{Name, initFlag}
	if u := p.start.User; u != nil {
		args = append(args, "-user", userArg(u))
	}
	if steps := p.start.Steps; steps != nil {
		text, err := json.Marshal(steps)
		if err != nil {
			return err
		}
		args = append(args, "-steps", string(text))
	}
	args = append(append(args, "--"), p.start.Argv...)
	if p.start.PIDNamespace {
		attr.Sys.Cloneflags = unix.CLONE_NEWPID
	}
	attr.Files = append(attr.Files, uintptr(pair[1]))
	p.vm.ctl = pair[0]
	p.vm.pid, err = syscall.ForkExec("/proc/self/exe", args, attr)
	unix.Close(pair[1])
	if err != nil {
		return err
	}
	p.vm.process = vmdir.Identify(p.vm.pid)
	if err := vmdir.WriteJSON(p.dir, vmdir.StateFile, p.state()); err != nil {
		return fmt.Errorf("shim.json: %w", err)
	}
	if _, err := unix.Write(p.vm.ctl, []byte("go")); err != nil {
		return fmt.Errorf("namespace's init: %w", err)
	}
	var b [512]byte
	n, err := readAgain(p.vm.ctl, b[:])
	if err != nil || n == 0 {
		return fmt.Errorf("namespace's init ended: %v", err)
	}
	if word := string(b[:n]); word != "started" {
		return errors.New(word)
	}
	return unix.SetNonblock(p.vm.ctl, true)
}

func userArg(u *shim.User) string {
	ids := append([]uint32{u.UID, u.GID}, u.Groups...)
	words := make([]string, len(ids))
	for i, id := range ids {
		words[i] = strconv.FormatUint(uint64(id), 10)
	}
	return strings.Join(words, ",")
}

// signal sends the program a signal. A SIGKILL reaches everything we can name.
func (v *vm) signal(s syscall.Signal) error {
	if v.cgroup != "" && s == unix.SIGKILL {
		if err := os.WriteFile(v.cgroup+"/cgroup.kill", []byte("1"), 0); err == nil {
			return nil
		}
	}
	err := unix.PidfdSendSignal(v.pidfd, s, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// sweep kills what the program left behind, reaps, and says how the program
// ended. Until it is reaped it is a zombie, nothing else can take its pid, and
// its process group is ours to kill; what left the group is held by a namespace
// or a cgroup, or keeps the directory's lock.
func (v *vm) sweep() (shim.Status, error) {
	unix.Kill(-v.pid, unix.SIGKILL)
	var err error
	if v.cgroup != "" {
		err = vmdir.KillCgroup(v.cgroup, sweepPatience)
	}
	end := v.reap()
	if v.ctl >= 0 { // the child was init; a program's end that it had no time to report was a kill
		if told := readEnd(v.ctl); told != nil {
			end = *told
		}
	}
	return end, err
}

// discard kills a child that did not become a VM.
func (v *vm) discard() {
	if v.pid > 0 {
		unix.Kill(v.pid, unix.SIGKILL)
		v.reap()
	}
	if v.cgroup != "" {
		vmdir.KillCgroup(v.cgroup, sweepPatience)
	}
	*v = vm{pidfd: -1, ctl: -1}
}

func (v *vm) reap() shim.Status {
	for {
		var ws unix.WaitStatus
		if _, err := unix.Wait4(v.pid, &ws, 0, nil); !errors.Is(err, unix.EINTR) {
			return status(ws)
		}
	}
}
