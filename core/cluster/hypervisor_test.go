package cluster

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func specOf(t *testing.T, text string) *blixardv1.VMSpec {
	t.Helper()
	s := &blixardv1.VMSpec{}
	if err := protojson.Unmarshal([]byte(text), s); err != nil {
		t.Fatal(err)
	}
	return s
}

// What a hypervisor does not do is refused in its own words, and with the names
// of those that would.
func TestASpecIsRefusedByWhatItsHypervisorDoesNotDo(t *testing.T) {
	share := `"shares":[{"tag":"a","source":"/a","mountPoint":"/a"}]`
	for spec, want := range map[string][2]string{
		`{"hypervisor":"HYPERVISOR_FIRECRACKER","nixos":{` + share + `}}`:                          {"Firecracker cannot share a folder of its host", "use QEMU or cloud-hypervisor, or leave it out"},
		`{"nixos":{"networks":[{"user":{}}]}}`:                                                     {"cloud-hypervisor has no user network", "use QEMU, or leave it out"},
		`{"hypervisor":"HYPERVISOR_FIRECRACKER","nixos":{"networks":[{"user":{}}],` + share + `}}`: {"Firecracker cannot share a folder of its host", "use QEMU, or leave it out"},
		`{"hypervisor":"HYPERVISOR_QEMU","process":{"argv":["/bin/true"]}}`:                        {"QEMU cannot run spec.process", "use process, or leave it out"},
		`{"health":{"agent":{}},"process":{"argv":["/bin/true"]}}`:                                 {"process runs a program, which has no agent", "there is none that does all that this spec wants: leave something out"},
		`{"hypervisor":"HYPERVISOR_FIRECRACKER","nixos":{},"health":{"agent":{}}}`:                 {"only images have Blixard's agent", "use tcp or http, or leave it out"},
		`{"hypervisor":"HYPERVISOR_PROCESS","flake":{"ref":"github:a/b"}}`:                         {"process runs a program, and the spec has what Nix builds", "use QEMU, cloud-hypervisor or Firecracker, or leave it out"},
	} {
		err := ValidateVM("web", specOf(t, spec))
		if err.GetMessage() != want[0] || err.GetAdvice() != want[1] {
			t.Errorf("%s: %q, %q; want %q", spec, err.GetMessage(), err.GetAdvice(), want)
		}
	}
}

// hostFacts are those of a host with some hypervisors.
func (d *driver) has(usable bool, list ...*blixardv1.HypervisorFact) {
	f := facts()
	f.Hypervisors, f.Nix, f.Kvm = list, true, &blixardv1.KVM{Usable: usable}
	n := d.Node(1)
	d.apply(&blixardv1.Command{Op: &blixardv1.Command_HostReport{HostReport: &blixardv1.HostReportOp{
		NodeId: 1, BootId: n.Host.BootId, Epoch: n.Host.Epoch, Facts: f,
	}}})
}

func TestAHostMustHaveWhatCanRunTheVM(t *testing.T) {
	qemu := &blixardv1.HypervisorFact{Hypervisor: blixardv1.Hypervisor_HYPERVISOR_QEMU}
	old := &blixardv1.HypervisorFact{
		Hypervisor:   blixardv1.Hypervisor_HYPERVISOR_QEMU,
		Capabilities: []blixardv1.Capability{blixardv1.Capability_CAPABILITY_IMAGE},
	}
	firecracker := &blixardv1.HypervisorFact{Hypervisor: blixardv1.Hypervisor_HYPERVISOR_FIRECRACKER}
	process := &blixardv1.HypervisorFact{Hypervisor: blixardv1.Hypervisor_HYPERVISOR_PROCESS}
	const art = `"kernel":{"digest":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":"1000"}`
	for _, c := range []struct {
		name, spec, why string
		usable          bool
		has             []*blixardv1.HypervisorFact
	}{
		{"fits", `{"hypervisor":"HYPERVISOR_QEMU","image":{` + art + `}}`, "", false, []*blixardv1.HypervisorFact{qemu}},
		{"none", `{"hypervisor":"HYPERVISOR_QEMU","image":{` + art + `}}`, "has no QEMU", true, []*blixardv1.HypervisorFact{process}},
		{"less", `{"hypervisor":"HYPERVISOR_QEMU","image":{` + art + `,"disks":[{"name":"a","sizeMib":"1"}]}}`, "has no volumes in its QEMU", true, []*blixardv1.HypervisorFact{old}},
		{"agent", `{"health":{"agent":{}},"image":{` + art + `}}`, "has no QEMU", true, []*blixardv1.HypervisorFact{firecracker}},
		{"program", `{"process":{"argv":["/bin/true"]}}`, "has no process", true, []*blixardv1.HypervisorFact{qemu}},
		// What Nix builds brings its own, but no KVM.
		{"nixos", `{"nixos":{}}`, "has no usable KVM, which cloud-hypervisor needs", false, []*blixardv1.HypervisorFact{qemu}},
		{"nixos-kvm", `{"nixos":{}}`, "", true, nil},
		{"nixos-qemu", `{"hypervisor":"HYPERVISOR_QEMU","nixos":{}}`, "", false, nil},
		// What a flake runs is known when it is built.
		{"flake", `{"flake":{"ref":"github:a/b"}}`, "", false, nil},
	} {
		d := newDriver()
		d.boot(1)
		d.has(c.usable, c.has...)
		d.apply(&blixardv1.Command{Op: &blixardv1.Command_Announce{Announce: &blixardv1.AnnounceOp{
			Digest: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", Size: 1000, NodeId: 1,
		}}})
		resp := d.request(&blixardv1.Command{Op: &blixardv1.Command_CreateVm{CreateVm: &blixardv1.CreateVMOp{Name: c.name, Spec: specOf(t, c.spec)}}})
		if resp.Error != nil {
			t.Fatalf("%s: %v", c.name, resp.Error)
		}
		e, err := d.Explain(c.name)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(e.Verdicts[0].Reasons, "; "); got != c.why {
			t.Errorf("%s: %q, want %q", c.name, got, c.why)
		}
		if placed := d.VM(c.name).Placement != nil; placed != (c.why == "") {
			t.Errorf("%s: placed is %v", c.name, placed)
		}
	}
}

// A flake that turned out to be a cloud-hypervisor's goes to no host that has
// no KVM, next time.
func TestWhatWasBuiltSaysWhatItNeeds(t *testing.T) {
	d := newDriver()
	d.boot(1)
	d.has(false)
	d.request(&blixardv1.Command{Op: &blixardv1.Command_CreateVm{CreateVm: &blixardv1.CreateVMOp{Name: "f", Spec: specOf(t, `{"flake":{"ref":"github:a/b"}}`)}}})
	vm := d.VM("f")
	o := seen(vm, blixardv1.Phase_PHASE_FAILED)
	o.BuiltGeneration, o.Runner = 1, &blixardv1.Runner{StorePath: "/nix/store/x-runner", Hypervisor: blixardv1.Hypervisor_HYPERVISOR_FIRECRACKER}
	d.report(1, o)
	e, _ := d.Explain("f")
	if got := strings.Join(e.Verdicts[0].Reasons, "; "); got != "has no usable KVM, which Firecracker needs" {
		t.Errorf("%q", got)
	}
}

// A pause is the VM's, through moves and starts, until a resume, a stop or a restart.
func TestPause(t *testing.T) {
	d := newDriver()
	d.boot(1)
	d.request(createOp("a", 64, blixardv1.OnHostLoss_ON_HOST_LOSS_REPLACE))
	pause := func(name string, paused bool) *blixardv1.Error {
		return d.request(&blixardv1.Command{Op: &blixardv1.Command_Pause{Pause: &blixardv1.PauseOp{Name: name, Paused: paused}}}).GetError()
	}
	power := func(run, restart bool) {
		d.request(&blixardv1.Command{Op: &blixardv1.Command_Power{Power: &blixardv1.PowerOp{Name: "a", Run: run, Restart: restart}}})
	}
	assigned := func() *blixardv1.Assignment {
		_, list := d.Assignments(1, 0)
		return list[0]
	}
	told := func(want ...string) { // each once, also where it was asked for twice
		t.Helper()
		var got []string
		d.Events(0, func(e *blixardv1.Event) bool {
			if strings.HasSuffix(e.Type, "Ordered") {
				got = append(got, e.Type+" "+e.Vm+" "+e.Node)
			}
			return true
		})
		if !slices.Equal(got, want) {
			t.Errorf("events %q, want %q", got, want)
		}
	}
	before := d.VM("a").AssignmentRevision
	if err := pause("a", true); err != nil || !d.VM("a").Paused || !assigned().Paused || d.VM("a").AssignmentRevision == before {
		t.Fatal(err, d.VM("a"))
	}
	before = d.VM("a").AssignmentRevision
	if err := pause("a", true); err != nil || d.VM("a").AssignmentRevision != before {
		t.Error("what is paused was told again", err)
	}
	if e, _ := d.Explain("a"); !strings.Contains(e.Summary, "it is paused, until 'blixard vm resume a'") {
		t.Error(e.Summary)
	}
	power(true, true)
	if d.VM("a").Paused || assigned().Paused {
		t.Error("a restart ends no pause")
	}
	if err := pause("a", true); err != nil {
		t.Error(err)
	}
	if err := pause("a", false); err != nil || d.VM("a").Paused {
		t.Error(err)
	}
	_ = pause("a", true)
	power(false, false)
	if err := pause("a", true); err.GetCode() != blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION || d.VM("a").Paused {
		t.Error(err)
	}
	if err := pause("a", false); err.GetMessage() != "the VM a is stopped, so there is nothing to resume" || err.GetAdvice() != "'blixard vm start a' first" {
		t.Error("what is stopped was resumed:", err)
	}
	if err := pause("b", true); err.GetCode() != blixardv1.ErrorCode_ERROR_CODE_NOT_FOUND {
		t.Error(err)
	}
	power(false, false)
	told("VMPauseOrdered a n1", "VMRestartOrdered a n1", "VMPauseOrdered a n1", "VMResumeOrdered a n1", "VMPauseOrdered a n1", "VMStopOrdered a n1")
	// What its host's hypervisor does not do is refused.
	power(true, false)
	d.has(true, &blixardv1.HypervisorFact{
		Hypervisor: blixardv1.Hypervisor_HYPERVISOR_PROCESS, Capabilities: []blixardv1.Capability{blixardv1.Capability_CAPABILITY_PROGRAM},
	})
	if err := pause("a", true); err.GetMessage() != "the VM a cannot be paused: the process of its host n1 has no pause" {
		t.Error(err)
	}
}
