package rpc

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"strings"

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
		// An answer that begins while the transport still looks for the end of the
		// request would otherwise close that under it, and the transport would take
		// the server's connection for broken. (HTTP/2 is always so, and says no error.)
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			s.cfg.Log.Debug("an answer may overtake its request", "why", err)
		}
		proxy.ServeHTTP(w, r)
	})
}

// fallback is a transport that chooses the server.
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
	return f.cursor.send(t, r, addresses)
}
