package sim

import (
	"testing"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// paused waits until a VM is paused and reported so, and says where.
func (s *story) paused(name string) (uid string, host *Machine) {
	s.t.Helper()
	s.until(name+" is paused", 2*time.Minute, func() bool {
		v := s.view()
		if v == nil {
			return false
		}
		vm := v.VM(name)
		host = s.byID(vm.GetPlacement().GetNodeId())
		if host == nil || vm.GetStatus().GetPhase() != blixardv1.Phase_PHASE_PAUSED {
			return false
		}
		uid = vm.Uid
		d, ok := host.dirs.Get(uid)
		return ok && d.guest != nil && d.guest.paused
	})
	return uid, host
}

// A paused VM is the same VM when it goes on; a daemon that is killed meanwhile
// changes nothing about that.
func TestAPausedVMGoesOn(t *testing.T) {
	s := tell(t, Config{})
	s.do(Create, "a", replaceVM())
	uid, host := s.runs("a")
	guest := func() *guest { d, _ := host.dirs.Get(uid); return d.guest }
	before := guest()
	s.do(PauseVM, "a", nil)
	s.paused("a")
	s.Strike(Crash{N(host.Index), time.Second})
	s.Pass(time.Minute)
	if guest() != before || !before.paused {
		t.Error("the guest was disturbed, or went on by itself")
	}
	s.do(ResumeVM, "a", nil)
	if again, _ := s.runs("a"); again != uid || guest() != before || before.paused {
		t.Error("another guest went on")
	}
	s.Heal()
	s.Rest()
}

// A hypervisor that refuses is asked again.
func TestAPauseThatIsRefusedIsTriedAgain(t *testing.T) {
	s := tell(t, Config{})
	s.do(Create, "a", replaceVM())
	_, host := s.runs("a")
	s.Strike(Mishap{Name: "PauseFails", At: host.place()})
	s.do(PauseVM, "a", nil)
	s.until("it says so", 30*time.Second, func() bool {
		return s.view() != nil && s.view().VM("a").GetStatus().GetReason() == "PauseFailed"
	})
	s.paused("a")
	s.Heal()
	s.Rest()
}

// The pause is the VM's, not its instance's: one that is placed elsewhere is
// paused there. A Stop ends it, and the guest hears it at once.
func TestAPausedVMIsPausedElsewhere(t *testing.T) {
	s := tell(t, Config{})
	s.do(Create, "a", replaceVM())
	s.runs("a")
	s.do(PauseVM, "a", nil)
	uid, host := s.paused("a")
	s.Strike(PowerLoss{N(host.Index), 5 * time.Minute})
	s.until("it is elsewhere", 2*time.Minute, func() bool {
		v := s.view()
		return v != nil && v.VM("a").GetPlacement() != nil && v.VM("a").Placement.NodeId != host.id
	})
	if again, there := s.paused("a"); again != uid || there == host {
		t.Errorf("%s on %s", again, there.Name)
	}
	s.do(Stop, "a", nil)
	s.until("it is stopped", 30*time.Second, func() bool {
		n, _ := s.Live(uid)
		return n == 0 && s.view() != nil && s.view().VM("a").GetStatus().GetPhase() == blixardv1.Phase_PHASE_STOPPED
	})
	s.do(Start, "a", nil)
	s.runs("a")
	s.Heal()
	s.Rest()
}
