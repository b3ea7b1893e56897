package nix

import (
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The keeper is this program under another name, one for each nix. It is there
// because nothing else ends all that a nix started: builders are sessions of
// their own, out of reach of a kill of the process group, and neither cgroups
// nor PID namespaces can be had everywhere, or without breaking Nix's own
// sandbox, which looks into /proc by the numbers that it sees.
//
//	argv: KEEPER MEMORY-MIB PROGRAM ARGUMENTS...
//	fd 3: the leash, a pipe; the daemon has its other end, and says nothing
//	fd 4: the lock of the builder's directory
//
// When the leash ends, by the daemon's will or its death, or somebody asks the
// keeper itself (a shutdown of the machine, say), nix is asked to stop,
// so that it removes what it was building in; and soon killed. In any case the
// keeper ends only when nothing of it is left: as the subreaper it is the parent
// of every process that loses its own.
const keeperName = "blixard-nix-keeper"

const (
	leashFD = 3
	guardFD = 4
	// stopGrace is how long nix may take to clean up.
	stopGrace = 2 * time.Second
	// killPatience is how long the dead may take to go.
	killPatience = 5 * time.Second
	// codeSignal is added to the signal that ended nix.
	codeSignal = 128
	// codeExec says that nix could not be executed.
	codeExec = 126
	// likelyVictim is the oom_score_adj of nix and its builders: when memory runs
	// out, they go before any VM.
	likelyVictim = "500"
)

// Whoever links this package is a keeper when called by that name, and needs to
// know nothing of it.
func init() {
	if len(os.Args) > 2 && os.Args[0] == keeperName {
		runtime.LockOSThread() // nix dies with the thread that started it
		os.Exit(keep(os.Args[1], os.Args[2:]))
	}
}

func keep(memory string, argv []string) int {
	mib, err := strconv.ParseUint(memory, 10, 40)
	if err == nil {
		err = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	}
	if err != nil {
		return refuse(err)
	}
	unix.CloseOnExec(leashFD)
	unix.CloseOnExec(guardFD)
	program, err := exec.LookPath(argv[0])
	if err != nil {
		return refuse(err)
	}
	over := make(chan os.Signal, 2)
	signal.Notify(over, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM)
	go func() {
		os.NewFile(leashFD, "leash").Read(make([]byte, 1))
		over <- unix.SIGTERM
	}()
	const score = "/proc/self/oom_score_adj" // best effort
	own, _ := os.ReadFile(score)
	os.WriteFile(score, []byte(likelyVictim), 0)
	pid, err := syscall.ForkExec(program, argv, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	})
	os.WriteFile(score, own, 0)
	if err != nil {
		return refuse(err)
	}
	if mib > 0 {
		bound := unix.Rlimit{Cur: mib << 20, Max: mib << 20}
		if err := unix.Prlimit(pid, unix.RLIMIT_AS, &bound, nil); err != nil {
			unix.Kill(pid, unix.SIGKILL)
			return refuse(err)
		}
	}
	var ended atomic.Bool
	go func() {
		<-over
		for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
			if !ended.Load() { // until it is reaped its number is its own
				unix.Kill(pid, sig)
			}
			time.Sleep(stopGrace)
		}
	}()
	code := reap(pid, &ended)
	// Nix has closed its end of these, and somebody below may never.
	for fd := range 3 {
		unix.Close(fd)
	}
	killAll()
	return code
}

func refuse(err error) int {
	os.Stderr.WriteString("cannot run nix: " + err.Error() + "\n")
	return codeExec
}

// reap waits until nix has ended, and whoever ends before it.
func reap(pid int, ended *atomic.Bool) int {
	for {
		// Seen before it is reaped, so that ended is true before its number is free.
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT, nil)
		if err == unix.EINTR {
			continue
		}
		ended.Store(true)
		var status unix.WaitStatus
		for {
			if _, err = unix.Wait4(pid, &status, 0, nil); err != unix.EINTR {
				break
			}
		}
		if err != nil {
			return refuse(err)
		}
		if status.Signaled() {
			return codeSignal + int(status.Signal())
		}
		return status.ExitStatus()
	}
}

// killAll kills what is left: all of it is below us.
func killAll() {
	for end := time.Now().Add(killPatience); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if err == unix.ECHILD {
				return
			}
			if err != nil && err != unix.EINTR || err == nil && pid == 0 {
				break
			}
		}
		for _, pid := range below(os.Getpid()) {
			unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// below gives the processes that descend from one.
func below(root int) (pids []int) {
	children := map[int][]int{}
	names, _ := os.ReadDir("/proc")
	for _, n := range names {
		pid, err := strconv.Atoi(n.Name())
		if err != nil {
			continue
		}
		if parent, ok := parentOf(pid); ok {
			children[parent] = append(children[parent], pid)
		}
	}
	for next := children[root]; len(next) > 0; {
		pids = append(pids, next[0])
		next = append(next[1:], children[next[0]]...)
	}
	return pids
}

func parentOf(pid int) (int, bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false
	}
	// PID (COMMAND) STATE PPID ...; a command may have anything in it, ) too.
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] != ')' {
			continue
		}
		rest := b[min(i+4, len(b)):]
		n := 0
		for n < len(rest) && rest[n] >= '0' && rest[n] <= '9' {
			n++
		}
		parent, err := strconv.Atoi(string(rest[:n]))
		return parent, err == nil
	}
	return 0, false
}
