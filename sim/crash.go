package sim

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/shim"
)

// Crash points: a process can be killed just before and just after everything
// that it does to the world outside of it. What it was about to do is not done,
// or it is done and the process does not know.
//
// In a swarm a quarter of the points are open (or only the rare ones), and each time that one is passed
// the process dies with a chance of a quarter. Points that few runs pass at all
// are open in three quarters, and are as often survived as not the first time.
// A crash at a point is a mishap like any other: (CrashBeforeWrite n1 2s). An
// enumeration passes through all of them, one in each run: see enumerate.go.

// point is an effect, with the names of the crashes before and after it.
type point struct{ before, after string }

func (p point) names() []string { return []string{p.before, p.after} }

func daemonPoint(effect string) point { return point{"CrashBefore" + effect, "CrashAfter" + effect} }
func shimPoint(effect string) point {
	return point{"ShimCrashBefore" + effect, "ShimCrashAfter" + effect}
}

var (
	pointWrite   = daemonPoint("Write")   // a batch goes to the disk
	pointDurable = daemonPoint("Durable") // the disk has finished one
	pointSend    = daemonPoint("Send")
	pointOrder   = daemonPoint("Order") // the adapter is told what to do
	pointReply   = daemonPoint("Reply")
	pointExtend  = daemonPoint("Extend")  // the lease pages are written
	pointKeep    = daemonPoint("Keep")    // a volume is made, grown or removed
	pointSaved   = daemonPoint("Saved")   // a snapshot gets its name
	pointBrought = daemonPoint("Brought") // one that has come gets its name
	pointBooted  = daemonPoint("Booted")  // a boot is saved
	pointAdded   = daemonPoint("Added")   // whose server says so

	// What the adapter does, and what shims do.
	actPoints  = map[vmm.Verb]point{}
	shimPoints = map[shim.OutputKind]point{}

	crashNames              []string
	busyPoints              = map[string]bool{} // those that every tick passes
	rarePoints              = map[string]bool{} // those that few runs pass
	leavePoints, landPoints []string            // those of a live move: before the guest leaves, and from there on
	// startPoints are those that every start of a VM passes: with many of them open
	// hardly any would succeed, so most are open for one crash only.
	startPoints = map[string]bool{}
)

func init() {
	add := func(p point) point {
		crashNames = append(crashNames, p.before, p.after)
		return p
	}
	for _, p := range []point{pointWrite, pointDurable, pointSend, pointOrder, pointExtend} {
		add(p)
		busyPoints[p.before], busyPoints[p.after] = true, true
	}
	add(pointReply)
	add(pointHandOver)
	crashNames = append(crashNames, pointTakenOver)
	rarePoints[pointHandOver.before], rarePoints[pointHandOver.after], rarePoints[pointTakenOver] = true, true, true
	for _, v := range []vmm.Verb{vmm.Build, vmm.Start, vmm.Stop, vmm.Kill, vmm.Rebind, vmm.Remove, vmm.Receive, vmm.TakeOver, vmm.Unsend} {
		actPoints[v] = add(daemonPoint(v.String()))
	}
	actPoints[vmm.Send] = add(daemonPoint("SendGuest")) // Send is a message's
	for _, k := range []shim.OutputKind{shim.Lock, shim.Arm, shim.Fork, shim.Publish, shim.Signal, shim.Sweep, shim.Record, shim.Reply} {
		shimPoints[k] = add(shimPoint(title(string(k))))
	}
	for _, p := range []point{
		actPoints[vmm.Stop], actPoints[vmm.Kill], actPoints[vmm.Rebind],
		actPoints[vmm.Receive], actPoints[vmm.TakeOver], actPoints[vmm.Send], actPoints[vmm.Unsend],
		shimPoints[shim.Signal], shimPoints[shim.Sweep], shimPoints[shim.Record], shimPoints[shim.Reply],
	} {
		rarePoints[p.before], rarePoints[p.after] = true, true
	}
	add(pointKeep)
	rarePoints[pointKeep.before], rarePoints[pointKeep.after] = true, true
	for _, p := range []point{actPoints[vmm.Start], shimPoints[shim.Lock], shimPoints[shim.Arm], shimPoints[shim.Fork], shimPoints[shim.Publish]} {
		startPoints[p.before], startPoints[p.after] = true, true
	}
	// The last, so that the worlds of seeds from before are what they were.
	for _, v := range []vmm.Verb{vmm.Snapshot, vmm.KeepSnapshots} {
		actPoints[v] = add(daemonPoint(v.String()))
		rarePoints[actPoints[v].before], rarePoints[actPoints[v].after] = true, true
	}
	add(pointSaved)
	rarePoints[pointSaved.before], rarePoints[pointSaved.after] = true, true
	for _, p := range []point{pointBrought, pointAdded, pointBooted} {
		add(p)
		rarePoints[p.before], rarePoints[p.after] = true, true
	}
	actPoints[vmm.Balloon] = add(daemonPoint(vmm.Balloon.String()))
	rarePoints[actPoints[vmm.Balloon].before], rarePoints[actPoints[vmm.Balloon].after] = true, true
	for _, v := range []vmm.Verb{vmm.Receive, vmm.Send} {
		leavePoints = append(leavePoints, actPoints[v].before, actPoints[v].after)
	}
	landPoints = []string{pointHandOver.before, pointHandOver.after, pointTakenOver}
	for _, v := range []vmm.Verb{vmm.TakeOver, vmm.Unsend} {
		landPoints = append(landPoints, actPoints[v].before, actPoints[v].after)
	}
	mishapNames = append(mishapNames, crashNames...)
	if names := slices.Sorted(slices.Values(crashNames)); len(slices.Compact(names)) != len(crashNames) {
		panic("sim: two crash points have one name")
	}
}

func title(s string) string { return string(s[0]-'a'+'A') + s[1:] }

// crashes says whether a machine's daemon dies at a point, and kills it if so.
func (m *Machine) crashes(name string) bool {
	if name == "" || m.daemon == nil {
		return false
	}
	after, ok := m.meets(name)
	if ok {
		m.w.say(m, name)
		m.stopDaemon(true)
		m.restartDaemon(int64(after))
	}
	return ok
}

// crashes says whether a shim dies at a point, and kills it if so.
func (s *shimProc) crashes(name string) bool {
	if name == "" || s.dir.shim != s {
		return false
	}
	_, ok := s.m.meets(name)
	if ok {
		s.m.w.say(s.m, name)
		s.kill()
	}
	return ok
}

// meets says whether there is a crash at a point, and after what time what has
// died is started again.
func (m *Machine) meets(name string) (time.Duration, bool) {
	w := m.w
	if w.phase != safety {
		return 0, false
	}
	w.points.passed(w, m, name)
	after, ok := w.mishap(name, m.place(), m.crashChance(name), 100*time.Millisecond, 5*time.Second)
	if ok && busyPoints[name] {
		m.spared = w.now + tail(w.luck, w.mix.CrashGap, 10*w.mix.CrashGap)
	}
	return after, ok
}

// crashChance of a point: a quarter if it is open. Those that are passed all the
// time have none for a while after a crash, or else nothing would ever get done.
func (m *Machine) crashChance(name string) float64 {
	w := m.w
	open, drawn := w.mix.Points[name]
	switch {
	case !drawn, !open && w.counts[name] > 0:
		return 0
	case rarePoints[name] && w.counts[name] == 0:
		return 0.5 // not more, or else few would come to the point after it
	case !busyPoints[name]:
		return 0.25
	case m.spared == 0:
		m.spared = w.now + tail(w.luck, w.mix.CrashGap, 10*w.mix.CrashGap)
		return 0
	case w.now < m.spared:
		return 0
	}
	return 0.25
}

// drawPoints opens a quarter of all points; in some worlds the rare ones only, so
// that things go on until one of them is reached.
func drawPoints(r *rand.Rand) map[string]bool {
	open := map[string]bool{}
	rare := r.IntN(3) == 0
	for _, name := range crashNames {
		if n := r.IntN(4); n == 0 && (!rare || rarePoints[name]) || n < 3 && rarePoints[name] {
			open[name] = true
		} else if n == 1 && !rare && startPoints[name] {
			open[name] = false // once
		}
	}
	return open
}
