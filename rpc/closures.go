package rpc

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"regexp"
	"time"
)

// What Nix built on one host is copied to another as frames, as a console is
// (logs_remote.go): the bytes of `nix-store --export`, which only that other
// host's Nix looks into.
const (
	closurePath = "/blixard.internal/v1/closure"

	closureData   = 0
	closureEnd    = 1 // the rest is why; nothing: that was all
	closureAbsent = 2 // it is not held here, which was found out late

	closureBeat   = 3 * time.Second
	closureSilent = 15 * time.Second
	// closureStalled is how long whoever asked may take no bytes: its disk may
	// be slow, but a process of ours waits meanwhile.
	closureStalled = 5 * time.Minute
)

// storePath is what a path in a Nix store looks like: a store's folder, the hash
// in Nix's base 32, a name.
var storePath = regexp.MustCompile(`^(/[A-Za-z0-9_+][A-Za-z0-9._+-]*)+/[0-9abcdfghijklmnpqrsvwxyz]{32}-[A-Za-z0-9+._?=-]{1,211}$`)

func checkStorePath(p string) error {
	if len(p) > 1024 || !storePath.MatchString(p) {
		return fmt.Errorf("%.100q is no path in a Nix store", p)
	}
	return nil
}

// serveClosure streams a closure to another node. What goes wrong before the
// first byte is a status, what goes wrong later the last frame.
func (s *Server) serveClosure(w http.ResponseWriter, r *http.Request) {
	if !nodeOnly(w, r, s.cfg.TLS) {
		return
	}
	path := r.URL.Query().Get("path")
	if err := checkStorePath(path); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if s.cfg.Closures == nil {
		http.Error(w, "this node builds nothing", http.StatusNotFound)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	out, in := io.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		in.CloseWithError(s.cfg.Closures.Export(ctx, path, in))
	}()
	control, begun := http.NewResponseController(w), false
	write := func(payload ...byte) error {
		begun = true
		control.SetWriteDeadline(time.Now().Add(closureStalled))
		if _, err := w.Write(appendFrame(nil, payload)); err != nil {
			return err
		}
		return control.Flush()
	}
	err := s.pump(ctx, out, func(b []byte) error {
		return write(append([]byte{closureData}, b...)...)
	}, func() error { return write() })
	cancel()
	<-ended
	absent := errors.Is(err, fs.ErrNotExist)
	switch {
	case begun && absent:
		write(closureAbsent)
	case begun && err != nil:
		write(append([]byte{closureEnd}, err.Error()...)...)
	case absent:
		http.Error(w, "it is not held here", http.StatusNotFound)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		write(closureEnd)
	}
}

// Closure opens the closure of a store path that another host holds. An error
// that is fs.ErrNotExist says that it holds it no more: another may. The reader
// fails, and does not end, when not everything came.
func (f *Fetcher) Closure(ctx context.Context, address, storePath string) (io.ReadCloser, error) {
	if err := checkStorePath(storePath); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	c := &closure{address: address, path: storePath, ctx: ctx, cancel: cancel}
	c.watchdog = time.AfterFunc(closureSilent, func() { cancel(fmt.Errorf("nothing came for %s", closureSilent)) })
	u := url.URL{Scheme: f.tls.scheme(), Host: address, Path: closurePath, RawQuery: url.Values{"path": {storePath}}.Encode()}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		c.Close()
		return nil, err
	}
	resp, err := f.http.Do(req)
	c.watchdog.Stop()
	if err != nil {
		defer c.Close()
		return nil, c.fail(err)
	}
	c.body, c.frames = resp.Body, bufio.NewReaderSize(resp.Body, 64<<10)
	if resp.StatusCode == http.StatusOK {
		return c, nil
	}
	defer c.Close()
	if resp.StatusCode == http.StatusNotFound {
		return nil, c.fail(fs.ErrNotExist)
	}
	c.watchdog.Reset(closureSilent)
	why, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
	return nil, c.fail(fmt.Errorf("%s (%s)", bytes.TrimSpace(why), resp.Status))
}

// closure is frames as a reader.
type closure struct {
	address, path string
	ctx           context.Context
	cancel        context.CancelCauseFunc
	watchdog      *time.Timer
	body          io.Closer
	frames        *bufio.Reader
	buf           bytes.Buffer
	rest          []byte
	err           error
}

// Read waits for the next frame no longer than a host may be silent. Between two
// Reads nobody waits: whoever reads may be slow.
func (c *closure) Read(b []byte) (int, error) {
	for len(c.rest) == 0 && c.err == nil {
		c.watchdog.Reset(closureSilent)
		err := readFrame(c.frames, &c.buf, chunk)
		c.watchdog.Stop()
		frame := c.buf.Bytes()
		switch {
		case err == io.EOF:
			c.err = c.fail(io.ErrUnexpectedEOF)
		case err != nil:
			c.err = c.fail(err)
		case len(frame) == 0:
		case frame[0] == closureData:
			c.rest = frame[1:]
		case frame[0] == closureAbsent:
			c.err = c.fail(fs.ErrNotExist)
		case len(frame) == 1:
			c.err = io.EOF
		default:
			c.err = c.fail(errors.New(string(frame[1:])))
		}
	}
	n := copy(b, c.rest)
	if c.rest = c.rest[n:]; n == 0 && len(b) > 0 {
		return 0, c.err
	}
	return n, nil
}

func (c *closure) Close() error {
	c.watchdog.Stop()
	c.cancel(nil)
	if c.body != nil {
		return c.body.Close()
	}
	return nil
}

func (c *closure) fail(err error) error {
	if c.ctx.Err() != nil {
		err = context.Cause(c.ctx)
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // a request of ours tells nobody anything
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the host at %s does not hold %s: %w", c.address, c.path, fs.ErrNotExist)
	}
	return fmt.Errorf("copy %s from the host at %s: %w", c.path, c.address, err)
}
