package cluster

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A restore begins the cluster's next generation from the state of a backup. What
// happened between the backup and the loss nobody knows any more: any VM may live
// on any host of the earlier generation, under a lease that the last leader of
// that generation granted. So nothing that the earlier generation made is started
// until a leader has led for the long window: neither placed, nor started again on
// the host that it has. What is created from now on is another matter, unless it has an address, which another may have been given.
//
// Servers of the earlier generation are none in this. Its hosts remain, silent,
// with whatever is placed on them; they are fenced like any other, and come back
// by Readmit.

// RestoreGap is how far the revisions of a generation are from those of a backup:
// further than the generation before can have come since.
const RestoreGap = 1 << 32

func (s *State) restore(e *entry, op *blixardv1.RestoreOp) *blixardv1.Response {
	s.meta.Generation++
	s.meta.Restored, s.meta.Unsettled = e.index, !op.HostsOff && !mutant.On("RestoreStartsAtOnce")
	s.meta.Voters, s.meta.Learners = nil, nil
	// Whoever watched has seen another future.
	s.meta.RemovedFloor, s.meta.EventFloor = e.index, e.index
	var nodes []*blixardv1.Node
	s.Nodes(func(n *blixardv1.Node) bool {
		nodes = append(nodes, n)
		return true
	})
	for _, n := range nodes {
		if n.Host == nil && n.Id != op.NodeId {
			s.removed(e, n.Id)
			continue
		}
		n = clone(n)
		n.Server, n.Revision = blixardv1.ServerState_SERVER_STATE_UNSPECIFIED, e.index
		n.Host.SnapshotRevision = e.index
		n.Host.PrepareRevision = e.index                      // what it holds ready may be of the time since
		if n.Name == op.Node.GetName() && n.Id != op.NodeId { // its machine founds the generation, as another node
			n.Name = freeName(s, n.Name, s.meta.Generation-1)
			s.renamed(n)
		}
		s.put(nodeKey(n.Id), n)
	}
	s.leap(e)
	s.event(e, "ClusterRestored", "", op.Node.GetName(), "generation %d, from a backup at revision %d", s.meta.Generation, e.index-RestoreGap)
	if op.NodeId == 0 {
		return s.addNode(e, op.Node)
	}
	return s.readmit(e, &blixardv1.ReadmitOp{NodeId: op.NodeId, Generation: s.meta.Generation - 1, Node: op.Node})
}

// leapBy is more runs, and more specs, than a VM was given between the backup and
// the loss.
const leapBy = 10_000

// leap takes every VM's counters beyond what its host may have seen of them: a
// start, or a spec, that is asked for from now on is none that it knows. So what
// should run and has ended by itself is started again.
func (s *State) leap(e *entry) {
	var all []*blixardv1.VM
	s.VMs("", func(vm *blixardv1.VM) bool {
		all = append(all, vm)
		return true
	})
	for _, vm := range all {
		vm = copyVM(vm)
		vm.RunGeneration += leapBy
		vm.SpecGeneration += leapBy
		if moving(vm) { // how it ended nobody knows
			s.abandon(e, vm, nil, "the cluster was restored from a backup")
		}
		s.put(vmKey(vm.Name), vm)
	}
}

// freeName names a node after the generation that it was of.
func freeName(s *State, name string, generation uint64) string {
	for i := generation; ; i++ {
		suffix := "-gen" + strconv.FormatUint(i, 10)
		if free := name[:min(len(name), maxName-len(suffix))] + suffix; s.NodeByName(free) == nil {
			return free
		}
	}
}

// renamed writes a node's name into what is placed there.
func (s *State) renamed(n *blixardv1.Node) {
	var placed []*blixardv1.VM
	s.Placed(n.Id, func(vm *blixardv1.VM) bool {
		placed = append(placed, vm)
		return true
	})
	for _, vm := range placed {
		vm = clone(vm)
		at(vm, n.Id).Node = n.Name
		s.put(vmKey(vm.Name), vm)
	}
}

// Unsettled says that a VM may still be alive where nobody knows, or that one which
// nobody knows may have its address.
func (s *State) Unsettled(vm *blixardv1.VM) bool {
	if !s.meta.GetUnsettled() {
		return false
	}
	return !strings.HasPrefix(vm.Uid, strconv.FormatUint(s.meta.Generation, 10)+"-") ||
		slices.ContainsFunc(vm.Attachments, func(a *blixardv1.Attachment) bool { return a.Network != "" })
}

// Held says why a host gets no lease: it is of an earlier generation, and what is
// placed on it may live on another by now. It is "" for one that may.
func (s *State) Held(n *blixardv1.Node) string {
	if !s.meta.GetUnsettled() || n.GetId() >= s.meta.Restored {
		return ""
	}
	return "the cluster was restored from a backup: what ran on its hosts may have moved since, so they get leases again when the longest one has surely ended"
}

// SettledAfter is how long a leader of a restored cluster leads, in nanoseconds,
// before all that the earlier generation granted has surely ended.
func (s *State) SettledAfter() int64 {
	if mutant.On("SettledTooSoon") {
		return s.LeastWindow(false)
	}
	longest := s.LeastWindow(true)
	s.Nodes(func(n *blixardv1.Node) bool {
		if n.Host != nil {
			longest = max(longest, s.WindowOf(n, true))
		}
		return true
	})
	return longest
}

func (s *State) settle(e *entry, op *blixardv1.SettleOp) *blixardv1.Response {
	if op.Term != e.term || op.WaitedNs < s.SettledAfter() || !s.meta.Unsettled {
		return nil
	}
	s.meta.Unsettled = false
	s.event(e, "ClusterSettled", "", "", "what generation %d has granted has surely ended: its VMs may be started", s.meta.Generation-1)
	s.freed()
	return nil
}

// readmit takes a node of an earlier generation in again. Its log is of another
// cluster by now, so a server begins as a learner; a host keeps what is placed on
// it, and gets its next epoch as after a silence.
func (s *State) readmit(e *entry, op *blixardv1.ReadmitOp) *blixardv1.Response {
	old := s.Node(op.NodeId)
	switch {
	case old == nil || old.Id >= s.meta.Restored:
		return refuse(blixardv1.ErrorCode_ERROR_CODE_NOT_FOUND,
			fmt.Sprintf("there is no node %d of generation %d here", op.NodeId, op.Generation),
			"the backup does not know it, or it was removed since: let it join as a new node, with an empty data directory")
	case op.Generation >= s.meta.Generation:
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION,
			fmt.Sprintf("the node is of generation %d, and so is this cluster", op.Generation), "start it: it is a member")
	case op.Node.GetLevel() < s.meta.Settings.GetLevel():
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION,
			fmt.Sprintf("the cluster is at level %d, and this node knows only %d", s.meta.Settings.GetLevel(), op.Node.GetLevel()), "upgrade blixard on that node")
	case op.Node.GetServer() && old.Server == blixardv1.ServerState_SERVER_STATE_UNSPECIFIED && s.servers() >= MaxServers:
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION,
			fmt.Sprintf("the cluster has %d servers, which is the most it can have", MaxServers), "start it with --role host, and readmit it as that")
	}
	n := clone(old)
	n.Address, n.Level, n.Revision = op.Node.GetAddress(), op.Node.GetLevel(), e.index
	if op.Node.GetServer() && n.Server == blixardv1.ServerState_SERVER_STATE_UNSPECIFIED {
		n.Server = blixardv1.ServerState_SERVER_STATE_JOINING
	}
	s.put(nodeKey(n.Id), n)
	s.raise(e)
	s.event(e, "NodeReadmitted", "", n.Name, "of generation %d, at %s", op.Generation, n.Address)
	return nodeResponse(n)
}
