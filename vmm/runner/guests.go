package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/core/hypervisor"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/guest/agent"
)

// What people ask of the guests of this host: beside what the cluster orders, and
// without its knowing.

// ErrNotRunning says that a VM does not run on this host.
var ErrNotRunning = errors.New("it does not run here")

// runs says why nothing can be asked of a VM.
func (h *Host) runs(uid string) error {
	if err := checkUID(uid); err != nil {
		return err
	}
	if _, err := familyIn(h.at.runOf(uid)); err != nil {
		return ErrNotRunning
	}
	return nil
}

// lacks says why a guest cannot be reached in a way; "" when it can.
func (h *Host) lacks(uid string, c blixardv1.Capability) string {
	rec, err := readRecord(h.at.stateOf(uid))
	switch {
	case err != nil:
		return err.Error()
	case rec == nil:
		return ErrNotRunning.Error()
	case rec.Nix != nil:
		return "only images have Blixard's " + hypervisor.Name(c)
	}
	if k := hypervisor.Get(rec.Hypervisor); k != nil {
		return k.Why(c)
	}
	return "this Blixard knows no hypervisor " + rec.Hypervisor.String()
}

// agent asks the agent in a guest.
func (h *Host) agent(ctx context.Context, uid string, r agent.Request) (agent.Response, error) {
	if err := h.runs(uid); err != nil {
		return agent.Response{}, err
	}
	answer, err := h.agents.call(ctx, filepath.Join(h.at.runOf(uid), agentSocket), r)
	switch {
	case errors.Is(err, unix.ENOENT):
		return answer, fmt.Errorf("%w: %s", ErrNoAgent, cmp.Or(h.lacks(uid, blixardv1.Capability_CAPABILITY_AGENT), "its hypervisor has just begun, or ended"))
	case err != nil && answer.Error == "":
		return answer, fmt.Errorf("%w: %w", ErrNoAgent, err)
	}
	return answer, err
}

// ErrNoAgent says that no agent answers in a guest.
var ErrNoAgent = errors.New("no agent answers in it")

// Exec runs a program in a guest.
func (h *Host) Exec(ctx context.Context, uid string, r *blixardv1.ExecRequest) (*blixardv1.ExecResponse, error) {
	limit := r.TimeoutMs
	if limit == 0 {
		limit = 60_000
	}
	// The agent has its own clock, and ends what it runs: its word is worth waiting for.
	ctx, cancel := context.WithTimeout(ctx, time.Duration(limit)*time.Millisecond+5*time.Second)
	defer cancel()
	a, err := h.agent(ctx, uid, agent.Request{Op: agent.Exec, Exec: &agent.ExecRequest{
		Argv: r.Argv, Env: r.Env, Stdin: r.Stdin, TimeoutMS: int64(limit),
	}})
	if err != nil {
		return nil, err
	}
	if a.Exec == nil {
		return nil, fmt.Errorf("%w: its answer says nothing of the program", ErrNoAgent)
	}
	return &blixardv1.ExecResponse{
		ExitCode: int32(a.Exec.Exit), Stdout: a.Exec.Stdout, Stderr: a.Exec.Stderr, Cut: a.Exec.Bounded, TimedOut: a.Exec.TimedOut,
	}, nil
}

// pieceLimit is how long a piece of a file may take.
const pieceLimit = 20 * time.Second

// ReadFile reads a piece of a file in a guest.
func (h *Host) ReadFile(ctx context.Context, uid string, r *blixardv1.ReadFileRequest) (*blixardv1.ReadFileResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, pieceLimit)
	defer cancel()
	a, err := h.agent(ctx, uid, agent.Request{Op: agent.Read, Read: &agent.ReadRequest{Path: r.Path, Offset: int64(r.Offset)}})
	if err != nil {
		return nil, err
	}
	if a.Read == nil {
		return nil, fmt.Errorf("%w: its answer says nothing of the file", ErrNoAgent)
	}
	return &blixardv1.ReadFileResponse{Data: a.Read.Data, Mode: a.Read.Mode, End: a.Read.End}, nil
}

// WriteFile writes a piece of a file in a guest.
func (h *Host) WriteFile(ctx context.Context, uid string, r *blixardv1.WriteFileRequest) error {
	ctx, cancel := context.WithTimeout(ctx, pieceLimit)
	defer cancel()
	_, err := h.agent(ctx, uid, agent.Request{Op: agent.Write, Write: &agent.WriteRequest{Path: r.Path, Offset: int64(r.Offset), Mode: r.Mode, Data: r.Data}})
	return err
}
