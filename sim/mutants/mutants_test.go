package mutants

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/blixard/blixard/core/mutant"
	"github.com/blixard/blixard/sim"
)

// A story without its bug, and a harder world without it, keep every promise:
// what they find with the bug is the bug.
func TestNoBugNoFailure(t *testing.T) {
	for _, m := range All {
		t.Run(m.Name, func(t *testing.T) {
			var r sim.Result
			switch {
			case m.Story != nil:
				r = m.Tell(false)
			case m.Harder != nil:
				r = sim.Run(m.World(1, false))
			}
			if f := r.Failure; f != nil {
				t.Fatalf("%s: %s\n%s", f.Promise, f.Text, strings.Join(f.Last, "\n"))
			}
		})
	}
}

// With the tag: the few that CI plants are found by what is named for them.
func TestFewAreFound(t *testing.T) {
	if !mutant.Built {
		t.Skip("this build carries no planted bugs; scripts/mutants makes one that does")
	}
	for _, m := range All {
		if m.Few {
			if f := m.Search(1, 50); !f.OK {
				t.Errorf("%s: %q, which is none of %q: %s", m.Name, f.By, m.Caught, f.Text)
			}
		}
	}
}

// Every name that the code asks for is in the table, and the other way round.
func TestTableNamesWhatIsPlanted(t *testing.T) {
	asked := map[string]bool{}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) != 1 {
				return true
			}
			f, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || f.Sel.Name != "On" {
				return true
			}
			if pkg, ok := f.X.(*ast.Ident); !ok || pkg.Name != "mutant" {
				return true
			}
			name, ok := call.Args[0].(*ast.BasicLit)
			if !ok {
				t.Errorf("%s: a mutant's name is written where it is asked for, so that it can be found", path)
				return true
			}
			s, _ := strconv.Unquote(name.Value)
			asked[s] = true
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, m := range All {
		if listed[m.Name] {
			t.Errorf("%s is listed twice", m.Name)
		}
		listed[m.Name] = true
		if m.What == "" || len(m.Caught) == 0 {
			t.Errorf("%s: say what it is and who must catch it", m.Name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(asked)) {
		if !listed[name] {
			t.Errorf("%s is planted, and nobody looks for it: put it into table.go", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(listed)) {
		if !asked[name] {
			t.Errorf("%s is looked for, and planted nowhere", name)
		}
	}
}

// The programs of production carry none of the bugs: not even their names.
func TestProductionCarriesNone(t *testing.T) {
	if testing.Short() {
		t.Skip("builds programs")
	}
	dir := t.TempDir()
	build := func(name string, flags ...string) []byte {
		out := filepath.Join(dir, "program")
		cmd := exec.Command("go", append(append([]string{"build", "-o", out}, flags...), "github.com/blixard/blixard/cmd/"+name)...)
		if b, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd.Args, err, b)
		}
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	found := func(b []byte) (names []string) {
		for _, m := range All {
			if bytes.Contains(b, []byte(m.Name)) {
				names = append(names, m.Name)
			}
		}
		return names
	}
	for _, name := range []string{"blixard", "blixard-shim"} {
		if names := found(build(name)); len(names) > 0 {
			t.Errorf("%s carries %v", name, names)
		}
	}
	// And this is how one that carries them looks.
	if names := found(build("blixard-sim", "-tags", "mutants")); len(names) != len(All) {
		t.Errorf("a program with all of them seems to carry only %v", names)
	}
}
