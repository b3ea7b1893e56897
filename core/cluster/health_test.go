package cluster

import (
	"strings"
	"testing"

	"github.com/blixard/blixard/core/hypervisor"
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
	// Of an image, the host's own addresses lead to it only where a port does.
	forward := func(p *blixardv1.PortForward) []*blixardv1.Interface {
		return []*blixardv1.Interface{{Kind: &blixardv1.Interface_User{User: &blixardv1.UserInterface{}}, Ports: []*blixardv1.PortForward{p}}}
	}
	for i, c := range []struct {
		host     string
		port     uint32
		networks []*blixardv1.Interface
		refused  string // a word of the advice
	}{
		{"127.0.0.1", 8080, forward(&blixardv1.PortForward{HostPort: 8080, GuestPort: 80}), ""},
		{"127.0.0.1", 80, forward(&blixardv1.PortForward{HostPort: 8080, GuestPort: 80}), "leave the host out: a port"},
		{"127.0.0.1", 81, forward(&blixardv1.PortForward{HostPort: 8080, GuestPort: 80}), "guest's own address"},
		{"127.0.0.1", 8080, forward(&blixardv1.PortForward{HostPort: 8080, GuestPort: 80, Protocol: blixardv1.Protocol_PROTOCOL_UDP}), "guest's own address"},
		{"127.0.0.1", 8080, forward(&blixardv1.PortForward{HostPort: 8080, GuestPort: 80, Address: "127.0.0.2"}), "guest's own address"},
		{"127.0.0.2", 8080, forward(&blixardv1.PortForward{HostPort: 8080, GuestPort: 80, Address: "127.0.0.2"}), ""},
		{"::1", 8080, forward(&blixardv1.PortForward{HostPort: 8080, GuestPort: 80}), "guest's own address"},
		{"0.0.0.0", 80, nil, "guest's own address"},
		{"10.1.0.5", 80, nil, ""},
	} {
		spec := imageSpec()
		spec.Networks, spec.Health = c.networks, tcp(c.host, c.port)
		err := ValidateVM("a", spec)
		if (err == nil) != (c.refused == "") || err != nil && (err.Field != "spec.health.tcp.host" || !strings.Contains(err.Advice, c.refused)) {
			t.Errorf("%d: %v", i, err)
		}
	}
	// Who names no hypervisor gets one whose guests can be asked.
	agent := imageSpec()
	agent.Health = &blixardv1.Health{Probe: &blixardv1.Health_Agent{Agent: &blixardv1.AgentProbe{}}}
	if err := ValidateVM("a", agent); err != nil {
		t.Errorf("agent: %v", err)
	}
	if able := hypervisor.Names(kinds(agent, wanted(agent))); able != "QEMU" {
		t.Errorf("agent: it may be run by %s", able)
	}
	agent.Hypervisor = blixardv1.Hypervisor_HYPERVISOR_FIRECRACKER
	if err := ValidateVM("a", agent); err.GetField() != "spec.health.agent" {
		t.Errorf("agent under Firecracker: %v", err)
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

// An end that nobody asked for is told of once, and kept while the VM runs again;
// a crash loop when it begins.
func TestFailuresAreTold(t *testing.T) {
	d := newDriver()
	d.boot(FirstID)
	d.request(createOp("a", 64, 1))
	count := func(kind string) (n int) {
		d.Events(0, func(e *blixardv1.Event) bool {
			if e.Type == kind {
				n++
			}
			return true
		})
		return n
	}
	say := func(phase blixardv1.Phase, attempt, failures uint32) {
		o := seen(d.VM("a"), phase)
		o.Attempt, o.Failures = attempt, failures
		if failed := attempt - 1; failed > 0 {
			o.LastFailure = &blixardv1.Failure{Attempt: failed, Reason: "Unhealthy", Message: "its health check failed 3 times", ExitCode: 1}
		}
		d.report(FirstID, o)
	}
	say(blixardv1.Phase_PHASE_RUNNING, 1, 0)
	if x, _ := d.Explain("a"); strings.Contains(x.Summary, "started again") {
		t.Errorf("of one that never failed: %s", x.Summary)
	}
	say(blixardv1.Phase_PHASE_RUNNING, 2, 1)
	say(blixardv1.Phase_PHASE_RUNNING, 2, 1)
	if count("VMFailed") != 1 || count("VMCrashLoop") != 0 {
		t.Errorf("%d VMFailed, %d VMCrashLoop", count("VMFailed"), count("VMCrashLoop"))
	}
	if x, _ := d.Explain("a"); !strings.Contains(x.Summary, "started again") || !strings.Contains(x.Summary, "its health check failed 3 times") {
		t.Errorf("explain: %s", x.Summary)
	}
	say(blixardv1.Phase_PHASE_RUNNING, 3, 2)
	say(blixardv1.Phase_PHASE_FAILED, 4, 3)
	say(blixardv1.Phase_PHASE_FAILED, 5, 4)
	if count("VMFailed") != 4 || count("VMCrashLoop") != 1 {
		t.Errorf("%d VMFailed, %d VMCrashLoop", count("VMFailed"), count("VMCrashLoop"))
	}
	if f := d.VM("a").Status.LastFailure; f.Attempt != 4 || f.Time == nil {
		t.Errorf("the last failure is %v", f)
	}
	// A report that says nothing of it, of a daemon that has just begun, takes nothing back.
	o := seen(d.VM("a"), blixardv1.Phase_PHASE_RUNNING)
	d.report(FirstID, o)
	if d.VM("a").Status.LastFailure.GetAttempt() != 4 {
		t.Error("a restart of the daemon forgot why the VM was restarted")
	}
}

// What never came to run is not said to have ended with exit code 0.
func TestHowItEndedLast(t *testing.T) {
	const failed, runs = blixardv1.Phase_PHASE_FAILED, blixardv1.Phase_PHASE_RUNNING
	for want, st := range map[string]*blixardv1.VMStatus{
		"by BuildFailed":   {Phase: failed, Reason: "BuildFailed"},
		"by Unhealthy":     {Phase: runs, Reason: "Running", LastFailure: &blixardv1.Failure{Reason: "Unhealthy"}},
		"with exit code 3": {Phase: failed, Reason: "Exited", ExitCode: 3},
		"with exit code 0": {Phase: runs, Reason: "Running"},
	} {
		if got := LastEnd(st); got != want {
			t.Errorf("%v: %q, want %q", st, got, want)
		}
	}
	vm := &blixardv1.VM{Name: "a", Run: true, Status: &blixardv1.VMStatus{Phase: failed, Reason: "BuildFailed", Failures: CrashLoops}}
	if text := looping(vm); strings.Contains(text, "exit code") || !strings.Contains(text, "BuildFailed") {
		t.Error(text)
	}
}
