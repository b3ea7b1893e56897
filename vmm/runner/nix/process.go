package nix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// tools are the two programs.
type tools struct{ nix, store string }

// command is one run of Nix.
type command struct {
	what      string // in the words of an error
	program   string
	args      []string
	dir       string        // where it runs; empty: the builder's directory
	memoryMiB uint64        // 0: not bounded
	stdin     io.ReadCloser // closed at the end
	stdout    io.Writer
	log       *log
}

// ask runs a command and gives what it prints, which is a few lines.
func (b *Builder) ask(ctx context.Context, c command) (string, error) {
	var out bytes.Buffer
	c.stdout = &limited{&out, 16 << 20}
	if err := b.run(ctx, c); err != nil {
		return "", err
	}
	return strings.TrimSpace(out.String()), nil
}

// limited is a writer with an end.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, errors.New("too much output")
	}
	return l.w.Write(p)
}

// run runs Nix under a keeper, and returns when nothing of it is left.
func (b *Builder) run(ctx context.Context, c command) error {
	leash, ours, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("%s: %w", c.what, err)
	}
	defer leash.Close()
	defer ours.Close()
	v := &voice{log: c.log}
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = append([]string{keeperName, strconv.FormatUint(c.memoryMiB, 10), c.program}, c.args...)
	cmd.Env = b.environment()
	if cmd.Dir = c.dir; cmd.Dir == "" {
		cmd.Dir = b.cfg.Dir
	}
	cmd.Stdout, cmd.Stderr = c.stdout, v
	cmd.ExtraFiles = []*os.File{leash, b.guard}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = ours.Close
	// Beyond what the keeper gives itself: it kills the keeper, and nix with it.
	cmd.WaitDelay = stopGrace + killPatience + 10*time.Second
	input, err := c.input(cmd)
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return b.failure(ctx, c, v, fmt.Errorf("start: %w", err))
	}
	input.start()
	err = cmd.Wait()
	v.close()
	// What the process says of an input that broke off is not the cause.
	if broken := input.end(); broken != nil && err != nil && ctx.Err() == nil {
		return fmt.Errorf("%s: %w", c.what, broken)
	}
	return b.failure(ctx, c, v, err)
}

// input is a stream on its way into a process; nil is none.
type input struct {
	from   io.ReadCloser
	to     io.WriteCloser
	over   atomic.Bool // the process has ended
	result chan error
}

func (c command) input(cmd *exec.Cmd) (*input, error) {
	if c.stdin == nil {
		return nil, nil
	}
	pipe, err := cmd.StdinPipe()
	return &input{from: c.stdin, to: pipe, result: make(chan error, 1)}, err
}

func (in *input) start() {
	if in == nil {
		return
	}
	go func() {
		_, err := io.Copy(in.to, reader{in})
		var own *sourceError
		if !errors.As(err, &own) || in.over.Load() {
			err = nil // of the pipe: the process will say why
		}
		in.to.Close()
		in.result <- err
	}()
}

// sourceError is one of the stream, and not of the pipe.
type sourceError struct{ error }

func (e *sourceError) Unwrap() error { return e.error }

type reader struct{ in *input }

func (r reader) Read(p []byte) (int, error) {
	n, err := r.in.from.Read(p)
	if err != nil && err != io.EOF {
		err = &sourceError{err}
	}
	return n, err
}

// end closes the stream, and says how it broke off, if it did.
func (in *input) end() error {
	if in == nil {
		return nil
	}
	in.over.Store(true)
	in.from.Close()
	select {
	case err := <-in.result:
		return err
	case <-time.After(5 * time.Second):
		return nil // one that a Close does not wake
	}
}

// environment is the daemon's own, and what it takes to work without a home.
func (b *Builder) environment() []string {
	env := os.Environ()
	if os.Getenv("HOME") == "" {
		env = append(env, "HOME="+b.home())
	}
	// Messages as we know them.
	return append(append(env, "LC_ALL=C.UTF-8", "NO_COLOR=1", "GIT_TERMINAL_PROMPT=0"), b.cfg.Env...)
}

// failure says why a command failed: what, why, and what to do where we know it.
func (b *Builder) failure(ctx context.Context, c command, v *voice, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		cause := context.Cause(ctx)
		if errors.Is(cause, ErrTimeout) {
			return fmt.Errorf("%w: %s was not done within %s; the last that it said:\n%s",
				ErrTimeout, c.what, b.cfg.Timeout, v.tail())
		}
		return fmt.Errorf("%s: %w", c.what, cause)
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return fmt.Errorf("%s: %w", c.what, err)
	}
	code := exit.ExitCode()
	switch {
	case c.memoryMiB > 0 && v.says("out of memory", "bad_alloc", "cannot allocate memory"):
		return fmt.Errorf("%w: %s took more than %d MiB; make what it imports smaller, or raise this host's bound",
			ErrMemory, c.what, c.memoryMiB)
	case v.says("no space left on device", "database or disk is full", "disk quota exceeded"):
		return fmt.Errorf("%w: %s: free some on the disks of the Nix store and of %s, say with nix-collect-garbage:\n%s",
			ErrFull, c.what, b.cfg.Dir, v.tail())
	case code == codeSignal+int(syscall.SIGKILL):
		return fmt.Errorf("%s was killed: perhaps the host has no memory left; the last that it said:\n%s", c.what, v.tail())
	case v.tail() == "":
		return fmt.Errorf("%s failed with exit code %d and said nothing", c.what, code)
	}
	return fmt.Errorf("%s failed: %s\n%s", c.what, v.verdict(), v.tail())
}
