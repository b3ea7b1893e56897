package sim

import (
	"fmt"
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

// BenchmarkFullSystem is simulated seconds per core-second: three servers,
// twenty more hosts, 200 VMs, and clients that do about 100 things a second. No
// fault strikes, and every judge that looks at each event does.
func BenchmarkFullSystem(b *testing.B) {
	mix := calm()
	mix.Names, mix.Think = 200, 100*time.Millisecond
	w := New(Config{Seed: 1, Servers: 3, Hosts: 20, Mix: &mix})
	defer w.Close()
	w.Found()
	w.phase = safety
	for i := range mix.Names {
		w.Do(&Operation{Verb: Create, Name: fmt.Sprintf("vm%d", i), Spec: replaceVM()})
	}
	for range 10 {
		w.newClient(true).think()
	}
	w.RunFor(10 * time.Second)
	if w.failure != nil {
		b.Fatal(w.failure.Promise, w.failure.Text)
	}
	done, at := len(w.history), w.now
	begun := coreSeconds(b)
	b.ResetTimer()
	for range b.N {
		w.RunFor(time.Second)
	}
	if w.failure != nil {
		b.Fatal(w.failure.Promise, w.failure.Text)
	}
	if ops := float64(len(w.history)-done) / time.Duration(w.now-at).Seconds(); b.N > 10 && ops < 80 {
		b.Fatalf("%.0f operations a second: clients wait for something", ops)
	}
	simulated := time.Duration(w.now - at).Seconds()
	b.ReportMetric(simulated/(coreSeconds(b)-begun), "sim-s/core-s")
	b.ReportMetric(float64(len(w.history)-done)/simulated, "ops/s")
}
