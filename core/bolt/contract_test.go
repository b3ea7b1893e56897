package bolt

import (
	"path/filepath"
	"sync"
	"testing"

	"github.com/blixard/blixard/core"
	"github.com/blixard/blixard/core/disktest"
)

func TestContract(t *testing.T) {
	disktest.Contract(t, func(t *testing.T) disktest.Harness {
		return &harness{t: t, path: filepath.Join(t.TempDir(), "db")}
	})
}

// harness is a disk whose life can end before or after any commit.
type harness struct {
	t    *testing.T
	path string
	disk *Disk

	mu      sync.Mutex
	cond    *sync.Cond
	last    uint64 // written
	reports []uint64
	ended   bool
}

// counting notes what was written.
type counting struct{ h *harness }

func (c counting) Write(b core.Batch) {
	c.h.mu.Lock()
	c.h.last = b.Seq
	c.h.mu.Unlock()
	c.h.disk.Write(b)
}

func (h *harness) Open() (core.Disk, core.Image) {
	h.cond = sync.NewCond(&h.mu)
	h.last, h.reports, h.ended = 0, nil, false
	d, image, err := Open(h.path, Options{
		Wrote: func(w core.Wrote) {
			h.mu.Lock()
			h.reports = append(h.reports, w.Seq)
			h.cond.Broadcast()
			h.mu.Unlock()
		},
		Failed: func(err error) { h.t.Errorf("a write failed: %v", err) },
		gate:   h.gate,
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.disk = d
	h.t.Cleanup(func() { d.Close() })
	return counting{h}, image
}

func (h *harness) gate(point) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.ended
}

func (h *harness) Settle() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.last > 0 && (len(h.reports) == 0 || h.reports[len(h.reports)-1] < h.last) {
		h.cond.Wait()
	}
}

func (h *harness) Reports() []uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]uint64(nil), h.reports...)
}

// Crash closes the gates after choice reports more, or at once.
func (h *harness) Crash(choice uint64) {
	h.mu.Lock()
	want := uint64(len(h.reports)) + choice%3
	for uint64(len(h.reports)) < want && len(h.reports) > 0 && h.reports[len(h.reports)-1] < h.last {
		h.cond.Wait()
	}
	h.ended = true
	h.mu.Unlock()
	h.disk.Close()
}

func (h *harness) Close() {
	if err := h.disk.Close(); err != nil {
		h.t.Fatal(err)
	}
}
