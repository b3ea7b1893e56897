package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/blixard/blixard/sim"
)

func shrink(args []string) int {
	f := flag.NewFlagSet("shrink", flag.ContinueOnError)
	which := worldFlags(f)
	within := f.Duration("within", time.Minute, "stop after this time, with what there is")
	jobs := f.Int("jobs", runtime.NumCPU(), "processes")
	out := f.String("o", "", "write the transcript to this file; empty: print it")
	quiet := f.Bool("q", false, "show no progress")
	if f.Parse(args) != nil {
		return 2
	}
	t, failed, err := record(which, f.Args())
	if err != nil {
		return fail(err)
	}
	if failed.Failure == nil {
		fmt.Println("nothing is broken: there is nothing to shrink")
		return 1
	}
	s := &shrinking{jobs: *jobs, quiet: *quiet, patience: 20 * time.Second}
	t, failed = s.shrink(t, failed, *within)
	fmt.Fprintln(os.Stderr, s.summary(t))
	if *out == "" {
		fmt.Print(t)
		return 0
	}
	if err := os.WriteFile(*out, []byte(t.String()), 0o644); err != nil {
		return fail(err)
	}
	return 0
}

// record writes down what happens in a world.
func record(w *which, args []string) (sim.Transcript, sim.Result, error) {
	cfg, err := w.config(args)
	if err != nil {
		return sim.Transcript{}, sim.Result{}, err
	}
	t, r := sim.Record(cfg)
	if r.Failure != nil {
		t.Title = append(t.Title, fmt.Sprintf("seed %d, profile %s, commit %s", r.Seed, r.Profile, commit()))
	}
	return t, r, nil
}

// shrinking runs candidates in processes: a World has all of a process, and what
// it finds may end one.
type shrinking struct {
	jobs     int
	quiet    bool
	patience time.Duration // for one candidate
	most     time.Duration // of all cores, that candidates may use; 0: no limit
	used     time.Duration
	first    int // faults at the beginning
	tried    int
	start    time.Time
	shown    time.Time
}

// impatient is how long a healed world may take to come to rest while candidates
// are tried: most do within a minute, and those that never do take ten times as
// long to say so.
const impatient = 3 * time.Minute

// shrink is sim.Shrink, within some time. What impatience found is run again in
// the time that is promised; in vain, and all begins again with patience.
func (s *shrinking) shrink(t sim.Transcript, failed sim.Result, within time.Duration) (sim.Transcript, sim.Result) {
	s.start, s.first = time.Now(), t.Faults()
	small, r := s.once(t, failed, within, impatient)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if full, _, err := tell(ctx, small); err == nil && full.Failure.Same(failed.Failure) {
		return small, r
	}
	return s.once(t, failed, within, 0)
}

func (s *shrinking) once(t sim.Transcript, failed sim.Result, within, patience time.Duration) (sim.Transcript, sim.Result) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	return sim.Shrink(t, failed, s.jobs, patience, func(list []sim.Transcript) (int, sim.Result) {
		for at := 0; at < len(list) && ctx.Err() == nil && (s.most == 0 || s.used < s.most); at += s.jobs {
			some := list[at:min(at+s.jobs, len(list))]
			s.tried += len(some)
			if i, r := s.race(ctx, some, failed.Failure); i >= 0 {
				s.progress(some[i])
				return at + i, r
			}
		}
		return -1, sim.Result{}
	})
}

// race runs candidates at the same time, until one fails as it should.
func (s *shrinking) race(ctx context.Context, list []sim.Transcript, want *sim.Failure) (int, sim.Result) {
	ctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	type end struct {
		i    int
		r    sim.Result
		used time.Duration
	}
	ends := make(chan end, len(list))
	for i, t := range list {
		go func() {
			r, used, err := tell(ctx, t)
			if err != nil {
				r.Failure = nil
			}
			ends <- end{i, r, used}
		}()
	}
	found, as := -1, sim.Result{}
	for range list {
		e := <-ends
		if s.used += e.used; found < 0 && e.r.Failure.Same(want) {
			found, as = e.i, e.r
			cancel()
		}
	}
	return found, as
}

// tell runs a transcript in a process of its own, and says what time of a core it
// used.
func tell(ctx context.Context, t sim.Transcript) (r sim.Result, used time.Duration, err error) {
	self, err := os.Executable()
	if err != nil {
		return r, 0, err
	}
	args := []string{"run", "-json", "-patience=" + t.Config.Patience.String()}
	if t.Config.Until > 0 {
		args = append(args, "-until="+t.Config.Until.String())
	}
	cmd := exec.CommandContext(ctx, self, append(args, "-")...)
	cmd.Stdin = strings.NewReader(t.String())
	var out bytes.Buffer
	cmd.Stdout = &out
	if err = cmd.Run(); err == nil {
		err = json.Unmarshal(out.Bytes(), &r)
	}
	if p := cmd.ProcessState; p != nil {
		used = p.UserTime() + p.SystemTime()
	}
	return r, used, err
}

func (s *shrinking) progress(t sim.Transcript) {
	if s.quiet || time.Since(s.shown) < time.Second {
		return
	}
	s.shown = time.Now()
	fmt.Fprintln(os.Stderr, s.summary(t))
}

func (s *shrinking) summary(t sim.Transcript) string {
	return fmt.Sprintf("%d of %d faults, %d lines, %d servers and %d hosts left; %d tries in %v", t.Faults(), s.first,
		len(t.Config.Script), t.Config.Servers, t.Config.Hosts, s.tried, time.Since(s.start).Round(time.Second))
}
