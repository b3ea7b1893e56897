package sim

import (
	"maps"
	"slices"
	"time"

	"github.com/tidwall/btree"
)

func init() { register(Clone{}) }

// Clone copies the disk of a host, with the files of its VMs, to a machine that is
// in no cluster, and starts that: two machines with one id, each in a boot of its
// own. With Steal 1 the network brings to the copy what is sent to the original's
// address. When it is over, whichever of the two the cluster does not follow is
// found and wiped.
//
// Node and To are counted round and round, over the hosts that can be copied and
// the machines that can take a copy.
//
// A server is not cloned: two voters with one id are beyond what Raft bears.
type Clone struct {
	Node, To N
	Steal    int
	For      time.Duration
}

func (Clone) draw(d dice) Fault {
	return Clone{d.node(), d.node(), d.IntN(2), d.time() + d.time()}
}

func (f Clone) strike(w *World) bool {
	m, c := w.idle(f.Node, true), w.idle(f.To, false)
	if m == nil || c == nil {
		return false
	}
	m.keeper.start(func() {}) // nothing else is done to them meanwhile
	c.keeper.start(func() {})
	c.powerOff()
	c.setDisk(m.disk.copy())
	c.member, c.of, c.called, c.clones = true, m.of, m.called, m
	c.goesBy(m.id)
	c.capacity = m.capacity // it is as big: what runs is not looked at again
	c.programs = m.made()
	c.dirs = btree.NewMap[string, *vmDir](0)
	c.volumes = maps.Clone(m.volumes)
	// any order: each alike
	for uid, v := range c.volumes {
		copied := *v
		c.volumes[uid] = &copied
	}
	m.dirs.Scan(func(uid string, d *vmDir) bool {
		copied := *d
		copied.shim, copied.guest, copied.zombie = nil, nil, nil
		c.dirs.Set(uid, &copied)
		return true
	})
	if f.Steal != 0 {
		w.byAddress[m.at] = c
	}
	c.boot()
	w.until(f, f.For, func() {
		loser := c
		if w.judges.newest.nodes[c.id].GetHost().GetBootId() == c.bootID {
			loser = m
		}
		w.known[c.id] = slices.DeleteFunc(w.known[c.id], func(m *Machine) bool { return m == loser })
		loser.powerOff()
		loser.wipe()
		if loser == m { // the copy is the node now, and has its address
			m.at, c.at = c.at, m.at
		}
		w.byAddress[m.at], w.byAddress[c.at] = m, c
		c.clones = nil
		m.keeper.done()
		c.keeper.done()
	})
	return true
}

// idle is the n-th machine that is a host only, member or not, and of which no
// keeper is busy.
func (w *World) idle(n N, member bool) *Machine {
	var list []*Machine
	for _, m := range w.machines {
		if !m.Server && m.member == member && !m.disk.corrupt && !m.keeper.busy {
			list = append(list, m)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return list[int(n)%len(list)]
}
