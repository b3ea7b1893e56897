package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/blixard/blixard/core"
	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/rpc"
	"github.com/blixard/blixard/vmm/runner"
	"github.com/blixard/blixard/vmm/runner/nix"
)

// The daemon is rpc's Backend and Logs: it passes on to its node.

var errNoCluster = &rpc.Refusal{Detail: &blixardv1.Error{
	Code:    blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION,
	Message: "this node is in no cluster",
	Advice:  "blixard cluster init makes a cluster of it, blixard cluster join SERVER brings it into one"}}

func (d *daemon) Do(ctx context.Context, cmd *blixardv1.Command) (*blixardv1.Response, error) {
	w := d.world.Load()
	if w == nil {
		return nil, errNoCluster
	}
	r, err := w.ask(ctx, w.loop, core.Request{Command: cmd})
	return r.Response, err
}

func (d *daemon) Read(ctx context.Context, stale bool) (*cluster.State, error) {
	w := d.world.Load()
	if w == nil {
		return nil, errNoCluster
	}
	r, err := w.ask(ctx, w.loop, core.Request{Stale: stale})
	return r.View, err
}

func (d *daemon) One(ctx context.Context, name string, stale bool) (*cluster.One, error) {
	w := d.world.Load()
	if w == nil {
		return nil, errNoCluster
	}
	r, err := w.ask(ctx, w.loop, core.Request{Stale: stale, VM: name})
	return r.One, err
}

func (d *daemon) Await(ctx context.Context, after uint64) (*cluster.State, error) {
	w := d.world.Load()
	if w == nil {
		return nil, errNoCluster
	}
	r, err := w.ask(ctx, w.loop, core.Request{After: after})
	return r.View, err
}

func (d *daemon) Status() core.Status {
	if w := d.world.Load(); w != nil {
		return *w.loop.status.Load()
	}
	return core.Status{Identity: d.self}
}

func (d *daemon) Logs(ctx context.Context, uid string, follow bool, tail uint64) (io.ReadCloser, error) {
	w := d.world.Load()
	if w == nil || w.host == nil {
		return nil, fs.ErrNotExist
	}
	r, err := w.host.Logs(ctx, uid, follow, tail)
	if errors.Is(err, runner.ErrNoLog) {
		return nil, fs.ErrNotExist // rpc.Logs' word for it
	}
	return r, err
}

func (d *daemon) BuildLogs(ctx context.Context, uid string, follow bool, tail uint64) (io.ReadCloser, error) {
	w := d.world.Load()
	if w == nil || w.host == nil {
		return nil, fs.ErrNotExist
	}
	r, err := w.host.BuildLogs(ctx, uid, follow, tail)
	if errors.Is(err, runner.ErrNoLog) {
		return nil, fs.ErrNotExist
	}
	return r, err
}

// Admit is rpc.Arrivals.
func (d *daemon) Admit(ctx context.Context, p rpc.Passage) (func(context.Context, rpc.Stream) error, error) {
	w := d.world.Load()
	if w == nil || w.host == nil {
		return nil, errors.New("this node runs no VMs")
	}
	take, err := w.host.Admit(ctx, runner.Passage(p))
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, from rpc.Stream) error { return take(ctx, from) }, nil
}

// ReadDisk and what follows it are rpc.Disks.
func (d *daemon) ReadDisk(ctx context.Context, volume, vm, disk string, send func(*blixardv1.VolumeData) error) error {
	w := d.world.Load()
	if w == nil || w.host == nil {
		return errors.New("this node is no host")
	}
	return w.host.ReadDisk(ctx, volume, vm, disk, send)
}

func (d *daemon) WriteVolume(ctx context.Context, volume string, next func() (*blixardv1.VolumeData, error)) error {
	w := d.world.Load()
	if w == nil || w.host == nil {
		return errors.New("this node is no host")
	}
	return w.host.WriteVolume(ctx, volume, next)
}

func (d *daemon) ReadSnapshot(ctx context.Context, snapshot string, send func(*blixardv1.VolumeData) error) error {
	w := d.world.Load()
	if w == nil || w.host == nil {
		return errors.New("this node is no host")
	}
	return w.host.ReadSnapshot(ctx, snapshot, send)
}

func (d *daemon) WriteSnapshot(ctx context.Context, snapshot string, next func() (*blixardv1.VolumeData, error)) (*blixardv1.SnapshotImage, error) {
	w := d.world.Load()
	if w == nil || w.host == nil {
		return nil, errors.New("this node is no host")
	}
	return w.host.WriteSnapshot(ctx, snapshot, next)
}

// Export is rpc.Closures.
func (d *daemon) Export(ctx context.Context, storePath string, to io.Writer) error {
	w := d.world.Load()
	if w == nil || w.builder == nil {
		return fs.ErrNotExist
	}
	err := w.builder.Export(ctx, storePath, to)
	if errors.Is(err, nix.ErrNotHeld) {
		return fs.ErrNotExist
	}
	return err
}

func (d *daemon) Init(ctx context.Context, req *blixardv1.InitRequest) (*blixardv1.InitResponse, error) {
	d.life.Lock()
	defer d.life.Unlock()
	if err := d.mayEnter(); err != nil {
		return nil, err
	}
	if !d.self.Server {
		return nil, precondition("a cluster begins with a server, and this node is none", "serve --role server --role host")
	}
	id := d.self
	id.ClusterID, id.Generation, id.ID = newClusterID(), 1, cluster.FirstID
	batch, err := core.Found(id, req.GetSettings(), readTime(bootClock{}))
	if err != nil {
		return nil, &rpc.Refusal{Detail: &blixardv1.Error{Code: blixardv1.ErrorCode_ERROR_CODE_INVALID,
			Message: err.Error(), Advice: "correct the settings", Field: "settings"}}
	}
	if err := d.enter(batch); err != nil {
		return nil, err
	}
	return &blixardv1.InitResponse{ClusterId: id.ClusterID, NodeId: id.ID}, d.settled(ctx)
}

func (d *daemon) Join(ctx context.Context, req *blixardv1.JoinRequest) (*blixardv1.JoinResponse, error) {
	d.life.Lock()
	defer d.life.Unlock()
	if err := d.mayEnter(); err != nil {
		return nil, err
	}
	if req.GetServer() == "" || req.GetServer() == d.self.Address {
		return nil, &rpc.Refusal{Detail: &blixardv1.Error{Code: blixardv1.ErrorCode_ERROR_CODE_INVALID, Field: "server",
			Message: fmt.Sprintf("%q is no other node", req.GetServer()), Advice: "name any server of the cluster, as HOST:PORT"}}
	}
	requestID, err := d.joinID()
	if err != nil {
		return nil, err
	}
	c := rpc.Dial([]string{req.GetServer()}, d.tls)
	defer c.Close()
	r, err := c.Cluster.AddMember(ctx, connect.NewRequest(&blixardv1.AddMemberRequest{
		RequestId: requestID, Name: d.self.Name, Address: d.self.Address,
		Server: d.self.Server, Host: d.self.Host, Level: cluster.Level}))
	if err != nil {
		return nil, d.notAdmitted(req.GetServer(), err)
	}
	id := d.self
	id.ClusterID, id.Generation, id.ID = r.Msg.GetClusterId(), r.Msg.GetGeneration(), r.Msg.GetNodeId()
	batch, err := core.Join(id, r.Msg.GetServers())
	if err != nil {
		return nil, err
	}
	if err := d.enter(batch); err != nil {
		return nil, err
	}
	return &blixardv1.JoinResponse{ClusterId: id.ClusterID, NodeId: id.ID}, nil
}

// notAdmitted says why a server did not take this node in.
func (d *daemon) notAdmitted(server string, err error) error {
	detail, _ := rpc.Refused(err)
	if detail == nil {
		// Not UNAVAILABLE, which would say that this node could not be asked.
		return precondition(fmt.Sprintf("cannot ask %s to admit this node: %v", server, errors.Unwrap(err)),
			"see that a server of the cluster listens there, with the same TLS or lack of it; then try again")
	}
	if detail.GetCode() == blixardv1.ErrorCode_ERROR_CODE_REQUEST_ID_EXPIRED {
		os.Remove(d.joining())
	}
	return &rpc.Refusal{Detail: detail}
}

func (d *daemon) mayEnter() error {
	switch w := d.world.Load(); {
	case d.ended:
		return context.Canceled
	case w != nil:
		return precondition("this node is in cluster "+w.loop.status.Load().Identity.ClusterID+" already",
			"blixard cluster status shows it; a node enters another cluster with an empty data directory")
	}
	return nil
}

func precondition(message, advice string) error {
	return &rpc.Refusal{Detail: &blixardv1.Error{
		Code: blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, Message: message, Advice: advice}}
}

// enter makes the node's first batch durable and starts it, by the same path as
// a restart takes.
func (d *daemon) enter(first core.Batch) error {
	d.disk.Write(first)
	err := d.disk.Close()
	d.disk = nil
	var image core.Image
	var in *inbox
	if err == nil {
		image, in, err = d.openDisk()
	}
	if err == nil {
		var id core.Identity
		if id, _, err = core.ReadIdentity(image); err == nil {
			err = d.start(id, image, in)
		}
	}
	if err != nil {
		d.fail(err)
		return err
	}
	os.Remove(d.joining())
	return nil
}

// settled waits until the node knows a leader, so that what is asked next finds one.
func (d *daemon) settled(ctx context.Context) error {
	for d.Status().Leader == 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// joining remembers under which request id we asked to be admitted: a node that
// dies between the answer and its first batch asks again and is the same member.
func (d *daemon) joining() string { return filepath.Join(d.cfg.DataDir, "joining") }

func (d *daemon) joinID() (string, error) {
	b, err := os.ReadFile(d.joining())
	if err == nil && len(b) > 0 {
		return strings.TrimSpace(string(b)), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	id := rpc.NewRequestID()
	return id, os.WriteFile(d.joining(), []byte(id+"\n"), 0o600)
}

func newClusterID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
