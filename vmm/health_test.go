package vmm

import (
	"testing"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/shim"
)

// Without an address, the port of the host that leads to the guest's is asked.
func TestReached(t *testing.T) {
	spec := &blixardv1.VMSpec{Networks: []*blixardv1.Interface{
		{Ports: []*blixardv1.PortForward{
			{HostPort: 5353, GuestPort: 80, Protocol: blixardv1.Protocol_PROTOCOL_UDP},
			{HostPort: 8080, GuestPort: 80},
			{HostPort: 8443, GuestPort: 443, Address: "192.0.2.7"},
			{HostPort: 8022, GuestPort: 22, Address: "0.0.0.0"},
		}},
	}}
	for _, c := range []struct {
		host string
		port uint32
		want string
		at   uint32
	}{{"", 80, "127.0.0.1", 8080}, {"", 443, "192.0.2.7", 8443}, {"", 22, "127.0.0.1", 8022}, {"192.0.2.1", 80, "192.0.2.1", 80}, {"", 81, "", 81}} {
		tcp := &blixardv1.Health{Probe: &blixardv1.Health_Tcp{Tcp: &blixardv1.TCPProbe{Host: c.host, Port: c.port}}}
		if got := reached(tcp, spec).GetTcp(); got.Host != c.want || got.Port != c.at {
			t.Errorf("tcp %s %d: asked at %s %d", c.host, c.port, got.Host, got.Port)
		}
		http := &blixardv1.Health{Probe: &blixardv1.Health_Http{Http: &blixardv1.HTTPProbe{Host: c.host, Port: c.port, Path: "/x"}}}
		if got := reached(http, spec).GetHttp(); got.Host != c.want || got.Port != c.at || got.Path != "/x" {
			t.Errorf("http %s %d: asked at %s %d", c.host, c.port, got.Host, got.Port)
		}
		if tcp.GetTcp().Host != c.host || http.GetHttp().Host != c.host {
			t.Error("the spec was changed")
		}
	}
}

// An end that nobody asked for is said with every report, also while the VM runs
// again; one that was asked for is none.
func TestLastFailure(t *testing.T) {
	u := NewUnit("1-1")
	spec := &blixardv1.VMSpec{Restart: blixardv1.RestartPolicy_RESTART_POLICY_ALWAYS}
	u.Want = &blixardv1.Assignment{Uid: "1-1", Incarnation: &blixardv1.Incarnation{Generation: 1, Index: 2}, Run: true, RunGeneration: 1, SpecGeneration: 1, Lease: blixardv1.LeaseClass_LEASE_CLASS_NONE, Spec: spec}
	id := uint64(0)
	c := Context{NextID: func() uint64 { id++; return id }, Deadline: func(uint32) int64 { return 0 }}
	now := int64(second)
	live := func(l Liveness, attempt uint32, end *Exit) {
		now += second
		u.Observe(now, Report{Instance: shim.Instance{UID: "1-1", Generation: 1, Index: 2, Attempt: attempt}, RunGeneration: 1, SpecGeneration: 1, Liveness: l, Ready: l == Alive, Lease: blixardv1.LeaseClass_LEASE_CLASS_NONE, Exit: end})
		u.Plan(now, c)
	}
	live(Alive, 1, nil)
	if f := u.Observation().LastFailure; f != nil {
		t.Errorf("of one that never failed: %v", f)
	}
	live(Down, 1, &Exit{Code: 3, Reason: "Exited", Message: "it ended"})
	live(Alive, 2, nil)
	if f := u.Observation().LastFailure; f.GetAttempt() != 1 || f.Reason != "Exited" || f.ExitCode != 3 || f.Message != "it ended" {
		t.Errorf("while it runs again: %v", f)
	}
	u.Want.Run = false
	u.Plan(now, c)
	live(Down, 2, &Exit{Code: 1, Reason: "Exited"})
	if f := u.Observation().LastFailure; f.GetAttempt() != 1 {
		t.Errorf("its user stopped it: %v", f)
	}
}
