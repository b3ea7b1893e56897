package sim

import (
	"fmt"
	"testing"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func nixVM(inline string) *blixardv1.VMSpec {
	return &blixardv1.VMSpec{OnHostLoss: blixardv1.OnHostLoss_ON_HOST_LOSS_REPLACE,
		Source: &blixardv1.VMSpec_Nixos{Nixos: &blixardv1.Nixos{Modules: []*blixardv1.NixosModule{
			{Source: &blixardv1.NixosModule_Inline{Inline: inline}},
		}}}}
}

// What was built once is copied from then on: every host of ten VMs that Nix
// built is lost once, and nothing is evaluated.
func TestNixBuildsOnce(t *testing.T) {
	s := tell(t, Config{Hosts: 1})
	for i := range 10 {
		spec := nixVM("{ }")
		spec.Prebuild = 1
		s.do(Create, fmt.Sprintf("vm%d", i), spec)
	}
	for i := range 10 {
		s.runs(fmt.Sprintf("vm%d", i))
	}
	if s.evaluations != 10 {
		t.Fatalf("%d evaluations for ten VMs", s.evaluations)
	}
	s.until("runners held ready", time.Minute, func() bool { return s.counts["Prepared"] >= 10 })
	s.RunFor(20 * time.Second) // one VM's may count twice: all of them, and their reports
	moved := 0
	for n := range 4 {
		m := s.machines[n]
		m.dirs.Scan(func(string, *vmDir) bool { moved++; return true })
		s.Strike(PowerLoss{N(n + 1), 90 * time.Second})
		s.RunFor(3 * time.Minute)
		s.Strike(NixCollect{N(n + 1)})
	}
	s.Heal()
	s.Rest()
	if s.evaluations != 10 || moved < 10 {
		t.Fatalf("%d evaluations when %d VMs had moved", s.evaluations, moved)
	}
}

// An update is built while the VM runs, and started when asked; a rollback
// builds nothing, and what runs or may be rolled back to is never collected.
func TestNixUpdateAndRollback(t *testing.T) {
	s := tell(t, Config{})
	s.do(Create, "a", nixVM("{ a = 1; }"))
	uid, host := s.runs("a")
	runner := func() string { d, _ := host.dirs.Get(uid); return d.guest.runner }
	first := runner()

	next := nixVM("{ a = 2; }")
	next.OnUpdate = blixardv1.OnUpdate_ON_UPDATE_RESTART
	s.do(Update, "a", next)
	if n, _ := s.Live(uid); n != 1 || runner() != first {
		t.Fatal("the update disturbed it before it was built")
	}
	s.until("the newer one", 2*time.Minute, func() bool { n, _ := s.Live(uid); return n == 1 && runner() != first })
	second := runner()
	s.runs("a")

	s.Strike(NixCollect{N(host.Index)})
	s.do(Rollback, "a", nil)
	s.runs("a")
	s.Strike(NixCollect{N(host.Index)})
	if s.evaluations != 2 {
		t.Fatalf("%d evaluations: the rollback built something", s.evaluations)
	}
	// The old spec says that it counts from the next start.
	if runner() != second {
		t.Fatal("the rollback restarted it")
	}
	s.do(Restart, "a", nil)
	s.until("the older one", time.Minute, func() bool { n, _ := s.Live(uid); return n == 1 && runner() == first })
	s.Heal()
	s.Rest()
}
