package bolt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/blixard/blixard/core"
	"go.etcd.io/bbolt"
)

// Options of a disk.
type Options struct {
	// Wrote is called when batches have become durable: all up to its Seq. It is
	// called in order, by one goroutine, and may call Write but not Close.
	Wrote func(core.Wrote)
	// Failed is called at most once, by the same goroutine, when a write failed.
	// The batches that Wrote did not name may or may not be there; nothing is
	// written any more.
	Failed func(error)
	// Took is called by the same goroutine with how long each transaction took that
	// was written, until it was durable; nil: nobody wants to know.
	Took func(time.Duration)
	// LockWait is how long to wait for another process to let go of the file;
	// 0 means a second, so that a restart can overtake the end of the life before.
	LockWait time.Duration

	// tune changes bbolt's options, in benchmarks.
	tune func(*bbolt.Options)
	// gate is called around every commit, in tests: false ends the life there.
	gate func(point) bool
}

func (o Options) bbolt() *bbolt.Options {
	b := &bbolt.Options{
		// Stored, the free list would be written again with every commit. It is
		// found at Open instead, where everything is read anyway.
		NoFreelistSync: true,
		// The same writes make the same file, as far as bbolt can.
		FreelistType: bbolt.FreelistArrayType,
		// Address space, not memory: growing below this needs no new mapping.
		InitialMmapSize: 1 << 30,
		NoStatistics:    true,
	}
	if o.tune != nil {
		o.tune(b)
	}
	return b
}

// Open opens the disk at path, makes it when there is none, and returns all that
// it holds. Its errors wrap ErrCorrupt, ErrNewer, ErrInUse, or what the operating
// system said. A file that is refused is not changed.
//
// The records of the image share memory by pages of the file: copy a small one
// that is kept for long.
func Open(path string, opts Options) (*Disk, core.Image, error) {
	d, image, err := open(path, opts)
	if err != nil {
		return nil, core.Image{}, fmt.Errorf("bolt: opening %s: %w; %s", path, err, next(err))
	}
	go d.run()
	return d, image, nil
}

func open(path string, opts Options) (_ *Disk, _ core.Image, err error) {
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if err := create(path); err != nil {
			return nil, core.Image{}, fmt.Errorf("making it: %w", err)
		}
	} else if err != nil {
		return nil, core.Image{}, err
	}

	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, core.Image{}, err
	}
	defer func() {
		if err != nil {
			release(f)
		}
	}()
	if err := lock(f, opts.LockWait); err != nil {
		return nil, core.Image{}, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, core.Image{}, err
	}
	if !info.Mode().IsRegular() {
		return nil, core.Image{}, fmt.Errorf("it is no regular file (%s)", info.Mode())
	}
	image, found, err := load(f, info.Size())
	if err != nil {
		return nil, core.Image{}, err
	}
	db, err := openBolt(f, opts)
	if err != nil {
		return nil, core.Image{}, err
	}
	d := &Disk{path: path, opts: opts, file: f, db: db, summaries: found, done: make(chan struct{})}
	d.wake = sync.NewCond(&d.mu)
	return d, image, nil
}

// openBolt hands the open, locked and checked file to bbolt. The lock belongs to
// the open file, so bbolt gets it at once.
func openBolt(f *os.File, opts Options) (db *bbolt.DB, err error) {
	defer guard(&err)()
	b := opts.bbolt()
	b.OpenFile = func(string, int, os.FileMode) (*os.File, error) { return f, nil }
	b.Timeout = time.Second
	return bbolt.Open(f.Name(), 0, b)
}

// guard makes an error of a panic, also of the fault that a mapped file raises
// when it cannot be read (a bad sector, or someone cut it short).
func guard(err *error) func() {
	before := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(before)
		if p := recover(); p != nil {
			*err = fmt.Errorf("%w: %v", errPanic, p)
		}
	}
}

// errPanic: bbolt may hold its locks, and must not be called again.
var errPanic = errors.New("the file could not be used")

// lock takes the file for this process. bbolt takes the same lock.
func lock(f *os.File, wait time.Duration) error {
	if wait == 0 {
		wait = time.Second
	}
	for until := time.Now().Add(wait); ; time.Sleep(20 * time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, syscall.EINTR):
		case !errors.Is(err, syscall.EWOULDBLOCK):
			return fmt.Errorf("locking it: %w", err)
		case time.Now().After(until):
			return ErrInUse
		}
	}
}

// release lets go of a file that bbolt may still have mapped: a mapping keeps the
// lock of a closed file.
func release(f *os.File) {
	_ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
	f.Close()
}

// create makes an empty database beside path and links it there once it is
// complete and durable. It never replaces a file: of two processes that create
// at once, the second finds the file of the first.
func create(path string) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, filepath.Base(path)+".new-*")
	if err != nil {
		return err
	}
	name := f.Name()
	defer os.Remove(name)
	f.Close()
	if err := format(name); err != nil {
		return err
	}
	if err := os.Link(name, path); err != nil && !errors.Is(err, os.ErrExist) {
		if _, lost := os.Stat(path); lost != nil {
			return err
		}
		return nil
	}
	// What a crash left of earlier attempts, and what another process is making
	// right now, can no longer be linked.
	stale, _ := filepath.Glob(path + ".new-*")
	for _, s := range stale {
		os.Remove(s)
	}
	return syncDir(dir)
}

// format writes an empty database into an empty file.
func format(name string) (err error) {
	defer guard(&err)()
	db, err := bbolt.Open(name, 0o600, Options{}.bbolt())
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for t := range core.Table(core.Tables) {
			if _, err := tx.CreateBucket(bucketName(t)); err != nil {
				return err
			}
		}
		b, err := tx.CreateBucket(ownBucket)
		if err != nil {
			return err
		}
		v, _ := seal(own, versionKey, binary.BigEndian.AppendUint32(nil, version))
		if err := b.Put(versionKey, v); err != nil {
			return err
		}
		return (&summaries{}).put(b)
	})
	if err == nil {
		err = db.Sync()
	}
	return errors.Join(err, db.Close())
}

// put stores the summaries in our own bucket.
func (s *summaries) put(b *bbolt.Bucket) error {
	v, _ := seal(own, summaryKey, s.encode())
	return b.Put(summaryKey, v)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
