package runner

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/blixard/blixard/vmm/runner/qmp"
)

// A guest hears its power button once its driver for that is there, which is a while
// after it was seen to run: a press before that is lost, and a stop would wait out all of
// its grace for it. So a guest that may still boot is pressed again, until it ends. One
// that is on its way down does not mind.
const pressAgain = time.Second

// press presses the power button.
func (s *qemuSession) press(ctx context.Context, c *qmp.Client) error {
	if s.boots() {
		leaveWord(s.pressed)
	}
	return c.Powerdown(ctx)
}

// boots says that the guest may not have come further than its boot.
func (s *qemuSession) boots() bool { return time.Now().Before(s.booted()) }

// booted is when the guest will have booted, if it does: bootWatched after its QEMU began.
// It is zero where that is not known.
func (s *qemuSession) booted() (at time.Time) {
	st, err := os.Stat(filepath.Join(s.place.run, qmpSocket)) // as old as its QEMU
	if err == nil && !st.ModTime().After(time.Now()) {
		at = st.ModTime().Add(bootWatched)
	}
	return at
}
