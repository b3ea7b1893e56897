package rpc

import (
	"context"
	"net/http"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// principalHeader names the client for whom a node passes a request on.
const principalHeader = "Blixard-Principal"

const anonymous = "anonymous"

// caller is who sent a request.
type caller struct {
	principal string
	// node: a node of this cluster's CA; everybody, without TLS.
	node bool
}

type callerKey struct{}

func callerOf(ctx context.Context) caller {
	if c, ok := ctx.Value(callerKey{}).(caller); ok {
		return c
	}
	return caller{principal: anonymous}
}

// identify notes in the context of a request who sent it.
func identify(t *TLS, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := caller{principal: anonymous, node: t == nil}
		if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
			cert := r.TLS.PeerCertificates[0]
			c.node = isNode(cert)
			if c.principal = cert.Subject.CommonName; c.principal == "" {
				c.principal = "certificate " + cert.SerialNumber.Text(16)
			}
			if p := r.Header.Get(principalHeader); p != "" && c.node {
				c.principal = p
			}
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
	})
}

// onlyNodes refuses what is a node's business.
func onlyNodes(ctx context.Context) error {
	if callerOf(ctx).node {
		return nil
	}
	return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "", "only a node may call this",
		"use a certificate with the extended key usage serverAuth, as nodes have")
}
