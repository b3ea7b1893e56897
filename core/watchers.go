package core

import "slices"

// watchers are reads that wait for the state to go on beyond what they have seen.
// They are answered from this server's own copy: whoever must know that it still
// follows the cluster reads linearizably now and then.
type watchers struct {
	waiting []watcher
	seen    uint64 // the revision of which those who wait have been told, or know
}

type watcher struct {
	id, after uint64
	deadline  int64
}

func (w *watchers) add(s *server, q watcher) {
	if s.state.Revision() > q.after {
		s.tell(q)
		return
	}
	w.waiting = append(w.waiting, q)
}

// applied answers those for whom there is something new, all with one view.
func (w *watchers) applied(s *server) {
	if w.seen == s.state.Revision() {
		return
	}
	w.seen = s.state.Revision()
	w.answer(s, func(q watcher) bool { return w.seen > q.after })
}

// expire answers those whose time is up with what there is.
func (w *watchers) expire(s *server) {
	w.answer(s, func(q watcher) bool { return s.now.Boot >= q.deadline })
}

func (w *watchers) answer(s *server, due func(watcher) bool) {
	w.waiting = slices.DeleteFunc(w.waiting, func(q watcher) bool {
		if !due(q) {
			return false
		}
		s.tell(q)
		return true
	})
}

func (s *server) tell(q watcher) {
	s.show(q.id, "")
}
