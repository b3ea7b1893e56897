package fakevmm

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

func TestWhatIsNotDescribedIsRefused(t *testing.T) {
	fc := calls()[Firecracker]
	for _, c := range []struct {
		call, body string
		ok         bool
	}{
		{"PATCH /vm", `{"state":"Paused"}`, true},
		{"PATCH /vm", `{"state":"Stopped"}`, false},
		{"PATCH /vm", `{"state":"Paused","more":1}`, false},
		{"PATCH /vm", `{}`, false},
		{"PATCH /vm", ``, false},
		{"PATCH /vm", `[]`, false},
		{"GET /", ``, true},
		{"GET /", `{}`, false},
		{"config-file", `{"boot-source":{"kernel_image_path":"/k"},"drives":[]}`, true},
		{"config-file", `{"boot-source":{"kernel_image_path":"/k"}}`, false},
		{"config-file", `{"boot-source":{"kernel_image_path":"/k"},"drives":[{"drive_id":"a","is_root_device":"no"}]}`, false},
		{"config-file", `{"boot-source":{"kernel_image_path":"/k"},"drives":[],"machine-config":{"vcpu_count":1.5,"mem_size_mib":1}}`, false},
		{"config-file", `{"boot-source":{"kernel_image_path":"/k"},"drives":[],"serial":{}}`, false},
	} {
		if err := fc[c.call].check([]byte(c.body)); (err == nil) != c.ok {
			t.Errorf("%s %s: %v", c.call, c.body, err)
		}
	}
}

// What we say is what the vendors describe. Their descriptions are no part of
// this repository: BLIXARD_SCHEMAS says where they are, or they are looked for
// beside it.
func TestCallsAreTheVendors(t *testing.T) {
	dir := cmp.Or(os.Getenv("BLIXARD_SCHEMAS"), filepath.Join("..", "..", "..", "..", "shared", "schemas"))
	for vendor, list := range calls() {
		text, err := os.ReadFile(filepath.Join(dir, vendor+".yaml"))
		if err != nil {
			t.Skipf("the vendors' descriptions are not here, so that what we say is held against nothing (BLIXARD_SCHEMAS says where): %v", err)
		}
		v := vendorAPI{}
		if err := yaml.Unmarshal(text, &v); err != nil {
			t.Fatal(err)
		}
		for name, c := range list {
			if err := v.knows(name, c); err != nil {
				t.Errorf("%s: %s: %v", vendor, name, err)
			}
		}
		t.Logf("%s: %d calls are as the vendor describes them", vendor, len(list))
		// The check itself must be able to fail.
		bad := calls()[vendor]
		for name, c := range bad {
			if c.Body != nil {
				c.Body.Fields["no_such_field"] = &value{Type: "string"}
				if v.knows(name, c) == nil {
					t.Errorf("%s: %s: a field that the vendor does not know was not noticed", vendor, name)
				}
			}
		}
		if v.knows("PUT /no/such/path", call{}) == nil {
			t.Errorf("%s: a path that the vendor does not know was not noticed", vendor)
		}
	}
}

// vendorAPI is the part of Swagger 2 and of OpenAPI 3 that the two use.
type vendorAPI struct {
	Paths       map[string]map[string]operation
	Definitions map[string]schema // Swagger 2
	Components  struct{ Schemas map[string]schema }
}

type operation struct {
	Parameters []struct {
		In     string
		Schema schema
	}
	RequestBody struct {
		Content map[string]struct{ Schema schema }
	} `yaml:"requestBody"`
	Responses map[string]any
}

type schema struct {
	Ref        string `yaml:"$ref"`
	Type       string
	Enum       []any
	Required   []string
	Properties map[string]schema
	Items      *schema
}

func (v vendorAPI) resolve(s schema) schema {
	if s.Ref == "" {
		return s
	}
	name := s.Ref[strings.LastIndexByte(s.Ref, '/')+1:]
	if d, ok := v.Definitions[name]; ok {
		return d
	}
	return v.Components.Schemas[name]
}

func (v vendorAPI) knows(name string, c call) error {
	var body schema
	method, path, isCall := strings.Cut(name, " ")
	if isCall {
		op, ok := v.Paths[strings.TrimPrefix(path, "/api/v1")][strings.ToLower(method)]
		if !ok {
			return fmt.Errorf("the vendor has no such call")
		}
		for _, p := range op.Parameters {
			if p.In == "body" {
				body = p.Schema
			}
		}
		for _, b := range op.RequestBody.Content {
			body = b.Schema
		}
		if c.Answer != "" && !strings.Contains(fmt.Sprint(op.Responses), "/"+c.Answer) {
			return fmt.Errorf("it is not answered with %s", c.Answer)
		}
		if got := body.Ref[strings.LastIndexByte(body.Ref, '/')+1:]; got != c.Schema {
			return fmt.Errorf("its body is %q, and not %q", got, c.Schema)
		}
	} else {
		body = schema{Ref: "/" + c.Schema}
	}
	if c.Body == nil {
		return nil
	}
	return v.covers(name, c.Body, body)
}

// covers says that everything of ours is in the vendor's, and all that the
// vendor requires in ours.
func (v vendorAPI) covers(at string, ours *value, s schema) error {
	s = v.resolve(s)
	if s.Type != ours.Type {
		return fmt.Errorf("%s is %q, and not %q", at, s.Type, ours.Type)
	}
	var enum []string
	for _, e := range s.Enum {
		enum = append(enum, fmt.Sprint(e))
	}
	for _, e := range ours.Enum {
		if !slices.Contains(enum, e) {
			return fmt.Errorf("%s is never %s, but one of %v", at, e, enum)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(ours.Fields)) {
		p, ok := s.Properties[name]
		if !ok {
			return fmt.Errorf("%s has no field %s", at, name)
		}
		if err := v.covers(at+"."+name, ours.Fields[name], p); err != nil {
			return err
		}
	}
	for _, name := range s.Required {
		if f := ours.Fields[name]; f == nil || !f.Required {
			return fmt.Errorf("%s requires %s, and we do not", at, name)
		}
	}
	if ours.Items != nil {
		if s.Items == nil {
			return fmt.Errorf("%s has no items", at)
		}
		return v.covers(at+"[]", ours.Items, *s.Items)
	}
	return nil
}
