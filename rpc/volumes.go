package rpc

import (
	"context"

	"connectrpc.com/connect"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// volumes is VolumeService.
type volumes struct{ *Server }

func (s volumes) Create(ctx context.Context, req *connect.Request[blixardv1.VolumeServiceCreateRequest]) (*connect.Response[blixardv1.VolumeServiceCreateResponse], error) {
	m := req.Msg
	err := check(cluster.ValidateVolume(m.Name, m.Spec))
	if err == nil && m.Host != "" {
		err = check(cluster.ValidateName(m.Host))
	}
	if err != nil {
		return answer[blixardv1.VolumeServiceCreateResponse](nil, "", err)
	}
	resp, id, err := s.mutate(ctx, m.RequestId, &blixardv1.Command{Op: &blixardv1.Command_CreateVolume{
		CreateVolume: &blixardv1.CreateVolumeOp{Name: m.Name, Spec: m.Spec, Host: m.Host}}})
	return answer(&blixardv1.VolumeServiceCreateResponse{Volume: resp.GetVolume()}, id, err)
}

func (s volumes) Grow(ctx context.Context, req *connect.Request[blixardv1.VolumeServiceGrowRequest]) (*connect.Response[blixardv1.VolumeServiceGrowResponse], error) {
	m := req.Msg
	if err := check(cluster.ValidateVolume(m.Name, &blixardv1.VolumeSpec{SizeMib: m.SizeMib})); err != nil {
		return answer[blixardv1.VolumeServiceGrowResponse](nil, "", err)
	}
	resp, id, err := s.mutate(ctx, m.RequestId, &blixardv1.Command{Op: &blixardv1.Command_GrowVolume{
		GrowVolume: &blixardv1.GrowVolumeOp{Name: m.Name, SizeMib: m.SizeMib}}})
	return answer(&blixardv1.VolumeServiceGrowResponse{Volume: resp.GetVolume()}, id, err)
}

func (s volumes) Delete(ctx context.Context, req *connect.Request[blixardv1.VolumeServiceDeleteRequest]) (*connect.Response[blixardv1.VolumeServiceDeleteResponse], error) {
	m := req.Msg
	if err := check(cluster.ValidateName(m.Name)); err != nil {
		return answer[blixardv1.VolumeServiceDeleteResponse](nil, "", err)
	}
	resp, id, err := s.mutate(ctx, m.RequestId, &blixardv1.Command{Op: &blixardv1.Command_DeleteVolume{
		DeleteVolume: &blixardv1.DeleteVolumeOp{Name: m.Name, Uid: m.Uid}}})
	return answer(&blixardv1.VolumeServiceDeleteResponse{Volume: resp.GetVolume()}, id, err)
}

func (s volumes) List(ctx context.Context, req *connect.Request[blixardv1.VolumeServiceListRequest]) (*connect.Response[blixardv1.VolumeServiceListResponse], error) {
	view, err := s.read(ctx, req.Msg.Stale)
	if err != nil {
		return answer[blixardv1.VolumeServiceListResponse](nil, "", err)
	}
	out := &blixardv1.VolumeServiceListResponse{Revision: view.Revision()}
	view.Volumes(func(v *blixardv1.ClusterVolume) bool {
		out.Volumes = append(out.Volumes, withUses(view, v))
		return true
	})
	view.Nodes(func(n *blixardv1.Node) bool {
		for _, v := range n.GetHost().GetOrphanVolumes() {
			out.Orphans = append(out.Orphans, &blixardv1.OrphanVolume{Node: n.Name, Volume: v})
		}
		return true
	})
	return answer(out, "", nil)
}

func (s volumes) Get(ctx context.Context, req *connect.Request[blixardv1.VolumeServiceGetRequest]) (*connect.Response[blixardv1.VolumeServiceGetResponse], error) {
	view, v, err := s.find(ctx, req.Msg.Name, req.Msg.Stale)
	if err != nil {
		return answer[blixardv1.VolumeServiceGetResponse](nil, "", err)
	}
	return answer(withUses(view, v), "", nil)
}

func (s volumes) find(ctx context.Context, name string, stale bool) (*cluster.State, *blixardv1.ClusterVolume, error) {
	if err := check(cluster.ValidateName(name)); err != nil {
		return nil, nil, err
	}
	view, err := s.read(ctx, stale)
	if err != nil {
		return nil, nil, err
	}
	v := view.Volume(name)
	if v == nil {
		return nil, nil, refuse(blixardv1.ErrorCode_ERROR_CODE_NOT_FOUND, "", "there is no volume named \""+name+"\"", "'blixard volume list' shows those there are")
	}
	return view, v, nil
}

func withUses(view *cluster.State, v *blixardv1.ClusterVolume) *blixardv1.VolumeServiceGetResponse {
	out := &blixardv1.VolumeServiceGetResponse{Volume: v}
	view.VolumeUses(v.Uid, func(vm *blixardv1.VM, readOnly bool) bool {
		out.Uses = append(out.Uses, &blixardv1.VolumeUse{Vm: vm.Name, ReadOnly: readOnly})
		return true
	})
	return out
}
