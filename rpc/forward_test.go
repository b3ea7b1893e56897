package rpc

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/proto/blixard/v1/blixardv1connect"
)

const late = 200 * time.Millisecond

// lateEnd is a request's body whose end is found late, as on a machine that has
// no time for whoever sends the request on: a server has answered by then.
type lateEnd struct {
	io.ReadCloser
	left int64
}

func (b *lateEnd) Read(p []byte) (int, error) {
	if b.left == 0 {
		time.Sleep(late)
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); n > 0 && err == io.EOF {
		err = nil // the next Read finds it
	}
	return n, err
}

// A server's answer may come before the host that passes it on has seen the end of
// the request, which it has sent whole.
func TestAnswerOvertakesItsRequest(t *testing.T) {
	a, host := &node{}, &node{hostOnly: true}
	w := serve(t, noTLS, a, host)
	w.boot(host.id)
	if _, err := dial(t, nil, a).VM.Create(t.Context(), connect.NewRequest(&blixardv1.CreateRequest{Name: "web", Spec: processSpec()})); err != nil {
		t.Fatal(err)
	}
	host.logs.write("hello")
	live, more := io.Pipe()
	host.logs.live = live
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = &lateEnd{r.Body, r.ContentLength}
		host.server.Handler().ServeHTTP(w, r)
	}))
	defer front.Close()
	stream, err := dial(t, nil, &node{address: front.Listener.Addr().String()}).VM.Logs(t.Context(), connect.NewRequest(&blixardv1.LogsRequest{Name: "web", Follow: true}))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for stream.Receive() {
		if out.Len() == 0 {
			time.Sleep(2 * late) // for what should not break to break
			go func() { io.WriteString(more, " again"); more.Close() }()
		}
		out.Write(stream.Msg().Data)
	}
	if out.String() != "hello again" || stream.Err() != nil {
		t.Errorf("%q, %v", out.String(), stream.Err())
	}
}

// A host that reaches no server says so on a connection that can be used again,
// whatever of the request nobody has read.
func TestRefusalKeepsTheConnection(t *testing.T) {
	a, host := &node{}, &node{hostOnly: true}
	serve(t, noTLS, a, host)
	a.server.Shutdown(t.Context())
	var reused []bool
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = append(reused, i.Reused) }})
	c := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}
	defer c.CloseIdleConnections()
	for i := range 10 {
		// The kind of body that has no length: net/http looks for its end by itself.
		body := io.MultiReader(strings.NewReader(`{"name":`), strings.NewReader(`"web"}`))
		r, _ := http.NewRequestWithContext(ctx, "POST", "http://"+host.address+blixardv1connect.VMServiceGetProcedure, body)
		r.Header.Set("Content-Type", "application/json")
		resp, err := c.Do(r)
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		if said, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusServiceUnavailable || !bytes.Contains(said, []byte("reached none")) {
			t.Errorf("request %d: %s: %s, %v", i, resp.Status, said, err)
		}
		resp.Body.Close()
	}
	if slices.Contains(reused[1:], false) {
		t.Errorf("a connection was closed after an answer: %v", reused)
	}
}

// An upload that a server refuses at its first word ends with the refusal, also
// behind a host, however much of it is still to come.
func TestRefusalOfAnUploadUnderWay(t *testing.T) {
	a, host := &node{}, &node{hostOnly: true}
	serve(t, noTLS, a, host)
	content := bytes.Repeat([]byte("kernel! "), 4<<20) // more than sockets hold
	for range 3 {
		_, err := upload(t.Context(), dial(t, nil, host), content, "no digest", len(content), "")
		if connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Error(err)
		}
	}
}
