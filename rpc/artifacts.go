package rpc

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"time"

	"connectrpc.com/connect"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// artifacts is ArtifactService.
type artifacts struct{ *Server }

// uploadHolders servers must hold an upload before it is answered.
const (
	uploadHolders = 2
	uploadWait    = 60 * time.Second
	maxDrain      = 256 << 20
)

func (s artifacts) Upload(ctx context.Context, stream *connect.ClientStream[blixardv1.UploadRequest]) (*connect.Response[blixardv1.UploadResponse], error) {
	out, err := s.upload(ctx, stream)
	hearOut(stream, func() bool { return ctx.Err() == nil && s.stopping.Err() == nil })
	return answer(out, "", err)
}

// hearOut listens to what a client still sends, at most maxDrain bytes of it. An
// HTTP/1.1 client that is answered before it has sent everything may lose the answer
// with the connection.
func hearOut[M any, P interface {
	*M
	GetData() []byte
}](stream *connect.ClientStream[M], on func() bool) {
	for n := 0; n < maxDrain && on() && stream.Receive(); {
		n += len(P(stream.Msg()).GetData()) + 1
	}
}

func (s artifacts) upload(ctx context.Context, stream *connect.ClientStream[blixardv1.UploadRequest]) (*blixardv1.UploadResponse, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.stopping, func() { cancel(s.stoppingError()) })()
	if !stream.Receive() {
		if err := stream.Err(); err != nil {
			return nil, err
		}
		return nil, refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, "header", "the upload is empty", "send a header first, then the data")
	}
	h := stream.Msg().GetHeader()
	if h == nil {
		return nil, refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, "header", "the first message has no header", "send a header first, then the data")
	}
	h = &blixardv1.UploadHeader{Digest: h.Digest, Size: h.Size, Name: h.Name} // the stream's message is used again
	if err := check(cluster.ValidateArtifact("header", h.Digest, h.Size)); err != nil {
		return nil, err
	}
	if h.Name != "" {
		if err := check(cluster.ValidateName(h.Name)); err != nil {
			return nil, err
		}
	}
	view, err := s.read(ctx, false)
	if err != nil {
		return nil, err
	}
	record := view.Artifact(h.Digest)
	exists := len(record.GetNodes()) > 0
	if exists && record.Size != h.Size {
		return nil, refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, "header.size",
			fmt.Sprintf("the cluster knows this artifact with %d bytes, not %d", record.Size, h.Size), "give the size of the content in bytes")
	}
	if !exists {
		if err := s.store(ctx, h, stream); err != nil {
			return nil, err
		}
		if record, err = s.settle(ctx, h); err != nil {
			return nil, err
		}
	}
	if h.Name != "" && record.Name != h.Name {
		resp, _, err := s.mutate(ctx, "", &blixardv1.Command{Op: &blixardv1.Command_Tag{Tag: &blixardv1.TagOp{Digest: h.Digest, Name: h.Name}}})
		if err != nil {
			return nil, err
		}
		record = resp.GetArtifact()
	}
	return &blixardv1.UploadResponse{Artifact: record, Exists: exists}, nil
}

// store puts what comes into this node's store, whole or not at all.
func (s artifacts) store(ctx context.Context, h *blixardv1.UploadHeader, stream *connect.ClientStream[blixardv1.UploadRequest]) error {
	u := &incoming{ctx: ctx, stream: stream, header: h, sum: sha256.New()}
	err := s.cfg.Blobs.Put(ctx, u, h.Digest, h.Size)
	switch {
	case u.err != nil:
		return u.err // says more than the store's
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return refuse(blixardv1.ErrorCode_ERROR_CODE_EXHAUSTED, "", fmt.Sprintf("this server could not store the artifact: %v", err),
		"make room on its disk, or upload by another server")
}

// incoming reads the data of an upload, and ends with an error unless they are
// what the header said.
type incoming struct {
	ctx    context.Context
	stream *connect.ClientStream[blixardv1.UploadRequest]
	header *blixardv1.UploadHeader
	sum    hash.Hash
	got    uint64
	rest   []byte
	err    error
}

func (u *incoming) Read(b []byte) (int, error) {
	for len(u.rest) == 0 && u.err == nil {
		if err := u.next(); err == io.EOF {
			return 0, io.EOF
		} else if err != nil {
			u.err = err
		}
	}
	if u.err != nil {
		return 0, u.err
	}
	n := copy(b, u.rest)
	u.rest = u.rest[n:]
	return n, nil
}

func (u *incoming) next() error {
	if u.ctx.Err() != nil {
		return context.Cause(u.ctx)
	}
	if !u.stream.Receive() {
		if err := u.stream.Err(); err != nil {
			return err
		}
		return u.whole()
	}
	data := u.stream.Msg().GetData()
	if u.stream.Msg().GetHeader() != nil {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, "header", "a second header came", "send one artifact with each upload")
	}
	if u.got += uint64(len(data)); u.got > u.header.Size {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, "header.size", fmt.Sprintf("more came than the %d bytes that were announced", u.header.Size), "give the size of the content in bytes")
	}
	u.sum.Write(data)
	u.rest = data
	return nil
}

func (u *incoming) whole() error {
	if u.got < u.header.Size {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, "header.size", fmt.Sprintf("only %d of %d bytes came", u.got, u.header.Size), "upload it again")
	}
	if got := hex.EncodeToString(u.sum.Sum(nil)); got != u.header.Digest {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, "header.digest", "what came has the SHA-256 "+got, "give the digest of the content; did the file change meanwhile?")
	}
	return io.EOF
}

// settle tells the cluster of a new artifact, and waits until enough servers
// hold it that the loss of one loses nothing.
func (s artifacts) settle(ctx context.Context, h *blixardv1.UploadHeader) (*blixardv1.ArtifactRecord, error) {
	if _, err := announce(ctx, s.cfg.Backend, &blixardv1.AnnounceOp{Digest: h.Digest, Size: h.Size, NodeId: s.cfg.Backend.Status().Identity.ID}); err != nil {
		return nil, err
	}
	deadline := time.Now().Add(uploadWait)
	for {
		view, err := s.read(ctx, true)
		if err != nil {
			return nil, err
		}
		record := view.Artifact(h.Digest)
		have, want := holders(view, record)
		if record != nil && have >= want {
			return record, nil
		}
		if time.Now().After(deadline) {
			return nil, refuse(blixardv1.ErrorCode_ERROR_CODE_NO_QUORUM, "",
				fmt.Sprintf("the artifact is stored here, but after %s only %d of %d servers hold it", uploadWait, have, want),
				"see 'blixard cluster status'; then upload it again, which is quick, as the bytes are here")
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(25 * time.Millisecond):
		}
	}
}

// holders counts the voters that hold an artifact, and how many should.
func holders(view *cluster.State, r *blixardv1.ArtifactRecord) (have, want int) {
	view.Nodes(func(n *blixardv1.Node) bool {
		if n.Server == blixardv1.ServerState_SERVER_STATE_VOTER {
			want++
			if slices.Contains(r.GetNodes(), n.Id) {
				have++
			}
		}
		return true
	})
	return have, min(want, uploadHolders)
}

// announce says, as this node, what it holds. It tries again, under one id,
// while the cluster has no leader.
func announce(ctx context.Context, b Backend, op *blixardv1.AnnounceOp) (*blixardv1.ArtifactRecord, error) {
	cmd := &blixardv1.Command{Op: &blixardv1.Command_Announce{Announce: op}}
	if err := seal(cmd); err != nil {
		return nil, err
	}
	cmd.RequestId, cmd.Principal = NewRequestID(), fmt.Sprintf("node %d", op.NodeId)
	for {
		resp, err := b.Do(ctx, cmd)
		if err == nil && resp.GetError() != nil {
			err = &Refusal{resp.Error}
		}
		var r *Refusal
		if err == nil || !errors.As(err, &r) || r.Detail.GetCode() != blixardv1.ErrorCode_ERROR_CODE_NO_QUORUM {
			return resp.GetArtifact(), err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (s artifacts) Download(ctx context.Context, req *connect.Request[blixardv1.DownloadRequest], stream *connect.ServerStream[blixardv1.DownloadResponse]) error {
	return wire(s.download(ctx, req.Msg, stream), "")
}

func (s artifacts) download(ctx context.Context, m *blixardv1.DownloadRequest, stream *connect.ServerStream[blixardv1.DownloadResponse]) error {
	if err := check(cluster.ValidateDigest("digest", m.Digest)); err != nil {
		return err
	}
	size, ok := s.cfg.Blobs.Has(m.Digest)
	if !ok {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_NOT_FOUND, "", "this node does not hold the artifact "+m.Digest, "'blixard image list' shows which nodes do")
	}
	if m.Offset > size {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, "offset", fmt.Sprintf("%d is beyond its %d bytes", m.Offset, size), "begin with 0")
	}
	f, err := s.cfg.Blobs.Open(ctx, m.Digest)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Seek(int64(m.Offset), io.SeekStart); err != nil {
		return err
	}
	buf := make([]byte, chunk)
	for {
		if s.stopping.Err() != nil {
			return s.stoppingError()
		}
		n, err := f.Read(buf)
		if n > 0 {
			if err := stream.Send(&blixardv1.DownloadResponse{Data: buf[:n]}); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (s artifacts) List(ctx context.Context, req *connect.Request[blixardv1.ArtifactServiceListRequest]) (*connect.Response[blixardv1.ArtifactServiceListResponse], error) {
	view, err := s.read(ctx, req.Msg.Stale)
	if err != nil {
		return answer[blixardv1.ArtifactServiceListResponse](nil, "", err)
	}
	out := &blixardv1.ArtifactServiceListResponse{Revision: view.Revision()}
	view.Artifacts(func(a *blixardv1.ArtifactRecord) bool {
		out.Artifacts = append(out.Artifacts, a)
		return true
	})
	return answer(out, "", nil)
}

func (s artifacts) Tag(ctx context.Context, req *connect.Request[blixardv1.TagRequest]) (*connect.Response[blixardv1.TagResponse], error) {
	m := req.Msg
	err := check(cluster.ValidateDigest("digest", m.Digest))
	if err == nil && m.Name != "" {
		err = check(cluster.ValidateName(m.Name))
	}
	if err != nil {
		return answer[blixardv1.TagResponse](nil, "", err)
	}
	resp, id, err := s.mutate(ctx, m.RequestId, &blixardv1.Command{Op: &blixardv1.Command_Tag{Tag: &blixardv1.TagOp{Digest: m.Digest, Name: m.Name}}})
	return answer(&blixardv1.TagResponse{Artifact: resp.GetArtifact()}, id, err)
}

func (s artifacts) Announce(ctx context.Context, req *connect.Request[blixardv1.AnnounceRequest]) (*connect.Response[blixardv1.AnnounceResponse], error) {
	m := req.Msg
	err := onlyNodes(ctx)
	if err == nil {
		err = check(cluster.ValidateArtifact("artifact", m.Digest, m.Size))
	}
	if err != nil {
		return answer[blixardv1.AnnounceResponse](nil, "", err)
	}
	resp, id, err := s.mutate(ctx, m.RequestId, &blixardv1.Command{Op: &blixardv1.Command_Announce{
		Announce: &blixardv1.AnnounceOp{Digest: m.Digest, Size: m.Size, NodeId: m.NodeId, Gone: m.Gone}}})
	return answer(&blixardv1.AnnounceResponse{Artifact: resp.GetArtifact()}, id, err)
}
