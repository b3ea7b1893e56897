package cluster

import (
	"fmt"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// maxEvents is how many events the cluster keeps.
const maxEvents = 2048

// event writes down what happened. vm and node may be empty.
func (s *State) event(e *entry, kind, vm, node, format string, args ...any) {
	if e.events > 0xffff {
		return
	}
	s.put(eventKey(e.index, e.events), &blixardv1.Event{
		Index: e.index, WallTime: e.cmd.GetWallTime(), Type: kind, Vm: vm, Node: node,
		Message: fmt.Sprintf(format, args...), Principal: e.cmd.GetPrincipal(),
	})
	e.events++
	if s.events > maxEvents {
		s.dropOldestEvent()
	}
}

func (s *State) dropOldestEvent() {
	var oldest string
	s.records.Ascend(eventPrefix, func(k string, r record) bool {
		oldest, s.meta.EventFloor = k, r.msg.(*blixardv1.Event).Index
		return false
	})
	s.del(oldest)
}
