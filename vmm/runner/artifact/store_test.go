package artifact

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var ctx = context.Background()

func put(t *testing.T, s *Store, b []byte) string {
	t.Helper()
	d := digestOf(b)
	if err := s.Put(ctx, bytes.NewReader(b), d, uint64(len(b))); err != nil {
		t.Fatal(err)
	}
	return d
}

func read(t *testing.T, s *Store, digest string) string {
	t.Helper()
	f, err := s.Open(ctx, digest)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestWhatIsPutCanBeRead(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	d := put(t, s, []byte("a kernel"))
	empty := put(t, s, nil)
	put(t, s, []byte("a kernel")) // once more
	s = open(t, dir)
	if got := read(t, s, d); got != "a kernel" {
		t.Fatalf("%q", got)
	}
	if size, ok := s.Has(d); !ok || size != 8 {
		t.Fatal(size, ok)
	}
	if read(t, s, empty) != "" {
		t.Fatal("the empty artifact is not empty")
	}
	all, err := s.List()
	if err != nil || len(all) != 2 {
		t.Fatal(all, err)
	}
	if err := errors.Join(s.Delete(d), s.Delete(d)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(ctx, d); !errors.Is(err, ErrMissing) {
		t.Fatal(err)
	}
}

func TestWrongBytesAreRefusedAndLeaveNothing(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	good := []byte("good bytes")
	d := digestOf(good)
	for name, c := range map[string]struct {
		r    io.Reader
		size uint64
		want error
	}{
		"other":     {strings.NewReader("evil bytes"), 10, ErrCorrupt},
		"too few":   {strings.NewReader("good"), 10, ErrCorrupt},
		"too many":  {strings.NewReader("good bytes and more"), 10, ErrCorrupt},
		"wrong len": {bytes.NewReader(good), 9, ErrCorrupt},
		"broken":    {io.MultiReader(strings.NewReader("good"), iotest.ErrReader(io.ErrUnexpectedEOF)), 10, io.ErrUnexpectedEOF},
		"huge":      {bytes.NewReader(good), 1 << 63, ErrFull},
	} {
		if err := s.Put(ctx, c.r, d, c.size); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := os.ReadDir(filepath.Join(dir, "tmp")); len(left) != 0 {
			t.Errorf("%s: left %v", name, left)
		}
		if _, ok := s.Has(d); ok {
			t.Errorf("%s: stored", name)
		}
	}
}

func TestHostileDigestsAreRefused(t *testing.T) {
	s := open(t, t.TempDir())
	for _, d := range []string{
		"", "..", "../../../../etc/passwd", strings.Repeat("a", 63), strings.Repeat("a", 65), strings.Repeat("A", 64),
		strings.Repeat("a", 63) + "/", strings.Repeat("a", 63) + "\x00", strings.Repeat("../", 22)[:64], "sha256:" + strings.Repeat("a", 57),
	} {
		_, openErr := s.Open(ctx, d)
		ensureErr := s.Ensure(ctx, nil, &blixardv1.ArtifactSource{Artifact: &blixardv1.Artifact{Digest: d}})
		for _, err := range []error{s.Put(ctx, strings.NewReader(""), d, 0), s.Delete(d), openErr, ensureErr} {
			if !errors.Is(err, ErrDigest) {
				t.Errorf("%q: %v", d, err)
			}
		}
		if _, ok := s.Has(d); ok {
			t.Errorf("has %q", d)
		}
	}
}

func TestAFlippedBitIsNoticedBeforeUse(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	d := put(t, s, []byte("precious"))
	path, err := s.Path(ctx, d)
	if err != nil {
		t.Fatal(err)
	}
	flip := func() {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[3] ^= 1
		time.Sleep(20 * time.Millisecond) // past the grain of the file's times
		if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, b, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	flip()
	if _, err := s.Open(ctx, d); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("in the process that wrote it: %v", err)
	}
	put(t, s, []byte("precious"))
	flip()
	if _, err := open(t, dir).Open(ctx, d); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("in the next process: %v", err)
	}
	if _, ok := s.Has(d); ok {
		t.Fatal("the corrupt one is still there")
	}
}

func TestACrashLeavesOnlyWhatTheNextStartRemoves(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	left := filepath.Join(dir, "tmp", "half")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if all, err := s.List(); err != nil || len(all) != 0 {
		t.Fatal(all, err)
	}
}

// peers answers by address; nil content is a node that is down.
type peers struct {
	mu    sync.Mutex
	have  map[string][]byte
	calls int
}

func (p *peers) Fetch(_ context.Context, s *blixardv1.ArtifactSource) (io.ReadCloser, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls++
	b := p.have[s.Addresses[0]]
	if b == nil {
		return nil, errors.New("connection refused")
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func TestEnsureTriesEveryAddress(t *testing.T) {
	s := open(t, t.TempDir())
	b := []byte("an initrd")
	p := &peers{have: map[string][]byte{"liar:1": []byte("something"), "good:1": b}}
	source := &blixardv1.ArtifactSource{
		Artifact:  &blixardv1.Artifact{Digest: digestOf(b), Size: uint64(len(b))},
		Addresses: []string{"down:1", "liar:1", "good:1"},
	}
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			if err := s.Ensure(ctx, p, source); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if p.calls != 3 {
		t.Errorf("%d calls, want 3: fetched once, by one", p.calls)
	}
	if got := read(t, s, source.Artifact.Digest); got != "an initrd" {
		t.Fatalf("%q", got)
	}
}

func TestEnsureSaysWhoSaidWhat(t *testing.T) {
	pauses = []time.Duration{0, time.Millisecond}
	s := open(t, t.TempDir())
	b := []byte("an initrd")
	source := &blixardv1.ArtifactSource{Artifact: &blixardv1.Artifact{Digest: digestOf(b), Size: uint64(len(b))}, Addresses: []string{"down:1", "liar:1"}}
	p := &peers{have: map[string][]byte{"liar:1": []byte("something")}}
	err := s.Ensure(ctx, p, source)
	if err == nil || !strings.Contains(err.Error(), "down:1: connection refused") || !strings.Contains(err.Error(), "liar:1: corrupt") {
		t.Fatal(err)
	}
	source.Addresses = nil
	if err := s.Ensure(ctx, p, source); !errors.Is(err, ErrMissing) {
		t.Fatal(err)
	}
	put(t, s, b)
	source.Artifact.Size++
	if err := s.Ensure(ctx, p, source); err == nil {
		t.Fatal("a size that is not the artifact's was taken")
	}
}
