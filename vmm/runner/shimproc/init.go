package shimproc

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/vmm/shim"
)

const (
	initFlag = "-init"
	initCtl  = 3 // descriptor
)

// initMain is PID 1 of a VM's namespace, or with steps an init without one:
//
//	<- go            not before: whoever says it is alive, and PDEATHSIG stands
//	-> started       or the text of what went wrong; with steps, before they begin
//	-> code, signal  two int32; then init ends, and with it the namespace
func initMain(args []string) int {
	var user *shim.User
	var steps *shim.Steps
	for len(args) > 1 && args[0] != "--" {
		switch args[0] {
		case "-user":
			if user = parseUser(args[1]); user == nil {
				return trouble(shim.CodeUsage, usage)
			}
		case "-steps":
			steps = new(shim.Steps)
			if err := json.Unmarshal([]byte(args[1]), steps); err != nil {
				return trouble(shim.CodeUsage, usage)
			}
		default:
			return trouble(shim.CodeUsage, usage)
		}
		args = args[2:]
	}
	if len(args) < 2 || args[0] != "--" || steps == nil && unix.Getpid() != 1 {
		return trouble(shim.CodeUsage, usage)
	}
	args = args[1:]
	unix.CloseOnExec(initCtl)
	var word [8]byte
	if n, err := readAgain(initCtl, word[:]); err != nil || string(word[:n]) != "go" {
		return shim.CodeTrouble
	}
	if steps != nil {
		return newStepper(steps, user).run(args)
	}
	signals := make(chan os.Signal, 32)
	signal.Notify(signals, passedOn...)
	attr := &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}}
	attr.Sys = &syscall.SysProcAttr{Setpgid: true}
	if user != nil {
		attr.Sys.Credential = credential(user)
	}
	pid, err := syscall.ForkExec(args[0], args, attr)
	if err != nil {
		unix.Write(initCtl, []byte(err.Error()))
		return shim.CodeExec
	}
	unix.Write(initCtl, []byte("started"))
	go func() {
		for s := range signals {
			unix.Kill(pid, s.(syscall.Signal)) // not reaped, or we are gone with it
		}
	}()
	for {
		var ws unix.WaitStatus
		got, err := unix.Wait4(-1, &ws, 0, nil)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return shim.CodeTrouble
		}
		if got == pid {
			tellEnd(status(ws))
			return 0
		}
	}
}

// passedOn are the signals that an init hands to the program.
var passedOn = []os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2,
	unix.SIGALRM, unix.SIGTERM, unix.SIGCONT, unix.SIGTSTP, unix.SIGWINCH}

// tellEnd reports how the program ended.
func tellEnd(st shim.Status) {
	var end [8]byte
	binary.NativeEndian.PutUint32(end[:], uint32(st.Code))
	binary.NativeEndian.PutUint32(end[4:], uint32(st.Signal))
	unix.Write(initCtl, end[:])
}

func parseUser(s string) *shim.User {
	var ids []uint32
	for _, w := range strings.Split(s, ",") {
		id, err := strconv.ParseUint(w, 10, 32)
		if err != nil {
			return nil
		}
		ids = append(ids, uint32(id))
	}
	if len(ids) < 2 {
		return nil
	}
	return &shim.User{UID: ids[0], GID: ids[1], Groups: ids[2:]}
}

// readEnd reads what init reported, or nil if it has not.
func readEnd(ctl int) *shim.Status {
	var b [8]byte
	if n, err := readAgain(ctl, b[:]); err != nil || n != len(b) {
		return nil
	}
	return &shim.Status{
		Code:   int(binary.NativeEndian.Uint32(b[:])),
		Signal: int(binary.NativeEndian.Uint32(b[4:])),
	}
}

func readAgain(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

func status(ws unix.WaitStatus) shim.Status {
	if ws.Signaled() {
		return shim.Status{Signal: int(ws.Signal())}
	}
	return shim.Status{Code: ws.ExitStatus()}
}
