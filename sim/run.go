package sim

import (
	"fmt"
	"io"
	"runtime/debug"
	"strings"
	"time"
)

// Failure is a promise that was not kept.
type Failure struct {
	Promise string
	Text    string
	At      time.Duration
	Last    []string
}

// fail stops the world. Only the first failure counts: what follows may be its
// consequence.
func (w *World) fail(promise, format string, args ...any) {
	if w.failure != nil {
		return
	}
	f := &Failure{Promise: promise, Text: fmt.Sprintf(format, args...), At: time.Duration(w.now)}
	for _, l := range w.trace.lines(30) {
		f.Last = append(f.Last, l.String())
	}
	w.failure = f
}

// Failure is what went wrong first; nil while nothing has.
func (w *World) Failure() *Failure { return w.failure }

// Result is what became of a run.
type Result struct {
	Seed      uint64         `json:"seed"`
	Hash      uint64         `json:"hash"`
	Events    uint64         `json:"events"`
	Steps     uint64         `json:"steps"`
	Simulated time.Duration  `json:"simulated"`
	Faults    map[string]int `json:"faults"`
	Judged    map[string]int `json:"judged"`
	Struck    []string       `json:"struck,omitempty"`
	Failure   *Failure       `json:"failure,omitempty"`
}

// Run makes a world, runs it through its phases, and judges it.
func Run(cfg Config) Result {
	w := New(cfg)
	defer w.Close()
	w.run()
	return w.Result()
}

func (w *World) run() {
	defer func() {
		if r := recover(); r != nil {
			w.fail("nothing panics", "%v\n%s", r, debug.Stack())
		}
	}()
	w.Found()
	if w.failure != nil {
		return
	}
	w.phase = safety
	w.say(nil, "faults begin")
	for range w.mix.Clients {
		w.newClient(true).think()
	}
	if w.cfg.Script == nil {
		w.nextStrike()
	}
	for _, s := range w.cfg.Script {
		w.push(event{at: max(w.now, int64(s.At)), kind: evStrike, ref: s.Fault})
	}
	span := w.mix.Safety
	if w.cfg.Until > 0 {
		span = min(span, w.cfg.Until-time.Duration(w.now))
	}
	w.RunFor(span)
	if w.failure != nil || w.cfg.Until > 0 {
		return
	}
	w.Heal()
	w.Rest()
}

// Rest judges a healed world once it has come to rest.
func (w *World) Rest() {
	judgeRest(w)
	if w.failure != nil {
		return
	}
	for i := range w.mix.Names {
		if w.failure == nil {
			w.Do(&Operation{Verb: Get, Name: fmt.Sprintf("vm%d", i)})
		}
	}
	if w.failure == nil {
		judgeHistories(w)
	}
	if leader := w.Leader(); w.failure == nil && leader != nil {
		judgeAcknowledged(w, leader.daemon.node.View())
	}
}

// Result may be asked for at any time.
func (w *World) Result() Result {
	r := Result{
		Seed: w.cfg.Seed, Hash: w.trace.hash, Events: w.trace.events, Steps: w.steps,
		Simulated: time.Duration(w.now), Faults: w.counts, Judged: w.judges.counts(), Failure: w.failure,
	}
	for _, s := range w.struck {
		r.Struck = append(r.Struck, s.String())
	}
	return r
}

// Report writes a failure for people.
func (r Result) Report(out io.Writer, commit string) {
	f := r.Failure
	if f == nil {
		return
	}
	if commit == "" {
		commit = "unknown"
	}
	fmt.Fprintf(out, "BROKEN: %s\n\n%s\n\n", f.Promise, f.Text)
	fmt.Fprintf(out, "the faults that struck:\n  %s\n\n", strings.Join(r.Struck, "\n  "))
	fmt.Fprintf(out, "the last inputs:\n  %s\n\n", strings.Join(f.Last, "\n  "))
	fmt.Fprintf(out, "seed %d, commit %s, at %v, trace hash %016x\n", r.Seed, commit, f.At, r.Hash)
	fmt.Fprintf(out, "again: go test ./sim -run TestSeeds -seed=%d -v\n", r.Seed)
}
