package fuzz

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/blixard/blixard/nixflake"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Any spec at all, valid or not, renders to Nix of one shape: that of the same
// spec with every text in it replaced by a harmless one. So no text can have
// become code. (A real Nix reads rendered flakes in nixflake's own tests; here
// a reader of string literals, written against Nix's grammar and not against
// our escaping, is quick enough for millions.)
func FuzzRender(f *testing.F) {
	for _, s := range []string{
		`{"nixos":{}}`,
		`{"hypervisor":"HYPERVISOR_QEMU","vcpus":2,"nixos":{"init":"''${x}'' \n  '\n","kernel":{"package":"${a}","params":["\"","\\"]}}}`,
		`{"nixos":{"networks":[{"tap":{"id":"a\"; b = ","bridge":"''"}},{"user":{}},{}],"volumes":[{"root":{"sizeMib":"1"}},{"data":{"path":"${"}}]}}`,
		`{"nixos":{"shares":[{"tag":"$","source":"\n","mountPoint":"\r"}],"modules":[{"inline":"{ }"},{"file":{"digest":"x"}},{"flakePart":"a\".b"}],"flakeModules":["$${"]}}`,
		`{"flake":{"ref":"github:a/b\"; outputs = throw \"","attribute":"a.b.${c}"}}`,
		`{"flake":{"packed":{"digest":"d"}}}`,
	} {
		spec := &blixardv1.VMSpec{}
		if err := protojson.Unmarshal([]byte(s), spec); err != nil {
			f.Fatal(err)
		}
		b, err := proto.Marshal(spec)
		if err != nil {
			f.Fatal(err)
		}
		f.Add("web", b)
		f.Add(`"; x = ${y}`, b)
	}
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		spec := &blixardv1.VMSpec{}
		if proto.Unmarshal(b, spec) != nil {
			return
		}
		files, err := nixflake.Render("c", nixflake.VM{Name: name, UID: "1-7", Spec: spec}, nixflake.Pins{})
		if err != nil {
			if files != nil {
				t.Fatal("both files and an error")
			}
			return
		}
		again, _ := nixflake.Render("c", nixflake.VM{Name: name, UID: "1-7", Spec: proto.Clone(spec).(*blixardv1.VMSpec)}, nixflake.Pins{})
		if files[0] != again[0] {
			t.Fatal("the same spec gives other bytes")
		}
		harmless := proto.Clone(spec).(*blixardv1.VMSpec)
		disarm(harmless.ProtoReflect())
		plain, err := nixflake.Render("c", nixflake.VM{Name: "x", UID: "1-7", Spec: harmless}, nixflake.Pins{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := skeleton(files[0].Text)
		if err != nil {
			t.Fatalf("%v\n%s", err, files[0].Text)
		}
		want, err := skeleton(plain[0].Text)
		if err != nil || got != want {
			t.Fatalf("text became code (%v):\n%s\n----\n%s", err, got, want)
		}
	})
}

// disarm replaces every text that is not empty, and keeps what decides on the
// shape: the parts of a flake's attribute, and which are there.
func disarm(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
		case f.IsList() && f.Kind() == protoreflect.StringKind:
			for i := range v.List().Len() {
				v.List().Set(i, protoreflect.ValueOfString("x"))
			}
		case f.IsList() && f.Message() != nil:
			for i := range v.List().Len() {
				disarm(v.List().Get(i).Message())
			}
		case f.Kind() == protoreflect.StringKind && v.String() != "":
			parts := make([]string, strings.Count(v.String(), ".")+1)
			for i := range parts {
				parts[i] = "x"
			}
			m.Set(f, protoreflect.ValueOfString(strings.Join(parts, ".")))
		case f.Message() != nil && !f.IsList():
			disarm(v.Message())
		}
		return true
	})
}

var errLiteral = errors.New("a string literal does not end, or holds an interpolation")

// skeleton is a text of Nix with every string literal of ours emptied. Nix's own
// interpolations, in the finder of user flakes, stand in a part that no text of
// a user gets into: it is cut out as it is.
func skeleton(nix string) (string, error) {
	const from, to = "      at = path: set:", "\n    in\n"
	if i := strings.Index(nix, from); i >= 0 {
		j := strings.Index(nix[i:], to)
		if j < 0 {
			return "", errLiteral
		}
		nix = nix[:i] + nix[i+j:]
	}
	if !utf8.ValidString(nix) {
		return "", errLiteral
	}
	var b strings.Builder
	for i := 0; i < len(nix); {
		switch {
		case nix[i] == '#':
			end := strings.IndexByte(nix[i:], '\n')
			if end < 0 {
				return "", errLiteral
			}
			i += end
		case nix[i] == '"':
			end, err := quoted(nix, i+1)
			if err != nil {
				return "", err
			}
			b.WriteString(`""`)
			i = end
		case strings.HasPrefix(nix[i:], "''"):
			end, err := doubled(nix, i+2)
			if err != nil {
				return "", err
			}
			b.WriteString(`""`)
			i = end
		default:
			b.WriteByte(nix[i])
			i++
		}
	}
	return b.String(), nil
}

// quoted finds the end of "...".
func quoted(s string, i int) (int, error) {
	for ; i < len(s); i++ {
		switch {
		case s[i] == '\\':
			i++
		case s[i] == '"':
			return i + 1, nil
		case strings.HasPrefix(s[i:], "$$"):
			i++
		case strings.HasPrefix(s[i:], "${"):
			return 0, errLiteral
		}
	}
	return 0, errLiteral
}

// doubled finds the end of an indented string.
func doubled(s string, i int) (int, error) {
	for ; i < len(s); i++ {
		rest := s[i:]
		switch {
		case strings.HasPrefix(rest, `''$`), strings.HasPrefix(rest, `'''`):
			i += 2
		case strings.HasPrefix(rest, `''\`):
			i += 3
		case strings.HasPrefix(rest, "''"):
			return i + 2, nil
		case strings.HasPrefix(rest, "$$"):
			i++
		case strings.HasPrefix(rest, "${"):
			return 0, errLiteral
		}
	}
	return 0, errLiteral
}

// The judge itself finds what it is for.
func TestSkeletonFindsCode(t *testing.T) {
	for _, bad := range []string{`{ a = "${x}"; }`, `{ a = "x; }`, `{ a = ''${x}''; }`, `{ a = ''x; }`, `{ a = "\"; }`} {
		if s, err := skeleton(bad); err == nil {
			t.Errorf("%s: %s", bad, s)
		}
	}
	a, err1 := skeleton(`{ a = "x"; b = ''y''${z}''\'''; }`)
	b, err2 := skeleton(`{ a = "\${\"}"; b = ""; }`)
	if a != b || err1 != nil || err2 != nil {
		t.Errorf("%s (%v)\n%s (%v)", a, err1, b, err2)
	}
	if c, _ := skeleton(`{ a = "x"; c = 1; b = ""; }`); c == a {
		t.Error("another shape has the same skeleton")
	}
	// And it reads what a real Nix is known to read.
	golden, err := filepath.Glob("../testdata/flakes/*/flake.nix")
	if err != nil || len(golden) == 0 {
		t.Fatal("no golden flakes: ", err)
	}
	for _, path := range golden {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := skeleton(string(b)); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}
