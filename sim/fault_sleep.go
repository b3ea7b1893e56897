package sim

import "time"

func init() { register(Suspend{}, Reboot{}) }

// Suspend stops a whole machine for a while, guests and all, and its BOOTTIME goes
// on. It never sleeps past a deadline of a VM that it runs: production inhibits
// sleep, and that is assumed.
type Suspend struct {
	Node N
	For  time.Duration
}

func (Suspend) draw(d dice) Fault { return Suspend{d.node(), d.time() / 2} }

func (f Suspend) strike(w *World) bool {
	m := w.node(f.Node)
	if m == nil || !m.on || m.asleep > w.now {
		return false
	}
	until := w.now + int64(f.For)
	m.dirs.Scan(func(_ string, d *vmDir) bool {
		if s := d.shim; s != nil && s.timer != 0 {
			until = min(until, m.clock.when(int64(s.timer))-int64(time.Millisecond))
		}
		return true
	})
	if until < w.now+int64(100*time.Millisecond) {
		return false
	}
	m.asleep = until
	w.stoppedUntil(m, until)
	return true
}

// Reboot is a planned restart of a machine: its daemon hands its leadership over,
// then everything ends and starts again, in another boot, with the disk as it was.
type Reboot struct {
	Node N
	For  time.Duration
}

func (Reboot) draw(d dice) Fault { return Reboot{d.node(), d.time() / 4} }

func (f Reboot) strike(w *World) bool {
	m := w.node(f.Node)
	if m == nil || !m.on || m.daemon == nil || m.daemon.paused {
		return false
	}
	m.daemon.node.Resign()
	boots := m.boots
	w.push(event{at: w.now + int64(500*time.Millisecond), kind: evChore, m: m, ref: func() {
		if m.on && m.boots == boots && w.phase == safety {
			m.powerOff()
			w.until(f, f.For, m.boot)
		}
	}})
	return true
}
