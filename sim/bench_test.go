package sim

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"syscall"
	"testing"
	"time"
)

// TestMain collects garbage as blixard-sim does.
func TestMain(m *testing.M) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	os.Exit(m.Run())
}

// coreSeconds is the time that this process has had of all cores, its garbage
// collector's included: what a shared machine does not change.
func coreSeconds(b *testing.B) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// measure lets b.N seconds pass in a world, and says how many of them a core
// simulates in one of its own.
func measure(b *testing.B, w *World) {
	b.Helper()
	w.RunFor(10 * time.Second)
	done, at := len(w.history), w.now
	begun := coreSeconds(b)
	b.ResetTimer()
	for range b.N {
		w.RunFor(time.Second)
	}
	spent := coreSeconds(b) - begun
	if w.failure != nil {
		b.Fatal(w.failure.Promise, w.failure.Text)
	}
	simulated := time.Duration(w.now - at).Seconds()
	ops := float64(len(w.history)-done) / simulated
	if b.N > 10 && ops < 80 {
		b.Fatalf("%.0f operations a second: clients wait for something", ops)
	}
	b.ReportMetric(simulated/spent, "sim-s/core-s")
	b.ReportMetric(ops, "ops/s")
}

// BenchmarkFullSystem is simulated seconds per core-second: three servers,
// twenty more hosts, 200 VMs, and clients that do about 100 things a second. No
// fault strikes, and every judge that looks at each event does.
//
// The clients of "mixed" look more often than they change something, as people
// and scripts do: of 100 operations 50 read a VM, 5 list all of them and 5 read
// what may be stale; 10 create, 10 delete, 10 update and 10 start or stop one.
// Those of "writing" want what the swarm's do (drawVerb), which are there to
// find bugs: three of four change something.
func BenchmarkFullSystem(b *testing.B) {
	b.Run("mixed", func(b *testing.B) { benchmarkFullSystem(b, looksMore) })
	b.Run("writing", func(b *testing.B) { benchmarkFullSystem(b, drawVerb) })
}

func looksMore(r *rand.Rand) Verb {
	switch x := r.IntN(100); {
	case x < 50:
		return Get
	case x < 55:
		return List
	case x < 60:
		return StaleGet
	case x < 70:
		return Create
	case x < 80:
		return Delete
	case x < 90:
		return Update
	case x < 95:
		return Start
	}
	return Stop
}

func benchmarkFullSystem(b *testing.B, verb func(*rand.Rand) Verb) {
	mix := calm()
	mix.Names = 200
	w := New(Config{Seed: 1, Servers: 3, Hosts: 20, Mix: &mix})
	defer w.Close()
	w.Found()
	w.phase = safety
	for i := range mix.Names {
		w.Do(&Operation{Verb: Create, Name: fmt.Sprintf("vm%d", i), Spec: replaceVM()})
	}
	for range 10 {
		w.newClient(false).works(100*time.Millisecond, func(c *client) *Operation {
			op := &Operation{Verb: verb(c.choice), Name: fmt.Sprintf("vm%d", c.choice.IntN(mix.Names))}
			if op.Verb == Create || op.Verb == Update {
				op.Spec = drawSpec(c.choice, c.index, op.Name, w.settings.GetLeaseMs(), &mix)
			}
			return op
		})
	}
	measure(b, w)
}

// works has a client do one thing after another, with a while between them.
func (c *client) works(think time.Duration, next func(*client) *Operation) {
	after := tail(c.choice, think, 20*think)
	c.w.push(event{at: c.w.now + after, kind: evChore, ref: func() {
		c.begin(next(c), func(*Operation) { c.works(think, next) })
	}})
}

// BenchmarkBareRaft is simulated seconds per core-second of three servers that
// are nothing else: no host, no VM, no shim. A tick is 10 ms, and clients make
// 100 entries a second, each the cheapest that a client can make: the deletion
// of a VM that is not there. It is what every world pays for its log: the queue,
// the network, the disks, Raft, and the very core.Node, which cannot be had
// without the state that it keeps, with every judge of that.
func BenchmarkBareRaft(b *testing.B) {
	mix := calm()
	w := New(Config{Seed: 1, Servers: 3, Mix: &mix, Tick: 10 * time.Millisecond})
	defer w.Close()
	for _, m := range w.machines {
		m.Host = false
	}
	w.Found()
	w.phase = safety
	for range 10 {
		w.newClient(false).works(100*time.Millisecond, func(*client) *Operation {
			return &Operation{Verb: Delete, Name: "none"}
		})
	}
	measure(b, w)
}

// BenchmarkSeed runs whole seeds of the default profile, each judged to the end,
// and says how many core-seconds are spent on 60 simulated seconds. No seed may
// fail.
func BenchmarkSeed(b *testing.B) {
	simulated, begun := 0.0, coreSeconds(b)
	seed := uint64(0)
	for b.Loop() {
		seed++
		r := Run(Swarm(seed))
		if r.Failure != nil {
			b.Fatal(seed, r.Failure.Promise, r.Failure.Text)
		}
		simulated += r.Simulated.Seconds()
	}
	spent := coreSeconds(b) - begun
	b.ReportMetric(60*spent/simulated, "core-s/60-sim-s")
	b.ReportMetric(simulated/spent, "sim-s/core-s")
}
