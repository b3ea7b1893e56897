package cluster

import (
	"strings"
	"testing"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A disk grows, its host's room allowing, and never shrinks: not by an update, and
// not by a rollback.
func TestDisksOnlyGrow(t *testing.T) {
	d := plugged("10.1.0.0/24")
	spec := func(size uint64, readOnly bool) *blixardv1.VMSpec {
		s := imageSpec()
		s.GetImage().Disks = []*blixardv1.Disk{{Name: "data", SizeMib: size, Source: aKernel, ReadOnly: readOnly}}
		return s
	}
	d.request(&blixardv1.Command{Op: &blixardv1.Command_CreateVm{CreateVm: &blixardv1.CreateVMOp{Name: "a", Spec: spec(100, false)}}})
	update := func(s *blixardv1.VMSpec) *blixardv1.Error {
		return d.request(&blixardv1.Command{Op: &blixardv1.Command_UpdateVm{UpdateVm: &blixardv1.UpdateVMOp{Name: "a", Spec: s}}}).GetError()
	}
	if err := update(spec(300, false)); err != nil || d.VM("a").Placement.DiskMib != 300 || d.Node(1).Host.Allocated.DiskMib != 300 {
		t.Fatal(err, d.VM("a").Placement)
	}
	for want, err := range map[string]*blixardv1.Error{
		"has 300 MiB, and 200 would cut off": update(spec(200, false)),
		"and does nothing else":              update(spec(300, true)),
		"makes a disk larger":                update(imageSpec()),
		"cannot take the new spec":           update(spec(2<<20, false)),
		"and 100 would cut off": d.request(&blixardv1.Command{Op: &blixardv1.Command_RollbackVm{
			RollbackVm: &blixardv1.RollbackVMOp{Name: "a"}}}).GetError(),
	} {
		if err == nil || !strings.Contains(err.Message, want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if got := d.VM("a").Spec.GetImage().Disks[0].SizeMib; got != 300 {
		t.Error(got)
	}
}
