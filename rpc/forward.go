package rpc

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/proto/blixard/v1/blixardv1connect"
)

// local are the procedures that each node answers for itself.
var local = map[string]bool{
	blixardv1connect.ClusterServiceStatusProcedure:    true,
	blixardv1connect.ClusterServiceInitProcedure:      true,
	blixardv1connect.ClusterServiceJoinProcedure:      true,
	blixardv1connect.ArtifactServiceDownloadProcedure: true,
}

// forward passes requests on to a server where this node is none. It begins
// with the one that took the last request, and goes on to the next only when
// one could not be reached at all: what a server may have seen is for the
// client to try again, with its request id.
func (s *Server) forward(next http.Handler) http.Handler {
	fallback := &fallback{s: s, h1: transport(s.cfg.TLS), h2: transport(s.cfg.TLS)}
	p := new(http.Protocols)
	p.SetHTTP2(true)
	p.SetUnencryptedHTTP2(true)
	fallback.h2.Protocols = p
	proxy := &httputil.ReverseProxy{
		Transport:     fallback,
		FlushInterval: -1, // streams
		ErrorLog:      slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme = s.cfg.TLS.scheme()
			r.Out.URL.Host = "server"
			r.Out.Host = ""
			r.Out.Header.Set(principalHeader, callerOf(r.In.Context()).principal)
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			err = wire(refuse(blixardv1.ErrorCode_ERROR_CODE_NO_QUORUM, "", fmt.Sprintf("this host is no server, and reached none: %v", err),
				"see that a server is up and reachable from here, and try again with the same request id"), "")
			connect.NewErrorWriter().Write(w, r, err)
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := s.cfg.Backend.Status().Identity
		if id.ClusterID == "" || id.Server || local[r.URL.Path] || hereOnly(r.Context(), r.Header) != "" || !strings.HasPrefix(r.URL.Path, "/blixard.v1.") {
			next.ServeHTTP(w, r)
			return
		}
		proxy.ServeHTTP(w, r)
	})
}

// fallback is a transport that chooses the server. To HTTP/1 it gives an answer
// once the request has ended, as net/http means it: a server ends what is left of
// a request when it begins to answer, and would end it under the transport, which
// then takes the server's connection for broken. HTTP/2 goes both ways at once.
type fallback struct {
	s      *Server
	h1, h2 *http.Transport
	cursor cursor
}

func (f *fallback) RoundTrip(r *http.Request) (*http.Response, error) {
	var addresses []string
	for _, n := range f.s.cfg.Backend.Status().Servers {
		if n.Address != "" {
			addresses = append(addresses, n.Address)
		}
	}
	if len(addresses) == 0 {
		return nil, errors.New("it knows of no server")
	}
	t := f.h1
	if r.ProtoMajor == 2 || strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		t = f.h2
	}
	if r.ProtoMajor != 1 || r.Body == nil {
		return f.cursor.send(t, r, addresses)
	}
	ended := make(chan struct{})
	whole := r.WithContext(r.Context())
	whole.Body = &onClose{r.Body, sync.OnceFunc(func() { close(ended) })}
	resp, err := f.cursor.send(t, whole, addresses)
	if err == nil {
		select {
		case <-ended: // which a transport owes to every request (http.RoundTripper)
		case <-r.Context().Done():
		}
	}
	return resp, err
}

// onClose tells when it is closed.
type onClose struct {
	io.ReadCloser
	told func()
}

func (c *onClose) Close() error {
	defer c.told()
	return c.ReadCloser.Close()
}
