package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/blixard/blixard/nixflake"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A spec file is YAML: in each document a name, and the fields of VMSpec as the
// API names them. Some things are easier than there: an enum is written as on the
// command line (restart: on-failure), an artifact as one word (kernel:
// ./vmlinuz), a path being relative to the file, a port as 8080:80, and a volume as data:ro. What nobody knows is refused,
// with its line: a typing error must not make another VM than was meant.

const maxSpecFile = 4 << 20

// readSpecs reads the drafts of a file; "-" is standard input.
func readSpecs(path string, stdin io.Reader) ([]*draft, error) {
	b, name, base, err := readYAML(path, stdin)
	if err != nil {
		return nil, err
	}
	return parseSpecs(b, name, base)
}

// readYAML gives a file's bytes, its name for people, and its folder.
func readYAML(path string, stdin io.Reader) (b []byte, name, base string, err error) {
	r, name, base := stdin, "standard input", ""
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, "", "", usagef("%v", err)
		}
		defer f.Close()
		r, name, base = f, path, filepath.Dir(path)
	}
	b, err = io.ReadAll(io.LimitReader(r, maxSpecFile+1))
	if err != nil {
		return nil, "", "", usagef("%s: %v", name, err)
	}
	if len(b) > maxSpecFile {
		return nil, "", "", usagef("%s is larger than %s: that is no spec", name, bytesText(maxSpecFile))
	}
	return b, name, base, nil
}

func parseSpecs(b []byte, name, base string) ([]*draft, error) {
	docs, err := documents(b, name)
	if err != nil {
		return nil, err
	}
	var drafts []*draft
	for _, doc := range docs {
		draft, err := (&specReader{file: name, base: base}).read(doc)
		if err != nil {
			return nil, err
		}
		drafts = append(drafts, draft)
	}
	if len(drafts) == 0 {
		return nil, usagef("%s holds no VM", name)
	}
	return drafts, nil
}

// documents are those of a YAML file in which there is something.
func documents(b []byte, name string) (docs []*yaml.Node, err error) {
	for d := yaml.NewDecoder(bytes.NewReader(b)); ; {
		var doc yaml.Node
		err := d.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return nil, usagef("%s: %s", name, strings.TrimPrefix(err.Error(), "yaml: "))
		}
		if len(doc.Content) > 0 && doc.Content[0].ShortTag() != "!!null" { // not nothing between two ---
			docs = append(docs, doc.Content[0])
		}
	}
}

// readMessage fills a message from a file with one document; its artifacts are
// the draft's.
func readMessage(path string, stdin io.Reader, d *draft, m proto.Message) error {
	b, name, base, err := readYAML(path, stdin)
	if err != nil {
		return err
	}
	docs, err := documents(b, name)
	if err != nil {
		return err
	}
	if len(docs) != 1 {
		return usagef("%s: want one document, not %d", name, len(docs))
	}
	return (&specReader{file: name, base: base, draft: d}).message(docs[0], m.ProtoReflect(), "")
}

type specReader struct {
	file, base string
	draft      *draft
}

func (r *specReader) fail(n *yaml.Node, format string, args ...any) error {
	return usagef("%s:%d: %s", r.file, n.Line, fmt.Sprintf(format, args...))
}

func (r *specReader) read(n *yaml.Node) (*draft, error) {
	r.draft = &draft{spec: &blixardv1.VMSpec{}}
	var rest yaml.Node // the document without its name
	if n.Kind != yaml.MappingNode {
		return nil, r.fail(n, "want a mapping, such as name: web")
	}
	rest = *n
	rest.Content = nil
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Value != "name" {
			rest.Content = append(rest.Content, k, v)
			continue
		}
		if r.draft.name != "" {
			return nil, r.fail(k, "name is there twice")
		}
		if v.Kind != yaml.ScalarNode || v.Value == "" {
			return nil, r.fail(v, "name: want a word")
		}
		r.draft.name = v.Value
	}
	if r.draft.name == "" {
		return nil, r.fail(n, "the VM has no name")
	}
	return r.draft, r.message(&rest, r.draft.spec.ProtoReflect(), "")
}

// message fills m from a mapping.
func (r *specReader) message(n *yaml.Node, m protoreflect.Message, path string) error {
	if n.Kind != yaml.MappingNode {
		return r.fail(n, "%s: want a mapping", strings.TrimSuffix(path, "."))
	}
	fields := m.Descriptor().Fields()
	seen := map[protoreflect.FullName]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		f := fields.ByName(protoreflect.Name(k.Value))
		if f == nil {
			f = fields.ByJSONName(k.Value)
		}
		if k.Value == "path" && isFlake(m.Descriptor()) {
			f = fields.ByName("packed") // a folder here, which is what a user has
		}
		if f == nil || k.Kind != yaml.ScalarNode {
			return r.fail(k, "unknown field %q%s", path+k.Value, guess(k.Value, fields))
		}
		if seen[f.FullName()] {
			return r.fail(k, "%s is there twice", path+k.Value)
		}
		seen[f.FullName()] = true
		if o := f.ContainingOneof(); o != nil {
			if other := m.WhichOneof(o); other != nil {
				return r.fail(k, "%s has either %s or %s, not both", cmp.Or(strings.TrimSuffix(path, "."), "a VM"), other.Name(), f.Name())
			}
		}
		if err := r.field(v, m, f, path+k.Value); err != nil {
			return err
		}
	}
	return nil
}

func (r *specReader) field(n *yaml.Node, m protoreflect.Message, f protoreflect.FieldDescriptor, path string) error {
	switch {
	case f.IsMap():
		return r.stringMap(n, m.Mutable(f).Map(), path)
	case f.IsList():
		return r.list(n, m.Mutable(f).List(), f, path)
	case isArtifact(f) && n.Kind == yaml.ScalarNode:
		text, err := r.text(n, path)
		if err != nil {
			return err
		}
		if text == "" {
			return r.fail(n, "%s: want a file, sha256:DIGEST or the name of an image", path)
		}
		a := r.draft.refer(fmt.Sprintf("%s:%d: %s", r.file, n.Line, path), text, r.base)
		last := &r.draft.refs[len(r.draft.refs)-1]
		last.folder, last.most = isFlake(f.ContainingMessage()), mostBytes[f.ContainingMessage().FullName()]
		last.kernel = f.Name() == "kernel"
		m.Set(f, protoreflect.ValueOfMessage(a.ProtoReflect()))
		return nil
	case f.Message() != nil:
		return r.message(n, m.Mutable(f).Message(), path+".")
	}
	v, err := r.scalar(n, f, path)
	if err != nil {
		return err
	}
	if f.Name() == "ref" && isFlake(f.ContainingMessage()) {
		if where, local := localFlake(v.String()); local {
			return r.fail(n, "%s: %s is on this machine only; write path: %s, and it is packed", path, v, where)
		}
	}
	m.Set(f, v)
	return nil
}

func isFlake(d protoreflect.MessageDescriptor) bool {
	return d.FullName() == (&blixardv1.Flake{}).ProtoReflect().Descriptor().FullName()
}

// mostBytes is how large the files of some messages may be: what is larger would
// be refused only once it has travelled.
var mostBytes = map[protoreflect.FullName]int64{
	(&blixardv1.NixosModule{}).ProtoReflect().Descriptor().FullName(): 1 << 20,
	(&blixardv1.Pins{}).ProtoReflect().Descriptor().FullName():        1 << 20,
	(&blixardv1.Flake{}).ProtoReflect().Descriptor().FullName():       nixflake.MaxPacked,
}

func isPort(f protoreflect.FieldDescriptor) bool {
	return f.Message() != nil && f.Message().FullName() == (&blixardv1.PortForward{}).ProtoReflect().Descriptor().FullName()
}

func isMount(f protoreflect.FieldDescriptor) bool {
	return f.Message() != nil && f.Message().FullName() == (&blixardv1.VolumeMount{}).ProtoReflect().Descriptor().FullName()
}

func isArtifact(f protoreflect.FieldDescriptor) bool {
	return f.Message() != nil && f.Message().FullName() == (&blixardv1.Artifact{}).ProtoReflect().Descriptor().FullName()
}

func (r *specReader) list(n *yaml.Node, l protoreflect.List, f protoreflect.FieldDescriptor, path string) error {
	if n.Kind != yaml.SequenceNode {
		return r.fail(n, "%s: want a list", path)
	}
	for i, e := range n.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		if isPort(f) && e.Kind == yaml.ScalarNode {
			p, err := parsePort(e.Value)
			if err != nil {
				return r.fail(e, "%s: %q: %v", at, e.Value, err)
			}
			l.Append(protoreflect.ValueOfMessage(p.ProtoReflect()))
			continue
		}
		if isMount(f) && e.Kind == yaml.ScalarNode {
			m, err := parseMount(e.Value)
			if err != nil {
				return r.fail(e, "%s: %q: %v", at, e.Value, err)
			}
			l.Append(protoreflect.ValueOfMessage(m.ProtoReflect()))
			continue
		}
		if f.Message() != nil {
			if err := r.message(e, l.AppendMutable().Message(), at+"."); err != nil {
				return err
			}
			continue
		}
		v, err := r.scalar(e, f, at)
		if err != nil {
			return err
		}
		l.Append(v)
	}
	return nil
}

func (r *specReader) stringMap(n *yaml.Node, m protoreflect.Map, path string) error {
	if n.Kind != yaml.MappingNode {
		return r.fail(n, "%s: want a mapping", path)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, err := r.text(n.Content[i], path)
		if err != nil {
			return err
		}
		v, err := r.text(n.Content[i+1], path+"."+k)
		if err != nil {
			return err
		}
		key := protoreflect.ValueOfString(k).MapKey()
		if m.Has(key) {
			return r.fail(n.Content[i], "%s.%s is there twice", path, k)
		}
		m.Set(key, protoreflect.ValueOfString(v))
	}
	return nil
}

// text takes any scalar as it was written: version: 1.10 is not 1.1.
func (r *specReader) text(n *yaml.Node, path string) (string, error) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() == "!!null" {
		return "", r.fail(n, "%s: want a string", path)
	}
	return n.Value, nil
}

func (r *specReader) scalar(n *yaml.Node, f protoreflect.FieldDescriptor, path string) (v protoreflect.Value, err error) {
	text, err := r.text(n, path)
	if err != nil {
		return v, r.fail(n, "%s: want %s", path, kindText(f))
	}
	bad := r.fail(n, "%s: %q is not %s", path, text, kindText(f))
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(text), nil
	case protoreflect.BoolKind:
		if text != "true" && text != "false" {
			return v, bad
		}
		return protoreflect.ValueOfBool(text == "true"), nil
	case protoreflect.Uint32Kind:
		u, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return v, bad
		}
		return protoreflect.ValueOfUint32(uint32(u)), nil
	case protoreflect.Uint64Kind:
		u, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return v, bad
		}
		return protoreflect.ValueOfUint64(u), nil
	case protoreflect.Int32Kind:
		i, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return v, bad
		}
		return protoreflect.ValueOfInt32(int32(i)), nil
	case protoreflect.EnumKind:
		e, ok := enumByName(f.Enum(), text)
		if !ok {
			return v, r.fail(n, "%s: %q is none of %s", path, text, enumNames(f.Enum()))
		}
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(e)), nil
	}
	return v, r.fail(n, "%s cannot be set in a file", path)
}

func kindText(f protoreflect.FieldDescriptor) string {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return "true or false"
	case protoreflect.StringKind:
		return "a string"
	case protoreflect.EnumKind:
		return "one of " + enumNames(f.Enum())
	case protoreflect.Uint32Kind:
		return fmt.Sprintf("a number from 0 to %d", uint32(math.MaxUint32))
	case protoreflect.Uint64Kind:
		return "a number from 0"
	}
	return "a number"
}

// Enums are typed without their prefix: on-failure is RESTART_POLICY_ON_FAILURE.

type protoEnum interface {
	Descriptor() protoreflect.EnumDescriptor
}

func enumPrefix(e protoreflect.EnumDescriptor) string {
	return strings.TrimSuffix(string(e.Values().ByNumber(0).Name()), "UNSPECIFIED")
}

func enumByName(e protoreflect.EnumDescriptor, text string) (int32, bool) {
	for i := range e.Values().Len() {
		v := e.Values().Get(i)
		if v.Number() != 0 && (text == kebab(string(v.Name()), enumPrefix(e)) || text == string(v.Name())) {
			return int32(v.Number()), true
		}
	}
	return 0, false
}

func enumNames(e protoreflect.EnumDescriptor) string {
	var s []string
	for i := range e.Values().Len() {
		if v := e.Values().Get(i); v.Number() != 0 {
			s = append(s, kebab(string(v.Name()), enumPrefix(e)))
		}
	}
	return strings.Join(s, ", ")
}

// guess offers the field that was probably meant.
func guess(word string, fields protoreflect.FieldDescriptors) string {
	best, least := "", len(word)/2+1
	for i := range fields.Len() {
		name := string(fields.Get(i).Name())
		d := distance(word, name)
		if strings.HasPrefix(name, word+"_") {
			d = 0
		}
		if d < least {
			best, least = name, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
