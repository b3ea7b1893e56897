package cluster

import (
	"fmt"
	"slices"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func noNode(name string) *blixardv1.Response {
	return refuse(blixardv1.ErrorCode_ERROR_CODE_NOT_FOUND, fmt.Sprintf("there is no node named %q", name), "'blixard node list' shows those there are")
}

// MaxServers is the most voters that a cluster has.
const MaxServers = 7

// addNode admits a node. Its id is the index of the entry, so that no id is
// used twice; the first node's is 1. A server is only noted here: the leader
// sees the difference to the Raft configuration, and changes that.
func (s *State) addNode(e *entry, op *blixardv1.AddNodeOp) *blixardv1.Response {
	if err := ValidateName(op.GetName()); err != nil {
		return &blixardv1.Response{Error: err}
	}
	if !op.Server && !op.Host {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, "a node must be a server, a host, or both", "")
	}
	if s.NodeByName(op.Name) != nil {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_ALREADY_EXISTS, "a node named "+op.Name+" exists",
			"use another name, or remove the old node first: a node that lost its disk returns as a new one")
	}
	if level := s.meta.Settings.GetLevel(); op.Level < level {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION,
			fmt.Sprintf("the cluster is at level %d, and this node knows only %d", level, op.Level), "upgrade blixard on that node")
	}
	if op.Server && s.servers() >= MaxServers {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION,
			fmt.Sprintf("the cluster has %d servers, which is the most it can have", MaxServers), "let it join as a host only")
	}
	n := &blixardv1.Node{Id: e.index, Name: op.Name, Address: op.Address, CreateTime: e.time(), Revision: e.index, Level: op.Level}
	if e.cmd.GetInit() != nil {
		n.Id = FirstID
	}
	if op.Server {
		n.Server = blixardv1.ServerState_SERVER_STATE_JOINING
		if slices.Contains(s.meta.Voters, n.Id) {
			n.Server = blixardv1.ServerState_SERVER_STATE_VOTER
		}
	}
	if op.Host {
		n.Host = &blixardv1.HostState{}
	}
	s.put(nodeKey(n.Id), n)
	s.event(e, "NodeAdded", "", n.Name, "at %s", n.Address)
	if op.Host {
		s.retarget(e)
	}
	return nodeResponse(n)
}

// FirstID is the id of the node that founds a cluster.
const FirstID = 1

func (s *State) servers() (n int) {
	s.Servers(func(node *blixardv1.Node) bool {
		if node.Server != blixardv1.ServerState_SERVER_STATE_LEAVING {
			n++
		}
		return true
	})
	return n
}

// removeNode takes a node out. A host must have nothing left that may run, or be
// lost; a server leaves the Raft configuration first, which the leader sees to.
func (s *State) removeNode(e *entry, op *blixardv1.RemoveNodeOp) *blixardv1.Response {
	old := s.NodeByName(op.Name)
	if old == nil {
		return noNode(op.Name)
	}
	if op.Lost {
		if no := s.mayLose(old); no != nil {
			return no
		}
	} else if k := old.GetHost().GetInstances(); k > 0 {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION,
			fmt.Sprintf("%s placed on %s and may run there", count(k, "VM is", "VMs are"), op.Name),
			"'blixard node drain "+op.Name+"' moves them to other hosts, and says which cannot go: delete those, or wait for room. Should the machine be lost for good: 'blixard cluster remove --lost "+op.Name+"'")
	}
	if k := len(s.volumesOf(old.Id)); k > 0 && !op.Lost {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION,
			fmt.Sprintf("%s on %s", count(uint32(k), "volume is", "volumes are"), op.Name),
			"delete them ('blixard volume list' shows them), or copy what they hold elsewhere first. Should the machine be lost for good: 'blixard cluster remove --lost "+op.Name+"'")
	}
	if k := len(s.copiesOf(old.Id)); k > 0 && !op.Lost {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION,
			fmt.Sprintf("%s has not removed yet what it has of %s that moved", op.Name, count(uint32(k), "volume", "volumes")),
			"wait until it has, which 'blixard volume get NAME -o json' shows. Should the machine be lost for good: 'blixard cluster remove --lost "+op.Name+"'")
	}
	if resp := s.keepsSome(old); resp != nil && !op.Lost {
		return resp
	}
	server := old.Server != blixardv1.ServerState_SERVER_STATE_UNSPECIFIED
	if server && old.Server != blixardv1.ServerState_SERVER_STATE_LEAVING && s.servers() == 1 {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, op.Name+" is the last server", "add another server first")
	}
	if slices.Equal(s.meta.Voters, []uint64{old.Id}) {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, op.Name+" is the only server that votes yet",
			"'blixard cluster status' shows when another one is a voter; remove it then")
	}
	n := clone(old)
	if op.Lost && n.Host != nil {
		s.lose(e, n)
	}
	s.loseSnapshots(e, n)
	n.Host, n.Cordoned, n.Drain = nil, true, nil
	s.event(e, "NodeRemoved", "", n.Name, "removed")
	if server {
		n.Server = blixardv1.ServerState_SERVER_STATE_LEAVING
		s.put(nodeKey(n.Id), n)
	} else {
		s.removed(e, n.Id)
	}
	if old.Host != nil {
		s.retarget(e)
	}
	return nodeResponse(n)
}

// count puts a number before one of two words.
func count(n uint32, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

func (s *State) removed(e *entry, id uint64) {
	if n := s.Node(id); n != nil {
		s.bury(e, &blixardv1.Removed{NodeId: id, Name: n.Name})
	}
	s.del(nodeKey(id))
	s.raise(e)
	var held []*blixardv1.ArtifactRecord
	s.Artifacts(func(a *blixardv1.ArtifactRecord) bool {
		if slices.Contains(a.Nodes, id) {
			held = append(held, a)
		}
		return true
	})
	for _, a := range held {
		a = clone(a)
		a.Nodes = slices.DeleteFunc(a.Nodes, func(n uint64) bool { return n == id })
		s.put(artifactKey(a.Digest), a)
	}
}

// Reconfigure applies an entry that changed the Raft configuration.
func (s *State) Reconfigure(index, term uint64, voters, learners []uint64) {
	s.Apply(index, term, nil)
	s.meta.Voters, s.meta.Learners = slices.Clone(voters), slices.Clone(learners)
	var nodes []*blixardv1.Node
	s.Servers(func(n *blixardv1.Node) bool {
		nodes = append(nodes, n)
		return true
	})
	e := &entry{index: index, term: term}
	for _, n := range nodes {
		want := n.Server
		switch {
		case n.Server == blixardv1.ServerState_SERVER_STATE_LEAVING:
			if !slices.Contains(voters, n.Id) && !slices.Contains(learners, n.Id) {
				s.removed(e, n.Id)
			}
			continue
		case slices.Contains(voters, n.Id):
			want = blixardv1.ServerState_SERVER_STATE_VOTER
		case slices.Contains(learners, n.Id):
			want = blixardv1.ServerState_SERVER_STATE_LEARNER
		}
		if want != n.Server {
			n = clone(n)
			n.Server = want
			s.put(nodeKey(n.Id), n)
		}
	}
	s.put(metaKey, s.meta)
}
