package console

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func all(t *testing.T, path string, tail uint64) string {
	t.Helper()
	r, err := Open(context.Background(), path, false, tail)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestAttemptsShareOneLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	for i, said := range []string{"hello\n", "cut off", "again\n"} {
		if err := Mark(path, uint32(i+1)); err != nil {
			t.Fatal(err)
		}
		write(t, path, said)
	}
	want := "--- attempt 1 ---\nhello\n--- attempt 2 ---\ncut off\n--- attempt 3 ---\nagain\n"
	if got := all(t, path, 0); got != want {
		t.Fatalf("%q", got)
	}
	if got := all(t, path, 6); got != "again\n" {
		t.Fatalf("%q", got)
	}
	if got := all(t, path, 1<<63); got != want {
		t.Fatalf("%q", got)
	}
}

func TestALogIsBoundedAndItsEndIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	const keep = 64 << 10
	follow, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	follow.Close()
	r, err := Open(context.Background(), path, true, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for i := range 100 {
		write(t, path, strings.Repeat(string(rune('a'+i%26)), 10_000)+"\n")
		if err := Trim(path, keep); err != nil {
			t.Fatal(err)
		}
		// The follower loses nothing as long as he keeps up.
		got := make([]byte, 10_001)
		if _, err := io.ReadFull(r, got); err != nil || got[0] != byte('a'+i%26) || got[10_000] != '\n' {
			t.Fatalf("line %d: %q... %v", i, got[:4], err)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	if st.Blocks*512 > 2*keep {
		t.Errorf("%d bytes are in use", st.Blocks*512)
	}
	if got := all(t, path, 0); len(got) > 2*keep || strings.ContainsRune(got, 0) || !strings.HasSuffix(got, "vvv\n") {
		t.Errorf("%d bytes, %d of them zero, end with %q", len(got), strings.Count(got, "\x00"), got[max(0, len(got)-4):])
	}
}

func TestAFollowerGoesOnAfterACut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	write(t, path, "before\n")
	r, err := Open(context.Background(), path, true, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b := make([]byte, 64)
	if n, err := r.Read(b); err != nil || string(b[:n]) != "before\n" {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	write(t, path, "after\n")
	if n, err := r.Read(b); err != nil || string(b[:n]) != "after\n" {
		t.Fatalf("%q %v", b[:n], err)
	}
}

func TestAFollowerEndsWithTheLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	write(t, path, "last words\n")
	r, err := Open(context.Background(), path, true, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	time.AfterFunc(50*time.Millisecond, func() { os.Remove(path) })
	b, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(b, []byte("last words\n")) {
		t.Fatalf("%q %v", b, err)
	}
}

func TestAFollowerCanBeClosed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	write(t, path, "x")
	for _, end := range []func(*Reader, context.CancelFunc){
		func(r *Reader, _ context.CancelFunc) { r.Close() },
		func(_ *Reader, cancel context.CancelFunc) { cancel() },
	} {
		ctx, cancel := context.WithCancel(context.Background())
		r, err := Open(ctx, path, true, 0)
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(20*time.Millisecond, func() { end(r, cancel) })
		if _, err := io.ReadAll(r); !errors.Is(err, context.Canceled) && !errors.Is(err, os.ErrClosed) {
			t.Fatal(err)
		}
		cancel()
		r.Close()
	}
}

func TestOnlyPlainFilesAreLogs(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("/etc/passwd", link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, link, dir, filepath.Join(dir, "none")} {
		if r, err := Open(context.Background(), path, true, 0); err == nil {
			r.Close()
			t.Errorf("%s: read as a log", path)
		}
	}
}
