package rpc

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func (s snapshots) Read(ctx context.Context, req *connect.Request[blixardv1.SnapshotServiceReadRequest], stream *connect.ServerStream[blixardv1.SnapshotServiceReadResponse]) error {
	return wire(s.stream(ctx, req.Msg.Name, stream.Send), "")
}

func (s snapshots) stream(ctx context.Context, name string, send func(*blixardv1.SnapshotServiceReadResponse) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.stopping, func() { cancel(s.stoppingError()) })()
	if err := check(cluster.ValidateName(name)); err != nil {
		return err
	}
	view, err := s.read(ctx, false)
	if err != nil {
		return err
	}
	p := view.Snapshot(name)
	if p == nil {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_NOT_FOUND, "", fmt.Sprintf("there is no snapshot named %q", name), "'blixard snapshot list' shows those there are")
	}
	host := view.Node(p.NodeId)
	if p.State != blixardv1.SnapshotState_SNAPSHOT_STATE_READY || host == nil {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "", "the snapshot "+name+" is not ready", "'blixard snapshot get "+name+"' says why")
	}
	if err := send(&blixardv1.SnapshotServiceReadResponse{Snapshot: p}); err != nil {
		return err
	}
	err = s.readAt(ctx, host, url.Values{"snapshot": {p.Uid}}, func(d *blixardv1.VolumeData) error {
		return send(&blixardv1.SnapshotServiceReadResponse{Data: d})
	})
	if err == nil || connect.CodeOf(err) != connect.CodeUnknown {
		return err
	}
	return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "", err.Error(), "'blixard snapshot get "+name+"' shows whether it is still there, and 'blixard node get "+host.Name+"' its host")
}

func (s snapshots) Write(ctx context.Context, stream *connect.ClientStream[blixardv1.SnapshotServiceWriteRequest]) (*connect.Response[blixardv1.SnapshotServiceWriteResponse], error) {
	p, err := s.write(ctx, stream)
	if err != nil {
		drain(ctx, s.Server, stream)
	}
	return answer(&blixardv1.SnapshotServiceWriteResponse{Snapshot: p}, "", err)
}

func (s snapshots) write(ctx context.Context, stream *connect.ClientStream[blixardv1.SnapshotServiceWriteRequest]) (*blixardv1.VMSnapshot, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.stopping, func() { cancel(s.stoppingError()) })()
	if !stream.Receive() {
		return nil, errors.Join(stream.Err(), refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, "options", "nothing came", "send options and a part first"))
	}
	opts, first := proto.CloneOf(stream.Msg().GetOptions()), proto.CloneOf(stream.Msg().GetData())
	of := opts.GetSnapshot()
	if of == nil || first == nil {
		return nil, refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, "options", "the first message has no options, or no part", "send both first, then the other parts")
	}
	err := errors.Join(check(cluster.ValidateName(opts.Name)), check(cluster.ValidateVM(of.Vm, of.Spec)))
	if err == nil && opts.Host != "" {
		err = check(cluster.ValidateName(opts.Host))
	}
	if err != nil {
		return nil, err
	}
	resp, _, err := s.mutate(ctx, opts.RequestId, &blixardv1.Command{Op: &blixardv1.Command_AddSnapshot{AddSnapshot: &blixardv1.AddSnapshotOp{
		Name: opts.Name, Host: opts.Host, Vm: of.Vm, Spec: of.Spec, Hypervisor: of.Hypervisor, Version: of.Image.GetVersion()}}})
	if err != nil {
		return nil, err
	}
	p := resp.GetSnapshot()
	view, err := s.read(ctx, true)
	if err != nil {
		return s.giveUp(ctx, p, err)
	}
	host, ready := view.Bringing(p)
	switch {
	case ready != nil: // who asks again has not heard the answer
		drain(ctx, s.Server, stream)
		return ready, nil
	case host == nil:
		return nil, refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "", "nobody waits for the snapshot "+p.Name+" any more", "send all of it again, as a new request")
	}
	image, err := s.writeAt(ctx, host, url.Values{"snapshot": {p.Uid}}, following(first, stream))
	if err == nil && image == nil {
		err = errors.New("its host has not said what it has made")
	}
	if err == nil {
		resp, _, err = s.mutate(ctx, "", &blixardv1.Command{Op: &blixardv1.Command_SnapshotAdded{SnapshotAdded: &blixardv1.SnapshotAddedOp{Name: p.Name, Uid: p.Uid, Image: image}}})
	}
	if err != nil {
		return s.giveUp(ctx, p, err)
	}
	return resp.GetSnapshot(), nil
}

// giveUp takes back a snapshot that cannot be brought, unless it is ready already. Where
// that cannot be done now it is listed as one that is being taken, and can be deleted by
// its name.
func (s snapshots) giveUp(ctx context.Context, p *blixardv1.VMSnapshot, why error) (*blixardv1.VMSnapshot, error) {
	ctx, end := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer end()
	resp, _, err := s.mutate(ctx, "", &blixardv1.Command{Op: &blixardv1.Command_DeleteSnapshot{DeleteSnapshot: &blixardv1.DeleteSnapshotOp{Name: p.Name, Uid: p.Uid}}})
	if now := resp.GetSnapshot(); err == nil && now.GetState() == blixardv1.SnapshotState_SNAPSHOT_STATE_READY {
		return now, nil
	}
	var r *Refusal
	if errors.As(why, &r) {
		return nil, why
	}
	return nil, refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "", fmt.Sprintf("%s cannot go on with that memory: %v", p.Node, why), "see what is wrong, and send all of it again, or name another host")
}
