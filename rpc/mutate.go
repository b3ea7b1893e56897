package rpc

import (
	"context"
	"crypto/sha256"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// mutate submits one operation. cmd carries op alone; the rest of what the edge
// knows is filled in here. The request id comes back in every case, so that the
// client can try again with it.
func (s *Server) mutate(ctx context.Context, givenID string, cmd *blixardv1.Command) (*blixardv1.Response, string, error) {
	if err := s.member(); err != nil {
		return nil, "", err
	}
	id, err := requestID(givenID, time.Now())
	if err != nil {
		return nil, "", err
	}
	n := noteOf(ctx)
	first := n.revision == 0 // what undoes it is not what was asked for
	if first {
		n.id = id
	}
	if err := seal(cmd); err != nil {
		return nil, id, err
	}
	cmd.RequestId, cmd.Principal = id, callerOf(ctx).principal
	resp, err := s.cfg.Backend.Do(ctx, cmd)
	if first {
		n.revision = resp.GetRevision()
	}
	if err == nil && resp.GetError() != nil {
		err = &Refusal{resp.Error}
	}
	return resp, id, err
}

// seal hashes the operation, so that a request id that comes again with another
// one is noticed.
func seal(cmd *blixardv1.Command) error {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&blixardv1.Command{Op: cmd.Op})
	if err != nil {
		return err
	}
	h := sha256.Sum256(b)
	cmd.PayloadHash = h[:]
	return nil
}

// member refuses before the node is in a cluster.
func (s *Server) member() error {
	if s.cfg.Backend.Status().Identity.ClusterID != "" {
		return nil
	}
	return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "", "this node is in no cluster yet",
		"make one with 'blixard cluster init', or enter one with 'blixard cluster join SERVER'")
}

func (s *Server) read(ctx context.Context, stale bool) (*cluster.State, error) {
	if err := s.member(); err != nil {
		return nil, err
	}
	return s.cfg.Backend.Read(ctx, stale)
}

// answer makes a Connect answer of what a handler found.
func answer[T any](msg *T, id string, err error) (*connect.Response[T], error) {
	if err != nil {
		return nil, wire(err, id)
	}
	r := connect.NewResponse(msg)
	if id != "" {
		r.Header().Set(RequestIDHeader, id)
	}
	return r, nil
}

// check turns a refusal by core/cluster into an error.
func check(e *blixardv1.Error) error {
	if e == nil {
		return nil
	}
	return &Refusal{e}
}
