package sim

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A Transcript is a run written down: a world in which nothing is drawn but small
// delays. What goes wrong and what clients do is there, a line each, and any line
// can be left out. That of a seed (see [Record]) runs as the seed did.
//
//	# What it is about.
//	world seed=4711 servers=3 hosts=1
//	settings lease_ms=9000
//	mix latency=2ms safety=1m0s clients=2
//	breaks never two copies
//	12.5s (Ask c1 Create vm3 vcpus=2)
//	13s (Isolate n2 40s)
//	13.2s (Drop n1>n3)
//
// What world, settings and mix do not say is as in production, in a world in
// which nothing goes wrong. Breaks is the promise that it broke when it was
// found; with a mutant, the one that it must break.
type Transcript struct {
	Title  []string
	Config Config // its Script is the steps
	Breaks string
}

func (t Transcript) String() string {
	var b strings.Builder
	for _, line := range t.Title {
		fmt.Fprintf(&b, "# %s\n", line)
	}
	c := t.Config
	c.complete()
	head := func(name string, words []string) {
		if len(words) > 0 {
			fmt.Fprintf(&b, "%s %s\n", name, strings.Join(words, " "))
		}
	}
	head("world", structWords(c, Config{Tick: standardTick}, "Until", "UntilEvent", "Record", "Patience", "Profile"))
	head("settings", messageWords(c.Settings, standardSettings()))
	head("mix", structWords(*c.Mix, calm()))
	if t.Breaks != "" {
		head("breaks", []string{t.Breaks})
	}
	for _, step := range c.Script {
		fmt.Fprintln(&b, step)
	}
	return b.String()
}

func standardSettings() *blixardv1.Settings {
	s, err := cluster.CompleteSettings(nil)
	if err != nil {
		panic("sim: " + err.Error())
	}
	return s
}

// ParseTranscript reads what Transcript prints.
func ParseTranscript(text string) (Transcript, error) {
	mix := calm()
	t := Transcript{Config: Config{Settings: standardSettings(), Mix: &mix, Script: []Strike{}}}
	for i, line := range strings.Split(text, "\n") {
		if err := t.parseLine(strings.TrimSpace(line)); err != nil {
			return t, fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	t.Config.complete()
	return t, nil
}

func (t *Transcript) parseLine(line string) error {
	first, rest, _ := strings.Cut(line, " ")
	switch first {
	case "":
		return nil
	case "#":
		t.Title = append(t.Title, rest)
		return nil
	case "world":
		return setStruct(&t.Config, strings.Fields(rest))
	case "settings":
		return setMessage(t.Config.Settings, strings.Fields(rest))
	case "mix":
		return setStruct(t.Config.Mix, strings.Fields(rest))
	case "breaks":
		t.Breaks = rest
		return nil
	}
	at, err := time.ParseDuration(first)
	if err != nil {
		return fmt.Errorf("want world, settings, mix, breaks, or a time and what happened: %w", err)
	}
	f, err := ParseFault(rest)
	t.Config.Script = append(t.Config.Script, Strike{at, f})
	return err
}

// Record runs a world and writes down what was decided in it.
func Record(cfg Config) (Transcript, Result) {
	cfg.Record = true
	w := New(cfg)
	defer w.Close()
	w.run()
	r := w.Result()
	return w.transcript(), r
}

// transcript is what was decided so far.
func (w *World) transcript() Transcript {
	t := Transcript{Config: w.cfg}
	t.Config.Settings = proto.CloneOf(w.cfg.Settings)
	t.Config.Script = append([]Strike{}, w.struck...)
	t.Config.Log, t.Config.Record, t.Config.Profile = nil, false, ""
	mix := *w.mix
	t.Config.Mix = &mix
	mix.Points, mix.CrashGap = nil, 0
	mix.Every, mix.Think, mix.Longest, mix.Lateness, mix.Weights, mix.Only = 0, calm().Think, 0, 0, nil, nil
	for v, i := reflect.ValueOf(&mix).Elem(), 0; i < v.NumField(); i++ {
		if v.Field(i).Kind() == reflect.Float64 { // a chance, and those are drawn no more
			v.Field(i).SetFloat(0)
		}
	}
	if w.failure != nil {
		t.Breaks = w.failure.Promise
	}
	return t
}
