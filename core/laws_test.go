package core_test

import (
	"go/ast"
	"go/token"
	"go/types"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/go/packages"
)

const module = "github.com/blixard/blixard/"

// may says what each package may import of ours: the diagram of the design,
// with arrows that only point down. A package that is not named here has no
// place in the house yet.
var may = map[string][]string{
	"proto/blixard/v1": {}, "proto/blixard/v1/blixardv1connect": {"proto/blixard/v1"},
	"proto/protoc-gen-go-wire": {},
	// Pure. Planted bugs are asked for from below everything; in a program of
	// production the answer is a constant, and nothing of the question is left.
	"core/mutant":     {},
	"core/hypervisor": {"proto/blixard/v1"},
	"core/schedule":   {"core/mutant"},
	"core/cluster":    {"core/hypervisor", "core/mutant", "core/schedule", "proto/blixard/v1"},
	"vmm/shim":        {"core/mutant"},
	"vmm":             {"core/mutant", "vmm/shim", "proto/blixard/v1"},
	"core":            {"core/mutant", "core/cluster", "core/schedule", "vmm", "vmm/shim", "proto/blixard/v1"},
	// The simulated world, and the disk's contract.
	"core/disktest": {"core"},
	"core/hosttest": {"core", "vmm", "vmm/shim"},
	"sim":           {"core", "core/cluster", "core/disktest", "core/hosttest", "core/hypervisor", "core/mutant", "vmm", "vmm/shim", "proto/blixard/v1"},
	"sim/mutants":   {"core", "core/cluster", "core/mutant", "sim", "vmm", "vmm/shim", "proto/blixard/v1"},
	// The real world.
	"core/bolt":           {"core"},
	"vmm/guest":           {},
	"vmm/guest/agent":     {},
	"vmm/guest/boot":      {},
	"vmm/guest/tsc":       {},
	"vmm/runner/*":        {"core", "vmm", "vmm/shim", "vmm/guest/*", "vmm/runner/*", "proto/blixard/v1"},
	"vmm/runner/nix":      {"nixflake", "proto/blixard/v1"},
	"vmm/runner":          {"core", "core/cluster", "core/hosttest", "core/hypervisor", "core/schedule", "vmm", "vmm/shim", "vmm/guest", "vmm/guest/*", "vmm/runner/*", "nixflake", "proto/blixard/v1"},
	"nixflake":            {"proto/blixard/v1"},
	"rpc":                 {"core", "core/cluster", "proto/blixard/v1", "proto/blixard/v1/blixardv1connect"},
	"cmd/blixard":         {"core", "core/bolt", "core/cluster", "core/hypervisor", "rpc", "vmm", "vmm/shim", "vmm/guest/*", "vmm/runner", "vmm/runner/*", "nixflake", "proto/blixard/v1", "proto/blixard/v1/blixardv1connect"},
	"cmd/blixard-shim":    {"vmm/runner/shimproc"},
	"cmd/blixard-guest":   {"vmm/guest/*"},
	"cmd/blixard-guest/*": {"vmm/guest", "vmm/guest/*"},
	"cmd/blixard-sim":     {"core/mutant", "sim", "sim/mutants"},
	"fuzz":                {"core", "core/bolt", "core/cluster", "vmm", "vmm/shim", "rpc", "nixflake", "sim", "proto/blixard/v1"},
}

// pure packages decide. Nothing in them can tell the time, wait, or meet chance.
var pure = []string{"core", "core/cluster", "core/hypervisor", "core/mutant", "core/schedule", "vmm", "vmm/shim", "vmm/guest/agent"}

var impure = []string{
	"time", "os", "net", "net/http", "sync", "sync/atomic", "math/rand", "math/rand/v2", "crypto/rand", "context",
	"os/exec", "os/signal", "syscall", "runtime", "unsafe", "log", "log/slog", "golang.org/x/sys/unix",
}

func load(t *testing.T) []*packages.Package {
	t.Helper()
	list, err := packages.Load(&packages.Config{
		Mode: packages.NeedName | packages.NeedImports | packages.NeedSyntax | packages.NeedTypes | packages.NeedTypesInfo | packages.NeedFiles,
		Dir:  "..",
	}, "./...")
	if err != nil {
		t.Fatal(err)
	}
	if len(list) < 8 {
		t.Fatalf("only %d packages were found", len(list))
	}
	return list
}

func matches(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		return p == path || strings.HasSuffix(p, "/*") && strings.HasPrefix(path, strings.TrimSuffix(p, "*"))
	})
}

func TestArrowsOnlyPointDown(t *testing.T) {
	for _, p := range load(t) {
		path := strings.TrimPrefix(p.PkgPath, module)
		allowed, known := may[path]
		for pattern, list := range may {
			if !known && strings.HasSuffix(pattern, "/*") && matches([]string{pattern}, path) {
				allowed, known = list, true
			}
		}
		if !known {
			t.Errorf("%s has no place in the diagram: say in core/laws_test.go where it belongs", path)
			continue
		}
		for imported := range p.Imports {
			if of, ours := strings.CutPrefix(imported, module); ours && !matches(allowed, of) {
				t.Errorf("%s must not import %s", path, of)
			}
		}
	}
}

func TestPurePackagesArePure(t *testing.T) {
	checked := 0
	for _, p := range load(t) {
		if !slices.Contains(pure, strings.TrimPrefix(p.PkgPath, module)) {
			continue
		}
		checked++
		for imported := range p.Imports {
			if slices.Contains(impure, imported) {
				t.Errorf("%s must not import %s", p.PkgPath, imported)
			}
		}
		for _, f := range p.Syntax {
			for _, broken := range lawsBroken(p.Fset, p.TypesInfo, f) {
				t.Error(broken)
			}
		}
	}
	if checked != len(pure) {
		t.Errorf("%d of %d pure packages were found", checked, len(pure))
	}
}

// lawsBroken finds what an import cannot show: goroutines, channels, and maps
// ranged over without saying why their order does not matter.
func lawsBroken(fset *token.FileSet, info *types.Info, f *ast.File) (broken []string) {
	excused := map[int]bool{}
	for _, g := range f.Comments {
		for _, c := range g.List {
			if strings.HasPrefix(c.Text, "// any order:") {
				line := fset.Position(c.Pos()).Line
				excused[line], excused[line+1] = true, true
			}
		}
	}
	complain := func(n ast.Node, what string) { broken = append(broken, fset.Position(n.Pos()).String()+": "+what) }
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			complain(n, "starts a goroutine")
		case *ast.SelectStmt, *ast.SendStmt, *ast.ChanType:
			complain(n, "uses a channel")
		case *ast.BasicLit:
			if n.Kind == token.STRING && strings.Contains(n.Value, "%p") {
				complain(n, "prints an address")
			}
		case *ast.RangeStmt:
			if _, ok := info.TypeOf(n.X).Underlying().(*types.Map); ok && !excused[fset.Position(n.Pos()).Line] {
				complain(n, "ranges over a map; sort its keys, or say '// any order: ...' why it does not matter")
			}
		}
		return true
	})
	return broken
}
