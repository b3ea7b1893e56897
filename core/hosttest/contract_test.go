package hosttest

import (
	"strings"
	"testing"

	"github.com/blixard/blixard/core"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/shim"
)

// Each broken promise is told in its own words, and what goes before it is not one.
func TestWhatBreaksTheContractIsTold(t *testing.T) {
	one := shim.Instance{UID: "1-1", Generation: 1, Index: 7, Attempt: 1}
	two := shim.Instance{UID: "1-1", Generation: 1, Index: 7, Attempt: 2}
	start := vmm.Action{ID: 1, Verb: vmm.Start, Instance: one}
	receive := vmm.Action{ID: 1, Verb: vmm.Receive, Instance: one}
	done := func(id uint64) core.Observed { return core.Observed{Done: []vmm.Done{{Action: id, UID: "1-1"}}} }
	says := func(r vmm.Report) core.Observed { return core.Observed{Reports: []vmm.Report{r}} }
	lives := says(vmm.Report{Instance: one, Liveness: vmm.Alive, Ready: true})
	comes := func(i vmm.Incoming) core.Observed {
		return says(vmm.Report{Instance: one, Liveness: vmm.Alive, Incoming: i})
	}
	ended := func(reason string) core.Observed {
		return says(vmm.Report{Instance: one, Liveness: vmm.Down, Exit: &vmm.Exit{Reason: reason}})
	}
	inventory := core.Observed{Inventory: true}
	type life struct{} // another one of the daemon's begins
	for want, story := range map[string][]any{
		"the inventory must come first":                     {done(1)},
		"and once":                                          {inventory, inventory},
		"not given in this life":                            {inventory, start, life{}, inventory, done(1)},
		"was answered already":                              {inventory, start, done(1), done(1)},
		"is one for 1-2":                                    {inventory, start, core.Observed{Done: []vmm.Done{{Action: 1, UID: "1-2"}}}},
		"is answered before Start (1)":                      {inventory, start, vmm.Action{ID: 2, Verb: vmm.Kill, Instance: one}, done(2)},
		"Start of 1-1 gave a runner":                        {inventory, start, core.Observed{Done: []vmm.Done{{Action: 1, UID: "1-1", Runner: &blixardv1.Runner{}}}}},
		"gave no image":                                     {inventory, start, done(1), lives, vmm.Action{ID: 2, Verb: vmm.Snapshot, Instance: one}, done(2)},
		"says that it knows nothing":                        {inventory, start, core.Observed{Done: []vmm.Done{{Action: 1, UID: "1-1", Unknown: true}}}},
		"which nobody ordered to run":                       {inventory, lives},
		"1-1@1.7#1 was dead already":                        {inventory, start, done(1), lives, vmm.Action{ID: 2, Verb: vmm.Kill, Instance: one}, done(2), lives},
		"1-1@1.7#1 is alive, and 1-1@1.7#1 was dead":        {inventory, start, done(1), ended("Exited"), life{}, inventory, lives},
		"had ended by":                                      {inventory, start, done(1), ended("Exited"), ended("Crashed")},
		"is down, and yet":                                  {inventory, start, done(1), says(vmm.Report{Instance: one, Liveness: vmm.Down, Ready: true})},
		"is absent, and yet":                                {inventory, says(vmm.Report{Instance: one, Paused: true})},
		"was removed, nothing was ordered since":            {inventory, start, done(1), ended("Exited"), vmm.Action{ID: 2, Verb: vmm.Remove, Instance: one}, done(2), ended("Exited")},
		"was handed over by migration 9, and now by 0":      {inventory, start, done(1), lives, says(vmm.Report{Instance: one, Liveness: vmm.Alive, HandedOver: 9}), lives},
		"is ready, and coming () or handed over (9)":        {inventory, start, done(1), says(vmm.Report{Instance: one, Liveness: vmm.Alive, Ready: true, HandedOver: 9})},
		"was started, and waits for its guest":              {inventory, start, done(1), comes(vmm.Opening)},
		"nobody ordered that it takes over":                 {inventory, receive, done(1), comes(vmm.Loaded), lives},
		`was "Listening", and is "Opening"`:                 {inventory, receive, done(1), comes(vmm.Listening), comes(vmm.Opening)},
		"was started with generation 0, spec 0, and now 0,": {inventory, start, done(1), lives, says(vmm.Report{Instance: one, Liveness: vmm.Alive, Ready: true, SpecGeneration: 2})},
		"had run of the restore at 5, and now of 0":         {inventory, start, done(1), says(vmm.Report{Instance: one, Liveness: vmm.Alive, Restored: 5}), lives},
		"epoch 3 has lapsed":                                {inventory, core.Observed{Lapsed: 3}},
		"revision 4 are kept":                               {inventory, core.Observed{Kept: 4}},
		"the snapshot s is missing":                         {inventory, vmm.Action{Verb: vmm.KeepSnapshots, Keep: &vmm.KeepList{Revision: 4}}, core.Observed{Kept: 4, Missing: []string{"s"}}},
		"": { // a life in which all is well
			inventory, vmm.Action{ID: 1, Verb: vmm.Build, Instance: one}, vmm.Action{ID: 2, Verb: vmm.Receive, Instance: one}, done(2), done(1),
			comes(vmm.Opening), comes(vmm.Loaded), life{}, core.Observed{Inventory: true, Reports: comes(vmm.Opening).Reports}, comes(vmm.Loaded),
			vmm.Action{ID: 1, Verb: vmm.TakeOver, Instance: one}, lives, done(1), ended("Crashed"), ended("Crashed"),
			vmm.Action{ID: 2, Verb: vmm.Start, Instance: two}, done(2), says(vmm.Report{Instance: two, Liveness: vmm.Alive}),
			says(vmm.Report{Instance: two, Liveness: vmm.Alive, HandedOver: 9}), says(vmm.Report{Instance: two, Liveness: vmm.Down, HandedOver: 9}),
			vmm.Action{ID: 3, Verb: vmm.Remove, Instance: two}, done(3), says(vmm.Report{Instance: two}),
			// The cluster is restored from a backup of before all that.
			life{}, inventory, vmm.Action{ID: 1, Verb: vmm.Start, Instance: one, Host: shim.Host{Generation: 2}}, done(1), lives,
		},
	} {
		var c Contract
		c.Begins()
		var told []string
		for i, step := range story {
			if len(told) > 0 {
				t.Errorf("%q: told before its last step: %v", want, told)
			}
			switch s := step.(type) {
			case life:
				c.Begins()
			case vmm.Action:
				c.Ordered(s)
			case core.Observed:
				told = c.Observed(s)
			}
			if i == len(story)-1 && (want == "" && len(told) > 0 || want != "" && (len(told) == 0 || !strings.Contains(told[0], want))) {
				t.Errorf("want %q, told %q", want, told)
			}
		}
	}
}
