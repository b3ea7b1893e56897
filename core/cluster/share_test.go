package cluster

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func sharing(list ...*blixardv1.Share) *blixardv1.VMSpec {
	spec := imageSpec()
	spec.Shares = list
	return spec
}

// A VM with shares goes where they can be served, stays there when it can write in
// them, and has neither a live move nor a snapshot.
func TestSharesArePlaced(t *testing.T) {
	d := plugged("10.1.0.0/24")
	create := func(vm string, spec *blixardv1.VMSpec) {
		t.Helper()
		if err := d.request(&blixardv1.Command{Op: &blixardv1.Command_CreateVm{CreateVm: &blixardv1.CreateVMOp{Name: vm, Spec: spec}}}).GetError(); err != nil {
			t.Fatal(err)
		}
	}
	create("web", sharing(&blixardv1.Share{Tag: "www", Source: "/srv/www"}))
	if x, _ := d.Explain("web"); !strings.Contains(x.Verdicts[0].Reasons[0], "cannot share its folders") || d.VM("web").Placement != nil {
		t.Error(x.Verdicts[0].Reasons)
	}
	says := func(f *blixardv1.HostFacts) {
		d.apply(&blixardv1.Command{Op: &blixardv1.Command_HostReport{HostReport: &blixardv1.HostReportOp{NodeId: 1, BootId: d.Node(1).Host.BootId, Epoch: d.Node(1).Host.Epoch, Facts: f}}})
	}
	refuses := func(want string) {
		t.Helper()
		x, _ := d.Explain("web")
		st := d.VM("web").Status
		if text := x.Verdicts[0].Reasons[0]; !strings.Contains(text, want) || st.Reason != NoHostCan || !strings.Contains(st.Message, "no host can run it: n1 "+text) {
			t.Errorf("%q, %s %q; want %q", text, st.Reason, st.Message, want)
		}
	}
	f := clone(d.Node(1).Host.Facts)
	f.SharesWhy = "there is no virtiofsd"
	says(f)
	refuses("cannot share its folders with VMs: there is no virtiofsd")
	f = clone(f)
	f.Shares, f.SharesWhy = true, ""
	says(f)
	refuses("lets VMs have none of its folders, and not /srv/www ('--allow-path /srv/www' of its 'blixard serve', or of 'blixard up', allows that)")
	f = clone(f)
	f.AllowPaths = []string{"/srv/w", "/data"}
	says(f)
	refuses("lets VMs have only /srv/w, /data of its folders, and not /srv/www")
	f = clone(f)
	f.AllowPaths = []string{"/srv/"}
	says(f)
	vm := d.VM("web")
	if vm.Placement == nil {
		t.Fatal("it is not placed where its folder can be shared")
	}
	if vm.Spec.OnHostLoss != blixardv1.OnHostLoss_ON_HOST_LOSS_WAIT {
		t.Error("what it has written is on its host, and it does not wait for that:", vm.Spec.OnHostLoss)
	}
	f = clone(f)
	f.Hypervisors = []*blixardv1.HypervisorFact{{Hypervisor: vm.Placement.Hypervisor, Version: "7.2"}}
	says(f)
	if why, _ := d.immovable(d.VM("web")); !strings.Contains(why, "it shares folders of") {
		t.Errorf("it goes live: %q", why)
	}
	if why := d.unsnapshotable(d.VM("web")); !strings.Contains(why, "it shares folders of its host") {
		t.Errorf("it has snapshots: %q", why)
	}
	create("reader", sharing(&blixardv1.Share{Tag: "www", Source: "/srv/www", ReadOnly: true}))
	if how := d.VM("reader").Spec.OnHostLoss; how != blixardv1.OnHostLoss_ON_HOST_LOSS_REPLACE {
		t.Error("what only reads waits for its host:", how)
	}
	if sameBuild(sharing(), sharing(&blixardv1.Share{Tag: "www", Source: "/srv/www"})) {
		t.Error("another share is nothing that a restart has to bring")
	}
}

func TestLimitsOfShares(t *testing.T) {
	image := `"image":{` + kernel + `}`
	share := func(n int) string {
		list := make([]string, n)
		for i := range list {
			list[i] = `{"tag":"t` + strings.Repeat("x", i) + `","source":"/srv"}`
		}
		return `"shares":[` + strings.Join(list, ",") + `]`
	}
	disks := `"image":{` + kernel + `,"disks":[{"name":"d0","sizeMib":"1"}` + func() (s string) {
		for i := 1; i < 16; i++ {
			s += `,{"name":"d` + strings.Repeat("x", i) + `","sizeMib":"1"}`
		}
		return s
	}() + `]}`
	for _, c := range []struct{ spec, field string }{
		{`{` + image + `,` + share(8) + `}`, ""},
		{`{` + image + `,` + share(9) + `}`, "spec.shares"},
		{`{` + disks + `,` + share(6) + `}`, ""},
		{`{` + disks + `,` + share(7) + `}`, "spec.shares"},
		{`{"machine":"MACHINE_Q35",` + disks + `,` + share(7) + `}`, ""},
		{`{"hypervisor":"HYPERVISOR_CLOUD_HYPERVISOR",` + image + `,` + share(1) + `}`, ""},
		{`{"hypervisor":"HYPERVISOR_FIRECRACKER",` + image + `,` + share(1) + `}`, "spec.shares"},
		{`{"warm":true,` + image + `,` + share(1) + `}`, "spec.warm"},
		{`{"process":{"argv":["/bin/true"]},` + share(1) + `}`, "spec.shares"},
		{`{"nixos":{},` + share(1) + `}`, "spec.shares"},
		{`{` + image + `,"shares":[{"tag":"a","source":"/srv"},{"tag":"a","source":"/srv/b"}]}`, "spec.shares[1].tag"},
		{`{` + image + `,"shares":[{"tag":"a,b","source":"/srv"}]}`, "spec.shares[0].tag"},
		{`{` + image + `,"shares":[{"tag":"a","source":"srv"}]}`, "spec.shares[0].source"},
		{`{` + image + `,"shares":[{"tag":"a","source":"/srv/../etc"}]}`, "spec.shares[0].source"},
		{`{` + image + `,"shares":[{"tag":"a","source":"/srv,x=y"}]}`, "spec.shares[0].source"},
		{`{` + image + `,"shares":[{"tag":"a","source":"/srv","mountPoint":"/mnt"}]}`, "spec.shares[0].mount_point"},
	} {
		spec := new(blixardv1.VMSpec)
		if err := protojson.Unmarshal([]byte(c.spec), spec); err != nil {
			t.Fatal(c.spec, err)
		}
		err := ValidateVM("a", spec)
		if err.GetField() != c.field {
			t.Errorf("%s: %v, want %q", c.spec, err, c.field)
		}
	}
}
