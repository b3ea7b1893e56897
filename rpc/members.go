package rpc

import (
	"context"
	"fmt"
	"net"
	"strconv"

	"connectrpc.com/connect"

	"github.com/blixard/blixard/core"
	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// members is ClusterService.
type members struct{ *Server }

func (s members) Status(ctx context.Context, _ *connect.Request[blixardv1.StatusRequest]) (*connect.Response[blixardv1.StatusResponse], error) {
	st := s.cfg.Backend.Status()
	out := &blixardv1.StatusResponse{
		ClusterId: st.Identity.ClusterID, Generation: st.Identity.Generation, NodeId: st.Identity.ID, Node: st.Identity.Name,
		LeaderId: st.Leader, Term: st.Term, Committed: st.Committed, Applied: st.Applied,
		Nodes: st.Servers, Version: s.cfg.Version,
	}
	if st.Identity.ClusterID != "" && st.Identity.Server {
		// A node that is stopping has no copy to show; the rest is still true.
		if view, err := s.cfg.Backend.Read(ctx, true); err == nil && view != nil {
			out.Nodes, out.Settings, out.Applied = nodesOf(view), view.Settings(), view.Revision()
			out.StateHash = fmt.Sprintf("%016x", view.Hash())
		}
	}
	out.Summary = summary(st, out.Nodes)
	return answer(out, "", nil)
}

// summary says in one sentence how the cluster is, seen from here.
func summary(st core.Status, nodes []*blixardv1.Node) string {
	voters, leader := 0, ""
	for _, n := range nodes {
		if n.Server == blixardv1.ServerState_SERVER_STATE_VOTER {
			voters++
		}
		if n.Id == st.Leader {
			leader = n.Name
		}
	}
	switch {
	case st.Identity.ClusterID == "":
		return "This node is in no cluster: make one with 'blixard cluster init', or enter one with 'blixard cluster join SERVER'."
	case st.Removed:
		return "This node was removed from the cluster: it runs nothing any more, and has kept the files of what it ran. With an empty data directory it can join as a new node."
	case !st.Identity.Server && st.Granted:
		return fmt.Sprintf("This host has its lease, so it reaches the servers; ask one of the %d for more.", len(nodes))
	case !st.Identity.Server && st.Refusal != "":
		return "This host is heard, and gets no lease: " + st.Refusal + "."
	case !st.Identity.Server:
		return "This host has no lease: it reaches no leader. Look at 'blixard cluster status' on the servers."
	case st.Quorum && voters == 1:
		return "There is a quorum, of a single server: its loss stops the cluster. Add two with 'blixard cluster join'."
	case st.Quorum:
		return fmt.Sprintf("There is a quorum of %d servers; %s leads.", voters, leader)
	}
	return fmt.Sprintf("There is no quorum: %d of %d servers must be up and reach each other. VMs that run go on while their leases last; nothing can be changed. Start the servers that are down.",
		voters/2+1, voters)
}

func (s members) Init(ctx context.Context, req *connect.Request[blixardv1.InitRequest]) (*connect.Response[blixardv1.InitResponse], error) {
	if err := s.outside(); err != nil {
		return answer[blixardv1.InitResponse](nil, "", err)
	}
	if _, err := cluster.CompleteSettings(req.Msg.Settings); err != nil {
		return answer[blixardv1.InitResponse](nil, "", refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, "settings", err.Error(), "leave a field empty for its default"))
	}
	out, err := s.cfg.Backend.Init(ctx, req.Msg)
	return answer(out, "", err)
}

func (s members) Join(ctx context.Context, req *connect.Request[blixardv1.JoinRequest]) (*connect.Response[blixardv1.JoinResponse], error) {
	if err := s.outside(); err != nil {
		return answer[blixardv1.JoinResponse](nil, "", err)
	}
	if err := checkAddress("server", req.Msg.Server); err != nil {
		return answer[blixardv1.JoinResponse](nil, "", err)
	}
	out, err := s.cfg.Backend.Join(ctx, req.Msg)
	return answer(out, "", err)
}

// outside refuses what only a node without a cluster can do.
func (s members) outside() error {
	id := s.cfg.Backend.Status().Identity
	if id.ClusterID == "" {
		return nil
	}
	return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "",
		fmt.Sprintf("this node is in a cluster already (%s, as %s)", id.ClusterID, id.Name),
		"to move it, remove it there with 'blixard cluster remove' and start it with an empty data directory")
}

func (s members) AddMember(ctx context.Context, req *connect.Request[blixardv1.AddMemberRequest]) (*connect.Response[blixardv1.AddMemberResponse], error) {
	out, id, err := s.addMember(ctx, req.Msg)
	return answer(out, id, err)
}

func (s members) addMember(ctx context.Context, m *blixardv1.AddMemberRequest) (*blixardv1.AddMemberResponse, string, error) {
	if err := onlyNodes(ctx); err != nil {
		return nil, "", err
	}
	if err := check(cluster.ValidateName(m.Name)); err != nil {
		return nil, "", err
	}
	if err := checkAddress("address", m.Address); err != nil {
		return nil, "", err
	}
	resp, id, err := s.mutate(ctx, m.RequestId, &blixardv1.Command{Op: &blixardv1.Command_AddNode{AddNode: &blixardv1.AddNodeOp{
		Name: m.Name, Address: m.Address, Server: m.Server, Host: m.Host, Level: m.Level}}})
	if err != nil {
		return nil, id, err
	}
	out, err := s.admitted(ctx, resp.GetNode())
	return out, id, err
}

// admitted is what a node must know that was just admitted by an entry that was
// applied here: this copy has the node, and its servers.
func (s members) admitted(ctx context.Context, n *blixardv1.Node) (*blixardv1.AddMemberResponse, error) {
	view, err := s.read(ctx, true)
	if err != nil {
		return nil, err
	}
	out := &blixardv1.AddMemberResponse{
		ClusterId: view.Meta().GetClusterId(), Generation: view.Meta().GetGeneration(), NodeId: n.GetId(), Name: n.GetName(),
	}
	for _, n := range nodesOf(view) {
		if n.Server != blixardv1.ServerState_SERVER_STATE_UNSPECIFIED {
			out.Servers = append(out.Servers, n)
		}
	}
	return out, nil
}

func (s members) RemoveMember(ctx context.Context, req *connect.Request[blixardv1.RemoveMemberRequest]) (*connect.Response[blixardv1.RemoveMemberResponse], error) {
	if err := check(cluster.ValidateName(req.Msg.Name)); err != nil {
		return answer[blixardv1.RemoveMemberResponse](nil, "", err)
	}
	resp, id, err := s.mutate(ctx, req.Msg.RequestId, &blixardv1.Command{Op: &blixardv1.Command_RemoveNode{
		RemoveNode: &blixardv1.RemoveNodeOp{Name: req.Msg.Name, Lost: req.Msg.Lost}}})
	return answer(&blixardv1.RemoveMemberResponse{Node: resp.GetNode()}, id, err)
}

func checkAddress(field, address string) error {
	host, port, err := net.SplitHostPort(address)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 || host == "" || len(address) > 300 {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, field, fmt.Sprintf("%.80q is no HOST:PORT that others could dial", address), "give it as 10.0.0.1:7420 or [fd00::1]:7420")
	}
	return nil
}
