package runner

import (
	"slices"
	"strings"

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
}

// Usage lists the live VMs of this host by uid. It reads /proc, and takes a few
// hundred microseconds a VM.
func (h *Host) Usage() (all []Usage) {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return nil
	}
	h.mu.Lock()
	runs := map[string]string{}
	for uid, v := range h.vms {
		runs[uid] = v.at.run
	}
	h.mu.Unlock()
	for uid, run := range runs {
		f, err := familyIn(run)
		if err != nil {
			continue // it does not live
		}
		u := Usage{UID: uid}
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
		all = append(all, u)
	}
	slices.SortFunc(all, func(a, b Usage) int { return strings.Compare(a.UID, b.UID) })
	return all
}

// userHz is the unit of times in /proc, the same on every Linux that Go runs on.
const userHz = 100
