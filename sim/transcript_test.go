package sim

import (
	"testing"
	"time"
)

// A seed that is written down as a transcript, printed and parsed, runs as it did.
func TestSeedsCanBeToldAsStories(t *testing.T) {
	if *oneSeed != 0 {
		t.Skip("a child")
	}
	for seed := uint64(1); seed <= 6; seed++ {
		cfg := Swarm(seed)
		cfg.Mix.Safety = min(cfg.Mix.Safety, time.Minute)
		transcript, r := Record(cfg)
		text := transcript.String()
		back, err := ParseTranscript(text)
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, text)
		}
		if again := back.String(); again != text {
			t.Fatalf("seed %d: the transcript\n%s\nparses to\n%s", seed, text, again)
		}
		told := Run(back.Config)
		if told.Steps != r.Steps || told.Simulated != r.Simulated {
			t.Errorf("seed %d: %d steps in %v, told as a transcript %d in %v", seed, r.Steps, r.Simulated, told.Steps, told.Simulated)
		}
	}
}
