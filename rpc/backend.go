package rpc

import (
	"context"
	"io"
	"os"

	"github.com/blixard/blixard/core"
	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Backend is the node behind the handlers. All of it may be called from any
// goroutine. An error that is a *Refusal reaches the client as it is; a
// context's error as the fitting code; any other as INTERNAL.
type Backend interface {
	// Do submits one mutation as a core.Request and waits for its core.Reply.
	// request_id, principal, payload_hash and op are filled in. A refusal by
	// Apply is in Response.Error, not in the error.
	Do(ctx context.Context, cmd *blixardv1.Command) (*blixardv1.Response, error)
	// Read returns a frozen state: linearizable, or this node's own copy when
	// stale. It is only called on servers.
	Read(ctx context.Context, stale bool) (*cluster.State, error)
	// One reads one VM as Read does, which costs less. It is only called on servers.
	One(ctx context.Context, name string, stale bool) (*cluster.One, error)
	// Await returns this node's own copy once it is of a later revision, or as it
	// is a little before ctx ends. It is only called on servers.
	Await(ctx context.Context, after uint64) (*cluster.State, error)
	// Status must answer at any time, also before the node is in a cluster:
	// Identity.ClusterID is then empty.
	Status() core.Status
	// Init makes a cluster of one out of this node.
	Init(ctx context.Context, req *blixardv1.InitRequest) (*blixardv1.InitResponse, error)
	// Join makes this node a member of the cluster of req.Server, by AddMember there.
	Join(ctx context.Context, req *blixardv1.JoinRequest) (*blixardv1.JoinResponse, error)
	// Restore makes this node the first of the next generation of the cluster whose
	// state is given, which is the backend's from now on.
	Restore(ctx context.Context, backup *cluster.State, opts *blixardv1.RestoreOptions) (*blixardv1.RestoreResponse, error)
	// Rejoin makes this node a member of the present generation of its cluster, by
	// Readmit at req.Server.
	Rejoin(ctx context.Context, req *blixardv1.RejoinRequest) (*blixardv1.RejoinResponse, error)
}

// Blobs is this node's store of artifacts, by their digest.
type Blobs interface {
	// Put stores the bytes of r, durably, if they are size bytes with that
	// digest; otherwise it fails and keeps nothing. What is there already is not
	// read again.
	Put(ctx context.Context, r io.Reader, digest string, size uint64) error
	// Open gives the bytes, verified.
	Open(ctx context.Context, digest string) (*os.File, error)
	Has(digest string) (size uint64, ok bool)
	Delete(digest string) error
}

// Logs is where the consoles of this host's VMs, and the logs of their builds, are read.
type Logs interface {
	// Logs opens the console log of a VM of this host: its last tail bytes (0:
	// all that is kept), and with follow also what comes, until the VM is
	// removed from this host or ctx ends. It fails with fs.ErrNotExist when this
	// host has no log of that VM. Closing the reader ends a Read under way.
	Logs(ctx context.Context, uid string, follow bool, tail uint64) (io.ReadCloser, error)
	// BuildLogs opens likewise what the newest build of a VM's runner on this
	// host said; with follow, until that build has ended.
	BuildLogs(ctx context.Context, uid string, follow bool, tail uint64) (io.ReadCloser, error)
}

// Closures is what Nix built for the VMs of this host, for other hosts to copy.
type Closures interface {
	// Export writes a store path and all that it refers to as `nix-store
	// --export` does, and ends early with ctx. It fails with fs.ErrNotExist,
	// before it has written anything, when this host does not hold that path.
	Export(ctx context.Context, storePath string, w io.Writer) error
}
