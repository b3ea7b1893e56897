package main

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/blixard/blixard/core"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/rpc"
)

// clients is core.Clients: it keeps who waits for which answer.
type clients struct {
	last    atomic.Uint64
	waiting sync.Map // request id -> chan core.Reply
}

// Reply never blocks: a channel has room for its one answer, and who has gone
// has none.
func (c *clients) Reply(r core.Reply) {
	if w, ok := c.waiting.LoadAndDelete(r.ID); ok {
		w.(chan core.Reply) <- r
	}
}

// ask puts a request to the node and waits for its answer.
func (c *clients) ask(ctx context.Context, l *loop, r core.Request) (core.Reply, error) {
	r.ID = c.last.Add(1)
	if d, ok := ctx.Deadline(); ok {
		// A little less, so that a refusal says more than a deadline does.
		r.Timeout = max(int64(time.Until(d))*9/10, int64(time.Millisecond))
	}
	answer := make(chan core.Reply, 1)
	c.waiting.Store(r.ID, answer)
	defer c.waiting.Delete(r.ID)
	l.inbox.put(r)
	select {
	case a := <-answer:
		if a.Error != nil {
			return a, &rpc.Refusal{Detail: a.Error}
		}
		return a, nil
	case <-ctx.Done():
		return core.Reply{}, context.Cause(ctx)
	case <-l.done:
		return core.Reply{}, &rpc.Refusal{Detail: &blixardv1.Error{
			Code:    blixardv1.ErrorCode_ERROR_CODE_SHUTTING_DOWN,
			Message: "this node is shutting down; whether the change was made is not known",
			Advice:  "ask another server, with the same request id"}}
	}
}
