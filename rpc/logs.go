package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"time"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Logs finds the VM's host in this server's own copy of the state, so that a
// console can be read without a quorum, and streams from there.
func (s vms) Logs(ctx context.Context, req *connect.Request[blixardv1.LogsRequest], stream *connect.ServerStream[blixardv1.LogsResponse]) error {
	return wire(s.logs(ctx, req.Msg, func(b []byte) error {
		return stream.Send(&blixardv1.LogsResponse{Data: b})
	}), "")
}

func (s vms) logs(ctx context.Context, m *blixardv1.LogsRequest, send func([]byte) error) error {
	// An empty piece opens the stream before anything was found or written, and
	// now and then tells both sides that the other is still there.
	beat := func() error { return send(nil) }
	if err := beat(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	return s.pump(ctx, &later{open: func() (io.ReadCloser, error) { return s.findLogs(ctx, m) }, cancel: cancel}, send, beat)
}

func (s vms) findLogs(ctx context.Context, m *blixardv1.LogsRequest) (io.ReadCloser, error) {
	one, err := s.find(ctx, m.Name, true)
	if err != nil || one.Node == nil {
		if one, err = s.find(ctx, m.Name, false); err != nil {
			return nil, err
		}
	}
	vm, host := one.VM, one.Node
	if err := noLogs(vm, host, m.Build); err != nil {
		return nil, err
	}
	q := logsQuery{uid: vm.Uid, build: m.Build, follow: m.Follow, tail: m.TailBytes}
	var r io.ReadCloser
	if host.Id == s.cfg.Backend.Status().Identity.ID {
		r, err = s.openLogs(ctx, q)
	} else {
		r, err = s.remoteLogs(ctx, host, q)
	}
	if errors.Is(err, fs.ErrNotExist) {
		what, follow := "no console yet on %s: it was not started there", "vm logs -f "
		if m.Build {
			what, follow = "no build log on %s: nothing was built for it there; what was built elsewhere is copied", "vm logs --build -f "
		}
		err = refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "",
			fmt.Sprintf("the VM %s has "+what, vm.Name, host.Name),
			"wait for it with 'blixard "+follow+vm.Name+"', or see 'blixard vm explain "+vm.Name+"'")
	}
	return r, err
}

// later is a reader of what takes a while to find and to open. Whoever opens it
// gives up when cancel is called.
type later struct {
	open   func() (io.ReadCloser, error)
	cancel context.CancelFunc
	mu     sync.Mutex
	closed bool
	r      io.ReadCloser
}

func (l *later) Read(b []byte) (int, error) {
	if l.r == nil {
		r, err := l.open()
		if err != nil {
			return 0, err
		}
		l.mu.Lock()
		l.r = r
		if l.closed {
			r.Close()
		}
		l.mu.Unlock()
	}
	return l.r.Read(b)
}

func (l *later) Close() error {
	l.cancel()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.r != nil {
		return l.r.Close()
	}
	return nil
}

// noLogs refuses what can have no such log at all.
func noLogs(vm *blixardv1.VM, host *blixardv1.Node, build bool) error {
	what := "so it has no console"
	if build {
		if vm.GetSpec().GetNixos() == nil && vm.GetSpec().GetFlake() == nil {
			return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "",
				fmt.Sprintf("nothing is built for the VM %s: it boots an image or runs a program", vm.Name),
				"'blixard vm logs "+vm.Name+"' shows its console")
		}
		what = "so nothing is built for it"
	}
	if host == nil {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "",
			fmt.Sprintf("the VM %s is on no host, %s", vm.Name, what), "'blixard vm explain "+vm.Name+"' says why")
	}
	return nil
}

// logsQuery says which log of a VM, and what of it.
type logsQuery struct {
	uid           string
	build, follow bool
	tail          uint64
}

// openLogs opens a log of this host. Who follows one that is not there yet waits
// for it.
func (s *Server) openLogs(ctx context.Context, q logsQuery) (io.ReadCloser, error) {
	if s.cfg.Logs == nil {
		return nil, fs.ErrNotExist
	}
	logs := s.cfg.Logs.Logs
	if q.build {
		logs = s.cfg.Logs.BuildLogs
	}
	r, err := logs(ctx, q.uid, q.follow, q.tail)
	if !q.follow || !errors.Is(err, fs.ErrNotExist) {
		return r, err
	}
	ctx, cancel := context.WithCancel(ctx)
	return &waiting{open: func() (io.ReadCloser, error) { return logs(ctx, q.uid, q.follow, q.tail) }, ctx: ctx, cancel: cancel}, nil
}

// waiting is a reader of what can only be opened later.
type waiting struct {
	open   func() (io.ReadCloser, error)
	ctx    context.Context
	cancel context.CancelFunc
	r      io.ReadCloser
}

func (w *waiting) Read(b []byte) (int, error) {
	for w.r == nil {
		r, err := w.open()
		if err == nil {
			w.r = r
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return 0, err
		}
		select {
		case <-w.ctx.Done():
			return 0, w.ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
	return w.r.Read(b)
}

// Close ends a Read under way by its context, which every open was given.
func (w *waiting) Close() error {
	w.cancel()
	return nil
}

// pump sends what r yields until it ends, the client goes or the server stops.
// beat, when set, is called whenever nothing came for a while.
func (s *Server) pump(ctx context.Context, r io.ReadCloser, send func([]byte) error, beat func() error) error {
	type piece struct {
		b   []byte
		err error
	}
	done := make(chan struct{})
	defer close(done)
	defer r.Close()
	pieces := make(chan piece)
	go func() {
		buf := make([]byte, 2*32<<10)
		for i := 0; ; i++ {
			// Two halves in turn: one is being sent while the other fills.
			half := buf[i%2*32<<10:][: 32<<10 : 32<<10]
			n, err := r.Read(half)
			select {
			case pieces <- piece{half[:n], err}:
			case <-done:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	ticker := time.NewTicker(logsBeat)
	defer ticker.Stop()
	for {
		select {
		case p := <-pieces:
			if len(p.b) > 0 {
				if err := send(p.b); err != nil {
					return err
				}
			}
			if p.err == io.EOF {
				return nil
			}
			if p.err != nil {
				return p.err
			}
		case <-ticker.C:
			if beat == nil {
				continue
			}
			if err := beat(); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-s.stopping.Done():
			return s.stoppingError()
		}
	}
}
