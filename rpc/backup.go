package rpc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// backupPart is how much of a backup one message carries.
const backupPart = 256 << 10

func (s members) Backup(ctx context.Context, req *connect.Request[blixardv1.BackupRequest], stream *connect.ServerStream[blixardv1.BackupResponse]) error {
	err := s.backup(ctx, req.Msg.Stale, stream)
	_, err = answer[blixardv1.BackupResponse](nil, "", err)
	return err
}

func (s members) backup(ctx context.Context, stale bool, stream *connect.ServerStream[blixardv1.BackupResponse]) error {
	view, err := s.read(ctx, stale)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(writerFunc(func(p []byte) (int, error) {
		return len(p), stream.Send(&blixardv1.BackupResponse{Data: p})
	}), backupPart)
	header := &blixardv1.BackupHeader{CreateTime: timestamppb.Now(), Version: s.cfg.Version}
	return errors.Join(view.WriteBackup(w, header), w.Flush())
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func (s members) Restore(ctx context.Context, stream *connect.ClientStream[blixardv1.RestoreRequest]) (*connect.Response[blixardv1.RestoreResponse], error) {
	out, err := s.restore(ctx, stream)
	return answer(out, "", err)
}

func (s members) restore(ctx context.Context, stream *connect.ClientStream[blixardv1.RestoreRequest]) (*blixardv1.RestoreResponse, error) {
	r := &restoring{stream: stream}
	_, state, err := cluster.ReadBackup(r)
	hearOut(stream, func() bool { return ctx.Err() == nil })
	switch {
	case r.err != nil && r.err != io.EOF:
		return nil, r.err
	case err != nil:
		return nil, refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, "data", err.Error(), "take the file that 'blixard cluster backup' has written, whole")
	}
	opts := r.options
	if opts == nil {
		opts = &blixardv1.RestoreOptions{}
	}
	return s.cfg.Backend.Restore(ctx, state, opts)
}

// restoring reads the data of a Restore.
type restoring struct {
	stream  *connect.ClientStream[blixardv1.RestoreRequest]
	options *blixardv1.RestoreOptions
	rest    []byte
	err     error
}

func (r *restoring) Read(p []byte) (int, error) {
	for len(r.rest) == 0 && r.err == nil {
		if !r.stream.Receive() {
			if r.err = r.stream.Err(); r.err == nil {
				r.err = io.EOF
			}
			break
		}
		if o := r.stream.Msg().GetOptions(); o != nil {
			r.options = &blixardv1.RestoreOptions{HostsOff: o.HostsOff}
		}
		r.rest = append([]byte(nil), r.stream.Msg().GetData()...) // the stream's message is used again
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	if n == 0 && len(p) > 0 {
		return 0, r.err
	}
	return n, nil
}

func (s members) Rejoin(ctx context.Context, req *connect.Request[blixardv1.RejoinRequest]) (*connect.Response[blixardv1.RejoinResponse], error) {
	if err := checkAddress("server", req.Msg.Server); err != nil {
		return answer[blixardv1.RejoinResponse](nil, "", err)
	}
	out, err := s.cfg.Backend.Rejoin(ctx, req.Msg)
	return answer(out, "", err)
}

func (s members) Readmit(ctx context.Context, req *connect.Request[blixardv1.ReadmitRequest]) (*connect.Response[blixardv1.ReadmitResponse], error) {
	out, id, err := s.readmit(ctx, req.Msg)
	return answer(out, id, err)
}

func (s members) readmit(ctx context.Context, m *blixardv1.ReadmitRequest) (*blixardv1.ReadmitResponse, string, error) {
	if err := onlyNodes(ctx); err != nil {
		return nil, "", err
	}
	if err := checkAddress("member.address", m.GetMember().GetAddress()); err != nil {
		return nil, "", err
	}
	view, err := s.read(ctx, true)
	if err != nil {
		return nil, "", err
	}
	if own := view.Meta().GetClusterId(); own != m.ClusterId {
		return nil, "", refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "cluster_id",
			fmt.Sprintf("this is cluster %s, and the node is of %s", own, m.ClusterId), "name a server of the cluster that was restored")
	}
	n := m.Member
	resp, id, err := s.mutate(ctx, m.RequestId, &blixardv1.Command{Op: &blixardv1.Command_Readmit{Readmit: &blixardv1.ReadmitOp{
		NodeId: m.NodeId, Generation: m.Generation,
		Node: &blixardv1.AddNodeOp{Name: n.Name, Address: n.Address, Server: n.Server, Host: n.Host, Level: n.Level},
	}}})
	if err != nil {
		return nil, id, err
	}
	out, err := s.admitted(ctx, resp.GetNode())
	return &blixardv1.ReadmitResponse{Member: out}, id, err
}
