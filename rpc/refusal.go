package rpc

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// RequestIDHeader carries the request id of a mutation in every answer, also in
// an error: a retry must use it.
const RequestIDHeader = "Blixard-Request-Id"

// Refusal is a refusal in words, as an error.
type Refusal struct{ Detail *blixardv1.Error }

func (r *Refusal) Error() string {
	s := r.Detail.GetMessage()
	if f := r.Detail.GetField(); f != "" {
		s = f + ": " + s
	}
	if a := r.Detail.GetAdvice(); a != "" {
		s += "; " + a
	}
	return s
}

func refuse(code blixardv1.ErrorCode, field, message, advice string) *Refusal {
	return &Refusal{&blixardv1.Error{Code: code, Field: field, Message: message, Advice: advice}}
}

// codes says which Connect code stands for which refusal. UNAVAILABLE is the
// only one that a client retries.
var codes = map[blixardv1.ErrorCode]connect.Code{
	blixardv1.ErrorCode_ERROR_CODE_INVALID:             connect.CodeInvalidArgument,
	blixardv1.ErrorCode_ERROR_CODE_NOT_FOUND:           connect.CodeNotFound,
	blixardv1.ErrorCode_ERROR_CODE_ALREADY_EXISTS:      connect.CodeAlreadyExists,
	blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION: connect.CodeFailedPrecondition,
	blixardv1.ErrorCode_ERROR_CODE_REQUEST_ID_REUSED:   connect.CodeAborted,
	blixardv1.ErrorCode_ERROR_CODE_REQUEST_ID_EXPIRED:  connect.CodeFailedPrecondition,
	blixardv1.ErrorCode_ERROR_CODE_EXHAUSTED:           connect.CodeResourceExhausted,
	blixardv1.ErrorCode_ERROR_CODE_NO_QUORUM:           connect.CodeUnavailable,
	blixardv1.ErrorCode_ERROR_CODE_COMPACTED:           connect.CodeOutOfRange,
	blixardv1.ErrorCode_ERROR_CODE_SHUTTING_DOWN:       connect.CodeUnavailable,
}

// wire turns any error into the one that leaves this node: a Connect error with
// the refusal as its typed detail, and the request id in its metadata.
func wire(err error, requestID string) error {
	var out *connect.Error
	var refusal *Refusal
	switch {
	case err == nil:
		return nil
	case errors.As(err, &out):
	case errors.As(err, &refusal):
		code, ok := codes[refusal.Detail.GetCode()]
		if !ok {
			code = connect.CodeUnknown
		}
		out = connect.NewError(code, errors.New(refusal.Error()))
		if d, derr := connect.NewErrorDetail(refusal.Detail); derr == nil {
			out.AddDetail(d)
		}
	case errors.Is(err, context.Canceled):
		out = connect.NewError(connect.CodeCanceled, err)
	case errors.Is(err, context.DeadlineExceeded):
		out = connect.NewError(connect.CodeDeadlineExceeded, err)
	default:
		out = connect.NewError(connect.CodeInternal, err)
	}
	if requestID != "" {
		out.Meta().Set(RequestIDHeader, requestID)
	}
	return out
}

// Refused returns what a server's error says in detail, and the id under which
// a mutation may be tried again; nil and "" when it says nothing of the kind.
func Refused(err error) (*blixardv1.Error, string) {
	var ce *connect.Error
	if !errors.As(err, &ce) {
		var r *Refusal
		if errors.As(err, &r) {
			return r.Detail, ""
		}
		return nil, ""
	}
	id := ce.Meta().Get(RequestIDHeader)
	for _, d := range ce.Details() {
		if m, err := d.Value(); err == nil {
			if e, ok := m.(*blixardv1.Error); ok {
				return e, id
			}
		}
	}
	return nil, id
}
