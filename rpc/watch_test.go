package rpc

import (
	"context"
	"errors"
	"testing"
	"time"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

var everything = &blixardv1.WatchRequest{Vms: true, Nodes: true, Events: true}

// follow gives the steps that a watcher is told, in a channel.
func follow(t *testing.T, c *Client, req *blixardv1.WatchRequest) (steps chan *blixardv1.WatchResponse, end chan error) {
	steps, end = make(chan *blixardv1.WatchResponse, 100), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		end <- c.Follow(ctx, req, func(r *blixardv1.WatchResponse) error { steps <- r; return nil })
	}()
	t.Cleanup(func() { cancel(); <-done })
	return steps, end
}

// until gives the first step of which ok is true.
func until(t *testing.T, steps chan *blixardv1.WatchResponse, ok func(*blixardv1.WatchResponse) bool) *blixardv1.WatchResponse {
	t.Helper()
	for late := time.After(time.Minute); ; {
		select {
		case s := <-steps:
			if s.Revision == 0 {
				t.Fatal("a step without a revision")
			}
			if ok(s) {
				return s
			}
		case <-late:
			t.Fatal("nothing of the kind was told")
		}
	}
}

func hasVM(name string) func(*blixardv1.WatchResponse) bool {
	return func(r *blixardv1.WatchResponse) bool {
		for _, vm := range r.Vms {
			if vm.Name == name {
				return true
			}
		}
		return false
	}
}

// A watcher is told all there is, then what changes, also when its server goes
// away, and no event twice.
func TestWatch(t *testing.T) {
	a, b := &node{}, &node{}
	w := serve(t, noTLS, a, b)
	w.boot(a.id)
	c, ctx := dial(t, nil, a, b), t.Context()
	create := func(name string) {
		t.Helper()
		if _, err := c.VM.Create(ctx, connect.NewRequest(&blixardv1.CreateRequest{Name: name, Spec: processSpec()})); err != nil {
			t.Fatal(err)
		}
	}
	create("before")
	steps, _ := follow(t, c, everything)
	first := until(t, steps, hasVM("before"))
	if len(first.Nodes) != 2 || len(first.Events) == 0 {
		t.Fatal("not all there is", first)
	}
	seen := map[string]int{}
	count := func(ok func(*blixardv1.WatchResponse) bool) func(*blixardv1.WatchResponse) bool {
		return func(r *blixardv1.WatchResponse) bool {
			for _, e := range r.Events {
				seen[e.Type+" "+e.Vm]++
			}
			return ok(r)
		}
	}
	create("one")
	until(t, steps, count(hasVM("one")))
	stop, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := a.server.Shutdown(stop); err != nil {
		t.Fatal(err)
	}
	create("two")
	until(t, steps, count(hasVM("two")))
	if seen["VMPlaced one"] != 1 || seen["VMPlaced two"] != 1 || seen["VMPlaced before"] != 0 {
		t.Fatal("events are missing or told twice", seen)
	}
	if _, err := c.VM.Stop(ctx, connect.NewRequest(&blixardv1.StopRequest{Name: "two"})); err != nil {
		t.Fatal(err)
	}
	until(t, steps, func(r *blixardv1.WatchResponse) bool { return hasVM("two")(r) && !r.Vms[0].Run })
}

// Without a quorum a server does not go on as if nothing were, and the watcher
// goes on when there is one again.
func TestWatchWithoutQuorum(t *testing.T) {
	n := &node{}
	w := serve(t, noTLS, n)
	c := dial(t, nil, n)
	stream, err := c.Watch.Watch(t.Context(), connect.NewRequest(everything))
	if err != nil || !stream.Receive() {
		t.Fatal(err, stream.Err())
	}
	steps, _ := follow(t, c, everything)
	until(t, steps, func(*blixardv1.WatchResponse) bool { return true })
	w.mu.Lock()
	w.down = true
	w.mu.Unlock()
	for stream.Receive() {
	}
	if d, _ := Refused(stream.Err()); d.GetCode() != blixardv1.ErrorCode_ERROR_CODE_NO_QUORUM {
		t.Fatal("the stream went on, or ended otherwise:", stream.Err())
	}
	w.mu.Lock()
	w.down = false
	w.mu.Unlock()
	w.boot(n.id)
	until(t, steps, func(r *blixardv1.WatchResponse) bool { return len(r.Nodes) == 1 && r.Nodes[0].Host.Epoch == 1 })
}

func TestWatchRefuses(t *testing.T) {
	n := &node{}
	w := serve(t, noTLS, n)
	c := dial(t, nil, n)
	w.mu.Lock()
	for i := range 2100 {
		w.apply(&blixardv1.Command{Op: &blixardv1.Command_Cordon{Cordon: &blixardv1.CordonOp{Name: "n1", Cordoned: i%2 == 0}}})
	}
	w.mu.Unlock()
	for _, test := range []struct {
		req  *blixardv1.WatchRequest
		code connect.Code
	}{
		{&blixardv1.WatchRequest{}, connect.CodeInvalidArgument},
		{&blixardv1.WatchRequest{Vms: true, Vm: "No Name"}, connect.CodeInvalidArgument},
		{&blixardv1.WatchRequest{Vms: true, Revision: 1 << 40}, connect.CodeFailedPrecondition},
		{&blixardv1.WatchRequest{Events: true, Revision: 3}, connect.CodeOutOfRange},
	} {
		err := c.Follow(t.Context(), test.req, func(*blixardv1.WatchResponse) error { return errors.New("was told something") })
		if connect.CodeOf(err) != test.code {
			t.Errorf("%v: %v, want %v", test.req, err, test.code)
		}
	}
	// Many things come in several messages, and are one step.
	var events int
	enough := errors.New("enough")
	err := c.Follow(t.Context(), &blixardv1.WatchRequest{Events: true}, func(r *blixardv1.WatchResponse) error {
		events = len(r.Events)
		return enough
	})
	if err != enough || events != 2048 {
		t.Fatal(events, err)
	}
}
