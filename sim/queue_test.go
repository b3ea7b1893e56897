package sim

import (
	"testing"
	"time"
)

// A machine that is woken early has what it put off before what comes later, and in
// the order in which it came.
func TestWokenInOrder(t *testing.T) {
	q, m, other := queue{}, &Machine{}, &Machine{}
	for n, at := range []int64{50, 100, 70, 100, 60, 100} {
		q.push(event{at: at, kind: evObserved, m: m, n: uint64(n)})
		q.push(event{at: at, kind: evObserved, m: other, n: 90})
	}
	q.push(event{at: 100, kind: evArrive, m: m, n: 80})
	q.bring(m, 100, 55)
	var got []uint64
	last := int64(0)
	for len(q.h) > 0 {
		e := q.pop()
		if e.at < last {
			t.Fatalf("an event of %d comes after one of %d", e.at, last)
		}
		if last = e.at; e.m == m {
			got = append(got, e.n)
		}
	}
	want := []uint64{0, 1, 3, 5, 4, 2, 80}
	for i := range want {
		if len(got) != len(want) || got[i] != want[i] {
			t.Fatalf("events come in the order %v, want %v", got, want)
		}
	}
}

// So a suspended machine that is healed does not see an old inventory after a newer
// report.
func TestHealingWakesInOrder(t *testing.T) {
	c := Calm(1)
	w := New(c)
	defer w.Close()
	w.Found()
	m := w.machines[1]
	w.Strike(Suspend{Node: m.N(), For: 20 * time.Second})
	if m.asleep <= w.now {
		t.Fatal("it does not sleep")
	}
	w.RunFor(2 * time.Second)
	late := 0
	w.Heal()
	for i := range w.queue.h {
		if e := &w.queue.h[i]; e.m == m && e.kind == evTick && e.at > w.now+int64(time.Second) {
			late++
		}
	}
	if late > 0 {
		t.Errorf("%d ticks that it put off come long after it has woken", late)
	}
}
