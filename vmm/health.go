package vmm

import (
	"net/netip"

	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// health is what is known of a live instance's health: since it is alive, and
// since we watch it.
type health struct {
	state   blixardv1.HealthState
	message string // of UNHEALTHY
	sick    bool   // it is being ended for that
	ever    bool   // it was well once

	probe     uint64 // the Probe under way; 0: none
	at        int64  // when that was ordered
	next      int64  // when the next may be
	good, bad uint32 // in a row
}

const (
	// stall is how late an answer may come before it tells more of this host than of
	// the guest: the adapter has its own clock, and answers at its timeout.
	stall = second
	// probeLost is when an answer is not waited for any more.
	probeLost = 60 * second
)

// check is how the live instance is probed, by the spec that it was started with;
// nil: not at all, or its spec is not known here any more.
func (u *Unit) check() *blixardv1.Health {
	spec := u.Want.GetSpec()
	if g := u.Seen.SpecGeneration; g != u.Want.GetSpecGeneration() {
		if spec = nil; g == u.Want.GetFallback().GetSpecGeneration() {
			spec = u.Want.GetFallback().GetSpec()
		}
	}
	h := spec.GetHealth()
	if h.GetAgent() == nil && h.GetTcp() == nil && h.GetHttp() == nil {
		return nil
	}
	return reached(h, spec)
}

// reached is a probe with the address at which this host reaches the guest: where
// none is given, the port of ours that leads to the guest's.
func reached(h *blixardv1.Health, spec *blixardv1.VMSpec) *blixardv1.Health {
	if h.GetAgent() != nil || h.GetTcp().GetHost() != "" || h.GetHttp().GetHost() != "" {
		return h
	}
	port := h.GetTcp().GetPort() + h.GetHttp().GetPort() // it has one of the two
	for _, i := range spec.GetNetworks() {
		for _, p := range i.GetPorts() {
			if p.GuestPort != port || p.Protocol == blixardv1.Protocol_PROTOCOL_UDP {
				continue
			}
			h = proto.CloneOf(h)
			host := p.Address
			if a, err := netip.ParseAddr(host); err != nil || a.IsUnspecified() {
				host = "127.0.0.1"
			}
			if t := h.GetTcp(); t != nil {
				t.Host, t.Port = host, p.HostPort
			} else {
				h.GetHttp().Host, h.GetHttp().Port = host, p.HostPort
			}
			return h
		}
	}
	return h
}

// planHealth has a live instance probed when it is time. One that is paused
// answers nobody.
func (u *Unit) planHealth(now int64, c Context) *Action {
	h, w := u.check(), &u.health
	if h == nil {
		*w = health{}
		return nil
	}
	if w.state == blixardv1.HealthState_HEALTH_STATE_UNSPECIFIED {
		w.state = blixardv1.HealthState_HEALTH_STATE_UNKNOWN
	}
	if !u.Seen.Ready || u.Seen.Paused || u.Want.Paused || u.slowed() {
		w.probe = 0 // what is under way says nothing
		return nil
	}
	if w.probe != 0 && u.early(now, w.at+int64(h.TimeoutMs)*milli+probeLost) || u.early(now, w.next) {
		return nil
	}
	a := u.act(c, Probe)
	a.Health = h
	w.probe, w.at, w.next = a.ID, now, now+max(int64(h.IntervalMs)*milli, milli)
	return a
}

// slowed says that a guest is slow because it is being sent to another host: QEMU slows
// a busy one down, and has it stand still at the end.
func (u *Unit) slowed() bool {
	return u.Seen.HandedOver != 0 || u.Seen.Outgoing.Migration != 0 && !u.Seen.Outgoing.Failed
}

// probed takes the answer to a Probe.
func (u *Unit) probed(now int64, d Done) {
	h, w := u.check(), &u.health
	w.probe = 0
	if h == nil || u.Seen.Liveness != Alive || !u.Seen.Ready || u.slowed() {
		return
	}
	late := now-w.at > int64(h.TimeoutMs)*milli+stall && !mutant.On("StalledIsSick")
	switch {
	case d.Err == "":
		w.good, w.bad, w.ever = w.good+1, 0, true
		if w.good >= h.HealthyThreshold {
			w.state, w.message = blixardv1.HealthState_HEALTH_STATE_HEALTHY, ""
		}
	case d.Unknown, late:
	case !w.ever && now-u.readyAt < int64(h.StartPeriodMs)*milli:
		w.good = 0
	default:
		w.good, w.bad = 0, w.bad+1
		if w.bad >= h.UnhealthyThreshold && w.state != blixardv1.HealthState_HEALTH_STATE_UNHEALTHY {
			w.state, w.message = blixardv1.HealthState_HEALTH_STATE_UNHEALTHY, sayable(d.Err)
		}
		restarts := u.Want.GetSpec().GetRestart() != blixardv1.RestartPolicy_RESTART_POLICY_NEVER
		w.sick = w.bad >= h.UnhealthyThreshold && restarts && !mutant.On("HealthIgnored")
	}
}
