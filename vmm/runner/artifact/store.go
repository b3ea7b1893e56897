package artifact

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

var (
	// ErrDigest is a name that is not 64 lowercase hexadecimal digits.
	ErrDigest = errors.New("not a SHA-256 digest: want 64 lowercase hexadecimal digits")
	// ErrMissing says that the store does not have the artifact.
	ErrMissing = errors.New("no such artifact here")
	// ErrCorrupt says that bytes are not those that the digest names.
	ErrCorrupt = errors.New("corrupt artifact")
	// ErrFull says that the disk has no room for it.
	ErrFull = errors.New("no space for the artifact")
)

// Store is one directory of artifacts. Its methods may be called from any
// goroutine; one process has one Store of a directory.
type Store struct {
	dir string

	mu       sync.Mutex
	verified map[string]print       // what was hashed in this process
	busy     map[string]*sync.Mutex // one fetch or check of a digest at a time
}

// Info is one stored artifact.
type Info struct {
	Digest string
	Size   uint64
}

// print tells a file from what it was before.
type print struct {
	ino          uint64
	size         int64
	ctime, mtime unix.Timespec
}

// Open opens the store in dir, which it makes if need be, and removes what a
// crash left half written.
func Open(dir string) (*Store, error) {
	s := &Store{dir: dir, verified: map[string]print{}, busy: map[string]*sync.Mutex{}}
	if err := os.RemoveAll(s.tmp()); err != nil {
		return nil, fmt.Errorf("open the artifact store: %w", err)
	}
	for _, d := range []string{s.tmp(), filepath.Join(dir, "sha256")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("open the artifact store: %w", err)
		}
	}
	return s, nil
}

func (s *Store) tmp() string { return filepath.Join(s.dir, "tmp") }

func (s *Store) path(digest string) (string, error) {
	if !ValidDigest(digest) {
		return "", fmt.Errorf("%w, not %.80q", ErrDigest, digest)
	}
	return filepath.Join(s.dir, "sha256", digest[:2], digest), nil
}

// ValidDigest says whether a string can name an artifact.
func ValidDigest(digest string) bool {
	if len(digest) != 64 {
		return false
	}
	for i := range len(digest) {
		if c := digest[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// Put stores the bytes of r, which must be size bytes with that digest. What is
// there already is not read again: r is left as it is.
func (s *Store) Put(ctx context.Context, r io.Reader, digest string, size uint64) error {
	path, err := s.path(digest)
	if err != nil {
		return err
	}
	if have, ok := s.Has(digest); ok && have == size {
		return nil
	}
	if err := s.room(digest, size); err != nil {
		return err
	}
	if err := s.write(ctx, r, path, digest, size); err != nil {
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			err = fmt.Errorf("%w: %s: free some on the disk of %s: %w", ErrFull, short(digest), s.dir, err)
		}
		return err
	}
	return nil
}

// reserve is left free on the disk: the daemon's own log and state live there.
const reserve = 64 << 20

// room refuses early what cannot fit.
func (s *Store) room(digest string, size uint64) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(s.dir, &fs); err != nil {
		return fmt.Errorf("artifact store %s: %w", s.dir, err)
	}
	free := fs.Bavail * uint64(fs.Bsize)
	if free < reserve || size > free-reserve {
		return fmt.Errorf("%w: %s has %d MiB, the disk of %s has %d MiB free and keeps %d: free some",
			ErrFull, short(digest), size>>20, s.dir, free>>20, reserve>>20)
	}
	return nil
}

func (s *Store) write(ctx context.Context, r io.Reader, path, digest string, size uint64) (err error) {
	f, err := os.CreateTemp(s.tmp(), digest[:12]+"-")
	if err != nil {
		return fmt.Errorf("store artifact %s: %w", short(digest), err)
	}
	defer func() {
		f.Close()
		os.Remove(f.Name())
	}()
	sum := sha256.New()
	// One byte more than announced is enough to know that there is too much.
	n, err := io.Copy(io.MultiWriter(f, sum), io.LimitReader(reader{ctx, r}, int64(min(size, 1<<62))+1))
	if err != nil {
		return fmt.Errorf("store artifact %s: after %d of %d bytes: %w", short(digest), n, size, err)
	}
	if uint64(n) != size {
		return fmt.Errorf("%w: %s came with %s bytes than the announced %d", ErrCorrupt, short(digest),
			map[bool]string{true: "more", false: "fewer"}[uint64(n) > size], size)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != digest {
		return fmt.Errorf("%w: what came as %s has the digest %s", ErrCorrupt, digest, got)
	}
	if err := errors.Join(f.Chmod(0o400), f.Sync()); err != nil {
		return fmt.Errorf("store artifact %s: %w", short(digest), err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("store artifact %s: %w", short(digest), err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("store artifact %s: %w", short(digest), err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("store artifact %s: %w", short(digest), err)
	}
	if p, err := look(path); err == nil {
		s.remember(digest, p)
	}
	return nil
}

// reader ends a copy when its context does.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(b)
}

// Has says whether the artifact is there, and its size. It does not look into it.
func (s *Store) Has(digest string) (size uint64, ok bool) {
	path, err := s.path(digest)
	if err != nil {
		return 0, false
	}
	p, err := look(path)
	return uint64(p.size), err == nil
}

// Path gives the file of an artifact that was verified. It is the store's: read
// it, do not change it.
func (s *Store) Path(ctx context.Context, digest string) (string, error) {
	f, err := s.Open(ctx, digest)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return f.Name(), nil
}

// Open opens an artifact that was verified; the caller closes it.
func (s *Store) Open(ctx context.Context, digest string) (*os.File, error) {
	path, err := s.path(digest)
	if err != nil {
		return nil, err
	}
	defer s.lock(digest)()
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrMissing, digest)
	}
	if err == nil {
		err = s.verify(ctx, f, path, digest)
		if err != nil {
			f.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open artifact %s: %w", short(digest), err)
	}
	return f, nil
}

// verify hashes what this process has not hashed yet.
func (s *Store) verify(ctx context.Context, f *os.File, path, digest string) error {
	p, err := look(path)
	if err != nil {
		return err
	}
	s.mu.Lock()
	known := s.verified[digest] == p
	s.mu.Unlock()
	if known {
		return nil
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, reader{ctx, f}); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != digest {
		os.Remove(path)
		return fmt.Errorf("%w: its bytes have the digest %s; it was removed and must be fetched again", ErrCorrupt, got)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	s.remember(digest, p)
	return nil
}

func (s *Store) remember(digest string, p print) {
	s.mu.Lock()
	s.verified[digest] = p
	s.mu.Unlock()
}

// List gives what is there, by ascending digest.
func (s *Store) List() ([]Info, error) {
	var all []Info
	err := filepath.WalkDir(filepath.Join(s.dir, "sha256"), func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.Type().IsRegular() || !ValidDigest(d.Name()) {
			return nil
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			all = append(all, Info{d.Name(), uint64(info.Size())})
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list artifacts: %w", err)
	}
	return all, nil
}

// Delete removes an artifact; one that is not there is removed already. Whoever
// has it open keeps it.
func (s *Store) Delete(digest string) error {
	path, err := s.path(digest)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete artifact %s: %w", short(digest), err)
	}
	return nil
}

// lock takes the lock of one digest and gives the function that releases it.
func (s *Store) lock(digest string) (unlock func()) {
	s.mu.Lock()
	m := s.busy[digest]
	if m == nil {
		m = new(sync.Mutex)
		s.busy[digest] = m
	}
	s.mu.Unlock()
	m.Lock()
	return m.Unlock
}

func look(path string) (print, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return print{}, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return print{}, fmt.Errorf("%s is no plain file", path)
	}
	return print{st.Ino, st.Size, st.Ctim, st.Mtim}, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func short(digest string) string { return digest[:min(12, len(digest))] }
