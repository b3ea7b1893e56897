package runner

import "sync"

// queue is an unbounded line of things to do, so that whoever puts something
// into it never waits.
type queue struct {
	mu     sync.Mutex
	wake   sync.Cond
	todo   []func()
	closed bool
}

func newQueue() *queue {
	q := &queue{}
	q.wake.L = &q.mu
	return q
}

// put adds f, and says whether it will be done.
func (q *queue) put(f func()) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.todo = append(q.todo, f)
	q.wake.Signal()
	return true
}

// close ends run once what it does now is done.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed, q.todo = true, nil
	q.wake.Signal()
}

// closeIfIdle closes the queue unless something waits in it.
func (q *queue) closeIfIdle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.todo) > 0 {
		return false
	}
	q.closed = true
	return true
}

// run does one thing after the other until the queue is closed.
func (q *queue) run() {
	for {
		q.mu.Lock()
		for len(q.todo) == 0 && !q.closed {
			q.wake.Wait()
		}
		if q.closed {
			q.mu.Unlock()
			return
		}
		f := q.todo[0]
		q.todo[0] = nil
		q.todo = q.todo[1:]
		q.mu.Unlock()
		f()
	}
}
