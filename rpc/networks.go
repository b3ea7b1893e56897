package rpc

import (
	"context"
	"fmt"

	"connectrpc.com/connect"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// networks is NetworkService.
type networks struct{ *Server }

func (s networks) Create(ctx context.Context, req *connect.Request[blixardv1.NetworkServiceCreateRequest]) (*connect.Response[blixardv1.NetworkServiceCreateResponse], error) {
	m := req.Msg
	if err := check(cluster.ValidateNetwork(m.Name, m.Spec)); err != nil {
		return answer[blixardv1.NetworkServiceCreateResponse](nil, "", err)
	}
	resp, id, err := s.mutate(ctx, m.RequestId, &blixardv1.Command{Op: &blixardv1.Command_CreateNetwork{
		CreateNetwork: &blixardv1.CreateNetworkOp{Name: m.Name, Spec: m.Spec}}})
	return answer(&blixardv1.NetworkServiceCreateResponse{Network: resp.GetNetwork()}, id, err)
}

func (s networks) Delete(ctx context.Context, req *connect.Request[blixardv1.NetworkServiceDeleteRequest]) (*connect.Response[blixardv1.NetworkServiceDeleteResponse], error) {
	if err := check(cluster.ValidateName(req.Msg.Name)); err != nil {
		return answer[blixardv1.NetworkServiceDeleteResponse](nil, "", err)
	}
	resp, id, err := s.mutate(ctx, req.Msg.RequestId, &blixardv1.Command{Op: &blixardv1.Command_DeleteNetwork{
		DeleteNetwork: &blixardv1.DeleteNetworkOp{Name: req.Msg.Name}}})
	return answer(&blixardv1.NetworkServiceDeleteResponse{Network: resp.GetNetwork()}, id, err)
}

func (s networks) List(ctx context.Context, req *connect.Request[blixardv1.NetworkServiceListRequest]) (*connect.Response[blixardv1.NetworkServiceListResponse], error) {
	view, err := s.read(ctx, req.Msg.Stale)
	if err != nil {
		return answer[blixardv1.NetworkServiceListResponse](nil, "", err)
	}
	out := &blixardv1.NetworkServiceListResponse{Revision: view.Revision()}
	view.Networks(func(n *blixardv1.ClusterNetwork) bool {
		out.Networks = append(out.Networks, n)
		return true
	})
	return answer(out, "", nil)
}

// mostAddresses are shown of a network.
const mostAddresses = 1000

func (s networks) Get(ctx context.Context, req *connect.Request[blixardv1.NetworkServiceGetRequest]) (*connect.Response[blixardv1.NetworkServiceGetResponse], error) {
	out, err := s.get(ctx, req.Msg)
	return answer(out, "", err)
}

func (s networks) get(ctx context.Context, m *blixardv1.NetworkServiceGetRequest) (*blixardv1.NetworkServiceGetResponse, error) {
	if err := check(cluster.ValidateName(m.Name)); err != nil {
		return nil, err
	}
	view, err := s.read(ctx, m.Stale)
	if err != nil {
		return nil, err
	}
	out := &blixardv1.NetworkServiceGetResponse{Network: view.Network(m.Name)}
	if out.Network == nil {
		return nil, refuse(blixardv1.ErrorCode_ERROR_CODE_NOT_FOUND, "", fmt.Sprintf("there is no network named %q", m.Name),
			"'blixard network list' shows those there are")
	}
	out.Size, out.Used = view.NetworkUse(m.Name)
	view.Addresses(m.Name, func(address, vm string) bool {
		out.Addresses = append(out.Addresses, &blixardv1.NetworkAddress{Address: address, Vm: vm})
		return len(out.Addresses) < mostAddresses
	})
	return out, nil
}
