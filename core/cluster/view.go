package cluster

import (
	"fmt"
	"strings"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Everything that a State hands out is shared and must not be changed.

// Revision is the index of the last applied entry.
func (s *State) Revision() uint64 { return s.meta.GetApplied() }

// Meta is what is one of a kind.
func (s *State) Meta() *blixardv1.Meta { return s.meta }

// Settings are the constants that every node agrees on; nil before Init.
func (s *State) Settings() *blixardv1.Settings { return s.meta.GetSettings() }

// VM returns a VM by its name, or nil.
func (s *State) VM(name string) *blixardv1.VM { return get[*blixardv1.VM](s, vmKey(name)) }

// Shown is a VM as a reader should see it. Of a host that is not heard of, the
// status is only its last word: what it said to run may run, or have ended.
func (s *State) Shown(vm *blixardv1.VM) *blixardv1.VM {
	n := s.Node(vm.GetPlacement().GetNodeId())
	if n.GetHost() == nil || !silent(n) {
		return vm
	}
	st := vm.GetStatus()
	switch st.GetPhase() {
	case blixardv1.Phase_PHASE_UNREACHABLE, blixardv1.Phase_PHASE_STOPPED, blixardv1.Phase_PHASE_FAILED:
		return vm
	}
	vm = clone(vm)
	if vm.Deleting {
		vm.Status.Message = s.deletionWaits(vm)
		return vm
	}
	vm.Status.Phase, vm.Status.Reason = blixardv1.Phase_PHASE_UNREACHABLE, "HostSilent"
	vm.Status.Message = fmt.Sprintf("its host %s has not been heard of%s; before, it was %s", n.Name, silentSince(n), phaseText(st.GetPhase()))
	return vm
}

// One is what is shown of one VM. Its records are shared, and must not be changed.
type One struct {
	// Revision is the state's that it was read in.
	Revision uint64
	VM       *blixardv1.VM   // as Shown; nil: nobody has the name
	Node     *blixardv1.Node // that it is placed on; nil: none
	History  []*blixardv1.Generation
}

// One reads one VM, for whoever needs no more: unlike a frozen state it costs the
// entries that follow nothing.
func (s *State) One(name string) *One {
	one := &One{Revision: s.Revision()}
	if vm := s.VM(name); vm != nil {
		one.VM, one.History = s.Shown(vm), s.History(name)
		one.Node = s.Node(vm.GetPlacement().GetNodeId())
	}
	return one
}

// silent hosts are not heard of.
func silent(n *blixardv1.Node) bool {
	return n.Host.GetSuspect() || n.Host.GetEpochState() != blixardv1.EpochState_EPOCH_STATE_ACTIVE
}

func silentSince(n *blixardv1.Node) string {
	if t := n.Host.GetSilentSince(); t != nil {
		return " since " + t.AsTime().Format("2006-01-02 15:04:05 UTC")
	}
	return " lately"
}

func phaseText(p blixardv1.Phase) string {
	return strings.ToLower(strings.TrimPrefix(p.String(), "PHASE_"))
}

// VMByUID returns a VM by its uid, or nil.
func (s *State) VMByUID(uid string) *blixardv1.VM {
	name, ok := s.uids.Get(uid)
	if !ok {
		return nil
	}
	return s.VM(name)
}

// VMs calls f for every VM whose name comes after the given one, in order,
// until f returns false.
func (s *State) VMs(after string, f func(*blixardv1.VM) bool) {
	ascend(s, vmPrefix, after, f)
}

// Node returns a node by its id, or nil.
func (s *State) Node(id uint64) *blixardv1.Node { return get[*blixardv1.Node](s, nodeKey(id)) }

// NodeByName returns a node by its name, or nil.
func (s *State) NodeByName(name string) *blixardv1.Node {
	id, ok := s.names.Get(name)
	if !ok {
		return nil
	}
	return s.Node(id)
}

// Nodes calls f for every node by ascending id until f returns false.
func (s *State) Nodes(f func(*blixardv1.Node) bool) { ascend(s, nodePrefix, "", f) }

// Servers calls f for every server, whatever its place in the Raft
// configuration, by ascending id until f returns false.
func (s *State) Servers(f func(*blixardv1.Node) bool) {
	s.server.Scan(func(id uint64, _ struct{}) bool { return f(s.Node(id)) })
}

// ServersVersion changes whenever something of what Servers shows does that says
// who they are and where: never for what a server holds as a host.
func (s *State) ServersVersion() uint64 { return s.serversVersion }

// Artifact returns what is known of an artifact, or nil.
func (s *State) Artifact(digest string) *blixardv1.ArtifactRecord {
	return get[*blixardv1.ArtifactRecord](s, artifactKey(digest))
}

// Artifacts calls f for every artifact by ascending digest until f returns false.
func (s *State) Artifacts(f func(*blixardv1.ArtifactRecord) bool) {
	ascend(s, artifactPrefix, "", f)
}

// Events calls f for the kept events after an index, oldest first.
func (s *State) Events(after uint64, f func(*blixardv1.Event) bool) {
	ascend(s, eventPrefix, be(after)+"\xff", f)
}

// Placed calls f for every VM that a host may be running, by ascending uid.
func (s *State) Placed(node uint64, f func(*blixardv1.VM) bool) {
	prefix := be(node)
	s.placed.Ascend(prefix, func(k string, _ struct{}) bool {
		return len(k) > 8 && k[:8] == prefix && f(s.VMByUID(k[8:]))
	})
}
