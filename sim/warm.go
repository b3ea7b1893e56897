package sim

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
)

// Warm starts: once the guest of a VM that asks for it is up, its boot is saved, under a
// key of all that its memory relies on. A later start whose key is the same goes on from
// that, and the guest is told who it is. A saved boot is a file that does not outlive
// the machine's boot, and goes with the VM's directory. A host keeps so many
// (vmm.SparedBoot), in some worlds fewer than in production: there are few such VMs here.
//
// The guest stands still while its boot is saved, and what is ordered for it waits, but
// for its end, which gives that up. When the daemon dies meanwhile the guest stands still
// until the next one sees that.
//
// A guest that waits for its saved boot has not run. The start may find the saved boot
// damaged (BootDamaged) or refused by the hypervisor (BootRefused): then the VM boots as
// ever, by the same order. The daemon may die meanwhile (WarmCrash): the next one ends
// what waits in vain, says so (Interrupted), and the VM boots. It may not go on from a
// boot with another key.
type savedBoot struct {
	key    string
	spec   *blixardv1.VMSpec // that it was booted with
	nets   []*blixardv1.InterfaceConfig
	memory uint64
	used   int64
}

// freezing is a boot that is being saved.
type freezing struct {
	guest  *guest
	orders *orders
	boot   *savedBoot
}

// warmStart is what of a VM's directory is about that.
type warmStart struct {
	asked   *blixardv1.VMSpec // by the newest start
	waits   *savedBoot        // that it is to go on from, and has not
	fresh   *savedBoot        // that is to be saved once the guest is up
	starter uint64            // the daemon's life that does all this
	again   bool              // that has ended one which was refused, and boots it by the same order
}

const interrupted = "Interrupted"

// bootKey is the same for two starts of which one can go on with the other's memory.
func bootKey(a *blixardv1.Assignment) string {
	s := a.GetSpec()
	if mutant.On("BootOfAnotherSpec") {
		s = nil
	}
	key := fmt.Sprint(s.GetVcpus(), s.GetMemoryMib(), s.GetMachine(), s.GetImage().GetKernel().GetDigest())
	for _, n := range a.GetInterfaces() {
		key += fmt.Sprintf(" %x", blixardv1.Encode(n))
	}
	return key
}

// startsWarm says that a VM of that name may.
func startsWarm(name string, mx *Mix) bool {
	return mx.Warm > 0 && mx.Files > 0 && (name[len(name)-1]-'0')%4 == 3
}

// drawWarm makes an image of some VMs, most of which start from their saved boots, as
// told by what marks their spec.
func drawWarm(s *blixardv1.VMSpec, name string, mark uint64, mx *Mix) {
	if !startsWarm(name, mx) {
		return
	}
	s.Source = &blixardv1.VMSpec_Image{Image: &blixardv1.Image{Kernel: fileOf(fileName(0))}}
	s.Hypervisor = blixardv1.Hypervisor_HYPERVISOR_QEMU
	s.Warm = float64(mix(mark^0xa5a5)>>11)/(1<<53) < mx.Warm
}

// warms decides how an instance starts that is about to be spawned.
func (d *Daemon) warms(dir *vmDir, a vmm.Action) {
	m, w, s := d.m, d.m.w, a.Assignment.GetSpec()
	dir.warm = warmStart{asked: s, starter: d.life}
	if !s.GetWarm() {
		delete(m.booted, dir.uid)
		return
	}
	if a.Verb != vmm.Start || a.Restore != nil || a.Assignment.GetPaused() {
		return
	}
	b, key := m.booted[dir.uid], bootKey(a.Assignment)
	if b != nil && b.key == key {
		if _, damaged := w.mishap("BootDamaged", m.place(), w.mix.WarmFails, 0, 0); !damaged {
			dir.warm.waits, b.used = b, w.now
			return
		}
	}
	delete(m.booted, dir.uid)
	dir.warm.fresh = &savedBoot{key: key, spec: s, nets: a.Assignment.GetInterfaces()}
}

// savesBoot has the boot of a guest saved that is up, once its agent answers, if the
// daemon that has started it is there.
func (g *guest) savesBoot() {
	m, w, dir, b := g.m, g.m.w, g.dir, g.dir.warm.fresh
	if b == nil {
		return
	}
	var begin func()
	begin = func() {
		d := m.daemon
		if d == nil || d.life != dir.warm.starter || d.paused || m.asleep > w.now || dir.guest != g || dir.warm.fresh != b {
			return
		}
		o := d.ordersOf(dir.uid)
		if o.busy {
			w.later(int64(100*time.Millisecond), begin)
			return
		}
		if dir.warm.fresh = nil; g.dying || g.paused || g.halted || g.sending != nil || dir.handedOver != 0 {
			return
		}
		g.pause()
		o.busy = true
		f := &freezing{g, o, b}
		d.freezing[dir.uid] = f
		w.later(between(m.rand, 20*time.Millisecond, time.Second), func() { d.froze(f, "") })
	}
	w.later(between(m.rand, 100*time.Millisecond, 2*time.Second), begin)
}

// froze: a boot is saved, or given up, and its guest goes on.
func (d *Daemon) froze(f *freezing, err string) {
	m, w, g := d.m, d.m.w, f.guest
	uid := g.dir.uid
	if m.daemon != d || d.freezing[uid] != f {
		return
	}
	if err == "" && (d.paused || m.asleep > w.now) {
		w.later(int64(time.Second), func() { d.froze(f, err) })
		return
	}
	if err == "" && m.crashes(pointBooted.before) {
		return
	}
	defer m.crashes(pointBooted.after)
	delete(d.freezing, uid)
	f.orders.busy = false
	if g.stood = w.now; g.dir.guest == g && !g.dying {
		g.goOn()
		m.notice(g.dir)
		if err == "" {
			m.keepsBoot(g, f.boot)
		}
	}
	d.next(f.orders)
}

// keepsBoot gives a saved boot its name, and lets another one go if there are too many.
func (m *Machine) keepsBoot(g *guest, b *savedBoot) {
	w := m.w
	b.memory, b.used = g.memory, w.now
	m.booted[g.dir.uid] = b
	w.say(m, fmt.Sprintf("the boot of VM %s is saved", g.instance))
	w.fired("BootSaved")
	var list []vmm.Boot
	for _, uid := range slices.Sorted(maps.Keys(m.booted)) {
		list = append(list, vmm.Boot{UID: uid, Used: m.booted[uid].used})
	}
	if oldest := vmm.SparedBoot(list, g.dir.uid, w.mostBoots()); oldest != "" {
		delete(m.booted, oldest)
		w.say(m, "the saved boot of VM "+oldest+" goes")
		w.fired("BootSpared")
	}
	w.judges.warm.saved(w, m, g.dir.uid)
}

// mostBoots is how many saved boots a host keeps.
func (w *World) mostBoots() int { return cmp.Or(w.mix.Boots, vmm.MostBoots) }

// waitsForBoot: a guest that was just forked is to go on from a saved boot.
func (g *guest) waitsForBoot() {
	m, w := g.m, g.m.w
	g.waits = true
	w.say(m, fmt.Sprintf("VM %s waits for its saved boot", g.instance))
	w.push(event{at: w.now + between(m.rand, 50*time.Millisecond, 2*time.Second), kind: evLoaded, m: m, life: g.life, ref: g})
}

// hasBoot: the memory of a saved boot is there, unless something has gone wrong.
func (g *guest) hasBoot() {
	m, w, dir, d := g.m, g.m.w, g.dir, g.m.daemon
	switch {
	case g.dying || d == nil || d.life != dir.warm.starter:
		return // nobody sends it any more
	case d.paused:
		w.push(event{at: w.now + int64(time.Second), kind: evLoaded, m: m, life: g.life, ref: g})
		return
	}
	if after, dies := w.mishap("WarmCrash", m.place(), w.mix.WarmFails, 100*time.Millisecond, 5*time.Second); dies {
		w.say(m, "dies in the warm start of "+dir.uid)
		m.stopDaemon(true)
		m.restartDaemon(int64(after))
		return
	}
	if _, refused := w.mishap("BootRefused", m.place(), w.mix.WarmFails, 0, 0); refused {
		d.bootsAsEver(dir)
		return
	}
	b := dir.warm.waits
	dir.warm.waits, g.waits, g.ready, g.warm, g.untold, g.memory = nil, false, true, true, true, b.memory
	w.running[g.instance.UID] = append(w.running[g.instance.UID], g)
	w.say(m, fmt.Sprintf("VM %s goes on from its saved boot", g.instance))
	w.fired("WarmStart")
	w.forked(g)
	w.judges.warm.wentOn(w, g, b)
	if late, ok := w.mishap("LateExit", m.place(), w.mix.LateExit, 0, 30*time.Second); ok {
		g.exitIn(int64(late))
	}
	if dir.shim != nil {
		dir.shim.tell("")
	}
	m.notice(dir)
	d.informs(g)
}

// bootsAsEver ends what waits for a saved boot that is refused, and goes on with the same
// order without it.
func (d *Daemon) bootsAsEver(dir *vmDir) {
	m, w, o := d.m, d.m.w, d.work[dir.uid]
	delete(m.booted, dir.uid)
	if o == nil || !o.busy || dir.shim == nil {
		return
	}
	a := o.queue[0]
	dir.shim.starting = 0
	dir.warm.again = true
	dir.sweep()
	var again func()
	again = func() {
		switch {
		case m.daemon != d:
		case !o.busy || o.queue[0].ID != a.ID:
			dir.warm.again = false
			m.notice(dir)
		case dir.alive() || d.paused || m.asleep > w.now:
			w.later(int64(100*time.Millisecond), again)
		default:
			dir.warm.again = false
			d.startVM(a, dir)
		}
	}
	w.later(int64(10*time.Millisecond), again)
}

// betweenBoots says that nothing of a VM is told: it is being started still.
func (d *Daemon) betweenBoots(dir *vmDir) bool {
	return dir.warm.again && dir.warm.starter == d.life && !dir.alive()
}

// informs has a guest told who it is that has gone on from a saved boot, once it runs.
func (d *Daemon) informs(g *guest) {
	m, w := d.m, d.m.w
	w.later(between(m.rand, 100*time.Millisecond, 3*time.Second), func() {
		switch {
		case m.daemon != d || g.dir.guest != g || g.dying:
		case g.paused || d.paused || m.asleep > w.now:
			d.informs(g)
		default:
			g.untold = false
		}
	})
}

// adoptWarm ends what waits for a boot that an earlier daemon was giving it, and tells a
// guest who it is that it has not told.
func (d *Daemon) adoptWarm(dir *vmDir) {
	g := dir.guest
	switch {
	case g == nil:
	case g.waits:
		dir.reason = interrupted
		delete(d.m.booted, dir.uid)
		dir.sweep()
	case g.untold && !mutant.On("WarmUntold"):
		d.informs(g)
	}
}

// lukewarm says what of a warm start is not as it should be at rest.
func lukewarm(vm *blixardv1.VM, g *guest) string {
	switch {
	case vm.GetStatus().GetWarm() != g.warm:
		return fmt.Sprintf("is said to have gone on from its saved boot: %t, and has: %t", vm.Status.Warm, g.warm)
	case g.untold && !vm.Paused:
		return "has gone on from its saved boot, and nobody has told it"
	}
	return ""
}
