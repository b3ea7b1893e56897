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
	"strconv"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Between nodes a log travels as frames: an empty one says that the host is
// still there, another begins with what it is.
const (
	logsPath = "/blixard.internal/v1/logs"

	logsData = 0
	logsEnd  = 1 // the rest is why; nothing: that was all

	logsBeat   = 3 * time.Second
	logsSilent = 12 * time.Second
)

// serveLogs streams a log of this host to another node.
func (s *Server) serveLogs(w http.ResponseWriter, r *http.Request) {
	if !nodeOnly(w, r, s.cfg.TLS) {
		return
	}
	q := r.URL.Query()
	tail, err := strconv.ParseUint(q.Get("tail"), 10, 64)
	if err != nil {
		http.Error(w, "tail is no number", http.StatusBadRequest)
		return
	}
	c, err := s.openLogs(r.Context(), logsQuery{uid: q.Get("uid"), build: q.Get("build") == "true", follow: q.Get("follow") == "true", tail: tail})
	if errors.Is(err, fs.ErrNotExist) {
		http.Error(w, "no such log of that VM here", http.StatusNotFound)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	flush := http.NewResponseController(w)
	write := func(payload ...byte) error {
		if _, err := w.Write(appendFrame(nil, payload)); err != nil {
			return err
		}
		return flush.Flush()
	}
	if write() != nil {
		c.Close()
		return
	}
	err = s.pump(r.Context(), c, func(b []byte) error {
		return write(append([]byte{logsData}, b...)...)
	}, func() error { return write() })
	end := []byte{logsEnd}
	if err != nil {
		end = append(end, err.Error()...)
	}
	write(end...)
}

// remoteLogs reads a log of another host.
func (s *Server) remoteLogs(ctx context.Context, host *blixardv1.Node, q logsQuery) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	r := &remoteLogs{host: host, cancel: cancel, watchdog: time.AfterFunc(logsSilent, cancel)}
	u := url.URL{Scheme: s.cfg.TLS.scheme(), Host: host.Address, Path: logsPath, RawQuery: url.Values{
		"uid": {q.uid}, "build": {strconv.FormatBool(q.build)}, "follow": {strconv.FormatBool(q.follow)}, "tail": {strconv.FormatUint(q.tail, 10)},
	}.Encode()}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		r.Close()
		return nil, err
	}
	resp, err := s.call.Do(req)
	if err != nil {
		r.Close()
		return nil, r.unreachable(err)
	}
	r.body = resp.Body
	r.frames = bufio.NewReader(resp.Body)
	if resp.StatusCode == http.StatusOK {
		return r, nil
	}
	defer r.Close()
	if resp.StatusCode == http.StatusNotFound {
		return nil, fs.ErrNotExist
	}
	why, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
	return nil, fmt.Errorf("the host %s (%s) cannot show the log: %s (%s)", host.Name, host.Address, bytes.TrimSpace(why), resp.Status)
}

type remoteLogs struct {
	host     *blixardv1.Node
	cancel   context.CancelFunc
	watchdog *time.Timer
	body     io.Closer
	frames   *bufio.Reader
	buf      bytes.Buffer
	rest     []byte
}

func (r *remoteLogs) Read(b []byte) (int, error) {
	for len(r.rest) == 0 {
		if err := readFrame(r.frames, &r.buf, chunk); err != nil {
			return 0, r.unreachable(err)
		}
		r.watchdog.Reset(logsSilent)
		frame := r.buf.Bytes()
		switch {
		case len(frame) == 0:
		case frame[0] == logsData:
			r.rest = frame[1:]
		case len(frame) == 1:
			return 0, io.EOF
		default:
			return 0, r.unreachable(errors.New(string(frame[1:])))
		}
	}
	n := copy(b, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (r *remoteLogs) Close() error {
	r.watchdog.Stop()
	r.cancel()
	if r.body != nil {
		return r.body.Close()
	}
	return nil
}

func (r *remoteLogs) unreachable(err error) error {
	if errors.Is(err, context.Canceled) {
		err = fmt.Errorf("nothing came from it for %s", logsSilent)
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // a request of ours tells nobody anything
	}
	return refuse(blixardv1.ErrorCode_ERROR_CODE_NO_QUORUM, "",
		fmt.Sprintf("the log is on the host %s (%s), which cannot be reached: %v", r.host.Name, r.host.Address, err),
		"see 'blixard node get "+r.host.Name+"'; once the VM has moved, ask again")
}
