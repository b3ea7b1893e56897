package mutants

import (
	"fmt"
	"slices"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/sim"
)

// A frozen machine outlives its lease.
func frozenHost(s *sim.Story) {
	s.Order(sim.Create, "a", sim.ReplaceVM())
	_, host := s.Runs("a")
	s.Strike(sim.Freeze{Node: host.N(), For: 2 * time.Minute})
	s.Pass(2 * time.Minute)
}

var quickRenewal = sim.Config{Settings: &blixardv1.Settings{RenewMs: 1000, DriftPpm: 1000}}

// A host cannot be heard, and what was said to it long ago comes late.
func lateGrant(s *sim.Story) {
	for _, name := range []string{"a", "b", "c"} {
		s.Order(sim.Create, name, sim.ReplaceVM())
	}
	s.Runs("c")
	host := s.Another(s.Leader())
	hold(s, host, 13*time.Second)
	s.Pass(1200 * time.Millisecond)
	mute(s, host, 2*time.Minute)
	s.Pass(2 * time.Minute)
}

// hold keeps back what is said to a machine.
func hold(s *sim.Story, m *sim.Machine, d time.Duration) {
	for _, o := range s.Machines() {
		if o != m {
			s.Strike(sim.Clog{From: o.N(), To: m.N(), For: d})
		}
	}
}

// holdBack keeps back what a machine says.
func holdBack(s *sim.Story, m *sim.Machine, d time.Duration) {
	for _, o := range s.Machines() {
		if o != m {
			s.Strike(sim.Clog{From: m.N(), To: o.N(), For: d})
		}
	}
}

// mute loses what a machine says.
func mute(s *sim.Story, m *sim.Machine, d time.Duration) {
	for _, o := range s.Machines() {
		if o != m {
			s.Strike(sim.OneWay{From: m.N(), To: o.N(), For: d})
		}
	}
}

// cut loses everything between two machines.
func cut(s *sim.Story, a, b *sim.Machine, d time.Duration) {
	s.Strike(sim.OneWay{From: a.N(), To: b.N(), For: d})
	s.Strike(sim.OneWay{From: b.N(), To: a.N(), For: d})
}

// A server votes, dies, and votes again in the same term: for the old leader,
// which has not heard of that term. Who asks first when it is back is chance.
func votesTwice(s *sim.Story) {
	for range 12 {
		old := s.Leader()
		s.Strike(sim.Isolate{Node: old.N(), For: 8 * time.Second})
		s.Until("another leader", 10*time.Second, func() bool { l := s.Leader(); return l != nil && l != old })
		elected := s.Leader()
		voter := s.Another(old, elected)
		cut(s, old, elected, 20*time.Second)
		cut(s, voter, elected, 20*time.Second)
		// Before the new leader's first entry is there. Back when the old one is.
		s.Strike(sim.Crash{Node: voter.N(), After: 6 * time.Second})
		s.Pass(22 * time.Second)
		s.Until("a leader", 20*time.Second, func() bool { return s.Leader() != nil })
	}
}

// The answer to a request is lost, the wall clocks jump, and it is asked again.
func clocksJump(s *sim.Story) {
	for i := range 10 {
		s.Until("a leader", 10*time.Second, func() bool { return s.Leader() != nil })
		leader := s.Leader()
		op := s.Ask(sim.Create, fmt.Sprintf("vm%d", i), sim.ReplaceVM())
		s.Until("it is done", 10*time.Second, func() bool { v := s.View(); return op.Ended() || v != nil && v.VM(op.Name) != nil })
		for _, m := range s.Machines() {
			if m != leader && !op.Ended() {
				s.Strike(sim.Crash{Node: m.N(), After: 500 * time.Millisecond})
			}
			s.Strike(sim.WallJump{Node: m.N(), By: 100 * time.Hour})
		}
		s.Until("its end", 2*time.Minute, op.Ended)
	}
}

// Nothing of ours moves on a machine, and its wall clock goes back by an hour.
func wallClockBack(s *sim.Story) {
	s.Order(sim.Create, "a", sim.ReplaceVM())
	_, host := s.Runs("a")
	s.Strike(sim.Freeze{Node: host.N(), For: 2 * time.Minute})
	s.Pass(2 * time.Second)
	s.Strike(sim.WallJump{Node: host.N(), By: -time.Hour})
	s.Pass(2 * time.Minute)
}

// A leader is stopped and cut off, another one is elected and answers. Then the
// old one goes on, with questions that came meanwhile.
func oldLeaderReads(s *sim.Story) {
	s.Order(sim.Create, "a", sim.ReplaceVM())
	old := s.Leader()
	s.Strike(sim.Isolate{Node: old.N(), For: 20 * time.Second})
	s.Strike(sim.Pause{Node: old.N(), For: 8 * time.Second})
	goesOn := s.Now() + 8*time.Second
	s.Until("another leader", 6*time.Second, func() bool { l := s.Leader(); return l != nil && l != old })
	s.Order(sim.Delete, "a", nil)
	s.Order(sim.Create, "b", sim.ReplaceVM())
	s.Pass(goesOn - s.Now() - 2*time.Second) // who asks sooner has given up by then
	for range 8 {
		s.Ask(sim.Get, "a", nil)
		s.Ask(sim.Get, "b", nil)
	}
	s.Pass(30 * time.Second)
	s.Heal()
	s.Rest()
}

// A server that votes alone answers, dies, and is asked again in its next life.
func aloneAgain(s *sim.Story) {
	alone := s.Machines()[0]
	for i := range 10 {
		s.Order(sim.Create, fmt.Sprintf("vm%d", i), sim.ReplaceVM())
		s.Strike(sim.Crash{Node: 1, After: 100 * time.Millisecond})
		s.Strike(sim.DiskSlow{Node: 1, Times: 50, For: time.Second})
		s.Until("it is back", 10*time.Second, func() bool { return alone.Applied() != 0 })
		s.Ask(sim.Get, fmt.Sprintf("vm%d", i), nil)
		s.Pass(5 * time.Second)
	}
	s.Heal()
	s.Rest()
}

var aSpareServer = sim.Config{Spares: 2, Settings: &blixardv1.Settings{LongLeaseMs: 20_000}}

// While a server is off another one joins and leads, and is the first that it
// hears when it is back.
func strangerLeads(s *sim.Story) {
	s.Strike(sim.PowerLoss{Node: 1, For: 40 * time.Second})
	s.Strike(sim.Join{Node: 5})
	stranger := s.Machines()[4]
	leads := func() bool { l := s.Leader(); return l != nil && l.N() != 1 }
	s.Until("it votes", 2*time.Minute, func() bool {
		return leads() && s.View().NodeByName("n5").GetServer() == blixardv1.ServerState_SERVER_STATE_VOTER
	})
	for range 30 {
		if s.Leader() == stranger {
			break
		}
		s.Strike(sim.Crash{Node: s.Leader().N(), After: 500 * time.Millisecond})
		s.Pass(time.Second)
		s.Until("another leader", time.Minute, leads)
	}
	s.Order(sim.Create, "a", sim.ReplaceVM())
	back := s.Machines()[0]
	cut(s, back, s.Machines()[1], time.Minute)
	cut(s, back, s.Machines()[2], time.Minute)
	s.Until("it is back", time.Minute, func() bool { return back.Applied() != 0 })
	s.Pass(5 * time.Second)
	s.Heal()
	s.Rest()
}

// A host loses its power while Grants are on their way, which find the next boot.
func grantAcrossReboot(s *sim.Story) {
	host := s.Machines()[1]
	vm := sim.ReplaceVM()
	vm.Require = map[string]string{"name": host.Name}
	s.Order(sim.Create, "a", vm)
	s.Runs("a")
	hold(s, host, 29*time.Second)
	// A restarted daemon is told everything again: only then is a Grant enough.
	s.Strike(sim.Crash{Node: host.N(), After: 500 * time.Millisecond})
	s.Pass(12 * time.Second)
	s.Strike(sim.PowerLoss{Node: host.N(), For: time.Second})
	s.Pass(time.Minute)
}

var oneServer = sim.Config{Servers: 1, Hosts: 2}

// An old leader cannot hear the others, and is stopped now and then so that its
// own clock does not tell it. A host hears only that one.
func granterByBelief(s *sim.Story) {
	leader := s.Leader()
	host := s.Machines()[3]
	vm := sim.ReplaceVM()
	vm.Require = map[string]string{"name": host.Name}
	s.Order(sim.Create, "a", vm)
	s.Runs("a")
	for _, m := range s.Machines() {
		if m != leader && m != host {
			cut(s, m, leader, time.Minute)
			cut(s, m, host, time.Minute)
		}
	}
	for range 5 {
		s.Strike(sim.Pause{Node: leader.N(), For: 9 * time.Second})
		s.Pass(9200 * time.Millisecond)
	}
}

var oneMoreHost = sim.Config{Servers: 3, Hosts: 1}

// A fence that an old leader proposed is appended by the next: the host has been
// granted since.
func oldFence(s *sim.Story) {
	s.Order(sim.Create, "a", sim.ReplaceVM())
	_, host := s.Runs("a")
	node := s.View().NodeByName(host.Name)
	s.Forge(&blixardv1.Command{Op: &blixardv1.Command_Fence{Fence: &blixardv1.FenceOp{WaitedNs: 1 << 60,
		NodeId: node.Id, Epoch: node.Host.Epoch, Term: s.Term() - 1,
	}}})
	s.Pass(20 * time.Second)
}

// The fence of a leader that has not waited for what may live there by now.
func hastyFence(s *sim.Story) {
	s.Order(sim.Create, "a", sim.ReplaceVM())
	_, host := s.Runs("a")
	node := s.View().NodeByName(host.Name)
	s.Forge(&blixardv1.Command{Op: &blixardv1.Command_Fence{Fence: &blixardv1.FenceOp{
		NodeId: node.Id, Epoch: node.Host.Epoch, Term: s.Term(), WaitedNs: int64(5 * time.Second),
	}}})
	s.Pass(20 * time.Second)
}

// The leases are made shorter while a host that holds a longer one hears nothing.
func shorter(s *sim.Story) {
	s.Order(sim.Create, "a", sim.ReplaceVM())
	_, host := s.Runs("a")
	s.Strike(sim.Isolate{Node: host.N(), For: time.Minute})
	s.Strike(sim.Settle{Lease: 4 * time.Second, Renew: time.Second, Long: time.Minute})
	s.Pass(40 * time.Second)
}

// Its owner gives up a VM that waits for its host, while it runs there.
func consent(s *sim.Story) {
	s.Order(sim.Create, "a", sim.WaitVM())
	_, host := s.Runs("a")
	s.Strike(sim.Isolate{Node: host.N(), For: 2 * time.Minute})
	s.Until("it is unreachable", time.Minute, func() bool {
		v := s.View()
		return v != nil && v.VM("a").GetStatus().GetPhase() == blixardv1.Phase_PHASE_UNREACHABLE
	})
	s.Order(sim.Delete, "a", nil)
	s.Pass(time.Minute)
}

// An epoch is being fenced, and the fence is not applied yet, when a quorum is
// proven to the leader for a question that was asked before. No Grant of that
// epoch has ever arrived, so there is no page that could have passed.
func grantWhileFencing(s *sim.Story) {
	const window = 11017 * time.Millisecond // of 6 s, and hardly any drift
	leader, host := s.Leader(), s.Machines()[3]
	s.Strike(sim.PowerLoss{Node: host.N(), For: time.Second})
	hold(s, host, time.Minute)
	s.Until("its next epoch", 30*time.Second, func() bool { return s.View().NodeByName(host.Name).Host.Epoch == 2 })
	begun := s.Now()
	at := func(d time.Duration) { s.Pass(begun + d - s.Now()) }
	holdBack(s, host, window-280*time.Millisecond)
	hold(s, host, window-280*time.Millisecond)
	vm := sim.ReplaceVM()
	vm.Require = map[string]string{"name": host.Name}
	s.Order(sim.Create, "a", vm)
	at(window - 300*time.Millisecond)
	// It is heard of again, which holds up the fence for a second; and the proof of
	// the quorum takes a little longer, but not so long that the leader gives up.
	for _, m := range s.Machines()[:3] {
		if m != leader {
			s.Strike(sim.Clog{From: m.N(), To: leader.N(), For: 1200 * time.Millisecond})
		}
	}
	at(30 * time.Second)
}

var shortLeases = sim.Config{Servers: 3, Hosts: 1, Settings: &blixardv1.Settings{RenewMs: 1000, LeaseMs: 6000, DriftPpm: 1000}}

// A daemon is restarted beside a VM that runs.
func adoption(s *sim.Story) {
	s.Order(sim.Create, "a", sim.ReplaceVM())
	_, host := s.Runs("a")
	s.Strike(sim.Crash{Node: host.N(), After: 2 * time.Second})
	s.Pass(time.Minute)
	if uid, _ := s.Running("a"); uid == "" {
		s.Fail(adopted, "a minute after the restart of %s, a is %v", host.Name, s.View().VM("a").GetStatus().GetPhase())
	}
}

// A VM that ignores its power button is stopped.
func stopDeaf(s *sim.Story) {
	vm := sim.ReplaceVM()
	vm.StopGraceMs = 5000
	s.Order(sim.Create, "a", vm)
	uid, _ := s.Runs("a")
	s.Order(sim.Stop, "a", nil)
	s.Pass(30 * time.Second)
	if n, _ := s.Live(uid); n != 0 || s.View().VM("a").GetStatus().GetPhase() != blixardv1.Phase_PHASE_STOPPED {
		s.Fail(stopped, "after half a minute %d of it live, and it is %v", n, s.View().VM("a").GetStatus().GetPhase())
	}
}

var deafVMs = sim.Config{Mix: &sim.Mix{Latency: time.Millisecond, Deaf: 1}}

// A host is lost for longer than its lease, and its daemon starts again: it knows
// of no lapse but what the page says.
func restartAfterLapse(s *sim.Story) {
	s.Order(sim.Create, "a", sim.ReplaceVM())
	_, host := s.Runs("a")
	s.Strike(sim.Isolate{Node: host.N(), For: 18 * time.Second})
	s.Pass(10 * time.Second)
	s.Strike(sim.Crash{Node: host.N(), After: time.Second})
	s.Pass(30 * time.Second)
}

// A host is lost again and again, and what is killed there takes its time to die.
func diesLate(s *sim.Story) {
	host := s.Machines()[1]
	vm := sim.ReplaceVM()
	vm.Require = map[string]string{"name": host.Name}
	s.Order(sim.Create, "a", vm)
	for range 15 {
		s.Runs("a")
		s.Strike(sim.Isolate{Node: host.N(), For: 30 * time.Second})
		s.Pass(32 * time.Second)
	}
}

// The same, with a host whose clock is slow and a leader whose clock is fast:
// both are started again until they have such clocks.
func clocksDiffer(s *sim.Story) {
	leader, host := s.Machines()[0], s.Machines()[1]
	for leader.Rate() < 1.08 {
		s.Strike(sim.PowerLoss{Node: leader.N(), For: time.Second})
		s.Until("a leader", 20*time.Second, func() bool { return s.Leader() != nil })
	}
	for host.Rate() > 0.92 {
		s.Strike(sim.PowerLoss{Node: host.N(), For: time.Second})
		s.Pass(time.Second)
	}
	diesLate(s)
}

var oneServerSlowDeaths = sim.Config{
	Servers: 1, Hosts: 2, Mix: &sim.Mix{Latency: time.Millisecond, SlowKill: 1},
	Settings: &blixardv1.Settings{RenewMs: 1000, LeaseMs: 6000},
}

// A VM that waits for its host runs on, cut off, under the long lease.
func waits(s *sim.Story) {
	s.Order(sim.Create, "a", sim.WaitVM())
	_, host := s.Runs("a")
	s.Strike(sim.Isolate{Node: host.N(), For: time.Minute})
	s.Pass(90 * time.Second)
}

// A host is copied to another machine, with its identity and the files of its VMs.
func clonedHost(s *sim.Story) { clone(s, 0) }

// The same, and the copy hears what is sent to the original.
func clonedInPlace(s *sim.Story) { clone(s, 1) }

func clone(s *sim.Story, steal int) {
	host, copy := s.Machines()[3], s.Machines()[4]
	vm := sim.ReplaceVM()
	vm.Require = map[string]string{"name": host.Name}
	s.Order(sim.Create, "a", vm)
	s.Runs("a")
	s.Strike(sim.Clone{Node: host.N(), To: copy.N(), Steal: steal, For: time.Minute})
	s.Pass(time.Minute)
}

var spareHost = sim.Config{Servers: 3, Hosts: 1, Spares: 2}

// probedVM is asked every second how it is, and not well after one failure.
func probedVM() *blixardv1.VMSpec {
	s := sim.ReplaceVM()
	s.Health = &blixardv1.Health{
		Probe:         &blixardv1.Health_Tcp{Tcp: &blixardv1.TCPProbe{Host: "10.0.0.1", Port: 80}},
		StartPeriodMs: 1, IntervalMs: 1000, TimeoutMs: 500, HealthyThreshold: 1, UnhealthyThreshold: 1,
	}
	return s
}

func health(s *sim.Story, name string) blixardv1.HealthState {
	return s.View().VM(name).GetStatus().GetHealth()
}

// A guest answers no probe any more.
func sick(s *sim.Story) {
	s.Order(sim.Create, "a", probedVM())
	_, host := s.Runs("a")
	s.Until("a is well", 20*time.Second, func() bool { return health(s, "a") == blixardv1.HealthState_HEALTH_STATE_HEALTHY })
	attempt := s.View().VM("a").Status.Attempt
	s.Strike(sim.GuestSick{Node: host.N()})
	s.Pass(time.Minute)
	if vm := s.View().VM("a"); vm.Status.Attempt == attempt || health(s, "a") != blixardv1.HealthState_HEALTH_STATE_HEALTHY {
		s.Fail(unwell, "attempt %d goes on, and is %s", vm.Status.Attempt, vm.Status.Health)
	}
}

// A host stands still again and again, for less than its lease.
func stalled(s *sim.Story) {
	s.Order(sim.Create, "a", probedVM())
	_, host := s.Runs("a")
	s.Until("a is well", 20*time.Second, func() bool { return health(s, "a") == blixardv1.HealthState_HEALTH_STATE_HEALTHY })
	attempt := s.View().VM("a").Status.Attempt
	for i := range 60 { // some of them while it is asked
		s.Strike(sim.Pause{Node: host.N(), For: 3 * time.Second})
		s.Pass(6*time.Second + time.Duration(i)*70*time.Millisecond)
	}
	if vm := s.View().VM("a"); vm.Status.Attempt != attempt {
		s.Fail(unwell, "it was restarted: %s", vm.Status)
	}
}

// A host is lost, and the others have room for the most important of its VMs only.
func hostLostOfTwo(s *sim.Story) {
	host := s.Another(s.Leader())
	for _, m := range s.Machines() {
		if m != host {
			s.Order(sim.Cordon, m.Name, nil)
		}
	}
	for i, name := range []string{"low", "mid", "high"} {
		spec := sim.ReplaceVM()
		spec.MemoryMib, spec.Priority = 2048, int32(i)
		s.Order(sim.Create, name, spec)
		s.Runs(name)
	}
	for _, m := range s.Machines() {
		if m != host {
			s.Order(sim.Uncordon, m.Name, nil)
		}
	}
	for _, m := range s.Machines() { // one VM fits each of the others
		if m == host {
			continue
		}
		spec := sim.ReplaceVM()
		spec.MemoryMib, spec.Priority = 5120, 1000
		s.Order(sim.Create, "full"+m.Name, spec)
	}
	s.Strike(sim.PowerLoss{Node: host.N(), For: 3 * time.Minute})
	s.Runs("high")
	s.Pass(4 * time.Minute)
}

// A host with more VMs than may go at a time is drained, and restored.
func drained(s *sim.Story) {
	n1 := s.Machines()[0]
	for _, m := range s.Machines()[1:] {
		s.Order(sim.Cordon, m.Name, nil)
	}
	for _, name := range []string{"a", "b", "c", "d"} {
		s.Order(sim.Create, name, sim.ReplaceVM())
	}
	s.Order(sim.Create, "keep", sim.WaitVM())
	for _, name := range []string{"a", "b", "c", "d", "keep"} {
		s.Runs(name)
	}
	for _, m := range s.Machines()[1:] {
		s.Order(sim.Uncordon, m.Name, nil)
	}
	s.Strike(sim.Drained{Node: n1.N(), Parallel: 2, Local: 1, For: 2 * time.Minute})
	s.Pass(100 * time.Second)
	for _, name := range []string{"a", "b", "c", "d"} {
		if _, host := s.Running(name); host == nil || host == n1 {
			s.Fail(emptied, "%s does not run elsewhere", name)
		}
	}
	if n, where := s.Live(s.View().VM("keep").GetUid()); n != 0 {
		s.Fail(emptied, "keep runs on %v", where)
	}
	s.Pass(time.Minute)
	if _, host := s.Running("keep"); host != n1 {
		s.Fail(emptied, "keep does not run again")
	}
}

// VMs come while hosts are cordoned, the emptiest among them.
func cordon(s *sim.Story) {
	s.Order(sim.Cordon, s.Machines()[1].Name, nil)
	s.Order(sim.Cordon, s.Machines()[2].Name, nil)
	for _, name := range []string{"a", "b", "c"} {
		s.Order(sim.Create, name, sim.ReplaceVM())
	}
	s.Order(sim.Uncordon, s.Machines()[2].Name, nil)
	for _, name := range []string{"d", "e", "f"} {
		s.Order(sim.Create, name, sim.ReplaceVM())
		s.Runs(name)
	}
}

// VMs want to be on one host, and the others have more room.
func labels(s *sim.Story) {
	for _, name := range []string{"a", "b", "c"} {
		vm := sim.ReplaceVM()
		vm.Require = map[string]string{"name": s.Machines()[1].Name}
		s.Order(sim.Create, name, vm)
		s.Runs(name)
	}
}

// Two of five servers are to leave, and are cut off with a third before the log
// says so.
func twoServersLeave(s *sim.Story) {
	leader := s.Leader()
	stays := s.Another(leader)
	side, leave := 0, []*sim.Machine{}
	for _, m := range s.Machines() {
		if m != leader && m != stays {
			side |= 1 << m.Index
			leave = append(leave, m)
		}
	}
	leave = leave[1:]
	s.Pass(time.Second) // the last one that joined is settled
	for _, m := range leave {
		s.Ask(sim.RemoveMember, m.Name, nil)
	}
	s.Until("all know that both are to leave", 5*time.Second, func() bool {
		last := uint64(0)
		for _, m := range leave {
			n := s.View().NodeByName(m.Name)
			if s.Leader() != leader || n.GetServer() != blixardv1.ServerState_SERVER_STATE_LEAVING {
				return false
			}
			last = max(last, n.Revision)
		}
		return !slices.ContainsFunc(s.Machines(), func(m *sim.Machine) bool { return m.Applied() < last })
	})
	s.Pass(5 * time.Millisecond) // and say so
	s.Strike(sim.Split{Side: side, For: 10 * time.Second})
	for i := range 20 {
		s.Ask(sim.Create, fmt.Sprintf("vm%d", i), sim.ReplaceVM())
	}
	s.Pass(time.Minute)
}

var fiveServers = sim.Config{Servers: 5}

var soonAtRest = sim.Config{Settings: &blixardv1.Settings{LongLeaseMs: 20_000}}

// A paused VM crashes, and is started anew.
func pausedCrashes(s *sim.Story) {
	s.Order(sim.Create, "a", sim.ReplaceVM())
	_, host := s.Runs("a")
	s.Order(sim.PauseVM, "a", nil)
	s.Until("a is paused", time.Minute, func() bool {
		v := s.View()
		return v != nil && v.VM("a").GetStatus().GetPhase() == blixardv1.Phase_PHASE_PAUSED
	})
	s.Strike(sim.GuestCrash{Node: host.N()})
	s.Pass(10 * time.Second)
	s.Heal()
	s.Rest()
}

// onFourth has a VM run on the host that is no server.
func onFourth(s *sim.Story, vm *blixardv1.VMSpec) *sim.Machine {
	host := s.Machines()[3]
	vm.Require = map[string]string{"name": host.Name}
	s.Order(sim.Create, "a", vm)
	s.Runs("a")
	return host
}

// A host that cannot be reached is taken for lost, though its VM lives.
func lostAtOnce(s *sim.Story) {
	host := onFourth(s, sim.ReplaceVM())
	s.Strike(sim.Isolate{Node: host.N(), For: time.Minute})
	s.Pass(time.Second)
	s.Ask(sim.LoseMember, host.Name, nil)
	s.Pass(time.Minute)
}

// The same, once its epoch is fenced; the VM waits for its host, and lives on.
func lostWhenFenced(s *sim.Story) {
	host := onFourth(s, sim.WaitVM())
	s.Strike(sim.Isolate{Node: host.N(), For: 2 * time.Minute})
	s.Until("its epoch is fenced", time.Minute, func() bool {
		v := s.View()
		return v != nil && v.NodeByName(host.Name).GetHost().GetEpochState() == blixardv1.EpochState_EPOCH_STATE_FENCED
	})
	s.Ask(sim.LoseMember, host.Name, nil)
	s.Pass(time.Minute)
}

// A host is off for ever, and a VM waited for it.
func lostForGood(s *sim.Story) {
	host := onFourth(s, sim.WaitVM())
	s.Strike(sim.PowerLoss{Node: host.N(), For: time.Hour})
	for range 30 {
		if op := s.Do(&sim.Operation{Verb: sim.LoseMember, Name: host.Name}); op.Ended() && !op.Unknown && op.Error == nil {
			s.Pass(30 * time.Second)
			return
		}
		s.Pass(5 * time.Second)
	}
	s.Fail("a story goes on", "%s is not given up", host.Name)
}

var soonLost = sim.Config{Servers: 3, Hosts: 1, Settings: &blixardv1.Settings{RenewMs: 1000, LeaseMs: 6000, LongLeaseMs: 20_000}}

// A VM needs a file for longer than one is kept that nothing needs.
func twoHours(s *sim.Story) {
	s.Order(sim.Create, "a", sim.NixVM())
	s.Runs("a")
	s.Pass(2 * time.Hour)
}

var oneFile = sim.Config{Servers: 1, Mix: &sim.Mix{Latency: time.Millisecond, Names: 1, Files: 1}}

// A VM goes live to another host.
func goesLive(s *sim.Story) {
	moves(s)
	s.Until("it has moved", time.Minute, func() bool { return s.Move("a").GetState() == blixardv1.MigrationState_MIGRATION_STATE_DONE })
	s.Runs("a")
}

// nixMoves has what Nix built moved live.
func nixMoves(s *sim.Story) {
	movesOf(s, sim.RoamingNixVM())
	s.Until("it has moved", time.Minute, func() bool { return s.Move("a").GetState() == blixardv1.MigrationState_MIGRATION_STATE_DONE })
	s.Runs("a")
}

// moves begins to move a VM live, between hosts that do not lead: what they say and
// hear can be held back.
func moves(s *sim.Story) (from, to *sim.Machine) { return movesOf(s, sim.ImageVM()) }

func movesOf(s *sim.Story, spec *blixardv1.VMSpec) (from, to *sim.Machine) {
	s.Uploaded()
	leader := s.Leader()
	s.Order(sim.Cordon, leader.Name, nil)
	s.Order(sim.Create, "a", spec)
	s.Runs("a")
	from = s.Moves("a")
	s.Until("it has a target", time.Minute, func() bool { to = s.Targeted("a"); return to != nil })
	return from, to
}

// movesVolume is moves, of a VM with a volume.
func movesVolume(s *sim.Story) (from, to *sim.Machine) {
	s.Uploaded()
	s.AVolume()
	leader := s.Leader()
	s.Order(sim.Cordon, leader.Name, nil)
	s.Order(sim.Create, "a", sim.VolumeVM())
	s.Runs("a")
	s.HasVolume()
	from = s.Moves("a")
	s.Until("it has a target", time.Minute, func() bool { to = s.Targeted("a"); return to != nil })
	return from, to
}

func moveOver(s *sim.Story, state blixardv1.MigrationState) {
	s.Until("its move has ended", 3*time.Minute, func() bool { return s.Move("a").GetState() == state })
}

// A volume goes with its VM.
func volumeGoesLive(s *sim.Story) {
	movesVolume(s)
	moveOver(s, blixardv1.MigrationState_MIGRATION_STATE_DONE)
	s.Runs("a")
}

// It stays with one that does not go, and nothing of it is left elsewhere.
func volumeStays(s *sim.Story) {
	from, _ := movesVolume(s)
	s.Befalls(from, "StreamBreaks")
	moveOver(s, blixardv1.MigrationState_MIGRATION_STATE_FAILED)
	s.Heal()
	s.Rest()
}

// The target hears late that it has a volume, and the source hears at once that it has
// none.
func volumeUnheard(s *sim.Story) {
	from, to := movesVolume(s)
	sends(s)
	s.Until("it is handed over", time.Minute, func() bool { return from.HandedOver("a") })
	hold(s, to, 8*time.Second)
	s.Pass(30 * time.Second)
	s.Runs("a")
}

// The target loses its power when it has a volume by the state, and before its guest has
// written anything there.
func volumeLosesPower(s *sim.Story) {
	from, to := movesVolume(s)
	sends(s)
	s.Until("it is handed over", time.Minute, func() bool { return from.HandedOver("a") })
	hold(s, to, 8*time.Second)
	s.Until("it has switched", time.Minute, func() bool {
		return s.Move("a").GetState() >= blixardv1.MigrationState_MIGRATION_STATE_SWITCHED
	})
	s.Strike(sim.PowerLoss{Node: to.N(), For: 3 * time.Second})
	s.Pass(2 * time.Minute)
	s.Heal()
	s.Rest()
}

// sends waits until a VM is being sent.
func sends(s *sim.Story) {
	s.Until("it is sent", time.Minute, func() bool {
		return s.Move("a").GetState() == blixardv1.MigrationState_MIGRATION_STATE_SENDING
	})
}

// The target has everything, the source does not know, goes on, and is not heard.
func breaksAtItsEnd(s *sim.Story) {
	from, _ := moves(s)
	s.Befalls(from, "LastPieceLost")
	sends(s)
	holdBack(s, from, 5*time.Second)
	s.Pass(20 * time.Second)
	s.Runs("a")
}

// handsOver has a VM handed over while its target is not heard.
func handsOver(s *sim.Story) (from, to *sim.Machine) {
	from, to = moves(s)
	sends(s)
	holdBack(s, to, 7*time.Second)
	s.Until("it is handed over", time.Minute, func() bool { return from.HandedOver("a") })
	return from, to
}

// What was handed over dies before the switch.
func sourceDiesHandedOver(s *sim.Story) {
	from, _ := handsOver(s)
	from.KillVM("a")
	s.Pass(20 * time.Second)
	s.Runs("a")
}

// What was loaded dies before the switch.
func targetDiesLoaded(s *sim.Story) {
	_, to := handsOver(s)
	s.Pass(500 * time.Millisecond)
	to.KillVM("a")
	s.Pass(20 * time.Second)
	s.Runs("a")
}

// A move is called off when its guest has left.
func calledOffLate(s *sim.Story) {
	from, _ := handsOver(s)
	s.Until("the state knows", time.Minute, func() bool {
		return s.Move("a").GetState() == blixardv1.MigrationState_MIGRATION_STATE_HANDED_OVER
	})
	op := s.Ask(sim.StayVM, "a", nil)
	s.Until("there is an answer", time.Minute, op.Ended)
	if op.Error == nil {
		s.Fail("what has left is not called back", "a move from %s is called off after its hand-over", from.Name)
	}
	s.Pass(20 * time.Second)
	s.Runs("a")
}

// A move is called off while its target cannot be told, which goes on saying how far it is.
func calledOff(s *sim.Story) {
	_, to := moves(s)
	sends(s)
	hold(s, to, 5*time.Second)
	s.Order(sim.StayVM, "a", nil)
	s.Pass(20 * time.Second)
	s.Runs("a")
	s.Heal()
	s.Rest()
}

// A VM is to have fewer devices at its next start, and another one waits for what it
// gives back.
func balloons(s *sim.Story) {
	s.Uploaded()
	with := func(mib uint64) *blixardv1.VMSpec {
		vm := sim.ImageVM()
		vm.OnUpdate, vm.MemoryMib = blixardv1.OnUpdate_ON_UPDATE_NEXT_START, mib
		return vm
	}
	s.Order(sim.Create, "a", with(1024))
	s.Runs("a")
	for _, mib := range []uint64{256, 512} {
		s.Order(sim.Update, "a", with(mib))
		s.Pass(10 * time.Second)
	}
	s.Heal()
	s.Rest()
}

func devices(s *sim.Story) {
	s.Uploaded()
	with := func(n uint32) *blixardv1.VMSpec {
		vm := sim.ImageVM()
		vm.OnUpdate = blixardv1.OnUpdate_ON_UPDATE_NEXT_START
		vm.Devices = []*blixardv1.DeviceRequest{{Kind: "gpu", Count: n}}
		return vm
	}
	s.Order(sim.Create, "a", with(2))
	_, host := s.Runs("a")
	for _, m := range s.Machines() {
		if m != host {
			s.Order(sim.Cordon, m.Name, nil)
		}
	}
	s.Order(sim.Update, "a", with(1))
	s.Order(sim.Create, "b", with(1))
	s.Pass(20 * time.Second)
	s.Order(sim.Restart, "a", nil)
	s.Runs("b")
}

// What serves a VM's shares dies alone, while it runs and while it is paused: it is
// started anew each time.
func losesShares(s *sim.Story) {
	s.Uploaded()
	for _, m := range s.Machines() {
		s.BefallsIn(m, "ShareLost", 10*time.Second)
		s.BefallsIn(m, "ShareLost", 10*time.Second)
	}
	s.Order(sim.Create, "a", sim.SharingVM())
	for _, paused := range []bool{false, true} {
		_, host := s.Runs("a")
		boot := s.Memory("a")
		if paused {
			s.Order(sim.PauseVM, "a", nil)
		}
		s.Pass(11 * time.Second)
		if s.Memory("a") == boot {
			s.Fail(served, "what served the shares of a on %s has died (paused: %t), and it lives on", host.Name, paused)
		}
		if paused {
			s.Order(sim.ResumeVM, "a", nil)
		}
	}
	s.Runs("a")
}

// A daemon dies while it has a VM go on from its saved boot: the VM is started again,
// though its policy is never to be.
func diesWarming(s *sim.Story) {
	s.Uploaded()
	s.Order(sim.Create, "a", sim.WarmVM())
	_, host := s.Runs("a")
	s.Until("its boot is saved", time.Minute, func() bool { return host.Booted("a") })
	s.BefallsIn(host, "WarmCrash", 2*time.Second)
	s.Order(sim.Restart, "a", nil)
	s.Until("the daemon has died of it", time.Minute, func() bool { return !host.Booted("a") })
	s.Pass(40 * time.Second)
	if uid, _ := s.Running("a"); uid == "" {
		s.Fail(resumed, "a does not run on %s, whose daemon has died in its warm start", host.Name)
	}
}

// While a server stands still that brings a snapshot, somebody deletes that, and takes
// another one of its name: the server gives up its own.
func broughtInVain(s *sim.Story) {
	s.Uploaded()
	s.Order(sim.Create, "a", sim.ImageVM())
	s.Runs("a")
	s.Order(sim.TakeSnapshot, "a", nil)
	s.Until("it is taken", time.Minute, func() bool {
		return s.Snapshot("a").GetState() == blixardv1.SnapshotState_SNAPSHOT_STATE_READY
	})
	s.Order(sim.BackUp, "a", nil)
	s.Dropped("a")
	op := s.Ask(sim.BringBack, "a", nil)
	s.Until("a server brings it", time.Minute, func() bool { return s.Bringing() != nil })
	s.Strike(sim.Pause{Node: s.Bringing().N(), For: 6 * time.Second})
	s.Dropped("a")
	s.Order(sim.TakeSnapshot, "a", nil)
	s.Until("it is given up", time.Minute, op.Ended)
	s.Heal()
	s.Rest()
}

// A daemon dies when a VM has just gone on from its saved boot: the next one tells the
// guest who it is.
func diesUntold(s *sim.Story) {
	s.Uploaded()
	s.Order(sim.Create, "a", sim.WarmVM())
	_, host := s.Runs("a")
	s.Until("its boot is saved", time.Minute, func() bool { return host.Booted("a") })
	s.Order(sim.Restart, "a", nil)
	s.Until("it has gone on from that", time.Minute, func() bool { return s.Untold("a") })
	s.Strike(sim.Crash{Node: host.N(), After: time.Second})
	s.Pass(10 * time.Second)
	s.Heal()
	s.Rest()
}

// A VM crashes that has gone on from its snapshot, while nobody hears its host: what was
// ordered stands, and was done.
func crashesRestored(s *sim.Story) {
	s.Uploaded()
	name, host := "", s.Leader()
	for _, name = range []string{"a", "b", "c"} {
		s.Order(sim.Create, name, sim.ImageVM())
		if _, host = s.Runs(name); host != s.Leader() {
			break
		}
	}
	s.Order(sim.TakeSnapshot, name, nil)
	s.Pass(10 * time.Second)
	boot := s.Memory(name)
	s.Order(sim.Revert, name, nil)
	mute(s, host, 8*time.Second)
	s.Until("it has begun", 4*time.Second, func() bool { return s.Memory(name) != 0 && s.Memory(name) != boot })
	s.Pass(3 * time.Second) // and gone on
	host.KillVM(name)
	s.Pass(20 * time.Second)
	s.Runs(name)
}
