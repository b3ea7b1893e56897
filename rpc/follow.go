package rpc

import (
	"context"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Follow watches the cluster from req.Revision on, and calls f with each step
// whole: all that was told up to a revision, each once. When a server goes away
// or falls silent it goes on at the next one, where it was. It ends with f's
// error, with ctx, with a refusal (COMPACTED among them), or when no server has
// answered for 30 s.
func (c *Client) Follow(ctx context.Context, req *blixardv1.WatchRequest, f func(*blixardv1.WatchResponse) error) error {
	req = proto.CloneOf(req)
	pause, heard := 10*time.Millisecond, time.Now()
	for {
		at := c.cursor.at.Load()
		var broken error // f's own
		err := c.watchOnce(ctx, req, func(step *blixardv1.WatchResponse) error {
			pause, heard = 10*time.Millisecond, time.Now()
			if broken = f(step); broken == nil {
				req.Revision = step.Revision
			}
			return broken
		})
		if broken != nil {
			return broken
		}
		// What no server said is a connection that broke, for which there are many codes.
		if ctx.Err() != nil || connect.IsWireError(err) && !again(err) || time.Since(heard) > defaultPatience {
			return err
		}
		c.cursor.next(at)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
		pause = min(2*pause, 500*time.Millisecond)
	}
}

// watchOnce follows one stream until it ends.
func (c *Client) watchOnce(ctx context.Context, req *blixardv1.WatchRequest, f func(*blixardv1.WatchResponse) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Watch.Watch(ctx, connect.NewRequest(req))
	if err != nil {
		return err
	}
	defer stream.Close()
	step := &blixardv1.WatchResponse{}
	for stream.Receive() {
		m := stream.Msg()
		step.Revision = m.Revision
		step.Removed, step.Vms = append(step.Removed, m.Removed...), append(step.Vms, m.Vms...)
		step.Nodes, step.Events = append(step.Nodes, m.Nodes...), append(step.Events, m.Events...)
		if m.Revision == 0 {
			continue
		}
		if err := f(step); err != nil {
			return err
		}
		step = &blixardv1.WatchResponse{}
	}
	if err := stream.Err(); err != nil {
		return err
	}
	return connect.NewError(connect.CodeUnavailable, errEnded)
}
