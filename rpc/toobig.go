package rpc

import (
	"fmt"
	"io"
	"net/http"
	"strings"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// notTooBig refuses a request that says itself that it is too big, before it is
// read. Connect would call it RESOURCE_EXHAUSTED, which in HTTP is 429: as if it
// could be sent again later.
func notTooBig(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		stream := strings.HasPrefix(r.Header.Get("Content-Type"), "application/connect+") || strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
		if stream || r.ContentLength <= maxRequest {
			next.ServeHTTP(w, r)
			return
		}
		err := wire(refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, "",
			fmt.Sprintf("the request has %d bytes, and at most %d are taken", r.ContentLength, maxRequest),
			"kernels, initrds and disks travel by upload ('blixard image push'), and are named in the spec by their digest"), "")
		if r.Header.Get("Expect") == "" { // it is on its way: who is cut off may not hear why
			io.CopyN(io.Discard, r.Body, maxDrain)
		}
		w.Header().Set("Connection", "close")
		connect.NewErrorWriter().Write(withStatus{w, http.StatusRequestEntityTooLarge}, r, err)
	})
}

// withStatus answers with a status of its own.
type withStatus struct {
	http.ResponseWriter
	status int
}

func (w withStatus) WriteHeader(int) { w.ResponseWriter.WriteHeader(w.status) }
