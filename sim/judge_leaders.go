package sim

// A term has at most one leader.
type judgeLeaders struct{ of map[uint64]string }

func (j *judgeLeaders) leads(w *World, m *Machine, term uint64) {
	old, ok := j.of[term]
	if !ok {
		j.of[term] = m.Name
		w.judges.judged["leaders"]++
		return
	}
	if old != m.Name {
		w.fail("one leader a term", "%s and %s both lead term %d", old, m.Name, term)
	}
}
