package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sort"
	"strings"
	"syscall"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/runner/shims"
	"github.com/blixard/blixard/vmm/shim"
)

// process runs a program as a VM would be run: its console is what it prints,
// its power button is SIGTERM. There is no isolation: it is a program of this
// host, with the daemon's user. Where there are PID namespaces, what it forks
// ends with it.
type process struct{ pidNamespace bool }

const processVersion = "process: no isolation"

func (process) needs(a *blixardv1.Assignment) ([]*blixardv1.Artifact, error) {
	p := a.GetSpec().GetProcess()
	if p == nil {
		return nil, errors.New("the spec names no program (process.argv)")
	}
	if len(p.Argv) == 0 || !filepath.IsAbs(p.Argv[0]) {
		return nil, errors.New("process.argv[0] must be an absolute path on the host")
	}
	for k, v := range p.Env {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.ContainsRune(v, 0) {
			return nil, fmt.Errorf("process.env has a name or a value that no environment can carry: %.80q", k)
		}
	}
	return nil, nil
}

func (process) build(context.Context, *blixardv1.Assignment, io.Writer) (*blixardv1.Runner, error) {
	return nil, nil
}

func (d process) prepare(_ context.Context, p place, a *blixardv1.Assignment, i shim.Instance) (command, error) {
	if !d.pidNamespace && a.Lease == blixardv1.LeaseClass_LEASE_CLASS_SHORT {
		// What it forks would outlive the lease, and the cluster would not know.
		return command{}, errors.New("this host cannot hold what a program forks (it has no PID namespaces for us): it waits until the cluster knows")
	}
	spec := a.GetSpec().GetProcess()
	env := map[string]string{
		"PATH":         "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"BLIXARD_NAME": a.Name, "BLIXARD_UID": i.UID, "BLIXARD_ATTEMPT": fmt.Sprint(i.Attempt),
	}
	for k, v := range spec.Env {
		env[k] = v
	}
	var words []string
	for k, v := range env {
		words = append(words, k+"="+v)
	}
	sort.Strings(words)
	return command{argv: spec.Argv, env: words, dir: p.state, output: p.console, pidNamespace: d.pidNamespace}, nil
}

func (process) follow(p place, tell func(guestState)) session {
	all, err := familyIn(p.run)
	if err == nil && all.stopped() {
		tell(paused)
	} else {
		tell(running)
	}
	return processSession{p}
}

type processSession struct{ place place }

func (p processSession) stop(ctx context.Context, s *shims.Shim) error {
	return errors.Join(p.resume(ctx), s.Kill(ctx, syscall.SIGTERM))
}

func (p processSession) pause(context.Context) error { return p.signal(syscall.SIGSTOP) }

func (p processSession) resume(context.Context) error { return p.signal(syscall.SIGCONT) }

func (p processSession) signal(s syscall.Signal) error {
	all, err := familyIn(p.place.run)
	if err != nil {
		return err
	}
	return all.signal(s)
}

func (processSession) ended(e shim.Exit, _ bool) *vmm.Exit {
	switch {
	case e.Signal != 0:
		return &vmm.Exit{Code: int32(128 + e.Signal), Reason: Exited, Message: "it ended by the signal that asked it to stop"}
	case e.Code == 0:
		return &vmm.Exit{Reason: Exited, Message: "the program ended with exit code 0"}
	}
	return &vmm.Exit{Code: int32(e.Code), Reason: Exited, Message: fmt.Sprintf("the program ended with exit code %d", e.Code)}
}

func (processSession) close() {}
