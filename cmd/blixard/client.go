package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/blixard/blixard/rpc"
)

// session is one command's talk with the cluster.
type session struct {
	*rpc.Client
	*terminal
	g   *Globals
	tls *rpc.TLS
	// ctx ends after patience, or with parent, the command's own.
	ctx, parent context.Context
	cancel      context.CancelFunc
	began       time.Time
	patience    time.Duration
}

// defaultPatience is --timeout where it is not given.
const defaultPatience = 2 * time.Minute

// timeout is what the user said, or what is usual.
func (g *Globals) timeout() time.Duration {
	if g.Timeout == nil {
		return defaultPatience
	}
	return *g.Timeout
}

// open connects as the flags say. Everything that the session does ends with
// --timeout, except for streams: they use the command's own context.
func open(g *Globals, t *terminal, ctx context.Context) (*session, error) {
	if g.timeout() <= 0 {
		return nil, usagef("--timeout %s: want more than nothing", g.timeout())
	}
	var err error
	if g.Server, err = addresses(g.Server); err != nil {
		return nil, err
	}
	tls, err := rpc.LoadTLS(g.TLSCert, g.TLSKey, g.TLSCA)
	if err != nil {
		return nil, usagef("%v", err)
	}
	s := &session{Client: rpc.Dial(g.Server, tls), terminal: t, g: g, tls: tls, parent: ctx, began: time.Now(), cancel: func() {}}
	s.endAfter(g.timeout())
	return s, nil
}

// endAfter sets when the session ends, counted from its beginning.
func (s *session) endAfter(d time.Duration) {
	s.cancel()
	s.patience = d
	s.ctx, s.cancel = context.WithDeadlineCause(s.parent, s.began.Add(d), errTimeout(d))
}

// allow gives the session more time, unless its user said how long it may take.
func (s *session) allow(d time.Duration) {
	if s.g.Timeout == nil && d > s.patience {
		s.endAfter(d)
	}
}

// defaultPort is where serve listens when nobody says otherwise.
const defaultPort = "7946"

// addresses completes what --server says: without a port, ours is meant.
func addresses(given []string) ([]string, error) {
	var list []string
	for _, a := range given {
		if a = strings.TrimSpace(a); a == "" {
			continue
		}
		host, port, err := net.SplitHostPort(a)
		if err != nil {
			host, port = strings.Trim(a, "[]"), defaultPort
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strings.ContainsAny(host, "/ ") {
			return nil, usagef("--server %s: want HOST:PORT, such as 10.0.0.1:%s", a, defaultPort)
		}
		list = append(list, net.JoinHostPort(host, port))
	}
	if len(list) == 0 {
		return nil, usagef("--server names no node: want HOST:PORT, such as 10.0.0.1:%s", defaultPort)
	}
	return list, nil
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
	return s.collect(names, func(name string) error {
		if name != names[0] && errors.Is(s.ctx.Err(), context.DeadlineExceeded) {
			return &failure{code: exitTimeout, what: "nothing was asked for " + name,
				why: fmt.Sprintf("the time for all of them together, %s, was over", s.patience), next: "allow more with --timeout, or name fewer"}
		}
		return do(name)
	})
}

// collect does something for each name, tells what fails, and sums it up.
func (s *session) collect(names []string, do func(name string) error) error {
	var first error
	failed := 0
	for _, n := range names {
		if err := do(n); err != nil {
			failed++
			if errors.Is(s.ctx.Err(), context.Canceled) {
				return err // nobody waits for the others
			}
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
