package rpc

import (
	"context"
	"fmt"

	"connectrpc.com/connect"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// snapshots is SnapshotService.
type snapshots struct{ *Server }

func (s snapshots) Create(ctx context.Context, req *connect.Request[blixardv1.SnapshotServiceCreateRequest]) (*connect.Response[blixardv1.SnapshotServiceCreateResponse], error) {
	m := req.Msg
	resp, id, err := s.asked(ctx, m.RequestId, &blixardv1.Command{Op: &blixardv1.Command_CreateSnapshot{
		CreateSnapshot: &blixardv1.CreateSnapshotOp{Name: m.Name, Vm: m.Vm}}}, m.Name, m.Vm)
	return answer(&blixardv1.SnapshotServiceCreateResponse{Snapshot: resp.GetSnapshot()}, id, err)
}

func (s snapshots) Delete(ctx context.Context, req *connect.Request[blixardv1.SnapshotServiceDeleteRequest]) (*connect.Response[blixardv1.SnapshotServiceDeleteResponse], error) {
	m := req.Msg
	resp, id, err := s.asked(ctx, m.RequestId, &blixardv1.Command{Op: &blixardv1.Command_DeleteSnapshot{
		DeleteSnapshot: &blixardv1.DeleteSnapshotOp{Name: m.Name}}}, m.Name)
	return answer(&blixardv1.SnapshotServiceDeleteResponse{Snapshot: resp.GetSnapshot()}, id, err)
}

func (s snapshots) Restore(ctx context.Context, req *connect.Request[blixardv1.SnapshotServiceRestoreRequest]) (*connect.Response[blixardv1.SnapshotServiceRestoreResponse], error) {
	m := req.Msg
	resp, id, err := s.asked(ctx, m.RequestId, &blixardv1.Command{Op: &blixardv1.Command_RestoreSnapshot{
		RestoreSnapshot: &blixardv1.RestoreSnapshotOp{Name: m.Name}}}, m.Name)
	return answer(&blixardv1.SnapshotServiceRestoreResponse{Vm: resp.GetVm()}, id, err)
}

func (s snapshots) Clone(ctx context.Context, req *connect.Request[blixardv1.SnapshotServiceCloneRequest]) (*connect.Response[blixardv1.SnapshotServiceCloneResponse], error) {
	m := req.Msg
	resp, id, err := s.asked(ctx, m.RequestId, &blixardv1.Command{Op: &blixardv1.Command_CloneSnapshot{
		CloneSnapshot: &blixardv1.CloneSnapshotOp{Name: m.Name, Vm: m.Vm, Memory: m.Memory}}}, m.Name, m.Vm)
	return answer(&blixardv1.SnapshotServiceCloneResponse{Vm: resp.GetVm()}, id, err)
}

// asked submits an operation on things of these names.
func (s snapshots) asked(ctx context.Context, givenID string, cmd *blixardv1.Command, names ...string) (*blixardv1.Response, string, error) {
	for _, name := range names {
		if err := check(cluster.ValidateName(name)); err != nil {
			return nil, "", err
		}
	}
	return s.mutate(ctx, givenID, cmd)
}

func (s snapshots) Get(ctx context.Context, req *connect.Request[blixardv1.SnapshotServiceGetRequest]) (*connect.Response[blixardv1.SnapshotServiceGetResponse], error) {
	m := req.Msg
	if err := check(cluster.ValidateName(m.Name)); err != nil {
		return answer[blixardv1.SnapshotServiceGetResponse](nil, "", err)
	}
	view, err := s.read(ctx, m.Stale)
	if err != nil {
		return answer[blixardv1.SnapshotServiceGetResponse](nil, "", err)
	}
	p := view.Snapshot(m.Name)
	if p == nil {
		return answer[blixardv1.SnapshotServiceGetResponse](nil, "", refuse(blixardv1.ErrorCode_ERROR_CODE_NOT_FOUND, "",
			fmt.Sprintf("there is no snapshot named %q", m.Name), "'blixard snapshot list' shows those there are"))
	}
	return answer(&blixardv1.SnapshotServiceGetResponse{Snapshot: p}, "", nil)
}

func (s snapshots) List(ctx context.Context, req *connect.Request[blixardv1.SnapshotServiceListRequest]) (*connect.Response[blixardv1.SnapshotServiceListResponse], error) {
	view, err := s.read(ctx, req.Msg.Stale)
	if err != nil {
		return answer[blixardv1.SnapshotServiceListResponse](nil, "", err)
	}
	out := &blixardv1.SnapshotServiceListResponse{Revision: view.Revision()}
	view.Snapshots(func(p *blixardv1.VMSnapshot) bool {
		if req.Msg.Vm == "" || req.Msg.Vm == p.Vm {
			out.Snapshots = append(out.Snapshots, p)
		}
		return true
	})
	return answer(out, "", nil)
}
