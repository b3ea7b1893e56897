package runner

import (
	"path/filepath"
	"testing"

	"github.com/blixard/blixard/core"
	"github.com/blixard/blixard/vmm"
)

// What a cluster that was restored from a backup knows nothing of is put aside, and not
// deleted; what it wants removed is.
func TestFilesOfAnOlderGenerationAreKept(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := program("1-5", "exit 0")
	i := instance("1-5", 1)
	remove := func(assigned bool) {
		b.must(vmm.Start, i, a)
		b.exit(i, "Exited")
		order := vmm.Action{ID: 990 + uint64(i.Attempt), Verb: vmm.Remove, Instance: i, Host: b.host()}
		order.Host.Generation++
		if assigned {
			order.Assignment = a
		}
		b.give(order)
		b.await("its removal", func(o core.Observed) bool {
			return len(o.Done) > 0 && o.Done[0].Action == order.ID && o.Done[0].Err == ""
		})
		b.report("absent", i, func(r vmm.Report) bool { return r.Liveness == vmm.Absent })
	}
	kept := func() int {
		all, _ := filepath.Glob(filepath.Join(b.h.at.left(), "1-5.*", "instance.json"))
		return len(all)
	}
	remove(true)
	if n := kept(); n != 0 {
		t.Errorf("%d were kept that the cluster wants removed", n)
	}
	i.Attempt++
	remove(false)
	if n := kept(); n != 1 {
		t.Errorf("%d were kept", n)
	}
}
