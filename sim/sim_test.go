package sim

import (
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	oneSeed = flag.Uint64("seed", 0, "run this seed only, and with -v print its trace hash")
	seeds   = flag.Uint64("seeds", 60, "how many seeds TestSeeds runs")
	first   = flag.Uint64("first", 1, "the first of them")
	profile = flag.String("profile", "", "the kind of world: swarm, base, calm, or one with some faults only, as base:Isolate,Drop; empty: both swarm and base")
	until   = flag.String("until", "", "stop a seed after so many events (1234) or at a simulated time (12.5s), before any judgement of the end")
	words   = flag.Bool("words", false, "print every line of what happens")
	planted = flag.String("mutant", "", "plant a bug for FuzzChoices, with -tags mutants")
)

func configOf(t *testing.T, profile string, seed uint64) Config {
	t.Helper()
	cfg, err := Profile(profile, seed)
	if err == nil && *until != "" {
		if cfg.UntilEvent, err = strconv.ParseUint(*until, 10, 64); err != nil {
			cfg.Until, err = time.ParseDuration(*until)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if *words {
		cfg.Log = os.Stdout
	}
	return cfg
}

func runSeed(t *testing.T, profile string, seed uint64) Result {
	t.Helper()
	run := Run
	if *oneSeed == 0 && seed%20 == 0 {
		run = Twice
	}
	r := run(configOf(t, profile, seed))
	if r.Failure != nil {
		broken(t, configOf(t, profile, seed), r)
	}
	return r
}

// broken reports a failure, and shows it.
func broken(t *testing.T, cfg Config, r Result) {
	t.Helper()
	var b strings.Builder
	r.Report(&b, commit())
	cfg.Log = nil
	film := Shoot(cfg)
	film.Commit = commit()
	name := filepath.Join(os.TempDir(), fmt.Sprintf("blixard-sim-%d.html", r.Seed))
	page, err := os.Create(name)
	if err == nil {
		err = errors.Join(film.Page(page), page.Close())
	}
	t.Errorf("%sshown: %s (%v)", b.String(), name, cmp.Or(err, errors.New("open it in a browser")))
}

// commit of the code that is tested; a star when files have changed since.
func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--abbrev=12", "--dirty=*", "--exclude=*").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// TestSeeds runs whole clusters, each from its seed: most of the swarm, and a
// quarter as many of the base mix.
func TestSeeds(t *testing.T) {
	if *oneSeed != 0 {
		r := runSeed(t, cmp.Or(*profile, "swarm"), *oneSeed)
		t.Logf("trace hash: %016x", r.Hash)
		t.Logf("%v simulated, %d events, faults %v, judged %v", r.Simulated, r.Events, r.Faults, r.Judged)
		return
	}
	n := *seeds
	if testing.Short() {
		n = min(n, 3)
	}
	run := func(profile string, n uint64) {
		for seed := *first; seed < *first+n; seed++ {
			t.Run(fmt.Sprintf("%s/%d", profile, seed), func(t *testing.T) {
				start := time.Now()
				r := runSeed(t, profile, seed)
				t.Logf("%v simulated in %v, %d events", r.Simulated, time.Since(start).Round(time.Millisecond), r.Events)
			})
		}
	}
	if *profile != "" {
		run(*profile, n)
		return
	}
	run("swarm", n-n/4)
	run("base", n/4)
}

// Hundreds of hosts and a thousand VMs, for a few seconds of faults: the smallest
// of the worlds that -profile=large makes.
func TestLarge(t *testing.T) {
	if *oneSeed != 0 || testing.Short() {
		t.Skip("a child, or in a hurry")
	}
	c := Large(1)
	c.Servers, c.Hosts, c.Spares = 3, 200, 2
	c.large(1000)
	c.Mix.Safety, c.Mix.Quorum = 10*time.Second, 0
	SoonAtRest(&c)
	r := Run(c)
	if f := r.Failure; f != nil {
		t.Fatalf("%s: %s\n%s", f.Promise, f.Text, strings.Join(f.Last, "\n"))
	}
	t.Logf("%v simulated, %d events, faults %v, judged %v", r.Simulated, r.Events, r.Faults, r.Judged)
	if r.Judged["copies"] < 500 || r.Judged["histories"]+r.Judged["witness"] == 0 {
		t.Errorf("that is not large: %v", r.Judged)
	}
}

// A run that is stopped early is the beginning of the whole run.
func TestUntil(t *testing.T) {
	if *oneSeed != 0 {
		t.Skip("a child")
	}
	var b strings.Builder
	cfg := Swarm(3)
	cfg.Log = &b
	whole := Run(cfg)
	for _, stop := range []Config{{UntilEvent: 500}, {UntilEvent: whole.Events - 100}, {Until: 3 * time.Second}, {Until: whole.Simulated / 2}} {
		var some strings.Builder
		cfg := Swarm(3)
		cfg.Log, cfg.Until, cfg.UntilEvent = &some, stop.Until, stop.UntilEvent
		r := Run(cfg)
		if r.Failure != nil {
			t.Fatalf("until %v/%d: %s: %s", stop.Until, stop.UntilEvent, r.Failure.Promise, r.Failure.Text)
		}
		// An event and what follows from it at once are not parted.
		if stop.Until != r.Simulated && (r.Events < stop.UntilEvent || r.Events > stop.UntilEvent+3) {
			t.Errorf("until %v/%d: it ran to %v, %d events", stop.Until, stop.UntilEvent, r.Simulated, r.Events)
		}
		if some.Len() == 0 || !strings.HasPrefix(b.String(), some.String()) {
			t.Errorf("until %v/%d: another run", stop.Until, stop.UntilEvent)
		}
	}
}

// What is said of a failure is enough to repeat it.
func TestReport(t *testing.T) {
	r := Result{Seed: 7, Profile: "base:Drop", Hash: 0xabc, Struck: []string{"1s (Drop n1>n2)"}, Failure: &Failure{
		Promise: "never two copies", Text: "VM 1-2 has 2", At: 3 * time.Second, Event: 99, Last: []string{"2s n1 orders"},
	}}
	var b strings.Builder
	r.Report(&b, "c0ffee")
	for _, want := range []string{
		"BROKEN: never two copies", "VM 1-2 has 2", "1s (Drop n1>n2)", "2s n1 orders", "seed 7", "commit c0ffee", "event 99", "at 3s",
		"go test ./sim -run TestSeeds -seed=7 -profile=base:Drop -v",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the report does not say %q:\n%s", want, b.String())
		}
	}
}

// Two runs that part are stopped there, and it is said where.
func TestTwice(t *testing.T) {
	if *oneSeed != 0 {
		t.Skip("a child")
	}
	cfg := Calm(5)
	cfg.Until = 5 * time.Second
	if r := Twice(cfg); r.Failure != nil {
		t.Fatalf("%s: %s", r.Failure.Promise, r.Failure.Text)
	}
	_, marks := Marks(cfg)
	other := Calm(5)
	other.Until = 5 * time.Second
	other.Script = []Strike{{3 * time.Second, DiskSlow{2, 9, time.Second}}}
	_, marksToo := Marks(other)
	r := against(other, marks)
	if r.Failure == nil || r.Failure.Promise != repeatable || len(r.Failure.Last) == 0 {
		t.Fatalf("two runs are taken for one: %+v", r.Failure)
	}
	event, text := Part(marks, marksToo)
	if r.Events != event+1 || text != r.Failure.Text {
		t.Errorf("beside it, they part at event %d:\n%s\nafterwards at %d:\n%s", r.Events, r.Failure.Text, event, text)
	}
	if event, _ := Part(marks, marks[:len(marks)-3]); event != uint64(len(marks)-3) {
		t.Errorf("a run that is shorter parts at %d of %d", event, len(marks)-3)
	}
	var b bytes.Buffer
	if err := WriteMarks(&b, marks); err != nil {
		t.Fatal(err)
	}
	if back, err := ReadMarks(&b); err != nil || !slices.Equal(back, marks) {
		t.Errorf("marks do not come back: %v", err)
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
