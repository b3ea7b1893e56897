package hosttest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/blixard/blixard/core"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/shim"
)

// Contract watches one host, from its first life on. Its calls come from one goroutine
// at a time, in the order in which the orders were given and the observations came.
type Contract struct {
	life   int
	listed bool                  // the inventory of this life has come
	orders map[uint64]vmm.Action // of this life, not answered
	lanes  map[string][]uint64   // those of them that are answered in their order, by VM
	epochs map[uint64]bool       // of which a page was to be extended
	keep   []*vmm.KeepList       // ordered in this life
	vms    map[string]*history
	broken []string
}

// history is what was said and ordered of one VM.
type history struct {
	last vmm.Report
	told int // in which life
	// dead is the newest instance of which nothing lives any more, and generation the
	// cluster's in which one was ordered to run.
	dead       shim.Instance
	generation uint64
	removed    bool // since one was
	// may are those that were ordered to run: true when by Receive.
	may map[shim.Instance]bool
	// takenOver is ordered to.
	takenOver shim.Instance
	// gone: it was removed, and nothing was ordered to be made since.
	gone bool
}

// Begins hears that a daemon's life begins, after the end of the one before.
func (c *Contract) Begins() {
	c.life, c.listed = c.life+1, false
	c.orders, c.lanes = map[uint64]vmm.Action{}, map[string][]uint64{}
	c.epochs, c.keep = map[uint64]bool{}, nil
	if c.vms == nil {
		c.vms = map[string]*history{}
	}
}

func (c *Contract) of(uid string) *history {
	h := c.vms[uid]
	if h == nil {
		h = &history{may: map[shim.Instance]bool{}}
		c.vms[uid] = h
	}
	return h
}

// Ordered hears of an order, before it is given.
func (c *Contract) Ordered(a vmm.Action) {
	switch a.Verb {
	case vmm.Extend:
		c.epochs[a.Host.Epoch] = true
		return
	case vmm.KeepSnapshots:
		c.keep = append(c.keep, a.Keep)
		return
	case vmm.Prepare, vmm.Keep:
		return
	}
	h := c.of(a.Instance.UID)
	switch a.Verb {
	case vmm.Start, vmm.Receive:
		if h.removed && a.Host.Generation > h.generation {
			h.dead = shim.Instance{} // a backup of before its end knows nothing of that, nor does what is here
		}
		h.may[a.Instance], h.gone, h.removed, h.generation = a.Verb == vmm.Receive, false, false, a.Host.Generation
	case vmm.Build:
		h.gone = false
	case vmm.TakeOver:
		h.takenOver = a.Instance
	}
	c.orders[a.ID] = a
	if a.Verb != vmm.Build && a.Verb != vmm.Probe {
		c.lanes[a.Instance.UID] = append(c.lanes[a.Instance.UID], a.ID)
	}
}

// Observed hears what the host saw, and returns what of it breaks the contract: nothing,
// if all is well.
func (c *Contract) Observed(o core.Observed) (broken []string) {
	c.broken = nil
	if o.Inventory == c.listed {
		c.say("the inventory must come first, and once: this is an inventory: %v", o.Inventory)
	}
	if o.Inventory {
		c.listed = true
		for _, r := range o.Reports { // what an earlier life of this host, or its original's, has started
			if h := c.of(r.Instance.UID); len(h.may) == 0 && r.Liveness == vmm.Alive {
				h.may[r.Instance] = r.Incoming != 0
			}
		}
	}
	for _, d := range o.Done {
		c.done(d)
	}
	for _, r := range o.Reports {
		c.report(r)
	}
	if o.Lapsed != 0 && !c.epochs[o.Lapsed] {
		c.say("epoch %d has lapsed, and none of its pages was to be extended", o.Lapsed)
	}
	if o.Kept != 0 {
		i := slices.IndexFunc(c.keep, func(k *vmm.KeepList) bool { return k.Revision == o.Kept })
		if i < 0 {
			c.say("snapshots of revision %d are kept, which nobody ordered", o.Kept)
		}
		for _, uid := range o.Missing {
			if i >= 0 && !slices.Contains(c.keep[i].UIDs, uid) {
				c.say("the snapshot %s is missing, which is not on the list of revision %d", uid, o.Kept)
			}
		}
	}
	return c.broken
}

func (c *Contract) say(format string, args ...any) {
	c.broken = append(c.broken, fmt.Sprintf(format, args...))
}

func (c *Contract) done(d vmm.Done) {
	a, ok := c.orders[d.Action]
	if !ok {
		c.say("order %d of %s is answered, which was not given in this life or was answered already", d.Action, d.UID)
		return
	}
	delete(c.orders, d.Action)
	uid := a.Instance.UID
	if d.UID != uid {
		c.say("the answer to %v of %s is one for %s", a.Verb, uid, d.UID)
	}
	if lane := c.lanes[uid]; a.Verb != vmm.Build && a.Verb != vmm.Probe {
		if lane[0] != d.Action {
			c.say("%v of %s (%d) is answered before %v (%d)", a.Verb, uid, d.Action, c.orders[lane[0]].Verb, lane[0])
		}
		c.lanes[uid] = slices.DeleteFunc(lane, func(id uint64) bool { return id == d.Action })
	}
	switch {
	case d.Runner != nil && (a.Verb != vmm.Build || d.Err != ""):
		c.say("%v of %s gave a runner (%s)", a.Verb, uid, d.Err)
	case d.Image != nil && (a.Verb != vmm.Snapshot || d.Err != ""):
		c.say("%v of %s gave an image (%s)", a.Verb, uid, d.Err)
	case d.Image == nil && a.Verb == vmm.Snapshot && d.Err == "":
		c.say("a snapshot of %s gave no image", uid)
	case d.Unknown && (a.Verb != vmm.Probe || d.Err == ""):
		c.say("%v of %s says that it knows nothing (%s)", a.Verb, uid, d.Err)
	}
	if d.Err != "" {
		return
	}
	h := c.of(uid)
	switch a.Verb {
	case vmm.Kill:
		h.died(h.last.Instance, a.Instance)
	case vmm.Remove:
		h.removed = true
		h.gone = !slices.ContainsFunc(c.lanes[uid], func(id uint64) bool {
			v := c.orders[id].Verb
			return v == vmm.Start || v == vmm.Receive
		}) && !c.builds(uid)
	}
}

// builds says that a Build of a VM is under way.
func (c *Contract) builds(uid string) bool {
	for _, a := range c.orders {
		if a.Verb == vmm.Build && a.Instance.UID == uid {
			return true
		}
	}
	return false
}

func (h *history) died(i ...shim.Instance) {
	h.dead = slices.MaxFunc(append(i, h.dead), older)
	maps.DeleteFunc(h.may, func(i shim.Instance, _ bool) bool { return older(i, h.dead) <= 0 })
}

// older orders the instances of one VM as they are started.
func older(a, b shim.Instance) int {
	return cmp.Or(cmp.Compare(a.Generation, b.Generation), cmp.Compare(a.Index, b.Index), cmp.Compare(a.Attempt, b.Attempt))
}

func (c *Contract) report(r vmm.Report) {
	h := c.of(r.Instance.UID)
	was, told := h.last, h.told
	h.last, h.told = r, c.life
	same := was.Instance == r.Instance && was.Liveness != vmm.Absent
	moving := r.Incoming != 0 || r.Outgoing != vmm.Outgoing{}
	switch r.Liveness {
	case vmm.Absent:
		h.removed = true
		if r.Ready || r.Paused || moving || r.Exit != nil || r.HandedOver != 0 {
			c.say("%s is absent, and yet %+v", r.Instance, r)
		}
		return
	case vmm.Down:
		if r.Ready || r.Paused || moving {
			c.say("%s is down, and yet %+v", r.Instance, r)
		}
		if same && was.Liveness == vmm.Down && was.Exit != nil && (told == c.life || r.Exit != nil) && !alike(was.Exit, r.Exit) {
			c.say("%s had ended by %+v, and now by %+v", r.Instance, was.Exit, r.Exit)
		}
		h.died(r.Instance)
	case vmm.Alive:
		c.alive(h, was, r, told == c.life)
	}
	if h.gone {
		c.say("%s was removed, nothing was ordered since, and it is %v", r.Instance, r.Liveness)
	}
	if same && was.HandedOver != 0 && r.HandedOver != was.HandedOver {
		c.say("%s was handed over by migration %d, and now by %d", r.Instance, was.HandedOver, r.HandedOver)
	}
	if same && was.Restored > r.Restored {
		c.say("%s had run of the restore at %d, and now of %d", r.Instance, was.Restored, r.Restored)
	}
}

func alike(a, b *vmm.Exit) bool { return b != nil && a.Reason == b.Reason && a.Code == b.Code }

// alive looks at what lives. Whether what it was before was said in this life matters for
// what a daemon must find out anew.
func (c *Contract) alive(h *history, was, r vmm.Report, thisLife bool) {
	received, may := h.may[r.Instance]
	switch {
	case h.dead.UID != "" && older(r.Instance, h.dead) <= 0:
		c.say("%s is alive, and %s was dead already", r.Instance, h.dead)
	case !may:
		c.say("%s is alive, which nobody ordered to run", r.Instance)
	case r.Exit != nil:
		c.say("%s is alive, and has ended: %+v", r.Instance, r.Exit)
	case r.Paused && !r.Ready:
		c.say("%s is paused, and not ready", r.Instance)
	case (r.Incoming != 0 || r.HandedOver != 0) && r.Ready:
		c.say("%s is ready, and coming (%v) or handed over (%d)", r.Instance, r.Incoming, r.HandedOver)
	case r.Incoming != 0 && !received:
		c.say("%s was started, and waits for its guest: %v", r.Instance, r.Incoming)
	case r.Incoming == 0 && received && h.takenOver != r.Instance:
		c.say("%s runs, and nobody ordered that it takes over", r.Instance)
	}
	if was.Instance != r.Instance || was.Liveness != vmm.Alive {
		return
	}
	switch {
	case was.RunGeneration != r.RunGeneration || was.SpecGeneration != r.SpecGeneration:
		c.say("%s was started with generation %d, spec %d, and now %d, %d", r.Instance, was.RunGeneration, was.SpecGeneration, r.RunGeneration, r.SpecGeneration)
	case was.Incoming == 0 && r.Incoming != 0, thisLife && r.Incoming != 0 && r.Incoming < was.Incoming:
		c.say("%s was %q, and is %q", r.Instance, was.Incoming, r.Incoming)
	case was.BootMiB != 0 && r.BootMiB != was.BootMiB:
		c.say("%s was started with %d MiB, and now with %d", r.Instance, was.BootMiB, r.BootMiB)
	}
}
