package rpc

import (
	"bytes"
	"context"
	"errors"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/proto/blixard/v1/blixardv1connect"
)

// Config is what a Server is made of.
type Config struct {
	Backend Backend
	Blobs   Blobs
	// Logs may be nil on a node that is no host.
	Logs Logs
	// Guests likewise.
	Guests Guests
	// Disks may be nil on a node that is no host.
	Disks Disks
	// Closures may be nil where there is no Nix.
	Closures Closures
	// Arrivals may be nil on a node that is no host.
	Arrivals Arrivals
	// CheckVM may be nil. It looks at a spec that core/cluster accepts, for what
	// only a program like Nix can see; a *Refusal refuses it.
	CheckVM func(ctx context.Context, spec *blixardv1.VMSpec) error
	Peers   *Peers
	TLS     *TLS
	// Metrics is what /metrics answers with; nil: nothing.
	Metrics http.Handler
	// Answered hears of every request that was answered, but for streams; nil: nobody
	// wants to know.
	Answered func(procedure string, err error, took time.Duration)
	// Opened hears of every stream that begins, and what it returns of its end; nil likewise.
	Opened func(procedure string) (ended func(err error))
	// Version is the binary's.
	Version string
	// Log may be nil.
	Log *slog.Logger
}

// Server answers everything that comes in on a node's port.
type Server struct {
	cfg  Config
	http *http.Server
	// call reaches the other nodes' ports.
	call *http.Client
	// stopping ends the streams.
	stopping context.Context
	stop     context.CancelFunc
}

const (
	// maxRequest bounds one message of a client: a spec is small, and an upload
	// comes in pieces of 1 MiB.
	maxRequest = 4 << 20
	// compressFrom is the size from which an answer is compressed for a client
	// that wants it: gzip halves the rate of small ones.
	compressFrom = 256 << 10
)

// NewServer makes a server; Serve starts it.
func NewServer(cfg Config) *Server {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	s := &Server{cfg: cfg, call: &http.Client{Transport: transport(cfg.TLS)}}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.http = &http.Server{
		Handler:           s.Handler(),
		Protocols:         new(http.Protocols),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       3 * time.Minute,
		ErrorLog:          log.New(complaints{cfg.Log}, "", 0),
	}
	s.http.Protocols.SetHTTP1(true)
	s.http.Protocols.SetHTTP2(true)
	s.http.Protocols.SetUnencryptedHTTP2(true) // gRPC without TLS
	return s
}

// complaints are what net/http has to say. A handler that panicked is our fault; the
// rest, peers that hang up and the like, is of use only to who looks for it.
type complaints struct{ log *slog.Logger }

func (c complaints) Write(line []byte) (int, error) {
	level := slog.LevelDebug
	if bytes.HasPrefix(line, []byte("http: panic serving ")) {
		level = slog.LevelError
	}
	c.log.Log(context.Background(), level, strings.TrimSpace(string(line)))
	return len(line), nil
}

// Handler is everything that a Server serves.
func (s *Server) Handler() http.Handler {
	opts := connect.WithHandlerOptions(
		connect.WithReadMaxBytes(maxRequest),
		connect.WithCompressMinBytes(compressFrom),
		connect.WithCodec(strictJSON{"json"}),
		connect.WithCodec(strictJSON{"json; charset=utf-8"}),
		connect.WithInterceptors(account{s}, connect.UnaryInterceptorFunc(refuseUnknown)),
	)
	api := http.NewServeMux()
	api.Handle(blixardv1connect.NewVMServiceHandler(vms{s}, opts))
	api.Handle(blixardv1connect.NewGuestServiceHandler(guests{s}, opts))
	api.Handle(blixardv1connect.NewNodeServiceHandler(nodes{s}, opts))
	api.Handle(blixardv1connect.NewNetworkServiceHandler(networks{s}, opts))
	api.Handle(blixardv1connect.NewVolumeServiceHandler(volumes{s}, opts))
	api.Handle(blixardv1connect.NewSnapshotServiceHandler(snapshots{s}, opts))
	api.Handle(blixardv1connect.NewClusterServiceHandler(members{s}, opts))
	api.Handle(blixardv1connect.NewArtifactServiceHandler(artifacts{s}, opts))
	api.Handle(blixardv1connect.NewWatchServiceHandler(watches{s}, opts))
	names := []string{
		blixardv1connect.VMServiceName, blixardv1connect.NodeServiceName,
		blixardv1connect.NetworkServiceName, blixardv1connect.ClusterServiceName, blixardv1connect.ArtifactServiceName,
		blixardv1connect.WatchServiceName, blixardv1connect.GuestServiceName, blixardv1connect.VolumeServiceName, blixardv1connect.SnapshotServiceName,
	}
	mux := http.NewServeMux()
	mux.Handle("/", notTooBig(s.forward(api)))
	mux.Handle(grpchealth.NewHandler(health{s, grpchealth.NewStaticChecker(names...)}))
	reflector := grpcreflect.NewStaticReflector(names...)
	mux.Handle(grpcreflect.NewHandlerV1(reflector))
	mux.Handle(grpcreflect.NewHandlerV1Alpha(reflector))
	mux.HandleFunc(logsPath, s.serveLogs)
	mux.HandleFunc(closurePath, s.serveClosure)
	mux.HandleFunc(passagePath, s.servePassage)
	mux.HandleFunc(diskPath, s.serveDisk)
	if s.cfg.Metrics != nil {
		mux.Handle("GET /metrics", s.cfg.Metrics)
	}
	if s.cfg.Peers != nil {
		mux.Handle(peerPath, s.cfg.Peers)
	}
	return identify(s.cfg.TLS, mux)
}

// health serves as long as the server is not stopping.
type health struct {
	s      *Server
	static *grpchealth.StaticChecker
}

func (h health) Check(ctx context.Context, req *grpchealth.CheckRequest) (*grpchealth.CheckResponse, error) {
	out, err := h.static.Check(ctx, req)
	if err == nil && h.s.stopping.Err() != nil {
		out = &grpchealth.CheckResponse{Status: grpchealth.StatusNotServing}
	}
	return out, err
}

// Serve answers what comes in on a listener until Shutdown.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Shutdown takes no new connections, ends the streams with a reason, and lets
// the calls under way finish while ctx lasts. The peers' channel is not its
// business: close Peers after it.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop()
	err := s.http.Shutdown(ctx)
	if err != nil {
		s.http.Close()
	}
	s.call.CloseIdleConnections()
	return err
}

// stoppingError is what a stream ends with when the server stops.
func (s *Server) stoppingError() error {
	return refuse(blixardv1.ErrorCode_ERROR_CODE_SHUTTING_DOWN, "", "this node is shutting down", "ask again: another server answers")
}
