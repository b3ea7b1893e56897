package sim

import (
	"testing"

	"github.com/blixard/blixard/core"
	"github.com/blixard/blixard/core/disktest"
)

// diskHarness is the simulated disk without the rest of its world.
type diskHarness struct {
	disk    *Disk
	now     int64
	due     []int64
	reports []uint64
}

func (h *diskHarness) Write(b core.Batch) {
	h.now += 1000
	h.due = append(h.due, h.disk.write(h.now, b))
}

func (h *diskHarness) Open() (core.Disk, core.Image) {
	h.due, h.reports = nil, nil
	return h, h.disk.Image()
}

func (h *diskHarness) Settle() { h.finish(len(h.due)) }

func (h *diskHarness) finish(n int) {
	for _, at := range h.due[:n] {
		if at < h.now {
			panic("out of order")
		}
		h.reports = append(h.reports, h.disk.durable())
	}
	h.due = h.due[n:]
}

func (h *diskHarness) Reports() []uint64 { return h.reports }

func (h *diskHarness) Crash(choice uint64) {
	h.finish(int(choice % uint64(len(h.due)+1)))
	h.disk.crash()
}

func (h *diskHarness) Close() {
	for range h.disk.pending {
		h.disk.durable()
	}
	h.disk.last = 0
}

func TestDiskKeepsTheContract(t *testing.T) {
	disktest.Contract(t, func(*testing.T) disktest.Harness {
		return &diskHarness{disk: newDisk(chance{1}.stream("disk"))}
	})
}
