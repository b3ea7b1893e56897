package cluster

import (
	"fmt"
	"strings"
	"testing"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// What nothing needs is forgotten after an hour; what a VM needs, or has a name,
// is kept.
func TestWhatNothingNeedsIsForgotten(t *testing.T) {
	d := newDriver()
	d.boot(FirstID)
	digest := func(i int) string { return strings.Repeat(fmt.Sprint(i), 64) }
	for i := range 3 {
		d.request(&blixardv1.Command{Op: &blixardv1.Command_Announce{Announce: &blixardv1.AnnounceOp{Digest: digest(i), Size: 1, NodeId: FirstID}}})
	}
	d.request(&blixardv1.Command{Op: &blixardv1.Command_Tag{Tag: &blixardv1.TagOp{Digest: digest(1), Name: "kernel"}}})
	vm := createOp("web", 64, blixardv1.OnHostLoss_ON_HOST_LOSS_REPLACE)
	vm.GetCreateVm().Spec.Source = &blixardv1.VMSpec_Image{Image: &blixardv1.Image{Kernel: &blixardv1.Artifact{Digest: digest(2), Size: 1}}}
	if r := d.request(vm); r.GetError() != nil {
		t.Fatal(r)
	}
	has := func() (list string) {
		for i := range 3 {
			if d.Artifact(digest(i)) != nil {
				list += fmt.Sprint(i)
			}
		}
		return list
	}
	collect := func(after uint64) {
		d.now += after
		d.apply(&blixardv1.Command{Op: &blixardv1.Command_Collect{Collect: &blixardv1.CollectOp{}}})
	}
	const minute = 60 * 1e9
	if collect(55 * minute); has() != "012" || d.CollectDue(d.now) {
		t.Errorf("before the hour is over there are %s", has())
	}
	if !d.CollectDue(d.now + 10*minute) {
		t.Error("nothing is ever due")
	}
	if collect(10 * minute); has() != "12" {
		t.Errorf("after it there are %s", has())
	}
	// Only the end of the VM begins its kernel's hour.
	d.request(&blixardv1.Command{Op: &blixardv1.Command_DeleteVm{DeleteVm: &blixardv1.DeleteVMOp{Name: "web"}}})
	d.fenceHost(FirstID, false)
	d.fenceHost(FirstID, true)
	if d.VM("web") != nil {
		t.Fatal("the VM is there")
	}
	if collect(55 * minute); has() != "12" {
		t.Errorf("within an hour of its VM's end there are %s", has())
	}
	if collect(10 * minute); has() != "1" {
		t.Errorf("at the end there are %s", has())
	}
	d.request(&blixardv1.Command{Op: &blixardv1.Command_Tag{Tag: &blixardv1.TagOp{Digest: digest(1)}}})
	if collect(65 * minute); has() != "" {
		t.Errorf("without its name there are %s", has())
	}
}
