//go:build linux && amd64

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/vmm/guest/agent"
)

// agentState is what the agent knows and may do.
type agentState struct {
	who      *identity
	shutdown chan<- struct{}
	// refresh makes the machine know that it was restored.
	refresh func(agent.RestoredRequest) (step time.Duration, err error)
	running limiter
}

const (
	// maxPrograms run at once; more are refused rather than queued.
	maxPrograms = 16
	// maxExec ends a program whose request sets no limit.
	maxExec = time.Minute
)

// handle answers one line through send, at once or, for an exec, later.
func (s *agentState) handle(line []byte, send func(agent.Response)) {
	req, err := agent.DecodeRequest(line)
	if err != nil {
		send(agent.Response{ID: req.ID, Error: err.Error()})
		return
	}
	switch req.Op {
	case agent.Ping:
		send(s.ok(req.ID))
	case agent.Info:
		r := s.ok(req.ID)
		r.Info = s.info()
		send(r)
	case agent.Shutdown:
		send(s.ok(req.ID))
		select {
		case s.shutdown <- struct{}{}:
		default: // asked already
		}
	case agent.Read, agent.Write:
		r := s.ok(req.ID)
		if req.Op == agent.Write {
			err = write(*req.Write)
		} else {
			r.Read, err = read(*req.Read)
		}
		if err != nil {
			r = agent.Response{ID: req.ID, Error: err.Error()}
		}
		send(r)
	case agent.Restored:
		step, err := s.refresh(*req.Restored)
		s.who.become(*req.Restored, step)
		r := s.ok(req.ID)
		r.Restored = &agent.RestoredResponse{StepMS: step.Milliseconds()}
		if err != nil {
			r = agent.Response{ID: req.ID, Error: err.Error()}
		}
		send(r)
	case agent.Exec:
		if !s.running.enter(maxPrograms) {
			send(agent.Response{ID: req.ID, Error: fmt.Sprintf("busy: %d programs are running", maxPrograms)})
			return
		}
		go func() {
			defer s.running.leave()
			result, err := run(*req.Exec)
			if err != nil {
				send(agent.Response{ID: req.ID, Error: err.Error()})
				return
			}
			r := s.ok(req.ID)
			r.Exec = result
			send(r)
		}()
	}
}

func (s *agentState) ok(id uint64) agent.Response {
	name, _, _ := s.who.is()
	return agent.Response{ID: id, OK: true, Name: name, UptimeMS: uptime().Milliseconds()}
}

func (s *agentState) info() *agent.InfoResponse {
	var si unix.Sysinfo_t
	var uts unix.Utsname
	_, _ = unix.Sysinfo(&si), unix.Uname(&uts) // neither can fail with a valid pointer
	const loadScale = 1 << 16
	unit := uint64(si.Unit)
	_, uid, attempt := s.who.is()
	return &agent.InfoResponse{
		UID:     uid,
		Attempt: attempt,
		Kernel:  unix.ByteSliceToString(uts.Release[:]),
		CPUs:    cpus(),
		Load: [3]float64{
			float64(si.Loads[0]) / loadScale, float64(si.Loads[1]) / loadScale, float64(si.Loads[2]) / loadScale,
		},
		MemTotalBytes: si.Totalram * unit,
		MemFreeBytes:  si.Freeram * unit,
		Processes:     uint64(si.Procs),
	}
}

func cpus() int {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return 0
	}
	return set.Count()
}

// uptime is since the kernel started.
func uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// run runs a program to its end. A program that fails is a result; the error
// says that it could not be run at all.
func run(req agent.ExecRequest) (*agent.ExecResponse, error) {
	limit := maxExec
	if req.TimeoutMS > 0 {
		limit = time.Duration(req.TimeoutMS) * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()

	var stdout, stderr head
	cmd := exec.CommandContext(ctx, req.Argv[0], req.Argv[1:]...)
	cmd.Env = append(os.Environ(), req.Env...)
	cmd.Stdin = bytes.NewReader(req.Stdin)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// The whole group is killed, and what left the group cannot hold us up.
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = time.Second

	err := cmd.Run()
	var exit *exec.ExitError
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) && cmd.Process == nil {
		return nil, fmt.Errorf("run %s: there is no such program in this guest; its own are %s", req.Argv[0], strings.Join(slices.Sorted(maps.Keys(applets)), ", "))
	}
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil {
		return nil, fmt.Errorf("run %s: %w", req.Argv[0], err)
	}
	return &agent.ExecResponse{
		Exit:     exitCode(cmd.ProcessState),
		Stdout:   stdout.kept,
		Stderr:   stderr.kept,
		Bounded:  stdout.dropped || stderr.dropped,
		TimedOut: ctx.Err() != nil,
	}, nil
}

// exitCode is the shell's convention: 128+n for signal n.
func exitCode(s *os.ProcessState) int {
	if s == nil {
		return 128 + int(syscall.SIGKILL) // its time was over before it began
	}
	if ws, ok := s.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return s.ExitCode()
}

// head keeps the first MaxOutput bytes and lets the program write on.
type head struct {
	kept    []byte
	dropped bool
}

func (h *head) Write(p []byte) (int, error) {
	room := agent.MaxOutput - len(h.kept)
	if len(p) > room {
		h.dropped = true
		h.kept = append(h.kept, p[:room]...)
		return len(p), nil
	}
	h.kept = append(h.kept, p...)
	return len(p), nil
}

// read reads a piece of a regular file: others may block, or never end.
func read(req agent.ReadRequest) (*agent.ReadResponse, error) {
	f, err := os.OpenFile(req.Path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, fmt.Errorf("%s is a directory", req.Path)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", req.Path)
	}
	buf := make([]byte, agent.MaxOutput)
	n, err := f.ReadAt(buf, req.Offset)
	if err != nil && err != io.EOF {
		return nil, err
	}
	return &agent.ReadResponse{Data: buf[:n], Mode: uint32(info.Mode().Perm()), End: err == io.EOF}, nil
}

// write writes a piece of a file, which is made by its first one.
func write(req agent.WriteRequest) error {
	flags, mode := os.O_WRONLY|unix.O_NONBLOCK, os.FileMode(req.Mode).Perm()
	if mode == 0 {
		mode = 0o644
	}
	if req.Offset == 0 {
		flags |= os.O_CREATE | os.O_TRUNC
	}
	f, err := os.OpenFile(req.Path, flags, mode)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(req.Data, req.Offset)
	return errors.Join(err, f.Close())
}
