package rpc

import (
	"context"
	"fmt"
	"slices"

	"connectrpc.com/connect"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// nodes is NodeService.
type nodes struct{ *Server }

func (s nodes) List(ctx context.Context, req *connect.Request[blixardv1.NodeServiceListRequest]) (*connect.Response[blixardv1.NodeServiceListResponse], error) {
	view, err := s.read(ctx, req.Msg.Stale)
	if err != nil {
		return answer[blixardv1.NodeServiceListResponse](nil, "", err)
	}
	return answer(&blixardv1.NodeServiceListResponse{Nodes: nodesOf(view), Revision: view.Revision()}, "", nil)
}

func nodesOf(view *cluster.State) (list []*blixardv1.Node) {
	view.Nodes(func(n *blixardv1.Node) bool {
		list = append(list, n)
		return true
	})
	return list
}

func (s nodes) Get(ctx context.Context, req *connect.Request[blixardv1.NodeServiceGetRequest]) (*connect.Response[blixardv1.NodeServiceGetResponse], error) {
	out, err := s.get(ctx, req.Msg)
	return answer(out, "", err)
}

func (s nodes) get(ctx context.Context, m *blixardv1.NodeServiceGetRequest) (*blixardv1.NodeServiceGetResponse, error) {
	if err := check(cluster.ValidateName(m.Name)); err != nil {
		return nil, err
	}
	view, err := s.read(ctx, m.Stale)
	if err != nil {
		return nil, err
	}
	n := view.NodeByName(m.Name)
	if n == nil {
		return nil, refuse(blixardv1.ErrorCode_ERROR_CODE_NOT_FOUND, "", fmt.Sprintf("there is no node named %q", m.Name),
			"'blixard node list' shows those there are")
	}
	out := &blixardv1.NodeServiceGetResponse{Node: n}
	if n.Drain != nil {
		out.Moves = view.DrainMoves(false, n)
	}
	view.Placed(n.Id, func(vm *blixardv1.VM) bool {
		out.Vms = append(out.Vms, vm.Name)
		return true
	})
	return out, nil
}

func (s nodes) Cordon(ctx context.Context, req *connect.Request[blixardv1.CordonRequest]) (*connect.Response[blixardv1.CordonResponse], error) {
	n, id, err := s.cordon(ctx, req.Msg.RequestId, req.Msg.Name, true)
	return answer(&blixardv1.CordonResponse{Node: n}, id, err)
}

func (s nodes) Uncordon(ctx context.Context, req *connect.Request[blixardv1.UncordonRequest]) (*connect.Response[blixardv1.UncordonResponse], error) {
	n, id, err := s.cordon(ctx, req.Msg.RequestId, req.Msg.Name, false)
	return answer(&blixardv1.UncordonResponse{Node: n}, id, err)
}

func (s nodes) cordon(ctx context.Context, givenID, name string, cordoned bool) (*blixardv1.Node, string, error) {
	if err := check(cluster.ValidateName(name)); err != nil {
		return nil, "", err
	}
	resp, id, err := s.mutate(ctx, givenID, &blixardv1.Command{Op: &blixardv1.Command_Cordon{
		Cordon: &blixardv1.CordonOp{Name: name, Cordoned: cordoned}}})
	return resp.GetNode(), id, err
}

func (s nodes) Drain(ctx context.Context, req *connect.Request[blixardv1.NodeServiceDrainRequest]) (*connect.Response[blixardv1.NodeServiceDrainResponse], error) {
	out, id, err := s.drain(ctx, req.Msg)
	return answer(out, id, err)
}

func (s nodes) drain(ctx context.Context, m *blixardv1.NodeServiceDrainRequest) (*blixardv1.NodeServiceDrainResponse, string, error) {
	if err := check(cluster.ValidateName(m.Name)); err != nil {
		return nil, "", err
	}
	op := &blixardv1.DrainOp{Name: m.Name, Parallel: m.Parallel, StopLocal: m.StopLocal}
	if m.ValidateOnly {
		view, err := s.read(ctx, false)
		if err != nil {
			return nil, "", err
		}
		var all []*blixardv1.Node
		for _, name := range append([]string{m.Name}, m.Also...) {
			op.Name = name
			if err := check(view.MayDrain(op)); err != nil {
				return nil, "", err
			}
			if n := view.NodeByName(name); !slices.Contains(all, n) {
				all = append(all, n)
			}
		}
		return &blixardv1.NodeServiceDrainResponse{Node: all[0], Moves: view.DrainMoves(m.StopLocal, all...)}, "", nil
	}
	resp, id, err := s.mutate(ctx, m.RequestId, &blixardv1.Command{Op: &blixardv1.Command_Drain{Drain: op}})
	return &blixardv1.NodeServiceDrainResponse{Node: resp.GetNode()}, id, err
}

func (s nodes) Restore(ctx context.Context, req *connect.Request[blixardv1.NodeServiceRestoreRequest]) (*connect.Response[blixardv1.NodeServiceRestoreResponse], error) {
	m := req.Msg
	if err := check(cluster.ValidateName(m.Name)); err != nil {
		return answer[blixardv1.NodeServiceRestoreResponse](nil, "", err)
	}
	resp, id, err := s.mutate(ctx, m.RequestId, &blixardv1.Command{Op: &blixardv1.Command_RestoreNode{
		RestoreNode: &blixardv1.RestoreNodeOp{Name: m.Name}}})
	return answer(&blixardv1.NodeServiceRestoreResponse{Node: resp.GetNode()}, id, err)
}
