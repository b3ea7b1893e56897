package rpc

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func TestLogsFromAnyServer(t *testing.T) {
	a, b := &node{}, &node{}
	w := serve(t, noTLS, a, b)
	w.boot(b.id)
	ctx := t.Context()
	c := dial(t, nil, a)
	if _, err := c.VM.Create(ctx, connect.NewRequest(&blixardv1.CreateRequest{Name: "web", Spec: processSpec()})); err != nil {
		t.Fatal(err)
	}
	read := func(n *node, req *blixardv1.LogsRequest) (string, error) {
		stream, err := dial(t, nil, n).VM.Logs(ctx, connect.NewRequest(req))
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		for stream.Receive() {
			out.Write(stream.Msg().Data)
		}
		return out.String(), stream.Err()
	}
	for _, n := range []*node{a, b} {
		if _, err := read(n, &blixardv1.LogsRequest{Name: "web"}); connect.CodeOf(err) != connect.CodeFailedPrecondition {
			t.Errorf("%s, no console yet: %v", n.name, err)
		}
	}
	// Who follows waits for the console, and sees what comes.
	r, live := io.Pipe()
	b.logs.live = r
	stream, err := c.VM.Logs(ctx, connect.NewRequest(&blixardv1.LogsRequest{Name: "web", Follow: true}))
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(250*time.Millisecond, func() { b.logs.write("hello ") })
	next := func() string {
		for stream.Receive() {
			if b := stream.Msg().Data; len(b) > 0 {
				return string(b)
			}
		}
		return ""
	}
	if got := next(); got != "hello " {
		t.Fatalf("first: %q, %v", got, stream.Err())
	}
	go live.Write([]byte("world"))
	if got := next(); got != "world" {
		t.Fatalf("then: %q, %v", got, stream.Err())
	}
	for _, n := range []*node{a, b} {
		if got, err := read(n, &blixardv1.LogsRequest{Name: "web"}); got != "hello " || err != nil {
			t.Errorf("%s: %q, %v", n.name, got, err)
		}
		if got, err := read(n, &blixardv1.LogsRequest{Name: "web", TailBytes: 2}); got != "o " || err != nil {
			t.Errorf("%s, tail: %q, %v", n.name, got, err)
		}
		if _, err := read(n, &blixardv1.LogsRequest{Name: "nope"}); connect.CodeOf(err) != connect.CodeNotFound {
			t.Errorf("%s, no such VM: %v", n.name, err)
		}
	}
	// The host stops: the stream says why it ends.
	down, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	go b.server.Shutdown(down)
	if next() != "" || stream.Err() == nil || !strings.Contains(stream.Err().Error(), "shutting down") {
		t.Errorf("the host stops: %v", stream.Err())
	}
	<-down.Done()
	if _, err := read(a, &blixardv1.LogsRequest{Name: "web"}); connect.CodeOf(err) != connect.CodeUnavailable || !strings.Contains(err.Error(), "host n2") {
		t.Errorf("the host is gone: %v", err)
	}
}

func TestLogsOfAVMWithoutAHost(t *testing.T) {
	n := &node{}
	serve(t, noTLS, n)
	c := dial(t, nil, n)
	if _, err := c.VM.Create(t.Context(), connect.NewRequest(&blixardv1.CreateRequest{Name: "web", Spec: processSpec()})); err != nil {
		t.Fatal(err)
	}
	stream, err := c.VM.Logs(t.Context(), connect.NewRequest(&blixardv1.LogsRequest{Name: "web"}))
	if err != nil {
		t.Fatal(err)
	}
	for stream.Receive() {
		if len(stream.Msg().Data) > 0 {
			t.Errorf("its console says %q", stream.Msg().Data)
		}
	}
	if connect.CodeOf(stream.Err()) != connect.CodeFailedPrecondition {
		t.Errorf("%v", stream.Err())
	}
}

// What a build said is a log of its own, also while there is no console.
func TestBuildLogsFromAnyServer(t *testing.T) {
	a, b := &node{}, &node{}
	w := serve(t, noTLS, a, b)
	ctx := t.Context()
	flake := &blixardv1.VMSpec{Source: &blixardv1.VMSpec_Flake{Flake: &blixardv1.Flake{From: &blixardv1.Flake_Ref{Ref: "github:me/infra"}}}}
	for name, spec := range map[string]*blixardv1.VMSpec{"web": flake, "run": processSpec()} {
		if _, err := dial(t, nil, a).VM.Create(ctx, connect.NewRequest(&blixardv1.CreateRequest{Name: name, Spec: spec})); err != nil {
			t.Fatal(err)
		}
	}
	read := func(n *node, req *blixardv1.LogsRequest) (string, error) {
		stream, err := dial(t, nil, n).VM.Logs(ctx, connect.NewRequest(req))
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		for stream.Receive() {
			out.Write(stream.Msg().Data)
		}
		return out.String(), stream.Err()
	}
	refused := func(name, want string) {
		t.Helper()
		for _, n := range []*node{a, b} {
			if _, err := read(n, &blixardv1.LogsRequest{Name: name, Build: true}); connect.CodeOf(err) != connect.CodeFailedPrecondition || !strings.Contains(err.Error(), want) {
				t.Errorf("%s, %s: %v", n.name, name, err)
			}
		}
	}
	refused("web", "on no host, so nothing is built")
	refused("run", "nothing is built for the VM run")
	w.boot(b.id)
	refused("web", "no build log on n2")
	b.logs.write("console")
	b.logs.build.write("building\n")
	for _, n := range []*node{a, b} {
		if got, err := read(n, &blixardv1.LogsRequest{Name: "web", Build: true}); got != "building\n" || err != nil {
			t.Errorf("%s: %q, %v", n.name, got, err)
		}
		if got, err := read(n, &blixardv1.LogsRequest{Name: "web"}); got != "console" || err != nil {
			t.Errorf("%s, its console: %q, %v", n.name, got, err)
		}
	}
}
