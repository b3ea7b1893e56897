package rpc

import (
	"bytes"
	"context"
	"io"
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
	t.Parallel()
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	n := &node{}
	serve(t, noTLS, n)
	// Also the good one is given so long only, on a machine that may be busy.
	c := Dial([]string{mute.Addr().String(), n.address}, nil)
	defer c.Close()
	c.silent = 3 * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
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
	short, cancel := context.WithTimeout(t.Context(), 5*time.Second)
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

// mute is a server that takes connections, says at most this, and no more.
func mute(t *testing.T, says string) (address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			io.WriteString(conn, says)
		}
	}()
	return l.Addr().String()
}

// A stream is opened at the next server when one does not begin it, and ends
// when one that has begun is silent.
func TestSilentServerOfAStream(t *testing.T) {
	t.Parallel()
	n := &node{}
	serve(t, noTLS, n).boot(n.id)
	logs := func(patience time.Duration, servers ...string) (string, error) {
		c := Dial(servers, nil)
		defer c.Close()
		c.silent, c.quiet = patience, patience
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		stream, err := c.VM.Logs(ctx, connect.NewRequest(&blixardv1.LogsRequest{Name: "web"}))
		if err != nil {
			return "", err
		}
		var out strings.Builder
		for stream.Receive() {
			out.Write(stream.Msg().Data)
		}
		return out.String(), stream.Err()
	}
	c := Dial([]string{n.address}, nil)
	defer c.Close()
	if _, err := c.VM.Create(t.Context(), connect.NewRequest(&blixardv1.CreateRequest{Name: "web", Spec: processSpec()})); err != nil {
		t.Fatal(err)
	}
	n.logs.write("hello")
	if got, err := logs(5*time.Second, mute(t, ""), n.address); got != "hello" || err != nil {
		t.Errorf("the first is mute: %q, %v", got, err)
	}
	if _, err := logs(200*time.Millisecond, mute(t, "")); connect.CodeOf(err) != connect.CodeUnavailable || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("the only one is mute: %v", err)
	}
	begun := "HTTP/1.1 200 OK\r\nContent-Type: application/connect+proto\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n\x00\x00\x00\x00\x00\r\n"
	if _, err := logs(5*time.Second, mute(t, begun)); connect.CodeOf(err) != connect.CodeUnavailable || !strings.Contains(err.Error(), "silent") {
		t.Errorf("it falls silent: %v", err)
	}
}

// An upload that nobody takes is made again, from the beginning, at the next server.
func TestUploadFailsOver(t *testing.T) {
	t.Parallel()
	n := &node{}
	serve(t, noTLS, n)
	c := Dial([]string{mute(t, ""), n.address}, nil)
	defer c.Close()
	c.stuck = 5 * time.Second                          // the good one keeps to it, too
	content := bytes.Repeat([]byte("kernel! "), 4<<20) // more than sockets hold
	header := &blixardv1.UploadHeader{Digest: digestOf(content), Size: uint64(len(content))}
	r, err := c.Upload(t.Context(), header, bytes.NewReader(content))
	if err != nil || r.GetArtifact().GetDigest() != header.Digest {
		t.Fatalf("%v, %v", r, err)
	}
	if size, ok := n.blobs.Has(header.Digest); !ok || size != header.Size {
		t.Errorf("stored %d bytes, %t", size, ok)
	}
	alone := Dial([]string{mute(t, "")}, nil)
	defer alone.Close()
	alone.stuck = 300 * time.Millisecond
	if _, err := alone.Upload(t.Context(), header, bytes.NewReader(content)); connect.CodeOf(err) != connect.CodeUnavailable || !strings.Contains(err.Error(), "taken nothing") {
		t.Errorf("alone: %v", err)
	}
}
