package hypervisor

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

var rewrite = flag.Bool("rewrite", false, "write the table into docs/hypervisors.md")

// The page's table is the code's: go test ./core/hypervisor -rewrite writes it.
func TestThePageIsTheTable(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "hypervisors.md")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- table: written by go test ./core/hypervisor -rewrite -->\n", "<!-- end of the table -->"
	before, rest, ok := strings.Cut(string(b), begin)
	_, after, ended := strings.Cut(rest, end)
	if !ok || !ended {
		t.Fatalf("%s has no place for the table", path)
	}
	want := before + begin + page() + end + after
	if *rewrite {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(b) != want {
		t.Errorf("%s does not say what the table says: go test ./core/hypervisor -rewrite", path)
	}
}

func page() string {
	var s strings.Builder
	row := func(first string, cell func(*Kind) string) {
		s.WriteString("| " + first + " |")
		for i := range Table {
			s.WriteString(" " + cell(&Table[i]) + " |")
		}
		s.WriteString("\n")
	}
	row("", func(k *Kind) string { return k.Name })
	row("---", func(*Kind) string { return "---" })
	for c := range Capabilities() {
		row(Name(c), func(k *Kind) string { return map[Answer]string{Yes: "yes", NotYet: "not yet", No: "no"}[k.Answer(c)] })
	}
	row("most vcpus", func(k *Kind) string { return fmt.Sprint(k.MaxVCPUs) })
	row("has met the real", func(k *Kind) string { return k.Met })
	s.WriteString("\nWhy not:\n\n")
	for i := range Table {
		for c := range Capabilities() {
			if k := &Table[i]; k.Answer(c) == No && k.why[c] != "" && c != blixardv1.Capability_CAPABILITY_PROGRAM {
				s.WriteString("- " + k.Why(c) + ".\n")
			}
		}
	}
	return s.String() + "\n"
}
