package sim

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
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

// What was found once is run for ever: the transcripts of failures that have
// been fixed, in testdata.
func TestTranscripts(t *testing.T) {
	if *oneSeed != 0 {
		t.Skip("a child")
	}
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			story, err := ParseTranscript(string(text))
			if err != nil {
				t.Fatal(err)
			}
			if *words {
				story.Config.Log = os.Stdout
			}
			if r := Run(story.Config); r.Failure != nil {
				broken(t, story.Config, r)
			}
		})
	}
}

func TestTranscriptsThatMakeNoSense(t *testing.T) {
	for text, want := range map[string]string{
		"world speed=7":                    "there is no speed",
		"world seed=x":                     "line 1: seed=x",
		"settings lease=1":                 "Settings has no lease",
		"settings lease_ms":                "want name=value",
		"\n1s (Nothing n1)":                "line 2: fault",
		"soon (Crash n1 1s)":               "want world, settings",
		"1s (Ask c1 Create a restart=MAY)": "restart=MAY",
		"1s (Ask c1 Frobnicate a)":         "there is no verb",
		"1s (Ask c1 Get a vcpus=1)":        "takes no spec",
	} {
		if _, err := ParseTranscript(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: want an error with %q, got %v", text, want, err)
		}
	}
}

// A wish prints and parses back, whatever VM it is for.
func TestAskPrintsAndParses(t *testing.T) {
	rich := plainVM()
	rich.Vcpus, rich.Restart, rich.LeaseMs, rich.Priority = 2, blixardv1.RestartPolicy_RESTART_POLICY_NEVER, 7000, -3
	rich.Labels = map[string]string{"a": "1", "b.c/d": "x y)=\u00e4"}
	image := plainVM()
	image.Source = &blixardv1.VMSpec_Image{Image: &blixardv1.Image{Cmdline: "a b=c", Kernel: &blixardv1.Artifact{Digest: "sha256:00"}, Disks: []*blixardv1.Disk{{Name: "d", SizeMib: 4}}}}
	image.MemoryMib = 0
	process := plainVM()
	process.GetProcess().Argv = []string{"/bin/sh", "-c", "exit 1"}
	nixos := plainVM()
	nixos.Source = &blixardv1.VMSpec_Nixos{Nixos: &blixardv1.Nixos{Modules: []*blixardv1.NixosModule{
		{Source: &blixardv1.NixosModule_Inline{Inline: "{ a = \"%s\"; }\n"}}, {},
	}}}
	for _, spec := range []*blixardv1.VMSpec{plainVM(), rich, image, process, nixos, {}} {
		a := Ask{3, Update, "vm1", spec}
		back, err := ParseFault(a.String())
		if err != nil {
			t.Fatalf("%s: %v", a, err)
		}
		if b := back.(Ask); !proto.Equal(b.Spec, spec) || b.String() != a.String() {
			t.Errorf("%s parses to %s: %v", a, b, proto.Equal(b.Spec, spec))
		}
	}
}
