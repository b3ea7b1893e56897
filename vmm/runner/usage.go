package runner

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/procfs"
)

// Usage is what a VM has taken of this host since its instance was started, and
// takes now: its hypervisor and whatever that has forked.
type Usage struct {
	UID string
	// CPUSeconds of user and system time together; those of what has ended among the
	// processes that it has forked are counted only when their parent has reaped them.
	CPUSeconds  float64
	MemoryBytes uint64 // resident; shared pages are counted in each process
	// ReadBytes and WrittenBytes went to and from storage, as far as this daemon may
	// look.
	ReadBytes, WrittenBytes uint64
	Processes               int
	// DiskRead and DiskWritten are what the guest has read and written of its disks,
	// in bytes; Disks says that its hypervisor says.
	Disks                 bool
	DiskRead, DiskWritten uint64
	// Received and Sent are the guest's bytes on bridges.
	Received, Sent uint64
}

// disksPatience is how long a hypervisor is waited for: it is asked by who looks
// at all VMs.
const disksPatience = 500 * time.Millisecond

// Usage lists the live VMs of this host by uid. It reads /proc, and takes a few
// hundred microseconds a VM.
func (h *Host) Usage() (all []Usage) {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return nil
	}
	h.mu.Lock()
	vms := slices.Collect(maps.Values(h.vms))
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(h.ctx, disksPatience)
	defer cancel()
	found := make([]*Usage, len(vms))
	var wait sync.WaitGroup
	for i, v := range vms {
		f, err := familyIn(v.at.run)
		if err != nil {
			continue // it does not live
		}
		found[i] = &Usage{UID: v.uid}
		wait.Go(func() {
			found[i].take(fs, f)
			v.mu.Lock()
			disks := v.disks
			v.mu.Unlock()
			if disks != nil {
				if r, w, err := disks(ctx); err == nil {
					found[i].Disks, found[i].DiskRead, found[i].DiskWritten = true, r, w
				}
			}
			if rec, err := readRecord(v.at.state); err == nil && rec != nil && rec.Plugs > 0 {
				found[i].Received, found[i].Sent = h.links.Traffic(v.uid, rec.Plugs)
			}
		})
	}
	wait.Wait()
	for _, u := range found {
		if u != nil {
			all = append(all, *u)
		}
	}
	slices.SortFunc(all, func(a, b Usage) int { return strings.Compare(a.UID, b.UID) })
	return all
}

// take adds up what the processes of a VM have taken.
func (u *Usage) take(fs procfs.FS, f family) {
	for _, pid := range f.all() {
		p, err := fs.Proc(pid)
		if err != nil {
			continue // it has just ended
		}
		s, err := p.Stat()
		if err != nil {
			continue
		}
		u.Processes++
		u.CPUSeconds += s.CPUTime() + float64(s.CUTime+s.CSTime)/userHz
		u.MemoryBytes += uint64(s.ResidentMemory())
		if io, err := p.IO(); err == nil {
			u.ReadBytes += io.ReadBytes
			u.WrittenBytes += io.WriteBytes
		}
	}
}

// userHz is the unit of times in /proc, the same on every Linux that Go runs on.
const userHz = 100
