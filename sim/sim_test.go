package sim

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

var (
	oneSeed = flag.Uint64("seed", 0, "run this seed only, and with -v print its trace hash")
	seeds   = flag.Uint64("seeds", 60, "how many seeds TestSeeds runs")
	first   = flag.Uint64("first", 1, "the first of them")
	until   = flag.Duration("until", 0, "stop the seed at this simulated time, before any judgement of the end")
	words   = flag.Bool("words", false, "print every line of what happens")
)

func configOf(seed uint64) Config {
	cfg := Swarm(seed)
	if *words {
		cfg.Log = os.Stdout
	}
	return cfg
}

func runSeed(t *testing.T, seed uint64) Result {
	t.Helper()
	cfg := configOf(seed)
	cfg.Until = *until
	r := Run(cfg)
	if r.Failure != nil {
		var b strings.Builder
		r.Report(&b, os.Getenv("BLIXARD_COMMIT"))
		t.Error(b.String())
	}
	return r
}

// TestSeeds runs whole clusters, each from its seed.
func TestSeeds(t *testing.T) {
	if *oneSeed != 0 {
		r := runSeed(t, *oneSeed)
		t.Logf("trace hash: %016x", r.Hash)
		t.Logf("%v simulated, %d events, faults %v, judged %v", r.Simulated, r.Events, r.Faults, r.Judged)
		return
	}
	n := *seeds
	if testing.Short() {
		n = min(n, 3)
	}
	for seed := *first; seed < *first+n; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			start := time.Now()
			r := runSeed(t, seed)
			t.Logf("%v simulated in %v, %d events", r.Simulated, time.Since(start).Round(time.Millisecond), r.Events)
		})
	}
}

// TestSameSeedSameHash runs a seed in processes that differ in everything that
// must not matter.
func TestSameSeedSameHash(t *testing.T) {
	if *oneSeed != 0 {
		t.Skip("a child")
	}
	var hashes []string
	for _, env := range []string{"GOMAXPROCS=1 GOGC=20", "GOMAXPROCS=4 GOGC=400"} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestSeeds$", "-test.v", "-seed=3")
		cmd.Env = append(os.Environ(), strings.Fields(env)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", env, err, out)
		}
		_, rest, ok := strings.Cut(string(out), "trace hash: ")
		if !ok || len(rest) < 16 {
			t.Fatalf("%s: no hash in\n%s", env, out)
		}
		hashes = append(hashes, rest[:16])
	}
	if hashes[0] != hashes[1] {
		t.Fatalf("one seed, two worlds: %v", hashes)
	}
}
