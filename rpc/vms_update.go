package rpc

import (
	"context"

	"connectrpc.com/connect"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// What changes a VM that is there: its spec, and what is built for it.

func (s vms) Update(ctx context.Context, req *connect.Request[blixardv1.UpdateRequest]) (*connect.Response[blixardv1.UpdateResponse], error) {
	m := req.Msg
	if err := s.acceptable(ctx, m.Name, m.Spec); err != nil {
		return answer[blixardv1.UpdateResponse](nil, "", err)
	}
	resp, id, err := s.mutate(ctx, m.RequestId, &blixardv1.Command{Op: &blixardv1.Command_UpdateVm{
		UpdateVm: &blixardv1.UpdateVMOp{Name: m.Name, Spec: m.Spec, ValidateOnly: m.ValidateOnly, Restart: m.Restart,
			Uid: m.Uid, SpecGeneration: m.SpecGeneration}}})
	return answer(&blixardv1.UpdateResponse{Vm: resp.GetVm()}, id, err)
}

func (s vms) Rollback(ctx context.Context, req *connect.Request[blixardv1.RollbackRequest]) (*connect.Response[blixardv1.RollbackResponse], error) {
	m := req.Msg
	if err := check(cluster.ValidateName(m.Name)); err != nil {
		return answer[blixardv1.RollbackResponse](nil, "", err)
	}
	resp, id, err := s.mutate(ctx, m.RequestId, &blixardv1.Command{Op: &blixardv1.Command_RollbackVm{
		RollbackVm: &blixardv1.RollbackVMOp{Name: m.Name, SpecGeneration: m.SpecGeneration, Restart: m.Restart}}})
	return answer(&blixardv1.RollbackResponse{Vm: resp.GetVm()}, id, err)
}

func (s vms) Build(ctx context.Context, req *connect.Request[blixardv1.BuildRequest]) (*connect.Response[blixardv1.BuildResponse], error) {
	m := req.Msg
	if err := check(cluster.ValidateName(m.Name)); err != nil {
		return answer[blixardv1.BuildResponse](nil, "", err)
	}
	resp, id, err := s.mutate(ctx, m.RequestId, &blixardv1.Command{Op: &blixardv1.Command_BuildVm{
		BuildVm: &blixardv1.BuildVMOp{Name: m.Name, Refresh: m.Refresh, Prebuild: m.Prebuild, Restart: m.Restart}}})
	return answer(&blixardv1.BuildResponse{Vm: resp.GetVm()}, id, err)
}

func (s members) GetPins(ctx context.Context, req *connect.Request[blixardv1.GetPinsRequest]) (*connect.Response[blixardv1.GetPinsResponse], error) {
	view, err := s.read(ctx, req.Msg.Stale)
	if err != nil {
		return answer[blixardv1.GetPinsResponse](nil, "", err)
	}
	return answer(&blixardv1.GetPinsResponse{Pins: view.Meta().GetPins()}, "", nil)
}

func (s members) SetPins(ctx context.Context, req *connect.Request[blixardv1.SetPinsRequest]) (*connect.Response[blixardv1.SetPinsResponse], error) {
	m := req.Msg
	if err := check(cluster.ValidatePins(m.Pins)); err != nil {
		return answer[blixardv1.SetPinsResponse](nil, "", err)
	}
	_, id, err := s.mutate(ctx, m.RequestId, &blixardv1.Command{Op: &blixardv1.Command_SetPins{SetPins: &blixardv1.SetPinsOp{Pins: m.Pins}}})
	return answer(&blixardv1.SetPinsResponse{Pins: m.Pins}, id, err)
}

func (s members) GetSettings(ctx context.Context, _ *connect.Request[blixardv1.GetSettingsRequest]) (*connect.Response[blixardv1.GetSettingsResponse], error) {
	view, err := s.read(ctx, true) // also where there is no quorum
	if err != nil {
		return answer[blixardv1.GetSettingsResponse](nil, "", err)
	}
	return answer(&blixardv1.GetSettingsResponse{Settings: view.Settings()}, "", nil)
}

func (s members) UpdateSettings(ctx context.Context, req *connect.Request[blixardv1.UpdateSettingsRequest]) (*connect.Response[blixardv1.UpdateSettingsResponse], error) {
	resp, id, err := s.mutate(ctx, req.Msg.RequestId, &blixardv1.Command{Op: &blixardv1.Command_SetSettings{
		SetSettings: &blixardv1.SetSettingsOp{Settings: req.Msg.Settings}}})
	return answer(&blixardv1.UpdateSettingsResponse{Settings: resp.GetSettings()}, id, err)
}
