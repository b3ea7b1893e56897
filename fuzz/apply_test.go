package fuzz

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func founded() *cluster.State {
	settings, err := cluster.CompleteSettings(nil)
	if err != nil {
		panic(err)
	}
	s := cluster.New()
	s.Apply(1, 1, &blixardv1.Command{Op: &blixardv1.Command_Init{Init: &blixardv1.InitOp{
		ClusterId: "c", Generation: 1, Settings: settings,
		Node: &blixardv1.AddNodeOp{Name: "n1", Address: "a", Server: true, Host: true, Level: 1},
	}}})
	s.Apply(2, 1, &blixardv1.Command{Op: &blixardv1.Command_HostBoot{HostBoot: &blixardv1.HostBootOp{
		NodeId: 1, BootId: "b", Facts: &blixardv1.HostFacts{
			Capacity:    &blixardv1.Resources{Vcpus: 4, MemoryMib: 4096, DiskMib: 4096},
			Hypervisors: []*blixardv1.HypervisorFact{{Hypervisor: blixardv1.Hypervisor_HYPERVISOR_PROCESS}},
		},
	}}})
	return s
}

func seeds() (list [][]byte) {
	for _, cmd := range []*blixardv1.Command{
		{RequestId: "1", Op: &blixardv1.Command_CreateVm{CreateVm: &blixardv1.CreateVMOp{Name: "a", Spec: &blixardv1.VMSpec{
			Source: &blixardv1.VMSpec_Process{Process: &blixardv1.Process{Argv: []string{"/bin/true"}}},
		}}}},
		{RequestId: "2", Op: &blixardv1.Command_DeleteVm{DeleteVm: &blixardv1.DeleteVMOp{Name: "a"}}},
		{Op: &blixardv1.Command_Fence{Fence: &blixardv1.FenceOp{WaitedNs: 1 << 60, NodeId: 1, Epoch: 1, Term: 1}}},
		{Op: &blixardv1.Command_HostReport{HostReport: &blixardv1.HostReportOp{NodeId: 1, BootId: "b", Epoch: 1, Observations: []*blixardv1.Observation{
			{Uid: "1-3", Incarnation: &blixardv1.Incarnation{Generation: 1, Index: 3}, Sequence: 9, Removed: true, AssignmentRevision: 99},
		}}}},
		{Op: &blixardv1.Command_Announce{Announce: &blixardv1.AnnounceOp{Digest: "x", NodeId: 1}}},
		{Op: &blixardv1.Command_RemoveNode{RemoveNode: &blixardv1.RemoveNodeOp{Name: "n1"}}},
	} {
		b, err := proto.Marshal(cmd)
		if err != nil {
			panic(err)
		}
		list = append(list, b)
	}
	return list
}

// FuzzApply: whatever a command says, Apply answers and does not panic, and two
// replicas that apply it are equal.
func FuzzApply(f *testing.F) {
	for i, b := range seeds() {
		f.Add(b, seeds()[(i+1)%len(seeds())])
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		one, two := founded(), founded()
		index := uint64(2)
		for _, b := range append(seeds()[:1], first, second, first) {
			cmd := &blixardv1.Command{}
			if proto.Unmarshal(b, cmd) != nil {
				continue
			}
			index++
			a := one.Apply(index, 1, cmd)
			if !proto.Equal(a, two.Apply(index, 1, proto.Clone(cmd).(*blixardv1.Command))) {
				t.Fatalf("two answers to %v", cmd)
			}
		}
		if one.Hash() != two.Hash() {
			t.Fatal("two states")
		}
		back, err := cluster.Load(func(yield func(k, v []byte) bool) {
			one.Records(func(k string, v []byte) { yield([]byte(k), v) })
		})
		if err != nil {
			t.Fatal(err)
		}
		if back.Hash() != one.Hash() {
			t.Fatal("the state loads as another one")
		}
	})
}
