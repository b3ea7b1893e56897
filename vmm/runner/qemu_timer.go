package runner

import (
	"context"
	"strings"
	"time"

	"github.com/blixard/blixard/vmm/runner/qmp"
)

// bootWatch watches a guest that boots under emulation.
//
// On the machine "microvm" it has one timer, its local APIC's, whose speed Linux measures
// for a tenth of a second. Where the host leaves it without a processor for just that
// long, Linux finds the timer "too slow" and switches it off (calibrate_APIC_clock in
// arch/x86/kernel/apic/apic.c): nothing in the guest that waits ever goes on. No option of
// Linux or QEMU prevents it, and booting again helps. So a guest that is found like that
// twice, in its first minute, is reset: it has come to its first programs at the most,
// and what those have written is as after a loss of power.
type bootWatch struct {
	s     *qemuSession
	until time.Time // zero: it was not seen to boot
	stuck bool      // at the last look
}

const bootWatched = time.Minute

// begins hears how the guest was first seen. One that was loaded, or comes from another
// host, boots nothing.
func (b *bootWatch) begins(first guestState) {
	if b.s.q.machine.kvm || first != running {
		return
	}
	b.until = b.s.booted()
}

// look resets the guest, if there is nothing else to be done for it.
func (b *bootWatch) look(ctx context.Context, c *qmp.Client) {
	if !time.Now().Before(b.until) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, qmpPatience)
	defer cancel()
	was := b.stuck
	if b.stuck = timerless(ctx, c); !b.stuck || !was {
		return
	}
	b.stuck = false
	if err := c.Reset(ctx); err != nil {
		b.s.q.warn("a guest that is without a timer cannot be reset", "dir", b.s.place.state, "err", err)
		return
	}
	b.s.q.warn("a guest was reset: its kernel had switched off the only timer that it has, for this host was too busy while it measured it", "dir", b.s.place.state)
}

// timerless says that a guest's first processor waits for an interrupt, and that its
// timer, which could send one, is masked and as the measuring has left it.
func timerless(ctx context.Context, c *qmp.Client) bool {
	for property, want := range map[string]string{"type": "microvm-machine", "pit": "off"} {
		var is string
		if err := c.Get(ctx, "/machine", property, &is); err != nil || is != want {
			return false
		}
	}
	apic, err := c.Monitor(ctx, "info lapic")
	if err != nil || !strings.Contains(apic, "LVTT\t 0x000300ec") || !strings.Contains(apic, " initial_count = 268435455 ") {
		return false
	}
	cpu, err := c.Monitor(ctx, "info registers")
	return err == nil && strings.Contains(cpu, " HLT=1")
}
