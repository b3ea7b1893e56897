package rpc

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A server that is stopped (SIGSTOP, a hung disk) still takes connections: its
// kernel does. Of several it is left for the next; alone it is named.
func TestSilentServer(t *testing.T) {
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	n := &node{}
	serve(t, noTLS, n)
	c := Dial([]string{mute.Addr().String(), n.address}, nil)
	defer c.Close()
	c.silent = 100 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := c.VM.Create(ctx, connect.NewRequest(&blixardv1.CreateRequest{Name: "web", Spec: processSpec()})); err != nil {
		t.Errorf("create: %v", err)
	}
	if _, err := c.VM.Get(ctx, connect.NewRequest(&blixardv1.GetRequest{Name: "web"})); err != nil {
		t.Errorf("get: %v", err)
	}
	// A refusal says more than that another server is silent.
	n.mu.Lock()
	n.down = true
	n.mu.Unlock()
	short, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err = c.VM.Delete(short, connect.NewRequest(&blixardv1.DeleteRequest{Name: "web"}))
	if detail, _ := Refused(err); detail.GetCode() != blixardv1.ErrorCode_ERROR_CODE_NO_QUORUM {
		t.Errorf("no quorum: %v", err)
	}

	alone := Dial([]string{mute.Addr().String()}, nil)
	defer alone.Close()
	short, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = alone.VM.Get(short, connect.NewRequest(&blixardv1.GetRequest{Name: "web"}))
	if connect.CodeOf(err) != connect.CodeDeadlineExceeded || !strings.Contains(err.Error(), mute.Addr().String()) {
		t.Errorf("alone: %v", err)
	}
}
