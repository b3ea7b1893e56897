package rpc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func upload(ctx context.Context, c *Client, data []byte, digest string, size int, name string) (*blixardv1.UploadResponse, error) {
	stream := c.Artifact.Upload(ctx)
	err := stream.Send(&blixardv1.UploadRequest{Part: &blixardv1.UploadRequest_Header{
		Header: &blixardv1.UploadHeader{Digest: digest, Size: uint64(size), Name: name}}})
	for len(data) > 0 && err == nil {
		n := min(len(data), 1<<20)
		err = stream.Send(&blixardv1.UploadRequest{Part: &blixardv1.UploadRequest_Data{Data: data[:n]}})
		data = data[n:]
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	resp, err := stream.CloseAndReceive()
	if err != nil {
		return nil, err
	}
	return resp.Msg, nil
}

func replicate(t *testing.T, n *node) {
	run(t, &Replicator{Backend: n, Blobs: n.blobs, Fetcher: NewFetcher(nil), List: n.blobs.list})
}

func run(t *testing.T, r *Replicator) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { r.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
}

// What the cluster knows is kept, and what it has forgotten is deleted: on
// servers, and on hosts that have only fetched it.
func TestWhatNobodyKnowsIsDeleted(t *testing.T) {
	a, host := &node{}, &node{hostOnly: true}
	serve(t, noTLS, a, host)
	c, ctx := dial(t, nil, a), t.Context()
	known, stray := []byte("known"), []byte("forgotten")
	if _, err := upload(ctx, c, known, digestOf(known), len(known), ""); err != nil {
		t.Fatal(err)
	}
	nodes := []*node{a, host}
	for _, n := range nodes {
		for _, data := range [][]byte{known, stray} {
			if err := n.blobs.Put(ctx, bytes.NewReader(data), digestOf(data), uint64(len(data))); err != nil {
				t.Fatal(err)
			}
		}
	}
	begin := time.Now()
	const grace = 3 * time.Second
	for _, n := range nodes {
		run(t, &Replicator{Backend: n, Blobs: n.blobs, Fetcher: NewFetcher(nil), List: n.blobs.list, verify: time.Millisecond, grace: grace})
	}
	for _, n := range nodes {
		for has := true; has; time.Sleep(20 * time.Millisecond) {
			if _, has = n.blobs.Has(digestOf(stray)); has && time.Since(begin) > 30*time.Second {
				t.Fatalf("%s keeps what nobody knows", n.name)
			}
		}
		if _, ok := n.blobs.Has(digestOf(known)); !ok {
			t.Errorf("%s has deleted what is known", n.name)
		}
	}
	if took := time.Since(begin); took < grace {
		t.Errorf("it was deleted after %s: what is just being uploaded is not known either", took)
	}
}

func TestUploadIsHeldTwice(t *testing.T) {
	a, b, c3 := &node{}, &node{}, &node{}
	serve(t, noTLS, a, b, c3)
	replicate(t, b)
	c, ctx := dial(t, nil, a), t.Context()
	data := bytes.Repeat([]byte("kernel "), 1<<20)
	got, err := upload(ctx, c, data, digestOf(data), len(data), "debian")
	if err != nil || got.Exists || got.Artifact.Name != "debian" || len(got.Artifact.Nodes) < 2 {
		t.Fatalf("%v, %v", got, err)
	}
	if _, ok := b.blobs.Has(digestOf(data)); !ok {
		t.Fatal("the second server does not hold it")
	}
	got, err = upload(ctx, dial(t, nil, c3), data, digestOf(data), len(data), "other")
	if err != nil || !got.Exists || got.Artifact.Name != "other" {
		t.Fatalf("again: %v, %v", got, err)
	}
	if _, err := upload(ctx, c, data, digestOf(data), len(data)+1, ""); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("again, with another size: %v", err)
	}
	list, err := c.Artifact.List(ctx, connect.NewRequest(&blixardv1.ArtifactServiceListRequest{}))
	if err != nil || len(list.Msg.Artifacts) != 1 {
		t.Errorf("list: %v, %v", list, err)
	}
	r, err := NewFetcher(nil).Fetch(ctx, &blixardv1.ArtifactSource{Artifact: &blixardv1.Artifact{Digest: digestOf(data)}, Addresses: []string{"127.0.0.1:1", c3.address, b.address}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if back, err := io.ReadAll(r); err != nil || !bytes.Equal(back, data) {
		t.Errorf("fetched %d bytes, %v", len(back), err)
	}
}

func TestBadUploads(t *testing.T) {
	n := &node{}
	serve(t, noTLS, n)
	c := dial(t, nil, n)
	data := bytes.Repeat([]byte("x"), 2<<20)
	good := digestOf(data)
	for name, u := range map[string]struct {
		digest string
		size   int
		name   string
	}{
		"a path":        {"../../../etc/passwd", len(data), ""},
		"no digest":     {"", len(data), ""},
		"capitals":      {strings.ToUpper(good), len(data), ""},
		"another's":     {digestOf([]byte("y")), len(data), ""},
		"too much":      {good, len(data) - 1, ""},
		"too little":    {good, len(data) + 1, ""},
		"no size":       {good, 0, ""},
		"huge":          {good, 1 << 62, ""},
		"hostile name":  {good, len(data), "../x"},
		"huge and true": {good, -1, ""},
	} {
		if _, err := upload(t.Context(), c, data, u.digest, u.size, u.name); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	stream := c.Artifact.Upload(t.Context())
	stream.Send(&blixardv1.UploadRequest{Part: &blixardv1.UploadRequest_Data{Data: data[:1]}})
	if _, err := stream.CloseAndReceive(); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("no header: %v", err)
	}
	// Interrupted in the middle.
	ctx, cancel := context.WithCancel(t.Context())
	stream = c.Artifact.Upload(ctx)
	stream.Send(&blixardv1.UploadRequest{Part: &blixardv1.UploadRequest_Header{Header: &blixardv1.UploadHeader{Digest: good, Size: uint64(len(data))}}})
	stream.Send(&blixardv1.UploadRequest{Part: &blixardv1.UploadRequest_Data{Data: data[:1<<20]}})
	cancel()
	time.Sleep(50 * time.Millisecond)
	if left, _ := n.blobs.list(); len(left) != 0 {
		t.Errorf("bad uploads left %v", left)
	}
	if got := n.state.Artifact(good); got != nil {
		t.Errorf("and a record: %v", got)
	}
}

func TestFetchOfWhatIsNotThere(t *testing.T) {
	n := &node{}
	serve(t, noTLS, n)
	_, err := NewFetcher(nil).Fetch(t.Context(), &blixardv1.ArtifactSource{Artifact: &blixardv1.Artifact{Digest: digestOf(nil)}, Addresses: []string{n.address}})
	if err == nil || !strings.Contains(err.Error(), "does not hold") {
		t.Error(err)
	}
}
