package main

import (
	"context"
	"fmt"
	"time"

	"github.com/blixard/blixard/rpc"
)

// session is one command's talk with the cluster.
type session struct {
	*rpc.Client
	*terminal
	g      *Globals
	ctx    context.Context
	cancel context.CancelFunc
}

// open connects as the flags say. Everything that the session does ends with
// --timeout, except for streams: they use the command's own context.
func open(g *Globals, t *terminal, ctx context.Context) (*session, error) {
	if g.Timeout <= 0 {
		return nil, usagef("--timeout %s: want more than nothing", g.Timeout)
	}
	tls, err := rpc.LoadTLS(g.TLSCert, g.TLSKey, g.TLSCA)
	if err != nil {
		return nil, usagef("%v", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, g.Timeout, errTimeout(g.Timeout))
	return &session{Client: rpc.Dial(g.Server, tls), terminal: t, g: g, ctx: ctx, cancel: cancel}, nil
}

func (s *session) close() {
	s.cancel()
	s.Client.Close()
}

func errTimeout(d time.Duration) error { return fmt.Errorf("not done within %s", d) }

// change runs one mutation under the user's request id, or one of our own, and
// has the error remember which.
func (s *session) change(do func(requestID string) error) error {
	id := s.g.RequestID
	if id == "" {
		id = rpc.NewRequestID()
	}
	if err := do(id); err != nil {
		return &requestError{id, err}
	}
	return nil
}

// each carries out one change for each name. Some failing is exit code 7, all
// failing the code of the first.
func (s *session) each(names []string, do func(name string) error) error {
	if len(names) > 1 && s.g.RequestID != "" {
		return usagef("--request-id names one change, and these are %d", len(names))
	}
	var first error
	failed := 0
	for _, n := range names {
		if err := do(n); err != nil {
			failed++
			if first == nil {
				first = err
			}
			if len(names) > 1 {
				explain(s.err, err, "")
			}
		}
	}
	switch {
	case failed == 0:
		return nil
	case len(names) == 1:
		return first
	}
	code := exitPartial
	if failed == len(names) {
		code = asFailure(first).code
	}
	return &failure{code: code, what: fmt.Sprintf("%d of %d failed", failed, len(names))}
}
