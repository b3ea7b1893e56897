package cluster

import (
	"testing"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func TestHealthOfASpec(t *testing.T) {
	tcp := func(host string, port uint32) *blixardv1.Health {
		return &blixardv1.Health{Probe: &blixardv1.Health_Tcp{Tcp: &blixardv1.TCPProbe{Host: host, Port: port}}}
	}
	get := func(path string, status uint32) *blixardv1.Health {
		return &blixardv1.Health{Probe: &blixardv1.Health_Http{Http: &blixardv1.HTTPProbe{Port: 80, Path: path, Status: status}}}
	}
	with := func(h *blixardv1.Health, change func(*blixardv1.Health)) *blixardv1.Health {
		change(h)
		return h
	}
	for i, c := range []struct {
		health *blixardv1.Health
		field  string // at fault; "": none
	}{
		{tcp("", 80), ""},
		{tcp("fd00::1", 80), ""},
		{get("/ready?x=1", 204), ""},
		{&blixardv1.Health{Probe: &blixardv1.Health_Process{}}, ""},
		{&blixardv1.Health{}, "spec.health"},
		{tcp("web.example", 80), "spec.health.tcp.host"},
		{tcp("fe80::1%eth0", 80), "spec.health.tcp.host"},
		{tcp("", 0), "spec.health.tcp.port"},
		{tcp("", 65536), "spec.health.tcp.port"},
		{get("ready", 0), "spec.health.http.path"},
		{get("/a b", 0), "spec.health.http.path"},
		{get("/", 99), "spec.health.http.status"},
		{&blixardv1.Health{Probe: &blixardv1.Health_Agent{}}, "spec.health.agent"},
		{with(tcp("", 80), func(h *blixardv1.Health) { h.IntervalMs = 999 }), "spec.health.interval_ms"},
		{with(tcp("", 80), func(h *blixardv1.Health) { h.IntervalMs, h.TimeoutMs = 1000, 1001 }), "spec.health.timeout_ms"},
		{with(tcp("", 80), func(h *blixardv1.Health) { h.TimeoutMs = 99 }), "spec.health.timeout_ms"},
		{with(tcp("", 80), func(h *blixardv1.Health) { h.UnhealthyThreshold = 101 }), "spec.health.unhealthy_threshold"},
		{with(tcp("", 80), func(h *blixardv1.Health) { h.StartPeriodMs = 1 << 30 }), "spec.health.start_period_ms"},
	} {
		spec := createOp("a", 64, 1).GetCreateVm().Spec
		spec.Health = c.health
		if err := ValidateVM("a", spec); err.GetField() != c.field {
			t.Errorf("%d: %v: %v, want %q", i, c.health, err, c.field)
		}
	}
	image := &blixardv1.VMSpec{Networks: []*blixardv1.Interface{{Ports: []*blixardv1.PortForward{{HostPort: 8080, GuestPort: 80}, {HostPort: 53, GuestPort: 53, Protocol: blixardv1.Protocol_PROTOCOL_UDP}}}}}
	if !leads(image, 80) || leads(image, 8080) || leads(image, 53) {
		t.Error("which port leads to which is not as the spec says")
	}
	d := newDriver()
	d.boot(FirstID)
	cmd := createOp("a", 64, 1)
	cmd.GetCreateVm().Spec.Health = with(get("", 0), func(h *blixardv1.Health) { h.IntervalMs = 2000 })
	h := d.request(cmd).GetVm().GetSpec().GetHealth()
	if h.StartPeriodMs != 30_000 || h.TimeoutMs != 2000 || h.HealthyThreshold != 1 || h.UnhealthyThreshold != 3 || h.GetHttp().Path != "/" || h.GetHttp().Host != "127.0.0.1" {
		t.Errorf("completed: %v", h)
	}
	// Its health is told of when it changes, and then only.
	events := func() (n int) {
		d.Events(0, func(e *blixardv1.Event) bool {
			if e.Type == "VMUnhealthy" || e.Type == "VMHealthy" {
				n++
			}
			return true
		})
		return n
	}
	const well, ill = blixardv1.HealthState_HEALTH_STATE_HEALTHY, blixardv1.HealthState_HEALTH_STATE_UNHEALTHY
	for i, state := range []blixardv1.HealthState{well, ill, ill, well, well} {
		o := seen(d.VM("a"), blixardv1.Phase_PHASE_RUNNING)
		o.Health = state
		d.report(FirstID, o)
		if want := []int{0, 1, 1, 2, 2}[i]; events() != want || d.VM("a").Status.Health != state {
			t.Errorf("report %d: %d events, %s", i, events(), d.VM("a").Status.Health)
		}
	}
}
