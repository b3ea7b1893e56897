// Package console is the log of what a VM said: one file over all its attempts,
// bounded, and readable while it is written.
//
// # The model
//
// Whoever runs the VM appends to the file (QEMU, or the program itself), so
// nobody stands between a VM and its log, and none of it is lost while no daemon
// runs. The file only grows, and the daemon now and then punches a hole where
// the oldest bytes were:
//
//	0 ........ hole ........ | kept ........................ | end
//	                         start                           size
//
// An offset therefore means the same byte for ever, and a reader who follows
// the file needs to know nothing of the trimming. Where the file system has no
// holes, or the file has become absurdly long, it is cut to nothing instead, and
// a reader who finds the file shorter than he was goes on from its beginning.
//
// The log of a VM that was removed has no name any more; its readers see that
// and end.
package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// Keep is how much of a log is kept at least, if that much was said.
	Keep = 16 << 20
	// longest file, holes included, before it is begun anew.
	longest = 1 << 40
	block   = 4096
)

// Mark writes the line that begins an attempt.
func Mark(path string, attempt uint32) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("console log: %w", err)
	}
	line := fmt.Sprintf("--- attempt %d ---\n", attempt)
	if !endsLine(path) {
		line = "\n" + line
	}
	_, err = f.WriteString(line)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("console log: %w", err)
	}
	return nil
}

// endsLine says whether what is there ends with a whole line, or is empty.
func endsLine(path string) bool {
	last, err := Tail(path, 1)
	return err != nil || len(last) == 0 || last[0] == '\n'
}

// Trim gives back the disk space of all but the last keep bytes, once a quarter
// more than that is in use.
func Trim(path string, keep int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("console log: %w", err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("console log: %w", err)
	}
	if st.Blocks*512 <= keep+keep/4 {
		return nil
	}
	if st.Size < longest {
		hole := (st.Size - keep) / block * block
		err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, hole)
		if err == nil {
			return nil
		}
	}
	if err := f.Truncate(0); err != nil { // the writer appends: it goes on at 0
		return fmt.Errorf("console log: %w", err)
	}
	return nil
}

// start is where the bytes that are kept begin.
func start(f *os.File) int64 {
	at, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA)
	if err != nil {
		return 0
	}
	return at
}

// Tail gives the last bytes that are kept, at most most.
func Tail(path string, most int64) ([]byte, error) {
	r, err := Open(context.Background(), path, false, uint64(most))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, most))
}

// Reader reads a log. Its Close may be called from another goroutine.
type Reader struct {
	ctx    context.Context
	cancel context.CancelFunc
	f      *os.File
	at     int64
	follow bool
	done   <-chan struct{} // nil, or closed when nothing more comes

	mu     sync.Mutex // held during a read of the file, so that Close does not pull it away
	closed bool
}

// Open begins to read: the last tail bytes of what is kept, or all of it when
// tail is 0. With follow it goes on with what comes, until ctx ends, the reader
// is closed, or the log is removed.
func Open(ctx context.Context, path string, follow bool, tail uint64) (*Reader, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("console log: %w", err)
	}
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("console log: %s is no plain file", path)
	}
	r := &Reader{f: f, follow: follow, at: start(f)}
	if size := st.Size(); tail > 0 && tail < uint64(size-r.at) {
		r.at = size - int64(tail)
	}
	r.ctx, r.cancel = context.WithCancel(ctx)
	return r, nil
}

// Until ends a reader who follows when done is closed, once all that was written
// by then has been read. It is said before the first Read.
func (r *Reader) Until(done <-chan struct{}) { r.done = done }

const look = 100 * time.Millisecond

// Read reads what there is, and when there is nothing waits or ends.
func (r *Reader) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for {
		// Looked at before we read: of a log that is gone or done, all is written.
		over := !r.follow
		select {
		case <-r.done:
			over = true
		default:
		}
		n, gone, err := r.read(b)
		if n > 0 || err != nil {
			return n, err
		}
		if over || gone {
			return 0, io.EOF
		}
		select {
		case <-r.done:
		case <-r.ctx.Done():
			return 0, r.ctx.Err()
		case <-time.After(look):
		}
	}
}

func (r *Reader) read(b []byte) (n int, gone bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return 0, false, os.ErrClosed
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(r.f.Fd()), &st); err != nil {
		return 0, false, err
	}
	if st.Size < r.at {
		r.at = 0 // cut
	}
	if r.at < st.Size { // a hole may have come over us
		if data, err := unix.Seek(int(r.f.Fd()), r.at, unix.SEEK_DATA); err == nil {
			r.at = data
		}
	}
	n, err = r.f.ReadAt(b, r.at)
	r.at += int64(n)
	if err == io.EOF {
		err = nil
	}
	return n, st.Nlink == 0, err
}

// Close ends the reader, and a Read that waits.
func (r *Reader) Close() error {
	r.cancel()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	return r.f.Close()
}
