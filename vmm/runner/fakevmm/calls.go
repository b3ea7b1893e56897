// Package fakevmm plays cloud-hypervisor, Firecracker and its jailer, for tests.
//
// # The model
//
// A test program that is run under the name of one of them is that one: it takes
// the same command line, listens on the same socket, and runs a guest that says
// and does what our real guest would. It cannot run a guest's code, so what it
// proves is that we say the right things, at the right time, and understand the
// answers; not that the vendor understands us.
//
// # What it takes
//
// Every option, every request and every field that it is given must be in
// calls.yaml and in the tables here. Anything else ends it at once with
// CodeViolation and a line on its console, so that no test passes by it.
//
// # What it plays
//
//   - a socket that is there already: it does not start
//   - a pause of what is paused, and a resume of what runs: refused
//   - Firecracker's jailer: all that it does to the program that it becomes
//   - Firecracker: a power-off ends nothing, a reset ends it; its exit codes
//   - cloud-hypervisor: a reset starts the guest anew in the same process, and is
//     told by its event monitor, as is a panic
//   - snapshots: of what is paused only, into files that are not there yet; loaded only
//     by one that has no machine, of the same version, with every disk and tap in its
//     place. The guest counts on from the tick in the memory's file. Where a load has
//     failed, Firecracker ends, and cloud-hypervisor takes no other
//
// Words on the guest's command line choose failures: fake.exit=N ends it with
// that code once the guest is up, fake.early=N before, and fake.mute=1 leaves
// every request unanswered. fake.save=N is how a snapshot goes wrong when half of the
// memory is written: 1, the disk is full; 2, it dies; 3, it never answers. With
// fake.load=1 it dies in the middle of a load, and with fake.greedy=1 its balloon gets
// nothing.
package fakevmm

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"
)

//go:embed calls.yaml
var callsText []byte

// call is one request, or a file.
type call struct {
	// Schema and Answer are what the vendor calls the body and what is answered.
	Schema string
	Answer string
	// Body is nil where there is none.
	Body *value
}

// value is what may stand at one place of a body.
type value struct {
	Type     string
	Enum     []string
	Required bool
	Fields   map[string]*value
	Items    *value
}

// calls are by vendor, and then by method and path.
func calls() (all map[string]map[string]call) {
	if err := yaml.Unmarshal(callsText, &all); err != nil {
		panic("fakevmm: calls.yaml: " + err.Error())
	}
	return all
}

// check holds a body to its description.
func (c call) check(body []byte) error {
	if c.Body == nil {
		if len(body) > 0 {
			return fmt.Errorf("it has a body, and takes none: %.200s", body)
		}
		return nil
	}
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		return fmt.Errorf("it is no JSON: %w", err)
	}
	return c.Body.check("", v)
}

func (d *value) check(at string, v any) error {
	is := map[string]bool{}
	switch v := v.(type) {
	case string:
		is["string"] = d.Enum == nil || slices.Contains(d.Enum, v)
	case bool:
		is["boolean"] = true
	case float64:
		is["number"], is["integer"] = true, v == float64(int64(v))
	case []any:
		is["array"] = true
		for i, one := range v {
			if d.Items == nil {
				return fmt.Errorf("%s: nothing is known of its items", at)
			}
			if err := d.Items.check(fmt.Sprintf("%s[%d]", at, i), one); err != nil {
				return err
			}
		}
	case map[string]any:
		is["object"] = true
		for name, one := range v {
			f := d.Fields[name]
			if f == nil {
				return fmt.Errorf("%s has the field %s, which is not in calls.yaml", at, name)
			}
			if err := f.check(at+"."+name, one); err != nil {
				return err
			}
		}
		for name, f := range d.Fields {
			if _, there := v[name]; f.Required && !there {
				return fmt.Errorf("%s lacks the field %s", at, name)
			}
		}
	}
	if !is[d.Type] {
		return fmt.Errorf("%s is %v, and not %s %v", at, v, d.Type, d.Enum)
	}
	return nil
}

var errUnknown = errors.New("no such call is in calls.yaml")
