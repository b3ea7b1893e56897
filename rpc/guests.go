package rpc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/proto/blixard/v1/blixardv1connect"
)

// guests is GuestService. A server finds a VM's host in its own copy of the state, so
// that guests can be reached without a quorum, and calls the same procedure there,
// with the VM's uid beside it: then it is the host's to do.
type guests struct{ *Server }

// Guests is what is asked of the VMs that live on this host. The errors are for
// people, but for a context's.
type Guests interface {
	// Stats lists those that live, without their names.
	Stats(ctx context.Context) []*blixardv1.VMStats
	Exec(ctx context.Context, uid string, r *blixardv1.ExecRequest) (*blixardv1.ExecResponse, error)
	ReadFile(ctx context.Context, uid string, r *blixardv1.ReadFileRequest) (*blixardv1.ReadFileResponse, error)
	WriteFile(ctx context.Context, uid string, r *blixardv1.WriteFileRequest) error
	WriteConsole(ctx context.Context, uid string, data []byte) error
}

// guestHeader is the uid of the VM that a node asks another about; of Stats: all.
const guestHeader = "Blixard-Guest"

const allGuests = "all"

// hereOnly says that a node wants what lives on this one.
func hereOnly(ctx context.Context, h http.Header) (uid string) {
	if callerOf(ctx).node {
		uid = h.Get(guestHeader)
	}
	return uid
}

const (
	maxStdin = 512 << 10
	maxPiece = 256 << 10
	maxTyped = 64 << 10
	maxExec  = 3_600_000
)

func (s guests) Exec(ctx context.Context, req *connect.Request[blixardv1.ExecRequest]) (*connect.Response[blixardv1.ExecResponse], error) {
	m := req.Msg
	switch {
	case len(m.Argv) == 0 || m.Argv[0] == "":
		return nil, wire(refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, "argv", "it names no program", "give a program and its arguments"), "")
	case len(m.Stdin) > maxStdin:
		return nil, wire(refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, "stdin", fmt.Sprintf("%d bytes are too many", len(m.Stdin)), "give at most 524288; copy what is longer into a file of the guest"), "")
	case m.TimeoutMs > maxExec:
		return nil, wire(refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, "timeout_ms", fmt.Sprintf("%d is too long", m.TimeoutMs), "give at most 3600000"), "")
	}
	return guestCall(ctx, s, m.Name, req, s.awake, blixardv1connect.GuestServiceClient.Exec, func(uid string) (*blixardv1.ExecResponse, error) {
		return s.cfg.Guests.Exec(ctx, uid, m)
	})
}

func (s guests) ReadFile(ctx context.Context, req *connect.Request[blixardv1.ReadFileRequest]) (*connect.Response[blixardv1.ReadFileResponse], error) {
	if err := guestPath(req.Msg.Path); err != nil {
		return nil, err
	}
	return guestCall(ctx, s, req.Msg.Name, req, s.awake, blixardv1connect.GuestServiceClient.ReadFile, func(uid string) (*blixardv1.ReadFileResponse, error) {
		return s.cfg.Guests.ReadFile(ctx, uid, req.Msg)
	})
}

func (s guests) WriteFile(ctx context.Context, req *connect.Request[blixardv1.WriteFileRequest]) (*connect.Response[blixardv1.WriteFileResponse], error) {
	if err := guestPath(req.Msg.Path); err != nil {
		return nil, err
	}
	if n := len(req.Msg.Data); n > maxPiece {
		return nil, wire(refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, "data", fmt.Sprintf("%d bytes are too many", n), "give at most 262144 at a time"), "")
	}
	return guestCall(ctx, s, req.Msg.Name, req, s.awake, blixardv1connect.GuestServiceClient.WriteFile, func(uid string) (*blixardv1.WriteFileResponse, error) {
		return &blixardv1.WriteFileResponse{}, s.cfg.Guests.WriteFile(ctx, uid, req.Msg)
	})
}

func (s guests) WriteConsole(ctx context.Context, req *connect.Request[blixardv1.WriteConsoleRequest]) (*connect.Response[blixardv1.WriteConsoleResponse], error) {
	if n := len(req.Msg.Data); n > maxTyped {
		return nil, wire(refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, "data", fmt.Sprintf("%d bytes are too many", n), "give at most 65536 at a time"), "")
	}
	return guestCall(ctx, s, req.Msg.Name, req, s.whatever, blixardv1connect.GuestServiceClient.WriteConsole, func(uid string) (*blixardv1.WriteConsoleResponse, error) {
		return &blixardv1.WriteConsoleResponse{}, s.cfg.Guests.WriteConsole(ctx, uid, req.Msg.Data)
	})
}

func guestPath(path string) error {
	if !strings.HasPrefix(path, "/") || strings.ContainsRune(path, 0) {
		return wire(refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, "path", fmt.Sprintf("%.100q is no absolute path", path), "begin it with /"), "")
	}
	return nil
}

// awake refuses a VM that is paused: no agent answers in it, and whoever asks would wait
// for the whole of his time to hear less than this. Our own copy of it may lag, and is
// not believed when it says so.
func (s guests) awake(ctx context.Context, vm *blixardv1.VM) error {
	if !asleep(vm) {
		return nil
	}
	if now, err := vms(s).find(ctx, vm.Name, false); err != nil || !asleep(now.VM) {
		return nil // what is wrong is said by who goes on
	}
	return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "", fmt.Sprintf("the VM %s is paused, so nothing in it answers", vm.Name), "'blixard vm resume "+vm.Name+"' first")
}

func asleep(vm *blixardv1.VM) bool {
	return vm.GetPaused() && vm.GetStatus().GetPhase() == blixardv1.Phase_PHASE_PAUSED
}

// whatever refuses nothing: a console is its hypervisor's, and hears what is typed once
// its guest goes on.
func (s guests) whatever(context.Context, *blixardv1.VM) error { return nil }

// guestCall does something with a VM on its host: here, or there. The first node that
// hears of it asks whether it may.
func guestCall[Req, Resp any](ctx context.Context, s guests, name string, req *connect.Request[Req],
	may func(context.Context, *blixardv1.VM) error,
	there func(blixardv1connect.GuestServiceClient, context.Context, *connect.Request[Req]) (*connect.Response[Resp], error),
	here func(uid string) (*Resp, error),
) (*connect.Response[Resp], error) {
	uid := hereOnly(ctx, req.Header())
	if uid == "" {
		vm, host, err := s.guest(ctx, name)
		if err != nil {
			return nil, wire(err, "")
		}
		if err := may(ctx, vm); err != nil {
			return nil, wire(err, "")
		}
		if host.Id != s.cfg.Backend.Status().Identity.ID {
			return passOn(ctx, s, host, vm, req, there)
		}
		uid = vm.Uid
	}
	if s.cfg.Guests == nil {
		return nil, wire(notHere(name, "this node is no host"), "")
	}
	out, err := here(uid)
	if err != nil && ctx.Err() == nil {
		err = notHere(name, err.Error())
	}
	return answer(out, "", err)
}

func notHere(name, why string) *Refusal {
	return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "", fmt.Sprintf("the VM %s: %s", name, why), "'blixard vm get "+name+"' says how it is")
}

// guest is a VM and the node that it is placed on.
func (s guests) guest(ctx context.Context, name string) (*blixardv1.VM, *blixardv1.Node, error) {
	v := vms(s)
	one, err := v.find(ctx, name, true)
	if err != nil || one.Node == nil { // our own copy may lag
		if one, err = v.find(ctx, name, false); err != nil {
			return nil, nil, err
		}
	}
	if one.Node == nil {
		return nil, nil, refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "", fmt.Sprintf("the VM %s is on no host", name), "'blixard vm explain "+name+"' says why")
	}
	return one.VM, one.Node, nil
}

// passOn asks the VM's host.
func passOn[Req, Resp any](ctx context.Context, s guests, host *blixardv1.Node, vm *blixardv1.VM, req *connect.Request[Req],
	there func(blixardv1connect.GuestServiceClient, context.Context, *connect.Request[Req]) (*connect.Response[Resp], error),
) (*connect.Response[Resp], error) {
	next := connect.NewRequest(req.Msg)
	next.Header().Set(guestHeader, vm.Uid)
	next.Header().Set(principalHeader, callerOf(ctx).principal)
	r, err := there(s.at(host), ctx, next)
	if err != nil && !connect.IsWireError(err) && ctx.Err() == nil { // it was not the host who said so
		err = wire(refuse(blixardv1.ErrorCode_ERROR_CODE_NO_QUORUM, "", fmt.Sprintf("the VM %s is on the host %s (%s), which cannot be reached: %v", vm.Name, host.Name, host.Address, errors.Unwrap(err)),
			"see 'blixard node get "+host.Name+"'; once the VM has moved, ask again"), "")
	}
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(r.Msg), nil
}

// at is the GuestService of another node.
func (s guests) at(n *blixardv1.Node) blixardv1connect.GuestServiceClient {
	return blixardv1connect.NewGuestServiceClient(s.call, s.cfg.TLS.scheme()+"://"+n.Address, plain())
}

// statsPatience is how long a host is waited for that may be dead.
const statsPatience = 3 * time.Second

func (s guests) Stats(ctx context.Context, req *connect.Request[blixardv1.StatsRequest]) (*connect.Response[blixardv1.StatsResponse], error) {
	if hereOnly(ctx, req.Header()) != "" {
		out := &blixardv1.StatsResponse{}
		if s.cfg.Guests != nil {
			out.Vms = s.cfg.Guests.Stats(ctx)
		}
		return connect.NewResponse(out), nil
	}
	view, err := s.read(ctx, true)
	if err != nil {
		return nil, wire(err, "")
	}
	out, err := s.stats(ctx, view, req.Msg.Names)
	return answer(out, "", err)
}

// stats asks all hosts that have a VM that is wanted.
func (s guests) stats(ctx context.Context, view *cluster.State, names []string) (*blixardv1.StatsResponse, error) {
	for _, n := range names {
		if view.VM(n) == nil {
			return nil, refuse(blixardv1.ErrorCode_ERROR_CODE_NOT_FOUND, "", fmt.Sprintf("there is no VM named %q", n), "'blixard vm list' shows those there are")
		}
	}
	hosts := map[uint64]bool{}
	view.VMs("", func(vm *blixardv1.VM) bool {
		if id := vm.GetPlacement().GetNodeId(); id != 0 && (len(names) == 0 || slices.Contains(names, vm.Name)) {
			hosts[id] = true
		}
		return true
	})
	ctx, cancel := context.WithTimeout(ctx, statsPatience)
	defer cancel()
	var wait sync.WaitGroup
	var mu sync.Mutex
	out := &blixardv1.StatsResponse{}
	for id := range hosts {
		host := view.Node(id)
		if host == nil {
			continue
		}
		wait.Go(func() {
			list, err := s.statsOf(ctx, host)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				out.Silent = append(out.Silent, host.Name)
				return
			}
			for _, u := range list {
				vm := view.VMByUID(u.Uid)
				if vm == nil || len(names) > 0 && !slices.Contains(names, vm.Name) {
					continue
				}
				u.Name, u.Node = vm.Name, host.Name
				u.Vcpus, u.MemoryMib = max(vm.GetPlacement().GetVcpus(), 1), vm.GetPlacement().GetMemoryMib()
				out.Vms = append(out.Vms, u)
			}
		})
	}
	wait.Wait()
	slices.Sort(out.Silent)
	slices.SortFunc(out.Vms, func(a, b *blixardv1.VMStats) int { return strings.Compare(a.Name+" "+a.Node, b.Name+" "+b.Node) })
	return out, nil
}

func (s guests) statsOf(ctx context.Context, host *blixardv1.Node) ([]*blixardv1.VMStats, error) {
	if host.Id == s.cfg.Backend.Status().Identity.ID {
		if s.cfg.Guests == nil {
			return nil, nil
		}
		return s.cfg.Guests.Stats(ctx), nil
	}
	req := connect.NewRequest(&blixardv1.StatsRequest{})
	req.Header().Set(guestHeader, allGuests)
	r, err := s.at(host).Stats(ctx, req)
	if err != nil {
		return nil, err
	}
	return r.Msg.Vms, nil
}
