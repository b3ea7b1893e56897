package sim

import (
	"bytes"
	"slices"
	"time"

	"github.com/blixard/blixard/core"
	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/shim"
)

// All servers are lost at once, and the cluster is restored from a backup that
// somebody made long ago: on a machine that outlived the disaster, or on one that
// lost its disk. The others outlive it and rejoin, or have lost their disks and
// join as new nodes. Machines that are no servers go on all the while.
//
// What clients were told since the backup is lost, and with it what several judges
// hold true over a whole history. They judge the generation before up to its end,
// and begin anew. What they hold true of machines stays: never two copies is counted
// through everything.

// putAway makes a backup of what some server has, a moment ago or long ago.
func (w *World) putAway() {
	for _, m := range w.voters() {
		if m.daemon == nil {
			continue
		}
		view := m.daemon.node.View()
		if view == nil || view.Meta().GetClusterId() == "" {
			continue // it has just joined
		}
		w.backup = readAgain(view)
		w.say(m, "what it has is put away")
		return
	}
}

// readAgain is the state that the file of a backup gives back.
func readAgain(view *cluster.State) *cluster.State {
	var file bytes.Buffer
	if err := view.WriteBackup(&file, &blixardv1.BackupHeader{}); err != nil {
		panic("sim: a backup is not written: " + err.Error())
	}
	_, state, err := cluster.ReadBackup(&file)
	if err != nil {
		panic("sim: a backup is not read: " + err.Error())
	}
	return state
}

// disaster happens, if there is a backup, once nobody is coming or going.
func (w *World) disaster(draw uint64) {
	if w.backup == nil || !w.RunUntil(10*time.Minute, w.quiet) {
		return
	}
	r := chance{draw}.stream("disaster")
	w.say(nil, "all servers are lost")
	w.fired("Disaster")
	for _, m := range w.machines {
		m.clones = nil
	}
	servers := w.voters()
	for _, m := range servers {
		m.stopDaemon(true)
	}
	if judgeHistories(w); w.over() {
		return
	}
	w.nextGeneration()
	home := servers[r.IntN(len(servers))]
	for _, m := range w.machines {
		lost := slices.Contains(servers, m) && (w.backup.Node(m.id) == nil || r.IntN(3) == 0)
		switch {
		case lost:
			m.powerOff()
			m.wipe()
			m.boot()
		case w.outlives(m): // whoever restores has given his word on it
			m.powerOff()
			m.boot()
		}
	}
	w.restore(home, w.alive() == 0 && r.IntN(2) == 0) // or somebody has seen that nothing lives
	if w.over() {
		return
	}
	var lost []string // who was a member by then, and will never return as that
	w.backup.Nodes(func(n *blixardv1.Node) bool {
		if !slices.ContainsFunc(w.machines, func(m *Machine) bool { return m.member && m.id == n.Id }) {
			lost = append(lost, n.Name)
		}
		return true
	})
	for _, m := range w.machines {
		k := m.keeper
		switch {
		case m == home:
			k.start(func() { k.loseAll(lost) })
		case m.member:
			k.start(k.rejoin)
		case slices.Contains(servers, m):
			k.start(k.join)
		}
	}
}

// quiet says that nobody is coming or going, or waits for an answer.
func (w *World) quiet() bool {
	return w.chores == 0 && w.settled() && !slices.ContainsFunc(w.clients, func(c *client) bool { return c.op != nil })
}

// outlives says that something lives on a machine that no lease ends, or only one that
// was made longer after the backup: no waiting shows that it has ended.
func (w *World) outlives(m *Machine) bool {
	binds := func(b bound) bool {
		return b.class != blixardv1.LeaseClass_LEASE_CLASS_NONE && cluster.Window(w.backup.Meta().Settings, b.ms) <= w.backup.SettledAfter()
	}
	return slices.ContainsFunc(m.guests, func(g *guest) bool {
		return !binds(g.dir.bound) || g.dir.next != nil && !binds(*g.dir.next)
	})
}

// loseAll gives up one node after another.
func (k *keeper) loseAll(names []string) {
	if len(names) == 0 {
		k.done()
		return
	}
	k.lose(names[0], func() { k.loseAll(names[1:]) })
}

// nextGeneration has the judges of histories and of states begin anew.
func (w *World) nextGeneration() {
	w.generation++
	for _, op := range w.history {
		if op.Verb == DropVolume { // the backup may know of it, and its host be slow
			w.drops = append(w.drops, op)
		}
	}
	w.history = nil
	j := &w.judges
	kept := *j
	j.reset()
	j.judged, j.copies, j.leases, j.levels = kept.judged, kept.copies, kept.leases, kept.levels
	j.snapshots.holds = kept.snapshots.holds
	j.levels.level, j.copies.forks = 0, map[shim.Instance]bool{}
	w.watcher.begin()
}

// alive counts what lives.
func (w *World) alive() (n int) {
	w.guests(func(*guest) { n++ })
	return n
}

// restore founds the next generation on a machine.
func (w *World) restore(m *Machine, off bool) {
	id := core.Identity{ID: m.id, Name: m.called, Address: m.address(), Server: true, Host: m.Host}
	if id.ID == 0 { // under its first name, whoever had that
		m.named, m.called = m.named+1, m.Name
		id.Name = m.Name
	}
	id, b, err := core.Restore(id, w.backup, off, m.level, m.time())
	if err != nil {
		w.fail("a cluster can be restored", "on %s: %v", m.Name, err)
		return
	}
	w.backup.VMs("", func(vm *blixardv1.VM) bool { // what clients find from now on
		w.history = append(w.history, &Operation{
			Verb: Restored, Name: vm.Name, VM: vm, Call: w.now, Return: w.now, Revision: w.backup.Revision(),
		})
		return true
	})
	m.admitted(id, b)
	if !off {
		w.fired("Unsettled")
	}
}

// rejoin takes the machine into the restored cluster as what it was; as a new one,
// when that does not know it any more.
func (k *keeper) rejoin() {
	m := k.m
	k.ask(&Operation{Verb: Readmit, Name: m.called, machine: m}, func(op *Operation) {
		switch {
		case op.Unknown:
			k.after(time.Second, k.rejoin)
		case op.Error != nil:
			m.powerOff()
			m.wipe()
			m.boot()
			k.after(time.Second, k.join)
		default:
			m.stopDaemon(true)
			m.called = op.Node.GetName()
			if err := m.join(op.Node, k.w.servers()); err != nil {
				k.w.fail("a node can rejoin", "%s: %v", m.Name, err)
			}
			k.w.fired("Rejoined")
			k.done()
		}
	})
}
