package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
)

// cursor remembers which of several servers answered last.
type cursor struct{ at atomic.Uint32 }

// send sends a request to the server of the day, and to the next ones when it
// cannot be reached at all. What a server may have seen is never sent twice
// here: that is for those who know its request id.
func (c *cursor) send(t http.RoundTripper, r *http.Request, servers []string) (*http.Response, error) {
	has := r.Body != nil && r.Body != http.NoBody
	var err error
	for range servers {
		at := c.at.Load()
		out := r.Clone(r.Context())
		out.URL = &url.URL{Scheme: r.URL.Scheme, Host: servers[int(at)%len(servers)], Path: r.URL.Path, RawQuery: r.URL.RawQuery}
		out.Host = ""
		var b *body
		if has {
			b = &body{ReadCloser: r.Body}
			out.Body = b
		}
		var resp *http.Response
		if resp, err = t.RoundTrip(out); err == nil {
			if has {
				b.commit()
			}
			return resp, nil
		}
		c.next(at)
		if !isDial(err) || r.Context().Err() != nil {
			break
		}
	}
	if has {
		r.Body.Close()
	}
	return nil, err
}

// sendWatched sends a request that may be repeated, and whose answer begins at
// once and never pauses for long. A server that does not keep to that is left
// for the next, or if it has begun, ends with an error.
func (c *cursor) sendWatched(t http.RoundTripper, r *http.Request, servers []string, begin, pause time.Duration) (*http.Response, error) {
	var err error
	for range servers {
		at := c.at.Load()
		server := servers[int(at)%len(servers)]
		ctx, cancel := context.WithCancel(r.Context())
		out := r.Clone(ctx)
		out.URL = &url.URL{Scheme: r.URL.Scheme, Host: server, Path: r.URL.Path, RawQuery: r.URL.RawQuery}
		out.Host = ""
		if r.GetBody != nil {
			if out.Body, err = r.GetBody(); err != nil {
				cancel()
				break
			}
		}
		late := time.AfterFunc(begin, cancel)
		var resp *http.Response
		resp, err = t.RoundTrip(out)
		if late.Stop() && err == nil {
			watch(resp, server, pause, cancel)
			return resp, nil
		}
		if err == nil {
			resp.Body.Close()
		}
		cancel()
		if r.Context().Err() != nil {
			break
		}
		if errors.Is(err, context.Canceled) || err == nil {
			err = connect.NewError(connect.CodeUnavailable, fmt.Errorf("%s: %w", server, errSilent))
		}
		c.next(at)
	}
	if r.Body != nil {
		r.Body.Close()
	}
	return nil, err
}

// next moves on, unless somebody else has.
func (c *cursor) next(from uint32) { c.at.CompareAndSwap(from, from+1) }

// isDial says that a request failed before anything of it was sent.
func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
