package sim

import (
	"strings"
	"testing"
)

// tapes are worlds to begin the search with.
func tapes() (list [][]byte) {
	for seed := range uint64(12) {
		r := chance{seed}.stream("tape")
		b := make([]byte, 60*(1+seed%4))
		for i := range b {
			b[i] = byte(r.IntN(256))
		}
		list = append(list, b)
	}
	return list
}

// FuzzChoices: whatever bytes choose, every judge is content. A failure is told
// as a transcript, for blixard-sim run, shrink and show.
//
//	go test ./sim -run=- -fuzz=FuzzChoices -fuzzminimizetime=1x
//
// Without the last, Go spends a minute on making each new input shorter; what
// fails is better shortened by blixard-sim shrink.
func FuzzChoices(f *testing.F) {
	if *oneSeed != 0 {
		f.Skip("a child")
	}
	for _, b := range tapes() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		cfg := FromBytes(b)
		cfg.Mutant = *planted
		r := Run(cfg)
		if r.Failure == nil {
			return
		}
		var text strings.Builder
		r.Report(&text, commit())
		t.Errorf("%s\nas a transcript:\n%s", text.String(), Transcript{Config: cfg, Breaks: r.Failure.Promise})
	})
}

// What bytes choose is a transcript like any other, and most of it happens.
func TestTape(t *testing.T) {
	if *oneSeed != 0 {
		t.Skip("a child")
	}
	seen := map[string]bool{}
	for i, b := range tapes() {
		cfg := FromBytes(b)
		text := Transcript{Config: cfg}.String()
		back, err := ParseTranscript(text)
		if err != nil {
			t.Fatalf("%v:\n%s", err, text)
		}
		r, again := Run(cfg), Run(back.Config)
		if r.Hash != again.Hash {
			t.Errorf("tape %d: its transcript is another world:\n%s", i, text)
		}
		for name := range r.Faults {
			seen[name] = true
		}
		for verb := range r.Judged {
			seen[verb] = true
		}
		if len(cfg.Script) < len(b)/20 {
			t.Errorf("tape %d: only %d steps of %d bytes", i, len(cfg.Script), len(b))
		}
	}
	if len(seen) < 40 {
		t.Errorf("little happens: %v", seen)
	}
	// One byte more or less is one choice more or less, and no choice is endless.
	for n := range 200 {
		FromBytes(make([]byte, n))
		FromBytes([]byte(strings.Repeat("\xff", n)))
	}
}
