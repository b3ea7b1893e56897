package cluster

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// What a VM's health is, is decided on its host (package vmm). Here it is checked,
// shown, and told of when it changes.

const (
	maxProbeInterval  = 3_600_000
	minProbeInterval  = 1_000
	maxProbeTimeout   = 60_000
	minProbeTimeout   = 100
	maxProbeThreshold = 100
	maxProbePath      = 1024
)

func checkHealth(s *blixardv1.VMSpec) *blixardv1.Error {
	h := s.GetHealth()
	if h == nil {
		return nil
	}
	interval := cmp.Or(h.IntervalMs, 10_000)
	for _, f := range []struct {
		field            string
		value, low, high uint32
	}{
		{"start_period_ms", h.StartPeriodMs, 0, maxProbeInterval},
		{"interval_ms", interval, minProbeInterval, maxProbeInterval},
		{"timeout_ms", cmp.Or(h.TimeoutMs, minProbeTimeout), minProbeTimeout, min(maxProbeTimeout, interval)},
		{"healthy_threshold", h.HealthyThreshold, 0, maxProbeThreshold},
		{"unhealthy_threshold", h.UnhealthyThreshold, 0, maxProbeThreshold},
	} {
		if f.value < f.low || f.value > f.high {
			return invalid("spec.health."+f.field, fmt.Sprintf("%d is out of range", f.value), fmt.Sprintf("give %d to %d, or leave it out", f.low, f.high))
		}
	}
	switch p := h.Probe.(type) {
	case nil:
		return invalid("spec.health", "it says nothing to ask", "give one of process, agent, tcp and http")
	case *blixardv1.Health_Agent:
		if s.GetImage() == nil {
			return invalid("spec.health.agent", "only images have Blixard's agent", "use tcp or http, or leave it out")
		}
	case *blixardv1.Health_Tcp:
		return checkProbeAddress(s, "spec.health.tcp", p.Tcp.GetHost(), p.Tcp.GetPort())
	case *blixardv1.Health_Http:
		if path := p.Http.GetPath(); path != "" && path[0] != '/' || len(path) > maxProbePath || strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			return invalid("spec.health.http.path", fmt.Sprintf("%.80q is no path", path), "begin it with /, and use printable ASCII without blanks")
		}
		if n := p.Http.GetStatus(); n != 0 && (n < 100 || n > 599) {
			return invalid("spec.health.http.status", fmt.Sprintf("%d is no status", n), "give 100 to 599, or leave it out for any from 200 to 399")
		}
		return checkProbeAddress(s, "spec.health.http", p.Http.GetHost(), p.Http.GetPort())
	}
	return nil
}

func checkProbeAddress(s *blixardv1.VMSpec, field, host string, port uint32) *blixardv1.Error {
	if port == 0 || port > 65535 {
		return invalid(field+".port", fmt.Sprintf("%d is no port", port), "give 1 to 65535")
	}
	if host == "" && (s.GetProcess() != nil || leads(s, port)) {
		return nil
	}
	a, err := netip.ParseAddr(host)
	switch {
	case err != nil || a.Zone() != "":
		return invalid(field+".host", fmt.Sprintf("%.80q is no address", host), "give the address at which its host reaches it, in digits; or leave it out and have a port of the host lead to that port (networks: user, ports)")
	case s.GetProcess() != nil || s.GetFlake() != nil: // who shares its host's addresses, and who has its networks where nobody looks
		return nil
	case (a.IsLoopback() || a.IsUnspecified()) && !entrance(s, a, port):
		advice := "leave the host out and have a port of its host lead to that port (networks: user, ports), or give the guest's own address"
		if leads(s, port) {
			advice = "leave the host out: a port of its host leads to that one"
		}
		return invalid(field+".host", fmt.Sprintf("%s is the host itself, and its port %d does not lead to the guest: the probe would ask somebody else", host, port), advice)
	}
	return nil
}

// entrance says that a port of the host, at one of its own addresses, leads into
// the guest.
func entrance(s *blixardv1.VMSpec, a netip.Addr, port uint32) bool {
	return slices.ContainsFunc(s.GetNetworks(), func(i *blixardv1.Interface) bool {
		return slices.ContainsFunc(i.GetPorts(), func(p *blixardv1.PortForward) bool {
			at, err := netip.ParseAddr(p.Address)
			everywhere := err != nil || at.IsUnspecified()
			return p.HostPort == port && p.Protocol != blixardv1.Protocol_PROTOCOL_UDP &&
				(everywhere && a.Unmap().Is4() || at == a.Unmap())
		})
	})
}

// leads says that a port of the host leads to a port of the guest.
func leads(s *blixardv1.VMSpec, port uint32) bool {
	return slices.ContainsFunc(s.GetNetworks(), func(i *blixardv1.Interface) bool {
		return slices.ContainsFunc(i.GetPorts(), func(p *blixardv1.PortForward) bool {
			return p.GuestPort == port && p.Protocol != blixardv1.Protocol_PROTOCOL_UDP
		})
	})
}

func completeHealth(s *blixardv1.VMSpec) {
	h := s.GetHealth()
	if h == nil {
		return
	}
	h.StartPeriodMs = cmp.Or(h.StartPeriodMs, 30_000)
	h.IntervalMs = cmp.Or(h.IntervalMs, 10_000)
	h.TimeoutMs = cmp.Or(h.TimeoutMs, min(5_000, h.IntervalMs))
	h.HealthyThreshold = cmp.Or(h.HealthyThreshold, 1)
	h.UnhealthyThreshold = cmp.Or(h.UnhealthyThreshold, 3)
	if p := h.GetHttp(); p != nil {
		p.Path = cmp.Or(p.Path, "/")
	}
	if s.GetProcess() == nil {
		return // where a port of its host leads there: see vmm
	}
	if p := h.GetTcp(); p != nil {
		p.Host = cmp.Or(p.Host, "127.0.0.1")
	}
	if p := h.GetHttp(); p != nil {
		p.Host = cmp.Or(p.Host, "127.0.0.1")
	}
}

// felt tells of a VM that is not well any more, or is again.
func (s *State) felt(e *entry, n *blixardv1.Node, vm *blixardv1.VM, o *blixardv1.Observation) {
	const well, ill = blixardv1.HealthState_HEALTH_STATE_HEALTHY, blixardv1.HealthState_HEALTH_STATE_UNHEALTHY
	switch was := vm.GetStatus().GetHealth(); {
	case o.Health == ill && was != ill:
		s.event(e, "VMUnhealthy", vm.Name, n.Name, "%s", o.HealthMessage)
	case o.Health == well && was == ill:
		s.event(e, "VMHealthy", vm.Name, n.Name, "it answers as it should again")
	}
}

// failed tells of a VM that has ended without being asked to, and of one that does
// so again and again.
func (s *State) failed(e *entry, n *blixardv1.Node, vm *blixardv1.VM, o *blixardv1.Observation, st *blixardv1.VMStatus) {
	if f, old := o.LastFailure, vm.GetStatus().GetLastFailure(); f != nil && (f.Attempt != old.GetAttempt() || f.Reason != old.GetReason()) {
		f = clone(f)
		f.Time = e.time()
		st.LastFailure = f
		s.event(e, "VMFailed", vm.Name, n.Name, "attempt %d: %s: %s", f.Attempt, f.Reason, firstLine(f.Message))
	}
	if vm.Run && o.Failures >= CrashLoops && vm.GetStatus().GetFailures() < CrashLoops {
		s.event(e, "VMCrashLoop", vm.Name, n.Name, "it has failed %d times in a row without a minute's run between them, and is tried again later each time", o.Failures)
	}
}

// firstLine of what may have several.
func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// CrashLoops is how many ends in a row, without a stable run between them, make a
// crash loop.
const CrashLoops = 3

// restarted says why a VM that lives had to be started again; "" of others.
func restarted(vm *blixardv1.VM) string {
	f, st := vm.GetStatus().GetLastFailure(), vm.GetStatus()
	if f == nil || st.GetAttempt() <= f.Attempt || !vm.Run || vm.Paused {
		return ""
	}
	why := f.Reason + ": " + firstLine(f.Message)
	if f.Reason == "Unhealthy" {
		why = firstLine(f.Message)
	}
	return fmt.Sprintf("it was started again %s, because attempt %d ended: %s", f.Time.AsTime().Format("2006-01-02 15:04:05 UTC"), f.Attempt, why)
}

// looping says that a VM ends again and again, and what to look at; "" of others.
func looping(vm *blixardv1.VM) string {
	st := vm.GetStatus()
	if st.GetFailures() < CrashLoops || !vm.Run {
		return ""
	}
	return fmt.Sprintf("it is in a crash loop: it has failed %d times in a row without a minute's run between them, and is tried again later each time, at most 5 minutes later; the last time %s: 'blixard vm get %s' says how, 'blixard vm logs %s' has its last words",
		st.GetFailures(), LastEnd(st), vm.Name, vm.Name)
}

// LastEnd is how a VM that fails again and again ended last, in words that go after
// "the last time". What never came to run (its build failed, a port was taken) has no
// exit code.
func LastEnd(st *blixardv1.VMStatus) string {
	reason := st.GetLastFailure().GetReason()
	if st.GetPhase() == blixardv1.Phase_PHASE_FAILED {
		reason = st.GetReason()
	}
	if st.GetExitCode() == 0 && reason != "" {
		return "by " + reason
	}
	return fmt.Sprintf("with exit code %d", st.GetExitCode())
}
