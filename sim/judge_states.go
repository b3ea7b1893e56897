package sim

import "github.com/blixard/blixard/core/cluster"

// Two nodes that have applied the same number of entries have the same state,
// byte for byte, and so has every state that is handed to a client.
type judgeStates struct{ at map[uint64]stateAt }

type stateAt struct {
	hash uint64
	who  string
}

func (j *judgeStates) seen(w *World, m *Machine, v *cluster.State) {
	index, hash := v.Revision(), v.Hash()
	w.trace.fold(hash)
	old, ok := j.at[index]
	if !ok {
		j.at[index] = stateAt{hash, m.Name}
		return
	}
	w.judges.judged["states"]++
	if old.hash != hash {
		w.fail("equal state at equal index", "at index %d %s has state %016x and %s has %016x", index, old.who, old.hash, m.Name, hash)
	}
}
