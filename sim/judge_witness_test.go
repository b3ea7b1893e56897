package sim

import (
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// An answer that is older than one before it is seen, whatever each is about; and
// a history that the model does not have in the order of the log is not proven.
func TestWitness(t *testing.T) {
	if *oneSeed != 0 {
		t.Skip("a child")
	}
	s := int64(time.Second)
	made := &Operation{Client: 1, Verb: Create, Name: "a", Call: s, Return: 2 * s, Revision: 9,
		VM: &blixardv1.VM{Uid: "1-9", Run: true, RunGeneration: 1, SpecGeneration: 1}}
	none := func(call int64, revision uint64) *Operation {
		return &Operation{Client: 2, Verb: Get, Name: "b", Call: call, Return: call + s, Revision: revision}
	}
	for _, c := range []struct {
		what    string
		history []*Operation
		broken  bool
	}{
		{"in its order", []*Operation{made, none(3*s, 9)}, false},
		{"as old as it may be: asked before the answer", []*Operation{made, none(2*s, 8)}, false},
		{"a stale read that was asked for", []*Operation{made, {Verb: StaleGet, Name: "b", Call: 3 * s, Return: 4 * s, Revision: 8}}, false},
		{"too old", []*Operation{made, none(3*s, 8)}, true},
	} {
		w := New(Calm(1))
		w.history = c.history
		judgeHistories(w)
		if (w.failure != nil) != c.broken || w.judges.judged["witness"] == 0 && !c.broken {
			t.Errorf("%s: %v", c.what, w.failure)
		}
		w.Close()
	}

	lost := &Operation{Client: 1, Verb: Delete, Name: "a", Call: 3 * s, Unknown: true, key: "done"}
	gone := &Operation{Client: 2, Verb: Get, Name: "a", Call: 5 * s, Return: 6 * s, Revision: 12}
	w := New(Calm(1))
	defer w.Close()
	w.history = []*Operation{made, lost, gone}
	ops := w.operations()["a"]
	j := &judgeWitness{executed: map[string]uint64{}}
	if j.proves(ops) {
		t.Error("it is gone, and nothing is known to have deleted it: that is proven")
	}
	j.executed["done"] = 11
	if !j.proves(ops) {
		t.Error("created, deleted in nobody's hearing, and gone is not proven")
	}
	j.executed["done"] = 13
	if j.proves(ops) {
		t.Error("gone before it was deleted is proven")
	}
	if porcupine.CheckOperations(vmModel, ops) != true {
		t.Error("the search does not find what the witness does not know")
	}
}
