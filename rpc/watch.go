package rpc

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// watches is WatchService.
type watches struct{ *Server }

const (
	// watchBeat is how often a watcher hears that its server still follows the
	// cluster, and watchProof how long that may take to find out.
	watchBeat  = 5 * time.Second
	watchProof = 4 * time.Second
	// watchPause is how long changes are gathered before they are told.
	watchPause = 50 * time.Millisecond
	// watchPiece is how many things one message tells of.
	watchPiece = 500
)

func (s watches) Watch(ctx context.Context, req *connect.Request[blixardv1.WatchRequest], stream *connect.ServerStream[blixardv1.WatchResponse]) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.stopping, cancel)()
	err := s.watch(ctx, req.Msg, stream.Send)
	if s.stopping.Err() != nil {
		err = s.stoppingError()
	}
	return wire(err, "")
}

func (s watches) watch(ctx context.Context, m *blixardv1.WatchRequest, send func(*blixardv1.WatchResponse) error) error {
	if !m.Vms && !m.Nodes && !m.Events {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, "vms", "nothing to watch is asked for", "ask for vms, nodes or events")
	}
	if m.Vm != "" {
		if err := check(cluster.ValidateName(m.Vm)); err != nil {
			return err
		}
	}
	view, err := s.proven(ctx)
	if err != nil {
		return err
	}
	if m.Revision > view.Revision() {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "revision",
			fmt.Sprintf("the cluster is at revision %d, and %d is to come", view.Revision(), m.Revision),
			"the revision is another cluster's, or this one was set up anew: begin with a List, or from 0")
	}
	after, beat := m.Revision, time.Time{}
	for {
		news, ok := view.Since(after, m.Events)
		if !ok {
			return refuse(blixardv1.ErrorCode_ERROR_CODE_COMPACTED, "revision",
				fmt.Sprintf("what happened since revision %d is not all known any more", after), "begin again with a List, or from 0")
		}
		pieces := pieces(m, news, view.Revision())
		if due := time.Since(beat) >= watchBeat; due || len(pieces) > 1 || told(pieces[0]) {
			if due {
				beat = time.Now()
			}
			for _, p := range pieces {
				if err := send(p); err != nil {
					return err
				}
			}
		}
		after = view.Revision()
		if view, err = s.next(ctx, after, beat.Add(watchBeat)); err != nil {
			return err
		}
	}
}

// next is the state when it has gone on, or at the time of the next beat as a
// quorum has it.
func (s watches) next(ctx context.Context, after uint64, beat time.Time) (*cluster.State, error) {
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-time.After(watchPause):
	}
	wait, cancel := context.WithDeadline(ctx, beat)
	defer cancel()
	view, err := s.cfg.Backend.Await(wait, after)
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case wait.Err() == nil && err == nil && view.Revision() > after:
		return view, nil
	}
	select { // it may have come back a little early
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-time.After(time.Until(beat)):
	}
	return s.proven(ctx)
}

// proven is the state as a quorum has it: this server follows the cluster.
func (s watches) proven(ctx context.Context) (*cluster.State, error) {
	ctx, cancel := context.WithTimeout(ctx, watchProof)
	defer cancel()
	return s.read(ctx, false)
}

func told(r *blixardv1.WatchResponse) bool {
	return len(r.Removed) > 0 || len(r.Vms) > 0 || len(r.Nodes) > 0 || len(r.Events) > 0
}

// pieces puts what is asked for into messages, of which the last says the revision.
func pieces(m *blixardv1.WatchRequest, n cluster.News, revision uint64) []*blixardv1.WatchResponse {
	last := &blixardv1.WatchResponse{}
	list, count := []*blixardv1.WatchResponse{last}, 0
	room := func() *blixardv1.WatchResponse {
		if count++; count > watchPiece {
			last, count = &blixardv1.WatchResponse{}, 1
			list = append(list, last)
		}
		return last
	}
	one := func(name string) bool { return m.Vm == "" || m.Vm == name }
	for _, r := range n.Removed {
		if m.Vms && r.Uid != "" && one(r.Name) || m.Nodes && r.Uid == "" {
			p := room()
			p.Removed = append(p.Removed, r)
		}
	}
	for _, vm := range n.VMs {
		if m.Vms && one(vm.Name) {
			p := room()
			p.Vms = append(p.Vms, vm)
		}
	}
	for _, n := range n.Nodes {
		if m.Nodes {
			p := room()
			p.Nodes = append(p.Nodes, n)
		}
	}
	for _, e := range n.Events {
		if one(e.Vm) {
			p := room()
			p.Events = append(p.Events, e)
		}
	}
	last.Revision = revision
	return list
}
