package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A stream has no answer to wait for, so a client must tell a server that has
// nothing to say from one that is stopped or cut off. A stream of logs begins
// with an empty piece, and has another one now and then. An upload goes on: what
// is sent is taken.

// errSilent is a server that does not even begin to answer.
var errSilent = errors.New("it takes connections and does not answer")

// errEnded is a stream without an end that ended.
var errEnded = errors.New("the stream ended")

// watched is the body of an answer that must not be silent for long.
type watched struct {
	io.ReadCloser
	patience time.Duration
	timer    *time.Timer
	cancel   context.CancelFunc
	server   string
	mu       sync.Mutex
	silent   bool
}

func watch(resp *http.Response, server string, patience time.Duration, cancel context.CancelFunc) {
	w := &watched{ReadCloser: resp.Body, patience: patience, cancel: cancel, server: server}
	w.timer = time.AfterFunc(patience, func() {
		w.mu.Lock()
		w.silent = true
		w.mu.Unlock()
		cancel()
	})
	resp.Body = w
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.ReadCloser.Read(b)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		w.timer.Reset(w.patience)
	} else if w.silent {
		err = connect.NewError(connect.CodeUnavailable, fmt.Errorf("%s has been silent for %s: it is stopped or cut off", w.server, w.patience))
	}
	return n, err
}

func (w *watched) Close() error {
	w.timer.Stop()
	w.cancel()
	return w.ReadCloser.Close()
}

// Upload brings size bytes to the cluster, which checks them against the digest.
// When a server goes away or takes nothing any more, the next one gets all of
// them from the beginning: an upload can be repeated.
func (c *Client) Upload(ctx context.Context, header *blixardv1.UploadHeader, content io.ReadSeeker) (*blixardv1.UploadResponse, error) {
	for try := 1; ; try++ {
		if _, err := content.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		at := c.cursor.at.Load()
		resp, err := c.uploadOnce(ctx, header, content)
		if err == nil || ctx.Err() != nil || try >= len(c.servers) || !again(err) {
			return resp, err
		}
		c.cursor.next(at)
	}
}

// uploadStuck is how long a server may take nothing of what is sent to it.
const uploadStuck = 15 * time.Second

func (c *Client) uploadOnce(ctx context.Context, header *blixardv1.UploadHeader, content io.Reader) (*blixardv1.UploadResponse, error) {
	stuck := fmt.Errorf("the server has taken nothing for %s", c.stuck)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(c.stuck, func() { cancel(stuck) })
	defer timer.Stop()
	stream := c.Artifact.Upload(ctx)
	err := stream.Send(&blixardv1.UploadRequest{Part: &blixardv1.UploadRequest_Header{Header: header}})
	var broken error // reading the content failed: nothing to do with the cluster
	for buf := make([]byte, 256<<10); err == nil && broken == nil; {
		timer.Stop() // our own disk may be slow
		n, e := io.ReadFull(content, buf)
		if n > 0 {
			timer.Reset(c.stuck)
			err = stream.Send(&blixardv1.UploadRequest{Part: &blixardv1.UploadRequest_Data{Data: buf[:n]}})
		}
		if errors.Is(e, io.EOF) || errors.Is(e, io.ErrUnexpectedEOF) {
			break
		}
		broken = e
	}
	// It has all it needs now, and may take its time: others must hold it too.
	timer.Reset(uploadWait + c.stuck)
	// When Send has failed, the server's answer says why.
	resp, err := stream.CloseAndReceive()
	switch {
	case broken != nil:
		return nil, broken
	case err == nil:
		return resp.Msg, nil
	case context.Cause(ctx) == stuck:
		return nil, connect.NewError(connect.CodeUnavailable, stuck)
	}
	return nil, err
}
