package cluster

import (
	"strings"
	"testing"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A VM that no host can run waits in vain, and its status names what is missing, as
// long as that is so; one that only finds no room is another matter.
func TestWhatNoHostCanRunSaysWhatIsMissing(t *testing.T) {
	d := plugged("10.1.0.0/24")
	spec := imageSpec()
	spec.Hypervisor = blixardv1.Hypervisor_HYPERVISOR_FIRECRACKER
	if err := d.request(&blixardv1.Command{Op: &blixardv1.Command_CreateVm{CreateVm: &blixardv1.CreateVMOp{Name: "web", Spec: spec}}}).GetError(); err != nil {
		t.Fatal(err)
	}
	is := func(reason, message string) {
		t.Helper()
		if st := d.VM("web").Status; st.Reason != reason || !strings.Contains(st.Message, message) {
			t.Errorf("%s %q, want %s %q", st.Reason, st.Message, reason, message)
		}
	}
	is(NoHostCan, "no host can run it: n1 has no Firecracker")
	was := d.VM("web").Status
	says := func(change func(*blixardv1.HostFacts)) {
		f := clone(d.Node(1).Host.Facts)
		change(f)
		d.apply(&blixardv1.Command{Op: &blixardv1.Command_HostReport{HostReport: &blixardv1.HostReportOp{NodeId: 1, BootId: d.Node(1).Host.BootId, Epoch: d.Node(1).Host.Epoch, Facts: f}}})
	}
	says(func(f *blixardv1.HostFacts) {})
	if d.VM("web").Status != was {
		t.Error("nothing is new, and it is written down again")
	}
	says(func(f *blixardv1.HostFacts) {
		f.Capacity = &blixardv1.Resources{}
		f.Hypervisors = []*blixardv1.HypervisorFact{{Hypervisor: blixardv1.Hypervisor_HYPERVISOR_FIRECRACKER}}
	})
	is("NoHostFits", "no host has room for it now")
}

func TestSomeOf(t *testing.T) {
	for want, names := range map[string][]string{
		"a": {"a"}, "each of a and b": {"a", "b"}, "each of a, b and c": {"a", "b", "c"}, "each of a, b and 2 more": {"a", "b", "c", "d"},
	} {
		if got := someOf(names); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
