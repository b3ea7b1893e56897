package runner

import (
	"testing"

	"github.com/blixard/blixard/vmm"
)

// A guest that is stopped as soon as it runs ends by itself, though its kernel has not
// heard the first press of its power button.
func TestAGuestThatBootsHearsItsButton(t *testing.T) {
	t.Parallel()
	r := qemuRig(t)
	i, a := instance("1-1", 1), r.vm("1-1", "")
	r.must(vmm.Start, i, a)
	r.ready(i)
	r.must(vmm.Stop, i, a)
	if e := r.exit(i, Exited); e.Code != 0 {
		t.Error(e)
	}
}
