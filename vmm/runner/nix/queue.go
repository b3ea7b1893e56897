package nix

import (
	"container/list"
	"context"
	"sync"
)

// queue lets a number of them at once, in the order in which they came.
type queue struct {
	mu      sync.Mutex
	free    int
	waiting list.List // of chan struct{}
}

func newQueue(places int) *queue { return &queue{free: places} }

// enter waits for a place. ahead is told once, if there is none at once, how
// many are before it.
func (q *queue) enter(ctx context.Context, ahead func(n int)) error {
	q.mu.Lock()
	if q.free > 0 && q.waiting.Len() == 0 {
		q.free--
		q.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	place := q.waiting.PushBack(turn)
	n := q.waiting.Len() - 1
	q.mu.Unlock()
	if ahead != nil {
		ahead(n)
	}
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-turn: // both at once: the place is ours to pass on
		q.free++
		q.admit()
	default:
		q.waiting.Remove(place)
	}
	return context.Cause(ctx)
}

func (q *queue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.free++
	q.admit()
}

func (q *queue) admit() {
	for q.free > 0 && q.waiting.Len() > 0 {
		q.free--
		close(q.waiting.Remove(q.waiting.Front()).(chan struct{}))
	}
}
