package main

import (
	"sync"

	"github.com/blixard/blixard/core"
)

// inbox is where adapters put what happened, and from where the loop takes it.
//
// Nothing here can deadlock: the loop waits for nobody but this inbox, so it
// always comes back to empty it. What the node itself has asked for (writes
// done, VMs observed) and ticks are always taken at once. What others send us,
// messages and requests, waits while there is much of it: that is the back
// pressure which a flood meets.
type inbox struct {
	mu     sync.Mutex
	fill   sync.Cond // something is there, or it is closed
	room   sync.Cond // there is room again, or it is closed
	queue  []core.Input
	tick   bool // a Tick is in the queue: another would say nothing
	closed bool
}

// inboxRoom is how many inputs may wait before a flood does.
const inboxRoom = 4096

func newInbox() *inbox {
	b := &inbox{}
	b.fill.L, b.room.L = &b.mu, &b.mu
	return b
}

// put queues an input; once the inbox is closed it is dropped.
func (b *inbox) put(in core.Input) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch in.(type) {
	case core.Receive, core.Request:
		for len(b.queue) >= inboxRoom && !b.closed {
			b.room.Wait()
		}
	case core.Tick:
		if b.tick {
			return
		}
		b.tick = true
	}
	if b.closed {
		return
	}
	b.queue = append(b.queue, in)
	b.fill.Signal()
}

// take waits for inputs and takes all there are, in the order in which they
// came; nil means that the inbox was closed. It reuses spare's memory.
func (b *inbox) take(spare []core.Input) []core.Input {
	clear(spare)
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.queue) == 0 && !b.closed {
		b.fill.Wait()
	}
	if b.closed {
		return nil
	}
	all := b.queue
	b.queue, b.tick = spare[:0], false
	b.room.Broadcast()
	return all
}

func (b *inbox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed, b.queue = true, nil
	b.fill.Broadcast()
	b.room.Broadcast()
}
