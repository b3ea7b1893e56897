package sim

import "github.com/blixard/blixard/vmm/shim"

// The deadline of a lease page only grows, and never after it has passed; and it
// is never further ahead than the lease is long.
type judgeLeases struct{}

// written looks at a page after a daemon wrote to it; old is the deadline that
// was there, 0 for a new page.
func (j *judgeLeases) written(w *World, m *Machine, p *shim.Page, old uint64) {
	w.judges.judged["leases"]++
	now := uint64(m.now())
	switch {
	case old != 0 && p.Deadline < old:
		w.fail("a lease page only grows", "%s: %s: from %d to %d", m.Name, shim.PageName(*p), old, p.Deadline)
	case old != 0 && old <= now && p.Deadline != old:
		w.fail("a lapsed lease is never revived", "%s: %s had passed at %d, and was moved to %d at %d", m.Name, shim.PageName(*p), old, p.Deadline, now)
	case p.Deadline > now+p.Lease:
		w.fail("a lease is no longer than it is", "%s: %s at %d: until %d", m.Name, shim.PageName(*p), now, p.Deadline)
	}
}
