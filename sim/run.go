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
	Phase   string // of the run: founding, safety or healed
	Text    string
	At      time.Duration
	Event   uint64
	Last    []string
}

// panicked is the promise of whoever does not panic.
const panicked = "nothing panics"

// fail stops the world. Only the first failure counts: what follows may be its
// consequence.
func (w *World) fail(promise, format string, args ...any) {
	if w.over() {
		return
	}
	f := &Failure{Promise: promise, Text: fmt.Sprintf(format, args...), Phase: w.phase.String(), At: time.Duration(w.now), Event: w.trace.events}
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
	Profile   string         `json:"profile"`
	Mutant    string         `json:"mutant,omitempty"`
	Hash      uint64         `json:"hash"`
	Events    uint64         `json:"events"`
	Steps     uint64         `json:"steps"`
	Founded   time.Duration  `json:"founded"` // how long it took to found the cluster
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
			w.fail(panicked, "%v\n%s", r, debug.Stack())
		}
	}()
	w.Found()
	if w.over() {
		return
	}
	w.populate()
	w.phase, w.foundedAt = safety, w.now
	w.say(nil, "faults begin")
	for range w.mix.Clients {
		w.newClient(true).think()
	}
	w.newWatcher()
	if w.mix.Files > 0 {
		c := w.newClient(true)
		c.volumes = true
		c.think()
	}
	if w.cfg.Script == nil {
		w.nextStrike()
	}
	for _, s := range w.cfg.Script {
		if _, armed := s.Fault.(Mishap); armed {
			continue
		}
		w.push(event{at: max(w.now, int64(s.At)), kind: evStrike, ref: s.Fault})
	}
	w.safety()
	if w.over() {
		return
	}
	if w.mix.Quorum != 0 && w.HealQuorum(w.mix.Quorum) {
		judgeQuorum(w)
	}
	if w.over() {
		return
	}
	w.Heal()
	if w.mix.Disaster != 0 {
		w.disaster(w.mix.Disaster)
		w.bringsBack()
	}
	w.Rest()
}

// safety lets faults strike. Somewhere on the way somebody makes a backup, if one
// is needed later.
func (w *World) safety() {
	if w.mix.Disaster != 0 {
		at := time.Duration(between(chance{w.mix.Disaster}.stream("backup"), 0, w.mix.Safety))
		w.push(event{at: w.now + int64(at), kind: evChore, ref: w.putAway})
	}
	w.RunFor(w.mix.Safety)
}

// populate makes the VMs that are there when faults begin, by a few people who do
// nothing else.
func (w *World) populate() {
	next, open := 0, 0
	var more func(c *client)
	more = func(c *client) {
		if next == w.mix.VMs {
			return
		}
		name := fmt.Sprintf("vm%d", next)
		next++
		open++
		c.begin(&Operation{Verb: Create, Name: name, Spec: drawSpec(c.choice, c.index, name, w.settings.GetLeaseMs(), w.mix)}, func(*Operation) {
			open--
			more(c)
		})
	}
	for i := range min(w.mix.VMs, 16) {
		more(w.person(-len(w.machines)-2-i, fmt.Sprintf("settler%d", i)))
	}
	if !w.RunUntil(10*time.Minute, func() bool { return open == 0 }) && !w.over() {
		w.fail("a cluster fills", "%d of %d VMs are asked for after ten minutes, and %d have not been answered", next, w.mix.VMs, open)
	}
}

// Rest judges a healed world once it has come to rest.
func (w *World) Rest() {
	judgeRest(w)
	if w.over() {
		return
	}
	for i := range w.mix.Names {
		if !w.over() {
			w.Do(&Operation{Verb: Get, Name: fmt.Sprintf("vm%d", i)})
		}
	}
	if !w.over() {
		judgeHistories(w)
	}
	if leader := w.Leader(); !w.over() && leader != nil {
		judgeAcknowledged(w, leader.daemon.node.View())
	}
}

// Result may be asked for at any time.
func (w *World) Result() Result {
	r := Result{
		Seed: w.cfg.Seed, Profile: w.cfg.Profile, Mutant: w.cfg.Mutant, Hash: w.trace.hash, Events: w.trace.events, Steps: w.steps,
		Founded: time.Duration(w.foundedAt), Simulated: time.Duration(w.now), Faults: w.counts, Judged: w.judges.counts(), Failure: w.failure,
	}
	for _, s := range w.struck {
		r.Struck = append(r.Struck, s.String())
	}
	return r
}

// Report writes a failure for people: where it happened, and the command that
// repeats it. commit is of the code that ran.
func (r Result) Report(out io.Writer, commit string) {
	f := r.Failure
	if f == nil {
		return
	}
	if commit == "" {
		commit = "unknown"
	}
	list := func(title string, lines []string) {
		fmt.Fprintf(out, "%s:\n  %s\n\n", title, strings.Join(lines, "\n  "))
	}
	fmt.Fprintf(out, "BROKEN: %s\n\n%s\n\n", f.Promise, f.Text)
	list("the faults that struck", r.Struck)
	list(fmt.Sprintf("the last %d inputs", len(f.Last)), f.Last)
	fmt.Fprintf(out, "seed %d, profile %s, commit %s, at %v, event %d, trace hash %016x\n", r.Seed, r.Profile, commit, f.At, f.Event, r.Hash)
	if again := r.Command(); again != "" {
		fmt.Fprintf(out, "again: %s\n", again)
	}
}

// Command is what repeats the run of a seed.
func (r Result) Command() string {
	profile := ""
	if r.Profile == "" {
		return "" // a story, or a transcript: whoever has it knows how
	}
	if r.Profile != standardProfile {
		profile = " -profile=" + r.Profile
	}
	if r.Mutant != "" {
		return fmt.Sprintf("go run ./cmd/blixard-sim run -seed=%d%s -mutant=%s", r.Seed, profile, r.Mutant)
	}
	return fmt.Sprintf("go test ./sim -run TestSeeds -seed=%d%s -v", r.Seed, profile)
}
