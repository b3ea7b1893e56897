package rpc

import (
	"io"
	"sync"
)

// body is a request's body that survives a dial that failed: a transport closes
// the body of every request, also of one that it never began to send. Once the
// request has gone out, commit makes closing mean closing.
type body struct {
	io.ReadCloser
	mu                sync.Mutex
	committed, closed bool
}

func (b *body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.committed {
		return b.ReadCloser.Close()
	}
	return nil
}

func (b *body) commit() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.committed = true
	if b.closed {
		b.ReadCloser.Close()
	}
}
