package nix

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// bring gets what was built elsewhere, without building: it is in the store, a
// substituter has it, or a host.
func (b *Builder) bring(ctx context.Context, f *flight, j *job) (*runner, error) {
	err := b.imports.enter(ctx, func(n int) { f.log.line("waiting for a place to copy, behind %d others", n) })
	if err != nil {
		return nil, err
	}
	defer b.imports.leave()
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.Timeout, ErrTimeout)
	defer cancel()
	begin := time.Now()
	path := j.want()
	// It does not build: a path is no recipe.
	f.log.line("looking for %s in the store and its substituters", path)
	r, err := b.realise(ctx, f, j)
	from := "the store or a substituter"
	for _, address := range j.order.Addresses {
		if err == nil || b.cfg.Peer == nil || ctx.Err() != nil || errors.Is(err, ErrFull) || errors.Is(err, ErrShape) {
			break
		}
		f.log.line("copying %s from %s", path, address)
		from = address
		if err = b.fetch(ctx, address, path, f.log); err == nil {
			r, err = b.realise(ctx, f, j)
		}
		if err != nil {
			f.log.line("not from %s: %v", address, err)
		}
	}
	if err != nil {
		return nil, err
	}
	f.log.line("%s came from %s in %s", path, from, since(begin))
	return r, nil
}

// realise roots what the job wants, if it can be had.
func (b *Builder) realise(ctx context.Context, f *flight, j *job) (*runner, error) {
	dir, path, err := b.root(ctx, command{what: "the search for " + j.want(), log: f.log}, j.want(),
		"--option", "connect-timeout", "5", "--option", "download-attempts", "2")
	if err != nil {
		return nil, err
	}
	return b.describe(ctx, f.log, dir, path, j.order.Want.GetClosureBytes())
}

// peerSilence is how long a peer may say nothing.
const peerSilence = time.Minute

// fetch imports a closure from a host.
func (b *Builder) fetch(ctx context.Context, address, path string, l *log) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r, err := b.cfg.Peer(ctx, address, path)
	if err != nil {
		return err
	}
	defer r.Close()
	stream := watch(r, b.silence, func() { cancel(fmt.Errorf("it sent nothing for %s", b.silence)) })
	out, err := b.ask(ctx, command{what: "the import of " + path, program: b.tools.store, args: []string{"--import"}, stdin: stream, log: l})
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		if strings.TrimSpace(line) == path {
			return nil
		}
	}
	return fmt.Errorf("what came is not %s but %.200q", path, lastLine(out))
}

func lastLine(s string) string { return s[strings.LastIndexByte(s, '\n')+1:] }

// watched is a stream whose owner hears of it when a read stands still. While
// nobody reads, nobody waits.
type watched struct {
	io.ReadCloser
	silence time.Duration
	timer   *time.Timer
}

func watch(r io.ReadCloser, silence time.Duration, still func()) *watched {
	w := &watched{r, silence, time.AfterFunc(silence, still)}
	w.timer.Stop()
	return w
}

func (w *watched) Read(p []byte) (int, error) {
	w.timer.Reset(w.silence)
	defer w.timer.Stop()
	return w.ReadCloser.Read(p)
}

// Export writes a runner and all that it refers to, as `nix-store --import`
// reads it. Only what is held here is given away.
func (b *Builder) Export(ctx context.Context, path string, w io.Writer) error {
	b.mu.Lock()
	r := b.valid(b.runners[path])
	if r == nil {
		b.mu.Unlock()
		return fmt.Errorf("%w: %.200s", ErrNotHeld, path)
	}
	r.busy++ // so that it stays meanwhile
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		r.busy--
		b.release(r)
	}()
	if err := b.exports.enter(ctx, nil); err != nil {
		return err
	}
	defer b.exports.leave()
	out, err := b.ask(ctx, command{what: "the closure of " + path, program: b.tools.store, args: []string{"--query", "--requisites", path}})
	if err != nil {
		return err
	}
	args := append([]string{"--export"}, strings.Fields(out)...)
	return b.run(ctx, command{what: "the export of " + path, program: b.tools.store, args: args, stdout: w})
}
