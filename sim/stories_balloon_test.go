package sim

import (
	"testing"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func ofMemory(mib uint64) *blixardv1.VMSpec {
	vm := ImageVM()
	vm.MemoryMib, vm.OnUpdate = mib, blixardv1.OnUpdate_ON_UPDATE_NEXT_START
	return vm
}

// has waits until a guest has so much memory and that is said of it.
func (s *story) has(name string, mib, boot uint64) {
	s.t.Helper()
	uid, host := s.runs(name)
	s.until(name+" has its memory", time.Minute, func() bool {
		d, ok := host.dirs.Get(uid)
		st := s.view().VM(name).GetStatus()
		return ok && d.guest != nil && d.guest.has == mib && d.guest.boot == boot && st.MemoryMib == mib && st.BootedMemoryMib == boot
	})
}

// A guest that runs is made smaller and larger again, as far as it was started, and
// more at its next start; its host accounts the most of it all the while. A daemon
// that dies meanwhile changes nothing.
func TestAGuestIsResized(t *testing.T) {
	s := tell(t, Config{})
	s.Uploaded()
	s.do(Create, "a", ofMemory(1024))
	s.has("a", 1024, 1024)
	uid, host := s.runs("a")
	d, _ := host.dirs.Get(uid)
	before := d.guest
	accounts := func(mib uint64) {
		t.Helper()
		if got := s.view().VM("a").Placement.MemoryMib; got != mib {
			t.Errorf("accounted are %d MiB, want %d", got, mib)
		}
	}
	s.do(Update, "a", ofMemory(256))
	s.has("a", 256, 1024)
	accounts(1024)
	s.Strike(Crash{N(host.Index), time.Second})
	s.do(Update, "a", ofMemory(512))
	s.has("a", 512, 1024)
	s.do(Update, "a", ofMemory(2048))
	s.has("a", 1024, 1024)
	accounts(2048)
	if d.guest != before {
		t.Error("it was started anew")
	}
	s.do(Update, "a", ofMemory(128))
	s.has("a", 128, 1024)
	accounts(2048)
	s.do(Restart, "a", nil)
	s.has("a", 128, 128)
	accounts(128)
	s.Heal()
	s.Rest()
}

// A guest that gives nothing is asked now and then, and what it does not give is
// said.
func TestAGreedyGuestIsNamed(t *testing.T) {
	s := tell(t, Config{Mix: &Mix{Latency: time.Millisecond, Greedy: 1}})
	s.Uploaded()
	s.do(Create, "a", ofMemory(1024))
	s.runs("a")
	s.do(Update, "a", ofMemory(256))
	s.until("it says so", time.Minute, func() bool {
		return s.view().VM("a").GetStatus().GetMemoryMessage() != ""
	})
	s.do(Update, "a", ofMemory(1024))
	s.until("nothing is left to say", time.Minute, func() bool {
		return s.view().VM("a").GetStatus().GetMemoryMessage() == ""
	})
	s.Heal()
	s.Rest()
}
