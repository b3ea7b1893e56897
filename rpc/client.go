package rpc

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/blixard/blixard/proto/blixard/v1/blixardv1connect"
)

// Client asks the servers of a cluster. It stays with one server while that
// answers, and goes on to the next when it does not, or says UNAVAILABLE. A
// mutation without a request id gets one, and is tried again under it until the
// context ends (30 s, when it has no deadline): it happens once. Where there are
// several servers, one that takes a call and then is silent is left for the
// next; so is one that does not begin a stream of logs, or takes nothing of an
// upload any more. A stream of logs that ends too early is not resumed.
type Client struct {
	VM       blixardv1connect.VMServiceClient
	Node     blixardv1connect.NodeServiceClient
	Network  blixardv1connect.NetworkServiceClient
	Volume   blixardv1connect.VolumeServiceClient
	Snapshot blixardv1connect.SnapshotServiceClient
	Cluster  blixardv1connect.ClusterServiceClient
	Artifact blixardv1connect.ArtifactServiceClient
	Watch    blixardv1connect.WatchServiceClient
	// Guest's calls are made once: a program that may have run is not run again.
	Guest blixardv1connect.GuestServiceClient

	servers []string
	cursor  cursor
	scheme  string
	http    *http.Transport
	silent  time.Duration // silentPatience
	stuck   time.Duration // uploadStuck
	quiet   time.Duration // logsSilent
}

const (
	defaultPatience = 30 * time.Second
	// refusedPatience is how long we go on when nobody listens anywhere.
	refusedPatience = 2 * time.Second
	// silentPatience is how long one of several servers may take over an answer.
	// One that is stopped or stuck still takes connections: its kernel does.
	silentPatience = 5 * time.Second
)

// Dial makes a client of the servers at these HOST:PORT. Nothing is sent yet.
func Dial(servers []string, t *TLS) *Client {
	c := &Client{servers: servers, scheme: t.scheme(), http: transport(t), silent: silentPatience, stuck: uploadStuck, quiet: logsSilent}
	h := &http.Client{Transport: c}
	base := c.scheme + "://blixard"
	opts := connect.WithClientOptions(plain(), connect.WithInterceptors(connect.UnaryInterceptorFunc(c.retry)))
	c.VM = blixardv1connect.NewVMServiceClient(h, base, opts)
	c.Node = blixardv1connect.NewNodeServiceClient(h, base, opts)
	c.Network = blixardv1connect.NewNetworkServiceClient(h, base, opts)
	c.Volume = blixardv1connect.NewVolumeServiceClient(h, base, opts)
	c.Snapshot = blixardv1connect.NewSnapshotServiceClient(h, base, opts)
	c.Cluster = blixardv1connect.NewClusterServiceClient(h, base, opts)
	c.Artifact = blixardv1connect.NewArtifactServiceClient(h, base, opts)
	c.Watch = blixardv1connect.NewWatchServiceClient(h, base, opts)
	c.Guest = blixardv1connect.NewGuestServiceClient(h, base, plain())
	return c
}

// Close drops the idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// plain asks for no compression: it costs more than it saves here.
func plain() connect.ClientOption { return connect.WithAcceptCompression("gzip", nil, nil) }

// transport is HTTP/1.1, which for many small calls is the fastest.
func transport(t *TLS) *http.Transport {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	return &http.Transport{
		Protocols:           p,
		TLSClientConfig:     t.client(),
		DialContext:         (&net.Dialer{Timeout: 3 * time.Second, KeepAlive: 5 * time.Second}).DialContext,
		TLSHandshakeTimeout: 5 * time.Second,
		MaxIdleConnsPerHost: 512,
		IdleConnTimeout:     time.Minute,
		DisableCompression:  true,
	}
}

// RoundTrip sends a request to the server of the day, and to the next ones when
// it cannot be reached at all.
func (c *Client) RoundTrip(r *http.Request) (*http.Response, error) {
	if len(c.servers) == 0 {
		return nil, errors.New("no server to ask: give at least one HOST:PORT")
	}
	switch r.URL.Path {
	case blixardv1connect.VMServiceLogsProcedure, blixardv1connect.WatchServiceWatchProcedure:
		return c.cursor.sendWatched(c.http, r, c.servers, c.silent, c.quiet)
	}
	return c.cursor.send(c.http, r, c.servers)
}

// retry is what a unary call does about UNAVAILABLE.
func (c *Client) retry(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		mutation := false
		if m, ok := req.Any().(proto.Message); ok {
			mutation = fillRequestID(m.ProtoReflect())
		}
		if _, ok := ctx.Deadline(); !ok {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, defaultPatience)
			defer cancel()
		}
		refused, pause, seen := time.Now(), 10*time.Millisecond, false
		var last error // a server's own words
		for {
			at := c.cursor.at.Load()
			resp, err := c.try(ctx, next, req)
			if err != nil && ctx.Err() != nil && last != nil {
				return nil, last // says more than the deadline does
			}
			if err == nil || ctx.Err() != nil || !again(err) {
				return resp, err
			}
			if detail, _ := Refused(err); detail != nil {
				last = err
			}
			if !isDial(err) {
				refused, seen = time.Now(), mutation // it may have been executed: only a retry tells
			}
			if !seen && time.Since(refused) > refusedPatience {
				return nil, err
			}
			c.cursor.next(at)
			select {
			case <-ctx.Done():
				return nil, err // says more than the deadline does
			case <-time.After(pause/2 + rand.N(pause)):
			}
			pause = min(2*pause, 500*time.Millisecond)
		}
	}
}

// try asks once. Of several servers, none may take all the time there is.
func (c *Client) try(ctx context.Context, next connect.UnaryFunc, req connect.AnyRequest) (connect.AnyResponse, error) {
	one, cancel := ctx, func() {}
	if len(c.servers) > 1 && !meantForOne[req.Spec().Procedure] {
		one, cancel = context.WithTimeout(ctx, c.silent)
	}
	defer cancel()
	resp, err := next(one, req)
	switch {
	case err == nil || connect.CodeOf(err) != connect.CodeDeadlineExceeded:
		return resp, err
	case ctx.Err() == nil && one != ctx:
		return nil, connect.NewError(connect.CodeUnavailable, c.noAnswer())
	case !connect.IsWireError(err):
		return nil, connect.NewError(connect.CodeDeadlineExceeded, c.noAnswer())
	}
	return nil, err
}

func (c *Client) noAnswer() error {
	return fmt.Errorf("no answer from %s in time", strings.Join(c.servers, ", "))
}

// meantForOne are the calls about the very node that is asked, without an id
// under which they could be repeated.
var meantForOne = map[string]bool{
	blixardv1connect.ClusterServiceInitProcedure: true,
	blixardv1connect.ClusterServiceJoinProcedure: true,
}

// again says that a call may succeed when it is tried again: a server said
// UNAVAILABLE, or the connection broke, for which connect has several codes.
func again(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodeUnavailable:
		return true
	case connect.CodeCanceled, connect.CodeUnknown:
		return !connect.IsWireError(err)
	}
	return false
}

// fillRequestID gives a mutation its id, and says whether it is one.
func fillRequestID(m protoreflect.Message) bool {
	f := m.Descriptor().Fields().ByName("request_id")
	if f != nil && m.Get(f).String() == "" {
		m.Set(f, protoreflect.ValueOfString(NewRequestID()))
	}
	return f != nil
}
