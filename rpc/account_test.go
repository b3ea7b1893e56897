package rpc

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// book is a log that can be read while it is written.
type book struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *book) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

// lines are those about one procedure: a client may have its answer before its server
// has written them.
func (l *book) lines(t *testing.T, procedure string, n int) (all []map[string]any) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); len(all) < n && time.Now().Before(end); time.Sleep(time.Millisecond) {
		all = nil
		l.mu.Lock()
		text := l.b.String()
		l.mu.Unlock()
		for line := range strings.Lines(text) {
			m := map[string]any{}
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			if m["msg"] == "request" && m["procedure"] == procedure {
				all = append(all, m)
			}
		}
	}
	if len(all) != n {
		t.Fatalf("%s is in the log %d times, want %d: %v", procedure, len(all), n, all)
	}
	return all
}

// Who asked for what, when and with what outcome is in the log, to be found by the
// request id that the client knows, and the events of it by the revision.
func TestRequestsAreInTheLog(t *testing.T) {
	log := &book{}
	var open sync.Map
	n := &node{log: slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	n.opened = func(procedure string) func(error) {
		open.Store(procedure, "open")
		return func(err error) { open.Store(procedure, connect.CodeOf(err).String()) }
	}
	w := serve(t, noTLS, n)
	w.boot(n.id)
	c, ctx := dial(t, nil, n), t.Context()
	has := func(m map[string]any, want map[string]any) {
		t.Helper()
		for k, v := range want {
			if m[k] != v {
				t.Errorf("%s is %v, want %v: %v", k, m[k], v, m)
			}
		}
	}

	id := NewRequestID()
	create := &blixardv1.CreateRequest{Name: "web", Spec: processSpec(), RequestId: strings.ToUpper(id)}
	created, err := c.VM.Create(ctx, connect.NewRequest(create))
	if err != nil {
		t.Fatal(err)
	}
	l := log.lines(t, "VM.Create", 1)
	has(l[0], map[string]any{"level": "INFO", "request_id": id, "principal": "anonymous", "code": "ok", "name": "web"})
	if took, ok := l[0]["took"].(float64); !ok || took <= 0 {
		t.Errorf("it took %v", l[0]["took"])
	}
	view, err := n.Read(ctx, true)
	if err != nil {
		t.Fatal(err)
	}
	placed := 0
	news, _ := view.Since(0, true)
	for _, e := range news.Events {
		if e.Vm == "web" && l[0]["revision"] == float64(e.Index) {
			placed++
		}
	}
	if placed == 0 {
		t.Errorf("no event of %v has the revision of %v: %v", created.Msg.Vm, l[0], news.Events)
	}

	// One that is refused, and was given its id here.
	_, err = c.VM.Create(ctx, connect.NewRequest(&blixardv1.CreateRequest{Name: "web", Spec: processSpec()}))
	_, given := Refused(err)
	l = log.lines(t, "VM.Create", 2)
	has(l[1], map[string]any{"level": "INFO", "request_id": given, "code": "already_exists"})
	if text, _ := l[1]["error"].(string); given == "" || !strings.Contains(text, "web") {
		t.Errorf("a refusal under %q: %v", given, l[1])
	}
	// One that is refused before it is a command has the id that it came with, bounded.
	if _, err = c.VM.Stop(ctx, connect.NewRequest(&blixardv1.StopRequest{Name: "web", RequestId: strings.Repeat("x", 5000)})); err == nil {
		t.Error("that is no request id")
	}
	l = log.lines(t, "VM.Stop", 1)
	has(l[0], map[string]any{"level": "INFO", "request_id": strings.Repeat("x", 1000) + "...", "code": "invalid_argument"})

	if _, err := c.VM.Get(ctx, connect.NewRequest(&blixardv1.GetRequest{Name: "web"})); err != nil {
		t.Fatal(err)
	}
	has(log.lines(t, "VM.Get", 1)[0], map[string]any{"level": "DEBUG", "code": "ok", "request_id": nil})
	n.mu.Lock()
	n.outside = true
	n.mu.Unlock()
	if _, err := c.Cluster.Join(ctx, connect.NewRequest(&blixardv1.JoinRequest{Server: "127.0.0.1:1"})); connect.CodeOf(err) != connect.CodeInternal {
		t.Fatalf("join: %v", err)
	}
	has(log.lines(t, "Cluster.Join", 1)[0], map[string]any{"level": "WARN", "code": "internal", "error": "not here"})

	watching, err := c.Watch.Watch(ctx, connect.NewRequest(&blixardv1.WatchRequest{}))
	if err == nil {
		watching.Receive()
		err = watching.Err()
	}
	if connect.CodeOf(err) == connect.CodeUnknown {
		t.Errorf("a watch of nothing: %v", err)
	}
	has(log.lines(t, "Watch.Watch", 1)[0], map[string]any{"level": "DEBUG", "code": connect.CodeOf(err).String()})
	if got, _ := open.Load("/blixard.v1.WatchService/Watch"); got != connect.CodeOf(err).String() {
		t.Errorf("whoever counts streams has heard %v of the end of it, and the client %v", got, err)
	}
}

// A handler that panics is heard of; what net/http says of its peers is not.
func TestPanicsAreSaid(t *testing.T) {
	log := &book{}
	n := &node{log: slog.New(slog.NewTextHandler(log, nil)), checkVM: func(context.Context, *blixardv1.VMSpec) error { panic("oops") }}
	serve(t, noTLS, n)
	one, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_, err := dial(t, nil, n).VM.Create(one, connect.NewRequest(&blixardv1.CreateRequest{Name: "web", Spec: processSpec()}))
	n.server.http.ErrorLog.Print("http: TLS handshake error from 127.0.0.1:1: EOF")
	log.mu.Lock()
	defer log.mu.Unlock()
	if got := log.b.String(); err == nil || !strings.Contains(got, "level=ERROR") || !strings.Contains(got, "oops") || strings.Contains(got, "handshake") {
		t.Errorf("%v: %s", err, got)
	}
}
