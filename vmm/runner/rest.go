package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
)

// rest talks HTTP with a hypervisor over its unix socket, a connection for each
// request. Nothing here trusts the other side to answer: every call ends with
// its context, and no answer is read beyond its bound.
type rest struct{ socket string }

// refusal is a hypervisor's own word of why it did not.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return fmt.Sprintf("it refused (%d): %s", r.status, r.text) }

const maxAnswer = 1 << 20

// call asks for something, and reads the answer into result if that is not nil.
func (r rest) call(ctx context.Context, method, path string, body, result any) error {
	what := method + " " + path
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		in = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, in)
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json")
	t := &http.Transport{DisableKeepAlives: true, DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		c, err := meet(ctx, r.socket)
		if err != nil {
			return nil, err // and no Conn at all
		}
		return c, nil
	}}
	defer t.CloseIdleConnections()
	resp, err := t.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return fmt.Errorf("%s: %w", what, &refusal{resp.StatusCode, complaint(answer)})
	case err != nil:
		return fmt.Errorf("%s: %w", what, err)
	case result == nil:
		return nil
	}
	if err := json.Unmarshal(answer, result); err != nil {
		return fmt.Errorf("%s: its answer is not what was agreed: %w", what, err)
	}
	return nil
}

// complaint takes the words out of a refusal: Firecracker's fault_message, or
// cloud-hypervisor's list, which has the outermost reason first.
func complaint(answer []byte) string {
	var fault struct {
		Message string `json:"fault_message"`
	}
	var list []string
	switch {
	case json.Unmarshal(answer, &fault) == nil && fault.Message != "":
		return lastLines(fault.Message, 3, 600)
	case json.Unmarshal(answer, &list) == nil && len(list) > 0:
		return lastLines(strings.Join(list, ": "), 3, 600)
	}
	return lastLines(string(answer), 3, 600)
}

// unheard says that nobody listens on a socket: its process has ended, or has
// not come so far.
func unheard(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT)
}
