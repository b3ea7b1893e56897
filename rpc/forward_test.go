package rpc

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// lateEnd is a request's body whose end is looked for late: once the answer has
// begun, as on a machine that had no time for whoever sends the request on.
type lateEnd struct {
	io.ReadCloser
	left  int64
	begun <-chan struct{}
}

func (b *lateEnd) Read(p []byte) (int, error) {
	if b.left == 0 {
		select {
		case <-b.begun:
		case <-time.After(10 * time.Second):
		}
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); n > 0 && err == io.EOF {
		err = nil // the next Read finds it
	}
	return n, err
}

// begins tells when the first of an answer has gone out.
type begins struct {
	http.ResponseWriter
	once func()
}

func (w *begins) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b)
	http.NewResponseController(w.ResponseWriter).Flush()
	w.once()
	return n, err
}

func (w *begins) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// A server's answer may begin before the host that passes it on has seen the end of
// the request, which it has sent whole.
func TestAnswerOvertakesItsRequest(t *testing.T) {
	a, host := &node{}, &node{hostOnly: true}
	w := serve(t, noTLS, a, host)
	w.boot(host.id)
	if _, err := dial(t, nil, a).VM.Create(t.Context(), connect.NewRequest(&blixardv1.CreateRequest{Name: "web", Spec: processSpec()})); err != nil {
		t.Fatal(err)
	}
	host.logs.write("hello")
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun := make(chan struct{})
		r.Body = &lateEnd{r.Body, r.ContentLength, begun}
		host.server.Handler().ServeHTTP(&begins{w, sync.OnceFunc(func() { close(begun) })}, r)
	}))
	defer front.Close()
	stream, err := dial(t, nil, &node{address: front.Listener.Addr().String()}).VM.Logs(t.Context(), connect.NewRequest(&blixardv1.LogsRequest{Name: "web"}))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for stream.Receive() {
		out.Write(stream.Msg().Data)
	}
	if out.String() != "hello" || stream.Err() != nil {
		t.Errorf("%q, %v", out.String(), stream.Err())
	}
}
