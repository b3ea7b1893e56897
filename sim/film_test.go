package sim

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the golden files")

// A film made by hand is written as it always was.
func TestFilmIsGolden(t *testing.T) {
	f := newFilm()
	n1, n2 := &Machine{Index: 1, Name: "n1"}, &Machine{Index: 2, Name: "n2"}
	f.state(0, 1, "daemon", "up", "")
	f.state(0, 2, "daemon", "up", "")
	f.state(10, 1, "leader", "leads", "term 2")
	f.state(12, 1, "leader", "leads", "term 2")
	f.state(20, 1, "1-7", "boots", "1-7@1.7#1")
	f.state(30, 1, "1-7", "ready", "1-7@1.7#1")
	p := &packet{encoded: []byte{255}}
	f.letter(40, n1, n2, p, 45, "")
	f.letter(40, n1, n2, p, 47, "")
	f.letter(41, n2, n1, p, 41, "dropped")
	f.arrived(45, n2, p, "")
	f.arrived(47, n2, p, "nobody there")
	f.state(50, 1, "daemon", "down", "")
	f.state(50, 1, "1-7", "", "")
	f.line(line{50, "n1", "daemon dies"})
	for _, s := range []Strike{
		{20, Isolate{2, 40}}, {21, Split{3, 5}}, {22, Mishap{Name: "Drop", At: place{2, 1}}}, {23, ShimKill{1, 7}},
	} {
		f.Faults = append(f.Faults, filmFault(s))
	}
	f.Asks = append(f.Asks, filmAsk(&Operation{Client: 1, Verb: Get, Name: "a", Call: 3}), filmAsk(&Operation{Client: 1, Verb: Get, Name: "a", Call: 4, Return: 9}))
	var got []byte
	for _, list := range []any{f.Spans, f.Faults, f.Asks, f.Letters, f.Lines} {
		b, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, strings.ReplaceAll(strings.Trim(string(b), "[]"), "},{", "}\n{")+"\n"...)
	}
	const golden = "testdata/film.golden"
	if *rewrite {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("-rewrite, and look at the difference; got\n%s", got)
	}
}

// A film shows what happened, and filming changes nothing.
func TestFilmShowsWhatHappened(t *testing.T) {
	if *oneSeed != 0 {
		t.Skip("a child")
	}
	told, err := ParseTranscript(`
		world seed=1
		mix clients=1 names=2 safety=30s
		10s (Ask c1 Create vm1)
		15s (Isolate n2 4s)
		16s (Drop n1>n3)
		20s (PowerLoss n3 5s)
		21s (Pause n2 3s)`)
	if err != nil {
		t.Fatal(err)
	}
	plain := Run(told.Config)
	f := Shoot(told.Config)
	if plain.Failure != nil || f.Result.Hash != plain.Hash {
		t.Fatalf("trace hash %016x, filmed %016x; %v", plain.Hash, f.Result.Hash, plain.Failure)
	}
	span := func(node int, row, state string, from, to time.Duration) bool {
		for _, s := range f.Spans {
			if s.Node == node && (s.Row == row || row == "") && s.State == state && s.From <= int64(from) && (s.To < 0 || s.To >= int64(to)) {
				return true
			}
		}
		return false
	}
	for _, c := range []struct {
		node       int
		row, state string
		from, to   time.Duration
	}{
		{1, "daemon", "up", 10 * time.Second, 40 * time.Second},
		{3, "daemon", "off", 20 * time.Second, 25 * time.Second},
		{2, "daemon", "paused", 21 * time.Second, 24 * time.Second},
		{1, "lease", "granted", 15 * time.Second, 25 * time.Second},
	} {
		if !span(c.node, c.row, c.state, c.from, c.to) {
			t.Errorf("n%d's %s is not shown as %s from %v to %v", c.node, c.row, c.state, c.from, c.to)
		}
	}
	if len(f.VMs) == 0 || f.VMs[0].Name != "vm1" {
		t.Fatalf("VMs: %v", f.VMs)
	}
	lost := map[string]int{}
	for _, l := range f.Letters {
		lost[l.Lost]++
	}
	if lost[""] == 0 || lost["cut off"] == 0 || lost["dropped"] != 1 || lost["nobody there"] == 0 {
		t.Errorf("letters: %v", lost)
	}
	if len(f.Faults) != 4 || len(f.Lines) == 0 || f.Picture == "" {
		t.Errorf("%d faults, %d lines, a picture of %d bytes", len(f.Faults), len(f.Lines), len(f.Picture))
	}
}

// The page needs nothing but itself, whatever is written in it.
func TestPageIsSelfContained(t *testing.T) {
	f := newFilm()
	f.Result.Failure = &Failure{Promise: "</script><b>never</b>", Text: "</script><!-- FILM TITLE"}
	f.Picture = "<html><script>1</script></html>"
	var b bytes.Buffer
	if err := f.Page(&b); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	if n := strings.Count(page, "</script>"); n != 3 {
		t.Errorf("%d scripts end, not 3", n)
	}
	if outside := regexp.MustCompile(`(?i)(src|href)\s*=\s*["'][^"']|@import|url\(|https?://`).FindString(page); outside != "" {
		t.Errorf("the page asks for something outside: %s", outside)
	}
	_, rest, _ := strings.Cut(page, `id="film">`)
	data, _, _ := strings.Cut(rest, "</script>")
	var back Film
	if err := json.Unmarshal([]byte(data), &back); err != nil || back.Result.Failure.Text != f.Result.Failure.Text {
		t.Errorf("the film does not read back: %v", err)
	}
}
