package sim

import (
	"testing"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// lastOfNone is a cluster whose one host runs VMs that nothing binds, while a
// second host joins and the first is no more heard of: it never acknowledges
// that its VMs have a lease now, so no window can ever release them.
func lastOfNone(t *testing.T, cut func(host *Machine) Fault) (s *story, host *Machine) {
	var late *Machine
	s = tellOf(t, Config{Servers: 3, Hosts: 1}, func(w *World) {
		w.machines[1].Host, w.machines[2].Host = false, false
		late = w.machines[3]
		w.machines = w.machines[:3]
	})
	s.do(Create, "web", replaceVM())
	s.do(Create, "db", waitVM())
	s.do(Create, "old", replaceVM())
	for _, name := range []string{"web", "db", "old"} {
		_, host = s.runs(name)
		if l := s.view().VM(name).Placement.Lease; l != blixardv1.LeaseClass_LEASE_CLASS_NONE {
			t.Fatalf("%s is bound: %v", name, l)
		}
	}
	s.Strike(cut(host))
	s.machines = append(s.machines, late)
	late.boot()
	op := s.do(AddMember, late.Name, nil)
	if err := late.join(op.Node, s.servers()); err != nil {
		t.Fatal(err)
	}
	s.until("the second host's epoch", time.Minute, func() bool {
		v := s.view()
		return v != nil && v.Node(late.id).GetHost().GetEpochState() == blixardv1.EpochState_EPOCH_STATE_ACTIVE
	})
	return s, host
}

// refused waits for a refusal of the operator.
func (s *story) refused(verb Verb, name string) string {
	s.t.Helper()
	op := s.Do(&Operation{Verb: verb, Name: name})
	s.check()
	if op.Error == nil {
		s.t.Fatalf("%v was not refused", op)
	}
	return op.Error.GetMessage()
}

func (s *story) lost(host *Machine) {
	s.t.Helper()
	s.until("its fence", 2*time.Minute, func() bool {
		v := s.view()
		return v != nil && v.Node(host.id).GetHost().GetEpochState() == blixardv1.EpochState_EPOCH_STATE_FENCED
	})
	s.do(LoseMember, host.Name, nil)
}

// A host is lost for good while nothing bound its VMs: only a person's word gets
// them and the node out of the state. When the machine does return, it is told.
func TestAHostIsLostForGoodWhileNothingBindsItsVMs(t *testing.T) {
	s, host := lastOfNone(t, func(m *Machine) Fault { return PowerLoss{N(m.Index), 24 * time.Hour} })
	t.Log(s.refused(RemoveMember, host.Name))
	t.Log(s.refused(LoseMember, host.Name))
	s.do(Delete, "old", nil)
	s.RunFor(5 * time.Minute)
	if v := s.view(); v.VM("old") == nil || v.VM("web").GetPlacement().GetNodeId() != host.id {
		t.Fatal("a window released what nothing binds")
	}
	s.lost(host)
	if _, at := s.runs("web"); at.Name != "n4" {
		t.Errorf("it runs on %s", at.Name)
	}
	v := s.view()
	if v.VM("old") != nil || v.VM("db").GetRun() || v.VM("db").GetStatus().GetPhase() != blixardv1.Phase_PHASE_STOPPED {
		t.Errorf("old %v, db %v", v.VM("old"), v.VM("db"))
	}
	s.do(Start, "db", nil)
	s.runs("db")
	s.until("the node's end", time.Minute, func() bool { return s.view().NodeByName(host.Name) == nil })
	s.Heal()
	s.until("the returned machine is told", time.Minute, func() bool { return host.daemon != nil && host.daemon.node.Status().Removed })
	s.Rest()
}

// The machine was not off: the person erred, or the network was only cut. What
// it runs without a lease it ends when it is told, also if its daemon has started
// again meanwhile, and keeps the files.
func TestAHostThatWasGivenUpEndsWhatItRuns(t *testing.T) {
	t.Run("its daemon runs on", func(t *testing.T) { givenUp(t, false) })
	t.Run("its daemon has started again", func(t *testing.T) { givenUp(t, true) })
}

func givenUp(t *testing.T, restart bool) {
	s, host := lastOfNone(t, func(m *Machine) Fault { return Isolate{N(m.Index), 24 * time.Hour} })
	for _, name := range []string{"web", "db", "old"} {
		s.do(Delete, name, nil) // else there would be two copies, by that person's word
	}
	s.lost(host)
	if restart {
		s.Strike(Crash{N(host.Index), time.Second})
		s.RunFor(10 * time.Second)
	}
	alive, files := 0, 0
	count := func() {
		alive, files = 0, 0
		host.dirs.Scan(func(_ string, d *vmDir) bool {
			files++
			if d.alive() {
				alive++
			}
			return true
		})
	}
	if count(); alive != 3 {
		t.Fatalf("%d are alive while the host hears nothing", alive)
	}
	s.Heal()
	s.until("their end", time.Minute, func() bool { count(); return alive == 0 })
	s.RunFor(time.Minute)
	if count(); alive != 0 || files != 3 {
		t.Errorf("%d are alive, %d have files", alive, files)
	}
	s.Rest()
}
