package rpc

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"

	"connectrpc.com/connect"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// vms is VMService.
type vms struct{ *Server }

func (s vms) Create(ctx context.Context, req *connect.Request[blixardv1.CreateRequest]) (*connect.Response[blixardv1.CreateResponse], error) {
	m := req.Msg
	if err := s.acceptable(ctx, m.Name, m.Spec); err != nil {
		return answer[blixardv1.CreateResponse](nil, "", err)
	}
	resp, id, err := s.mutate(ctx, m.RequestId, &blixardv1.Command{Op: &blixardv1.Command_CreateVm{
		CreateVm: &blixardv1.CreateVMOp{Name: m.Name, Spec: m.Spec, ValidateOnly: m.ValidateOnly}}})
	return answer(&blixardv1.CreateResponse{Vm: resp.GetVm()}, id, err)
}

// acceptable refuses a spec as early as can be: what Apply would refuse too, and
// what it cannot see.
func (s vms) acceptable(ctx context.Context, name string, spec *blixardv1.VMSpec) error {
	if err := check(cluster.ValidateVM(name, spec)); err != nil || s.cfg.CheckVM == nil {
		return err
	}
	return s.cfg.CheckVM(ctx, spec)
}

func (s vms) Delete(ctx context.Context, req *connect.Request[blixardv1.DeleteRequest]) (*connect.Response[blixardv1.DeleteResponse], error) {
	m := req.Msg
	if err := check(cluster.ValidateName(m.Name)); err != nil {
		return answer[blixardv1.DeleteResponse](nil, "", err)
	}
	resp, id, err := s.mutate(ctx, m.RequestId, &blixardv1.Command{Op: &blixardv1.Command_DeleteVm{
		DeleteVm: &blixardv1.DeleteVMOp{Name: m.Name, Uid: m.Uid, Volumes: m.Volumes}}})
	return answer(&blixardv1.DeleteResponse{Vm: resp.GetVm()}, id, err)
}

func (s vms) Start(ctx context.Context, req *connect.Request[blixardv1.StartRequest]) (*connect.Response[blixardv1.StartResponse], error) {
	vm, id, err := s.power(ctx, req.Msg.RequestId, &blixardv1.PowerOp{Name: req.Msg.Name, Run: true})
	return answer(&blixardv1.StartResponse{Vm: vm}, id, err)
}

func (s vms) Stop(ctx context.Context, req *connect.Request[blixardv1.StopRequest]) (*connect.Response[blixardv1.StopResponse], error) {
	vm, id, err := s.power(ctx, req.Msg.RequestId, &blixardv1.PowerOp{Name: req.Msg.Name})
	return answer(&blixardv1.StopResponse{Vm: vm}, id, err)
}

func (s vms) Restart(ctx context.Context, req *connect.Request[blixardv1.RestartRequest]) (*connect.Response[blixardv1.RestartResponse], error) {
	vm, id, err := s.power(ctx, req.Msg.RequestId, &blixardv1.PowerOp{Name: req.Msg.Name, Run: true, Restart: true})
	return answer(&blixardv1.RestartResponse{Vm: vm}, id, err)
}

func (s vms) power(ctx context.Context, givenID string, op *blixardv1.PowerOp) (*blixardv1.VM, string, error) {
	if err := check(cluster.ValidateName(op.Name)); err != nil {
		return nil, "", err
	}
	resp, id, err := s.mutate(ctx, givenID, &blixardv1.Command{Op: &blixardv1.Command_Power{Power: op}})
	return resp.GetVm(), id, err
}

func (s vms) Pause(ctx context.Context, req *connect.Request[blixardv1.PauseRequest]) (*connect.Response[blixardv1.PauseResponse], error) {
	vm, id, err := s.pause(ctx, req.Msg.RequestId, &blixardv1.PauseOp{Name: req.Msg.Name, Paused: true})
	return answer(&blixardv1.PauseResponse{Vm: vm}, id, err)
}

func (s vms) Resume(ctx context.Context, req *connect.Request[blixardv1.ResumeRequest]) (*connect.Response[blixardv1.ResumeResponse], error) {
	vm, id, err := s.pause(ctx, req.Msg.RequestId, &blixardv1.PauseOp{Name: req.Msg.Name})
	return answer(&blixardv1.ResumeResponse{Vm: vm}, id, err)
}

func (s vms) Migrate(ctx context.Context, req *connect.Request[blixardv1.MigrateRequest]) (*connect.Response[blixardv1.MigrateResponse], error) {
	m := req.Msg
	if err := check(cluster.ValidateName(m.Name)); err != nil {
		return answer[blixardv1.MigrateResponse](nil, "", err)
	}
	resp, id, err := s.mutate(ctx, m.RequestId, &blixardv1.Command{Op: &blixardv1.Command_MigrateVm{MigrateVm: &blixardv1.MigrateVMOp{
		Name: m.Name, To: m.To, Offline: m.Offline, TimeoutMs: m.TimeoutMs, ValidateOnly: m.ValidateOnly}}})
	return answer(&blixardv1.MigrateResponse{Vm: resp.GetVm()}, id, err)
}

func (s vms) CancelMigration(ctx context.Context, req *connect.Request[blixardv1.CancelMigrationRequest]) (*connect.Response[blixardv1.CancelMigrationResponse], error) {
	m := req.Msg
	if err := check(cluster.ValidateName(m.Name)); err != nil {
		return answer[blixardv1.CancelMigrationResponse](nil, "", err)
	}
	resp, id, err := s.mutate(ctx, m.RequestId, &blixardv1.Command{Op: &blixardv1.Command_CancelMigration{
		CancelMigration: &blixardv1.CancelMigrationOp{Name: m.Name, Id: m.Id}}})
	return answer(&blixardv1.CancelMigrationResponse{Vm: resp.GetVm()}, id, err)
}

func (s vms) pause(ctx context.Context, givenID string, op *blixardv1.PauseOp) (*blixardv1.VM, string, error) {
	if err := check(cluster.ValidateName(op.Name)); err != nil {
		return nil, "", err
	}
	resp, id, err := s.mutate(ctx, givenID, &blixardv1.Command{Op: &blixardv1.Command_Pause{Pause: op}})
	return resp.GetVm(), id, err
}

func (s vms) Get(ctx context.Context, req *connect.Request[blixardv1.GetRequest]) (*connect.Response[blixardv1.GetResponse], error) {
	one, err := s.find(ctx, req.Msg.Name, req.Msg.Stale)
	if err != nil {
		return answer[blixardv1.GetResponse](nil, "", err)
	}
	return answer(&blixardv1.GetResponse{Vm: one.VM, Node: one.Node.GetName(), History: one.History}, "", nil)
}

func (s vms) find(ctx context.Context, name string, stale bool) (*cluster.One, error) {
	if err := check(cluster.ValidateName(name)); err != nil {
		return nil, err
	}
	if err := s.member(); err != nil {
		return nil, err
	}
	one, err := s.cfg.Backend.One(ctx, name, stale)
	if err == nil && one.VM == nil {
		err = noVM(name)
	}
	return one, err
}

func noVM(name string) error {
	return refuse(blixardv1.ErrorCode_ERROR_CODE_NOT_FOUND, "", fmt.Sprintf("there is no VM named %q", name),
		"'blixard vm list' shows those there are")
}

func (s vms) Explain(ctx context.Context, req *connect.Request[blixardv1.ExplainRequest]) (*connect.Response[blixardv1.ExplainResponse], error) {
	if err := check(cluster.ValidateName(req.Msg.Name)); err != nil {
		return answer[blixardv1.ExplainResponse](nil, "", err)
	}
	view, err := s.read(ctx, req.Msg.Stale)
	if err == nil && view.VM(req.Msg.Name) == nil {
		err = noVM(req.Msg.Name)
	}
	if err != nil {
		return answer[blixardv1.ExplainResponse](nil, "", err)
	}
	out, refusal := view.Explain(req.Msg.Name)
	return answer(out, "", check(refusal))
}

const (
	defaultPage = 100
	maxPage     = 1000
)

// List answers one page. A page token is the last name of the page before, and
// the revision that it showed. Each page shows the state at one index, and never
// an older one than the page before; between two pages the state goes on. So a
// VM that exists all the while is listed exactly once, one that is created or
// deleted meanwhile may be missed or shown, and none is shown twice.
func (s vms) List(ctx context.Context, req *connect.Request[blixardv1.ListRequest]) (*connect.Response[blixardv1.ListResponse], error) {
	out, err := s.list(ctx, req.Msg)
	return answer(out, "", err)
}

func (s vms) list(ctx context.Context, m *blixardv1.ListRequest) (*blixardv1.ListResponse, error) {
	size := int(m.PageSize)
	if size == 0 {
		size = defaultPage
	}
	if m.PageSize > maxPage {
		return nil, refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, "page_size", fmt.Sprintf("%d is too many", m.PageSize), "ask for at most 1000, and follow next_page_token")
	}
	if err := check(cluster.ValidateLabels("labels", m.Labels)); err != nil {
		return nil, err
	}
	after, seen, err := parseToken(m.PageToken)
	if err != nil {
		return nil, err
	}
	view, err := s.read(ctx, m.Stale)
	if err == nil && view.Revision() < seen {
		// This server lags behind the one that gave the page before.
		view, err = s.read(ctx, false)
	}
	if err != nil {
		return nil, err
	}
	out := &blixardv1.ListResponse{Revision: view.Revision(), Nodes: map[uint64]string{}}
	view.VMs(after, func(vm *blixardv1.VM) bool {
		if !matches(vm.GetSpec().GetLabels(), m.Labels) {
			return true
		}
		if len(out.Vms) == size {
			out.NextPageToken = pageToken(out.Vms[size-1].Name, out.Revision)
			return false
		}
		out.Vms = append(out.Vms, view.Shown(vm))
		if id := vm.GetPlacement().GetNodeId(); id != 0 && out.Nodes[id] == "" {
			out.Nodes[id] = view.Node(id).GetName()
		}
		return true
	})
	return out, nil
}

func matches(have, want map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

func pageToken(name string, revision uint64) string {
	return base64.RawURLEncoding.EncodeToString(append(binary.BigEndian.AppendUint64(nil, revision), name...))
}

func parseToken(token string) (name string, revision uint64, err error) {
	if token == "" {
		return "", 0, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err == nil && len(b) > 8 {
		name = string(b[8:])
		err = check(cluster.ValidateName(name))
	}
	if err != nil || name == "" {
		return "", 0, refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, "page_token", "it is none that a List answered", "give next_page_token unchanged, or begin again without one")
	}
	return name, binary.BigEndian.Uint64(b), nil
}
