package sim

import (
	"fmt"
	"testing"
	"time"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Stories are worlds in which only what the story tells goes wrong.

type story struct {
	*Story
	t *testing.T
}

func tell(t *testing.T, cfg Config) *story { return tellOf(t, cfg, func(*World) {}) }

// tellOf tells of a world that is arranged before it is founded.
func tellOf(t *testing.T, cfg Config, arrange func(*World)) *story {
	if *oneSeed != 0 {
		t.Skip("a child")
	}
	cfg.Seed = max(cfg.Seed, 1)
	w := New(cfg)
	s := &story{t: t}
	s.Story = &Story{w, s.check}
	t.Cleanup(func() {
		w.Close()
		s.check()
	})
	arrange(w)
	s.Begin()
	return s
}

func (s *story) check() {
	s.t.Helper()
	if s.failure != nil {
		s.t.Fatalf("%s: %s\n%v", s.failure.Promise, s.failure.Text, s.trace.lines(40))
	}
}

func (s *story) do(verb Verb, name string, spec *blixardv1.VMSpec) *Operation {
	s.t.Helper()
	return s.Order(verb, name, spec)
}

func replaceVM() *blixardv1.VMSpec { return ReplaceVM() }

func waitVM() *blixardv1.VMSpec { return WaitVM() }

// view is what the leader knows.
func (s *story) view() *cluster.State { return s.View() }

// until waits for something and says what was waited for when it does not come.
func (s *story) until(what string, d time.Duration, cond func() bool) {
	s.t.Helper()
	s.Until(what, d, cond)
}

// runs waits until a VM runs and is reported so, and says where.
func (s *story) runs(name string) (uid string, host *Machine) {
	s.t.Helper()
	return s.Runs(name)
}

// Three nodes, five VMs: every node gets at least one.
func TestFiveVMsOnThreeNodes(t *testing.T) {
	s := tell(t, Config{})
	on := map[string]int{}
	for i := range 5 {
		name := fmt.Sprintf("vm%d", i)
		s.do(Create, name, replaceVM())
		_, host := s.runs(name)
		on[host.Name]++
	}
	if len(on) != 3 {
		t.Errorf("the VMs are on %v", on)
	}
	s.Heal()
	s.Rest()
}

// The leader crashes: another is elected before its election timeout has
// passed, because its peers saw it hang up, and a write goes through.
func TestLeaderCrash(t *testing.T) {
	s := tell(t, Config{})
	s.do(Create, "a", replaceVM())
	uid, _ := s.runs("a")
	old, at := s.Leader(), s.now
	s.Strike(Crash{N(old.Index), 10 * time.Second})
	s.until("another leader", 10*time.Second, func() bool { l := s.Leader(); return l != nil && l != old })
	t.Logf("another leader after %v", time.Duration(s.now-at))
	s.do(Create, "b", replaceVM())
	if n, where := s.Live(uid); n != 1 {
		t.Errorf("the leader's crash disturbed a VM: %v", where)
	}
	s.Heal()
	s.Rest()
}

// A host is cut off. Its replace VM ends by D, is placed elsewhere after the
// window, and never lives twice (which the judge of copies sees to).
func TestIsolatedHostLosesItsVM(t *testing.T) {
	s := tell(t, Config{})
	s.do(Create, "a", replaceVM())
	uid, host := s.runs("a")
	cut := s.now
	s.Strike(Isolate{N(host.Index), 5 * time.Minute})
	s.until("its end", 60*time.Second, func() bool { n, _ := s.Live(uid); return n == 0 })
	died := time.Duration(s.now - cut)
	longest := time.Duration(float64(s.settings.LeaseMs)/0.9)*time.Millisecond + 200*time.Millisecond
	if died > longest {
		t.Errorf("it lived for %v after the cut, longer than %v", died, longest)
	}
	s.until("its return", 2*time.Minute, func() bool { n, _ := s.Live(uid); return n == 1 })
	moved := time.Duration(s.now - cut)
	t.Logf("it ended %v after the cut and was back after %v", died, moved)
	if _, at := s.Live(uid); at[0] == host.Name {
		t.Errorf("it came back on the isolated %s", host.Name)
	}
	if least := time.Duration(s.settings.LeaseMs) * time.Millisecond; moved < least {
		t.Errorf("it was re-placed after %v, before the lease of %v could have ended", moved, least)
	}
	s.Heal()
	s.Rest()
}

// Two minutes without a quorum: a wait VM lives on.
func TestWaitVMOutlivesAnOutage(t *testing.T) {
	s := tell(t, Config{})
	s.do(Create, "w", waitVM())
	s.do(Create, "r", replaceVM())
	wait, _ := s.runs("w")
	replace, _ := s.runs("r")
	for _, m := range s.machines {
		s.Strike(Isolate{N(m.Index), 2 * time.Minute})
	}
	s.RunFor(time.Minute)
	if n, _ := s.Live(replace); n != 0 {
		t.Error("a replace VM lives without a lease")
	}
	for range 120 {
		s.RunFor(500 * time.Millisecond)
		if n, _ := s.Live(wait); n != 1 {
			t.Fatalf("the wait VM has %d instances after %v", n, time.Duration(s.now))
		}
	}
	s.Heal()
	s.Rest()
	if got, _ := s.runs("w"); got != wait {
		t.Errorf("the wait VM is another one: %s", got)
	}
}

// A shim that is stopped past its deadline does not keep its VM alive.
func TestStoppedShimEndsAtItsDeadline(t *testing.T) {
	s := tell(t, Config{})
	s.do(Create, "a", replaceVM())
	uid, host := s.runs("a")
	s.Strike(ShimPause{N(host.Index), 0, 5 * time.Minute})
	s.until("its end", 60*time.Second, func() bool { n, _ := s.Live(uid); return n == 0 })
	if s.counts["Lapse"] != 1 {
		t.Errorf("the kernel's timer rang %d times", s.counts["Lapse"])
	}
	s.runs("a")
	s.Heal()
	s.Rest()
}

// A name is deleted and made again while its host is cut off: the new VM waits
// for the old one's window, and is another one.
func TestNameIsMadeAgainWhileItsHostIsCutOff(t *testing.T) {
	s := tell(t, Config{})
	s.do(Create, "a", replaceVM())
	old, host := s.runs("a")
	s.Strike(Isolate{N(host.Index), 3 * time.Minute})
	s.do(Delete, "a", nil)
	var op *Operation
	start := s.now
	s.until("the name is free", 2*time.Minute, func() bool { return s.view() != nil && s.view().VM("a") == nil })
	t.Logf("the name was free after %v", time.Duration(s.now-start))
	if n, _ := s.Live(old); n != 0 {
		t.Error("the name is free while its VM lives")
	}
	op = s.do(Create, "a", replaceVM())
	if op.VM.Uid == old {
		t.Errorf("the new VM has the old uid %s", old)
	}
	s.runs("a")
	s.Heal()
	s.Rest()
}

// A daemon that starts again takes up the VMs that run, and disturbs none.
func TestRestartedDaemonAdopts(t *testing.T) {
	s := tell(t, Config{})
	s.do(Create, "a", replaceVM())
	uid, host := s.runs("a")
	d, _ := host.dirs.Get(uid)
	before := d.guest
	s.Strike(Crash{N(host.Index), 2 * time.Second})
	for range 60 {
		s.RunFor(time.Second)
		if d.guest != before {
			t.Fatalf("the VM was disturbed at %v", time.Duration(s.now))
		}
	}
	s.runs("a")
	s.Heal()
	s.Rest()
}

// A host loses its power and comes back: its VM lives somewhere, once.
func TestPowerLoss(t *testing.T) {
	s := tell(t, Config{})
	s.do(Create, "a", replaceVM())
	uid, host := s.runs("a")
	s.Strike(PowerLoss{N(host.Index), 10 * time.Second})
	s.until("it runs again", 2*time.Minute, func() bool { n, _ := s.Live(uid); return n == 1 })
	s.Heal()
	s.Rest()
}
