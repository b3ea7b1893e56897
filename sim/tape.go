package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A tape is bytes as the source of choices, for whoever would rather search than
// draw lots: a fuzzer changes a byte, and one choice is another one. FromBytes
// reads a whole world off it, as a transcript: its size, and then step by step
// what clients want and what goes wrong. Small delays are drawn, as in any
// transcript, from a seed that is on the tape, too.
type tape struct {
	left []byte
	then *rand.PCG // for a choice that the end of the tape cuts in two
}

// Uint64 makes one choice of one byte, which stands in all places, for those who
// look at the high bits and for those who look at the low ones.
func (t *tape) Uint64() uint64 {
	if len(t.left) == 0 {
		return t.then.Uint64()
	}
	b := t.left[0]
	t.left = t.left[1:]
	return uint64(b) * 0x0101010101010101
}

// mostSteps of a tape: more make a run longer, and hardly another one.
const mostSteps = 120

// FromBytes is the world that bytes choose.
func FromBytes(b []byte) Config {
	t := &tape{left: b, then: rand.NewPCG(1, 2)}
	r := rand.New(t)
	m := calm()
	m.Clients, m.Names = 1+r.IntN(4), 1+r.IntN(4)
	m.Latency = pick(r, 500*time.Microsecond, 5*time.Millisecond, 50*time.Millisecond)
	m.Small = r.IntN(3) == 0
	m.Longest = 30 * time.Second
	c := Config{
		Seed: 1 + r.Uint64N(256), Servers: pick(r, 1, 3, 3, 5), Hosts: r.IntN(3), Spares: r.IntN(2),
		KeepEntries: pick[uint64](r, 0, 20, 100), Mix: &m, Script: []Strike{},
	}
	lease := uint32(6+r.IntN(10)) * 1000
	c.Settings = &blixardv1.Settings{LeaseMs: lease, RenewMs: lease / uint32(3+r.IntN(4)), LongLeaseMs: 60_000, DedupeWindowMs: 300_000}
	d := dice{r, &m, c.Servers + c.Hosts + c.Spares}
	at := 3 * time.Second
	for len(t.left) > 0 && len(c.Script) < mostSteps {
		at += pick(r, 0, time.Millisecond, 10*time.Millisecond, 100*time.Millisecond, time.Second, time.Second, 3*time.Second, 10*time.Second)
		var f Fault
		switch r.IntN(4) {
		case 0:
			f = faultKinds[pick(r, faultNames...)].draw(d)
		case 1:
			f = d.mishap()
		default:
			f = d.ask(lease, len(c.Script))
		}
		c.Script = append(c.Script, Strike{at, f})
	}
	m.Safety = at + 10*time.Second
	c.complete()
	return c
}

// mishap draws one that will befall what comes by next.
func (d dice) mishap() Mishap {
	f := Mishap{Name: pick(d.Rand, mishapNames...), At: place{From: d.node()}}
	switch f.Name {
	case "Drop", "Duplicate", "Late":
		f.At.To = d.node()
	}
	if f.For = d.time(); f.Name == "SlowKill" {
		f.For = min(f.For, 5*time.Second) // K: beyond it, all is lost
	}
	return f
}

// ask draws what a client wants; step makes its spec unlike all others.
func (d dice) ask(lease uint32, step int) Ask {
	a := Ask{Client: 1 + d.IntN(d.mix.Clients), Verb: drawVerb(d.Rand), Name: fmt.Sprintf("vm%d", d.IntN(d.mix.Names))}
	if a.Verb == Create || a.Verb == Update {
		a.Spec = drawSpec(d.Rand, a.Client, a.Name, lease, d.mix)
		a.Spec.Labels["revision"] = fmt.Sprint(step)
	}
	return a
}
