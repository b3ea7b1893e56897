package cluster

import (
	"fmt"

	"google.golang.org/protobuf/types/known/timestamppb"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Apply takes the entry of the given index and term. Entries come in the order
// of the log, each once; parts of them become part of the state. A nil command (Raft's own entries) only moves the
// index. The answer is the proposer's, and the one that a retry gets.
func (s *State) Apply(index, term uint64, cmd *blixardv1.Command) *blixardv1.Response {
	if index <= s.meta.GetApplied() {
		panic(fmt.Sprintf("cluster: entry %d applied after %d", index, s.meta.GetApplied()))
	}
	m := copyMeta(s.meta)
	m.Applied, m.AppliedTerm = index, term
	m.LoggedTime = max(m.LoggedTime, cmd.GetLoggedTime())
	s.meta = m
	resp := s.apply(term, cmd)
	s.put(metaKey, s.meta)
	return resp
}

func (s *State) apply(term uint64, cmd *blixardv1.Command) *blixardv1.Response {
	if cmd == nil {
		return nil
	}
	e := entry{index: s.meta.Applied, term: term, cmd: cmd}
	s.forget()
	if resp := s.recall(cmd); resp != nil {
		return resp
	}
	resp := s.do(&e)
	if resp == nil {
		resp = &blixardv1.Response{}
	}
	resp.Revision = e.index
	s.placeMore(&e)
	s.drainMore(&e)
	s.remember(cmd, resp)
	return resp
}

// entry is the entry being applied, as the operations see it.
type entry struct {
	index, term uint64
	cmd         *blixardv1.Command
	events      int
}

func (e *entry) time() *timestamppb.Timestamp { return e.timeBefore(0) }

// timeBefore is the time so many nanoseconds before the entry, for show only.
func (e *entry) timeBefore(ns int64) *timestamppb.Timestamp {
	t := e.cmd.GetWallTime() - ns
	return &timestamppb.Timestamp{Seconds: t / 1e9, Nanos: int32(t % 1e9)}
}

func (s *State) do(e *entry) *blixardv1.Response {
	if s.meta.ClusterId == "" && e.cmd.GetInit() == nil {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "the cluster has not been initialised", "run 'blixard cluster init'")
	}
	switch op := e.cmd.GetOp().(type) {
	case *blixardv1.Command_Init:
		return s.initialise(e, op.Init)
	case *blixardv1.Command_CreateVm:
		return s.createVM(e, op.CreateVm)
	case *blixardv1.Command_DeleteVm:
		return s.deleteVM(e, op.DeleteVm)
	case *blixardv1.Command_Power:
		return s.power(e, op.Power)
	case *blixardv1.Command_Pause:
		return s.pause(e, op.Pause)
	case *blixardv1.Command_Cordon:
		return s.cordon(e, op.Cordon)
	case *blixardv1.Command_Drain:
		return s.drain(e, op.Drain)
	case *blixardv1.Command_RestoreNode:
		return s.restoreNode(e, op.RestoreNode)
	case *blixardv1.Command_AddNode:
		return s.addNode(e, op.AddNode)
	case *blixardv1.Command_RemoveNode:
		return s.removeNode(e, op.RemoveNode)
	case *blixardv1.Command_HostBoot:
		return s.hostBoot(e, op.HostBoot)
	case *blixardv1.Command_HostReport:
		return s.hostReport(e, op.HostReport)
	case *blixardv1.Command_Suspect:
		return s.suspect(e, op.Suspect)
	case *blixardv1.Command_Level:
		return s.level(e, op.Level)
	case *blixardv1.Command_Clone:
		return s.cloned(e, op.Clone)
	case *blixardv1.Command_Fence:
		return s.fence(e, op.Fence)
	case *blixardv1.Command_Announce:
		return s.announce(e, op.Announce)
	case *blixardv1.Command_Tag:
		return s.tag(e, op.Tag)
	case *blixardv1.Command_Collect:
		return s.collect(e)
	case *blixardv1.Command_Place:
		return nil
	case *blixardv1.Command_UpdateVm:
		return s.updateVM(e, op.UpdateVm)
	case *blixardv1.Command_RollbackVm:
		return s.rollbackVM(e, op.RollbackVm)
	case *blixardv1.Command_BuildVm:
		return s.buildVM(e, op.BuildVm)
	case *blixardv1.Command_SetPins:
		return s.setPins(e, op.SetPins)
	case *blixardv1.Command_SetSettings:
		return s.setSettings(e, op.SetSettings)
	case *blixardv1.Command_CreateNetwork:
		return s.createNetwork(e, op.CreateNetwork)
	case *blixardv1.Command_DeleteNetwork:
		return s.deleteNetwork(e, op.DeleteNetwork)
	case *blixardv1.Command_CreateVolume:
		return s.createVolume(e, op.CreateVolume)
	case *blixardv1.Command_GrowVolume:
		return s.growVolume(e, op.GrowVolume)
	case *blixardv1.Command_DeleteVolume:
		return s.deleteVolume(e, op.DeleteVolume)
	case *blixardv1.Command_CreateSnapshot:
		return s.createSnapshot(e, op.CreateSnapshot)
	case *blixardv1.Command_DeleteSnapshot:
		return s.deleteSnapshot(e, op.DeleteSnapshot)
	case *blixardv1.Command_RestoreSnapshot:
		return s.restoreSnapshot(e, op.RestoreSnapshot)
	case *blixardv1.Command_CloneSnapshot:
		return s.cloneSnapshot(e, op.CloneSnapshot)
	case *blixardv1.Command_AddSnapshot:
		return s.addSnapshot(e, op.AddSnapshot)
	case *blixardv1.Command_SnapshotAdded:
		return s.snapshotAdded(e, op.SnapshotAdded)
	case *blixardv1.Command_Restore:
		return s.restore(e, op.Restore)
	case *blixardv1.Command_Settle:
		return s.settle(e, op.Settle)
	case *blixardv1.Command_Readmit:
		return s.readmit(e, op.Readmit)
	case *blixardv1.Command_MigrateVm:
		return s.migrate(e, op.MigrateVm)
	case *blixardv1.Command_CancelMigration:
		return s.cancelMigration(e, op.CancelMigration)
	case *blixardv1.Command_Switch:
		return s.switchOver(e, op.Switch)
	}
	return refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, "this server does not know the operation", "upgrade it")
}

func (s *State) initialise(e *entry, op *blixardv1.InitOp) *blixardv1.Response {
	if s.meta.ClusterId != "" {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "the cluster is initialised already", "")
	}
	s.meta.ClusterId, s.meta.Generation, s.meta.Settings = op.ClusterId, op.Generation, op.Settings
	return s.addNode(e, op.Node)
}

func refuse(code blixardv1.ErrorCode, message, advice string) *blixardv1.Response {
	return &blixardv1.Response{Error: &blixardv1.Error{Code: code, Message: message, Advice: advice}}
}

func vmResponse(vm *blixardv1.VM) *blixardv1.Response {
	return &blixardv1.Response{Result: &blixardv1.Response_Vm{Vm: vm}}
}

func nodeResponse(n *blixardv1.Node) *blixardv1.Response {
	return &blixardv1.Response{Result: &blixardv1.Response_Node{Node: n}}
}

func artifactResponse(a *blixardv1.ArtifactRecord) *blixardv1.Response {
	return &blixardv1.Response{Result: &blixardv1.Response_Artifact{Artifact: a}}
}
