package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/tidwall/btree"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Machines come and go: what the people do who own them. Each machine has a
// keeper, a client that insists and does one chore at a time, through the API as
// anybody would: adds it, removes it, gives its VMs up when it is lost for good.
//
// A keeper may be slow, and its orders may be answered late or never. It may not
// take the disks of so many voters that nobody is left who knows what was
// acknowledged (see mayLose), and it does not start a node again whose identity
// has lost its memory: such a machine comes back under a new id.

func init() { register(Join{}, Leave{}, Replace{}, Corrupt{}, Cordoned{}, Drained{}) }

// keeper is who looks after one machine.
type keeper struct {
	*client
	m     *Machine
	busy  bool
	takes bool // a server away
}

// start begins a chore, if there is none under way.
func (k *keeper) start(begin func()) bool {
	if k.busy {
		return false
	}
	k.busy = true
	k.w.chores++
	k.after(0, begin)
	return true
}

func (k *keeper) done() {
	k.busy, k.takes = false, false
	k.w.chores--
}

func (k *keeper) after(d time.Duration, f func()) {
	k.w.push(event{at: k.w.now + int64(d), kind: evChore, m: k.m, ref: f})
}

func (k *keeper) ask(op *Operation, then func(*Operation)) {
	k.begin(op, func(op *Operation) {
		k.after(time.Duration(between(k.rand, 10*time.Millisecond, 2*time.Second)), func() { then(op) })
	})
}

// join has the machine admitted under a name that was never used, and starts it.
func (k *keeper) join() {
	m := k.m
	name := m.Name
	if m.named++; m.named > 1 {
		name = fmt.Sprintf("%s-%d", m.Name, m.named)
	}
	k.ask(&Operation{Verb: AddMember, Name: name, machine: m}, func(op *Operation) {
		switch {
		case !op.Unknown && op.Error == nil:
			m.called = name
			if err := m.join(op.Node, k.w.servers()); err != nil {
				k.w.fail("an admitted node can join", "%v", err)
			}
			k.w.fired("Joined")
			k.done()
		case op.Unknown: // it may have been admitted: nobody can tell what its id is
			k.remove(name, 1<<30, func(bool) { k.after(time.Second, k.join) })
		default:
			k.done()
		}
	})
}

// remove takes a name out of the cluster. When VMs are in the way it gives them
// up, unless tries have been used up.
func (k *keeper) remove(name string, tries int, then func(removed bool)) {
	k.removeBy(RemoveMember, name, tries, then)
}

// lose says that a node's machine is off and will never return as what it was,
// until that is believed.
func (k *keeper) lose(name string, then func()) {
	k.removeBy(LoseMember, name, 1<<30, func(bool) { then() })
}

func (k *keeper) removeBy(how Verb, name string, tries int, then func(removed bool)) {
	k.ask(&Operation{Verb: how, Name: name}, func(op *Operation) {
		code := op.Error.GetCode()
		switch {
		case !op.Unknown && (op.Error == nil || code == blixardv1.ErrorCode_ERROR_CODE_NOT_FOUND):
			k.w.fired("Removed")
			k.whenGone(name, func() { then(true) })
		case tries <= 1:
			then(false)
		case how == LoseMember:
			k.after(3*time.Second, func() { k.removeBy(how, name, tries-1, then) })
		default:
			k.giveUp(name, func() {
				k.after(3*time.Second, func() { k.removeBy(how, name, tries-1, then) })
			})
		}
	})
}

// whenGone waits until the cluster does without a node: a server that is removed
// is needed until those who remain have agreed, and one of them shows that.
func (k *keeper) whenGone(name string, then func()) {
	if k.w.gone(name) {
		then()
		return
	}
	k.after(time.Second, func() { k.whenGone(name, then) })
}

// gone says that one of those who remain shows no node of that name.
func (w *World) gone(name string) bool {
	return slices.ContainsFunc(w.machines, func(m *Machine) bool {
		return m.daemon != nil && m.Server && m.member && m.called != name && m.daemon.node.View().NodeByName(name) == nil
	})
}

// giveUp deletes what is placed on a node, and its volumes.
func (k *keeper) giveUp(name string, then func()) {
	var names, volumes []string
	if node := k.w.judges.newest.node(name); node != nil {
		names, volumes = k.w.judges.newest.placed(node.Id), k.w.judges.newest.volumesOn(node.Id)
	}
	var next func()
	next = func() {
		if len(names)+len(volumes) == 0 {
			then()
			return
		}
		if len(names) == 0 {
			op := &Operation{Verb: DropVolume, Name: volumes[0]}
			volumes = volumes[1:]
			k.ask(op, func(*Operation) { next() })
			return
		}
		op := &Operation{Verb: Delete, Name: names[0]}
		names = names[1:]
		k.ask(op, func(*Operation) { next() })
	}
	next()
}

// wipe leaves the machine as it was bought.
func (m *Machine) wipe() {
	m.stopDaemon(true)
	m.w.say(m, "disk is empty")
	m.setDisk(newDisk(m.disk.rand))
	m.dirs, m.nix, m.volumes, m.saved = btree.NewMap[string, *vmDir](0), newNixStore(), map[string]*simVolume{}, map[string]*savedVM{}
	clear(m.booted)
	m.member, m.id = false, 0
}

// mayLose says whether the cluster is promised to survive that this machine's
// disk is lost, as things stand: one voter of three or more, while no other is
// coming, going or lost.
func (w *World) mayLose(m *Machine) bool {
	newest := &w.judges.newest
	if !m.member || m.keeper.busy || newest.nodes[m.id] == nil {
		return false
	}
	if !m.Server {
		return true
	}
	return w.settled() && len(newest.meta.Voters) >= 3
}

// settled says that no server is coming, going or lost.
func (w *World) settled() bool {
	for _, o := range w.machines {
		if o.Server && o.keeper.busy {
			return false
		}
	}
	for _, n := range w.judges.newest.nodes {
		if n.Server != blixardv1.ServerState_SERVER_STATE_VOTER && n.Server != blixardv1.ServerState_SERVER_STATE_UNSPECIFIED {
			return false
		}
	}
	return true
}

// mayTake says that a machine may be taken out: of servers, one at a time. Who
// removes the healthy ones before the dead one is left with that.
func (w *World) mayTake(m *Machine) bool {
	for _, o := range w.machines {
		if m.Server && o.keeper.takes {
			return false
		}
	}
	return !m.keeper.busy
}

// Join lets a machine that is in no cluster join.
type Join struct{ Node N }

func (Join) draw(d dice) Fault { return Join{d.node()} }

func (f Join) strike(w *World) bool {
	m := w.node(f.Node)
	if m == nil || m.member {
		return false
	}
	return m.keeper.start(func() {
		m.boot()
		m.keeper.join()
	})
}

// Leave takes a machine out of the cluster in good order: it gets no new VM, its
// VMs are deleted if Purge is 1, and once it was removed its daemon is left
// running for a while, with nobody to talk to.
type Leave struct {
	Node  N
	Purge int
	After time.Duration
}

func (Leave) draw(d dice) Fault { return Leave{d.node(), d.IntN(2), d.time()} }

func (f Leave) strike(w *World) bool {
	m := w.node(f.Node)
	if m == nil || !m.member || !w.mayTake(m) {
		return false
	}
	k, name, tries := m.keeper, m.called, 1
	k.takes = m.Server
	if f.Purge != 0 {
		tries = 10
	}
	return k.start(func() {
		k.ask(&Operation{Verb: Cordon, Name: name}, func(*Operation) {
			k.remove(name, tries, func(removed bool) {
				if !removed {
					k.ask(&Operation{Verb: Uncordon, Name: name}, func(*Operation) { k.done() })
					return
				}
				k.after(f.After, func() {
					m.wipe()
					k.done()
				})
			})
		})
	})
}

// Replace takes a machine's disk away, and its power meanwhile: the node of that
// disk is removed, and the machine comes back After that under a new id.
type Replace struct {
	Node  N
	After time.Duration
}

func (Replace) draw(d dice) Fault { return Replace{d.node(), d.time()} }

func (f Replace) strike(w *World) bool {
	m := w.node(f.Node)
	if m == nil || !w.mayLose(m) {
		return false
	}
	k, name := m.keeper, m.called
	k.takes = m.Server
	m.powerOff()
	m.wipe()
	return k.start(func() {
		k.lose(name, func() {
			k.after(f.After, func() {
				m.boot()
				k.join()
			})
		})
	})
}

// Corrupt spoils a disk and kills its daemon. The next one finds that it cannot
// be used; the VMs run on meanwhile. The node is removed, in good order or, when
// that takes too long, as lost; and the machine comes back under a new id.
type Corrupt struct{ Node N }

func (Corrupt) draw(d dice) Fault { return Corrupt{d.node()} }

func (f Corrupt) strike(w *World) bool {
	m := w.node(f.Node)
	if m == nil || m.daemon == nil || !w.mayLose(m) {
		return false
	}
	k, name := m.keeper, m.called
	k.takes = m.Server
	m.disk.corrupt = true
	m.stopDaemon(true)
	m.restartDaemon(int64(time.Second))
	return k.start(func() {
		k.after(5*time.Second, func() {
			k.remove(name, 30, func(removed bool) {
				if removed {
					m.wipe()
					k.join()
					return
				}
				m.powerOff()
				m.wipe()
				k.lose(name, func() {
					m.boot()
					k.join()
				})
			})
		})
	})
}

// Cordoned keeps new VMs away from a machine for a while.
type Cordoned struct {
	Node N
	For  time.Duration
}

func (Cordoned) draw(d dice) Fault { return Cordoned{d.node(), d.time()} }

func (f Cordoned) strike(w *World) bool {
	m := w.node(f.Node)
	if m == nil || !m.member {
		return false
	}
	k, name := m.keeper, m.called
	return k.start(func() {
		k.ask(&Operation{Verb: Cordon, Name: name}, func(*Operation) {
			k.after(f.For, func() {
				k.ask(&Operation{Verb: Uncordon, Name: name}, func(*Operation) { k.done() })
			})
		})
	})
}

// Drained empties a machine, Parallel VMs at a time; what waits for it is stopped
// there if Local is 1. For 0 it stays so, else it is restored after a while.
type Drained struct {
	Node            N
	Parallel, Local int
	For             time.Duration
}

func (Drained) draw(d dice) Fault {
	f := Drained{d.node(), 1 + d.IntN(3), d.IntN(2), d.time()}
	if d.IntN(4) == 0 {
		f.For = 0
	}
	return f
}

func (f Drained) strike(w *World) bool {
	m := w.node(f.Node)
	if m == nil || !m.member || !m.Host {
		return false
	}
	k, name := m.keeper, m.called
	return k.start(func() {
		op := &blixardv1.DrainOp{Name: name, Parallel: uint32(f.Parallel), StopLocal: f.Local == 1}
		k.ask(&Operation{Verb: Drain, Name: name, drain: op}, func(*Operation) {
			if f.For == 0 {
				k.done()
				return
			}
			k.after(f.For, func() {
				k.ask(&Operation{Verb: Restore, Name: name}, func(*Operation) { k.done() })
			})
		})
	})
}
