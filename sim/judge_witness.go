package sim

import (
	"cmp"
	"math"
	"slices"

	"github.com/anishathalye/porcupine"
)

// No answer is older than what was answered before it was asked for, and in the
// order of the log, at whose entries all of it happened, each name's history is
// that of the sequential model.
//
// That is a proof that the histories are linearizable, and a cheap one: a search
// (judge_histories.go) is left for names of which the positions do not tell.
type judgeWitness struct {
	// executed is where in the log a request was carried out, by principal and id.
	executed map[string]uint64
}

// realTime looks at the answers of all clients together.
func (j *judgeWitness) realTime(w *World) {
	var answered []*Operation
	for _, op := range w.history {
		if op.Verb != StaleGet && op.Return != 0 && !op.Unknown && op.Revision != 0 {
			answered = append(answered, op)
		}
	}
	ended := slices.Clone(answered)
	slices.SortStableFunc(answered, func(a, b *Operation) int { return cmp.Compare(a.Call, b.Call) })
	slices.SortStableFunc(ended, func(a, b *Operation) int { return cmp.Compare(a.Return, b.Return) })
	var newest *Operation
	for _, op := range answered {
		for len(ended) > 0 && ended[0].Return < op.Call {
			if newest == nil || ended[0].Revision > newest.Revision {
				newest = ended[0]
			}
			ended = ended[1:]
		}
		if newest != nil && op.Revision < newest.Revision {
			w.fail("histories are linearizable", "%v: asked at %s, it is answered as of %d, and answered at %s was %v",
				op, stamp(op.Call), op.Revision, stamp(newest.Return), newest)
			return
		}
		w.judges.judged["witness"]++
	}
}

// proves says that the history of a name, in the order of the log, is one of the
// sequential model. False proves nothing.
func (j *judgeWitness) proves(ops []porcupine.Operation) bool {
	type step struct {
		at   uint64
		read bool
		op   porcupine.Operation
	}
	var steps []step
	for _, o := range ops {
		op := o.Input.(*Operation)
		at := op.Revision
		if op.Unknown || op.Return == 0 {
			if at = j.executed[op.key]; at == 0 {
				continue // it never happened, or in nobody's sight
			}
		}
		if at == 0 {
			return false
		}
		steps = append(steps, step{at, op.Verb.reads(), o})
	}
	slices.SortStableFunc(steps, func(a, b step) int {
		if c := cmp.Compare(a.at, b.at); c != 0 || a.read == b.read {
			return cmp.Or(c, cmp.Compare(a.op.Call, b.op.Call))
		}
		if a.read {
			return 1
		}
		return -1
	})
	state, asked := vmModel.Init(), int64(math.MinInt64)
	for _, s := range steps {
		if s.op.Return < asked {
			return false
		}
		asked = max(asked, s.op.Call)
		ok, next := vmModel.Step(state, s.op.Input, s.op.Output)
		if !ok {
			return false
		}
		state = next
	}
	return true
}
