package runner

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
)

// A guest whose kernel got no processor while it measured its timer boots again, and
// then has one.
func TestAGuestWithoutATimer(t *testing.T) {
	t.Parallel()
	b := newGuestBench(t)
	if b.h.drivers[blixardv1.Hypervisor_HYPERVISOR_QEMU].(*qemu).machine.kvm {
		t.Skip("with KVM Linux needs to measure nothing")
	}
	for try := uint64(1); try <= 3; try++ {
		i := instance(fmt.Sprint("starved-", try), 1)
		b.must(vmm.Start, i, b.image(i.UID, "loglevel=7 blixard.tick=50ms"))
		f, err := familyIn(b.h.at.runOf(i.UID))
		if err != nil || len(f.all()) == 0 {
			t.Fatal(f, err)
		}
		qemu := f.all()[0]
		b.awaitConsole(i.UID, "APIC: Switch to symmetric I/O mode")
		for begin := time.Now(); !strings.Contains(b.console(i.UID), "smpboot: Max logical") && time.Since(begin) < 30*time.Second; {
			syscall.Kill(qemu, syscall.SIGSTOP)
			time.Sleep(110 * time.Millisecond)
			syscall.Kill(qemu, syscall.SIGCONT)
			time.Sleep(2 * time.Millisecond)
		}
		if strings.Contains(b.console(i.UID), "APIC frequency too slow") {
			b.awaitConsole(i.UID, "tick 3 ")
			if n := strings.Count(b.console(i.UID), "up name="); n > 2 || strings.Count(b.console(i.UID), "Linux version") < 2 {
				t.Errorf("it was not reset, or too often: %s", b.console(i.UID))
			}
			b.must(vmm.Kill, i, nil)
			b.exit(i, Killed)
			return
		}
		b.must(vmm.Kill, i, nil)
	}
	t.Skip("no guest could be starved at the right moment")
}
