package main

import (
	"bytes"
	"io"
	"log/slog"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// inhibitSleep keeps this machine from suspending while we run: a host that
// sleeps past its deadline would wake with VMs that run elsewhere by then. It is
// best effort, by logind; where there is none, whoever runs the machine must see
// to it, and is told.
//
// The lock is held by a child that reads a pipe of ours: it ends when we do,
// however we end.
func inhibitSleep(log *slog.Logger) (stop func()) {
	said := func(why string) func() {
		log.Warn("sleep is not inhibited: see that this machine never suspends", "why", why)
		return func() {}
	}
	path, err := exec.LookPath("systemd-inhibit")
	if err != nil {
		return said("there is no systemd-inhibit")
	}
	var errs bytes.Buffer
	cmd := exec.Command(path, "--what=sleep", "--who=blixard", "--why=VMs run here", "--mode=block", "cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C is for us
	cmd.Stderr, cmd.Stdout = &errs, io.Discard
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return said(err.Error())
	}
	if err := cmd.Start(); err != nil {
		return said(err.Error())
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	go func() {
		select {
		case <-ended:
			said("systemd-inhibit ended: " + strings.TrimSpace(errs.String()))
		case <-time.After(time.Second):
			log.Debug("sleep is inhibited")
		}
	}()
	return func() { pipe.Close() }
}
