package rpc

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/blixard/blixard/proto/blixard/v1/blixardv1connect"
)

// account gives account of every request: to the log, and to whoever counts. A request
// that changes something is a line of its own, under the request id that its client was
// told; the revision in it is the index of the events that it has caused.
type account struct{ *Server }

// quiet are procedures that change nothing in the cluster and come in floods, a key
// or a piece of a file at a time.
var quiet = map[string]bool{
	blixardv1connect.GuestServiceReadFileProcedure:     true,
	blixardv1connect.GuestServiceWriteFileProcedure:    true,
	blixardv1connect.GuestServiceWriteConsoleProcedure: true,
}

// note is what is found out about a request on its way.
type note struct {
	id       string
	revision uint64
}

type noteKey struct{}

// noteOf may be written to; nobody reads it where there was no account.
func noteOf(ctx context.Context) *note {
	if n, ok := ctx.Value(noteKey{}).(*note); ok {
		return n
	}
	return &note{}
}

func (a account) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		n, begin := &note{}, time.Now()
		if m, ok := req.Any().(interface{ GetRequestId() string }); ok {
			n.id = strings.ToLower(m.GetRequestId())
		}
		resp, err := next(context.WithValue(ctx, noteKey{}, n), req)
		took := time.Since(begin)
		if a.cfg.Answered != nil {
			a.cfg.Answered(req.Spec().Procedure, err, took)
		}
		name := ""
		if m, ok := req.Any().(interface{ GetName() string }); ok {
			name = m.GetName()
		}
		a.say(ctx, req.Spec(), n, name, err, took)
		return resp, err
	}
}

func (a account) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		n, begin := &note{}, time.Now()
		ended := func(error) {}
		if a.cfg.Opened != nil {
			ended = a.cfg.Opened(conn.Spec().Procedure)
		}
		err := next(context.WithValue(ctx, noteKey{}, n), conn)
		ended(err)
		a.say(ctx, conn.Spec(), n, "", err, time.Since(begin))
		return err
	}
}

func (a account) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// say writes the line. What fails by no fault of its client's is a warning, even if it
// was only a question.
func (a account) say(ctx context.Context, spec connect.Spec, n *note, name string, err error, took time.Duration) {
	level, code := slog.LevelInfo, "ok"
	if spec.IdempotencyLevel == connect.IdempotencyNoSideEffects || spec.StreamType == connect.StreamTypeServer || quiet[spec.Procedure] {
		level = slog.LevelDebug
	}
	why := ""
	if err != nil {
		c := connect.CodeOf(err)
		if code = c.String(); c == connect.CodeInternal || c == connect.CodeUnknown || c == connect.CodeDataLoss {
			level = slog.LevelWarn
		}
		why = err.Error()
		if e := (*connect.Error)(nil); errors.As(err, &e) {
			why = e.Message() // the code is there already
		}
	}
	if !a.cfg.Log.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("procedure", Method(spec.Procedure)), slog.String("principal", callerOf(ctx).principal),
		slog.String("code", code), slog.Duration("took", took.Round(time.Microsecond)),
	}
	add := func(a slog.Attr, there bool) {
		if there {
			attrs = append(attrs, a)
		}
	}
	add(slog.String("request_id", short(n.id)), n.id != "")
	add(slog.String("name", short(name)), name != "")
	add(slog.Uint64("revision", n.revision), n.revision != 0)
	add(slog.String("error", short(why)), err != nil)
	a.cfg.Log.LogAttrs(ctx, level, "request", attrs...)
}

// short bounds what a client can have us write.
func short(s string) string {
	if len(s) > 1000 {
		return strings.ToValidUTF8(s[:1000], "") + "..."
	}
	return s
}

// Method is a procedure as people know it: VM.Create.
func Method(procedure string) string {
	service, method, _ := strings.Cut(strings.TrimPrefix(procedure, "/blixard.v1."), "Service/")
	return service + "." + method
}
