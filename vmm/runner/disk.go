package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/runner/artifact"
)

var errDiskFull = errors.New("no space for a disk of the VM: free some on the host's disk")

// diskPath is where a VM has its own copy.
func diskPath(state, name string) string { return filepath.Join(state, "disks", name+".raw") }

func checkDisk(d *blixardv1.Disk) error {
	ok := len(d.Name) >= 1 && len(d.Name) <= 20
	for _, c := range []byte(d.Name) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-')
	}
	switch {
	case !ok:
		return fmt.Errorf("a disk's name must be 1 to 20 of a-z, 0-9 and -, not %.80q", d.Name)
	case d.Source == nil && d.SizeMib == 0:
		return fmt.Errorf("disk %s has neither a source nor a size", d.Name)
	case d.SizeMib > 1<<34:
		return fmt.Errorf("disk %s: no disk has %d MiB", d.Name, d.SizeMib)
	case d.SizeMib > 0 && d.SizeMib<<20 < d.Source.GetSize():
		return fmt.Errorf("disk %s is to have %d MiB, which its source does not fit into (%d bytes)", d.Name, d.SizeMib, d.Source.Size)
	}
	return nil
}

// roomFor says that there is no room for all that some disks can hold.
func roomFor(state string, disks []*blixardv1.Disk) error {
	if len(disks) == 0 {
		return nil
	}
	var need int64
	for _, d := range disks {
		need += max(int64(d.SizeMib)<<20, int64(d.Source.GetSize()))
	}
	if err := room(state, need); err != nil {
		return full(err, errDiskFull)
	}
	return nil
}

// makeDisk makes a VM's own disk, unless it is there: then it is the VM's data, and
// at most becomes larger. It is there whole, or not at all. Without a store it is
// empty: what it holds comes from elsewhere.
func makeDisk(ctx context.Context, store *artifact.Store, state string, d *blixardv1.Disk) (err error) {
	path := diskPath(state, d.Name)
	defer func() {
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG) {
			err = fmt.Errorf("%w: disk %s: %w", errDiskFull, d.Name, err)
		} else if err != nil {
			err = fmt.Errorf("make disk %s: %w", d.Name, err)
		}
	}()
	if st, err := os.Lstat(path); err == nil {
		return growDisk(path, st, int64(d.SizeMib)<<20)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	defer f.Close()
	size := int64(d.SizeMib) << 20
	if d.Source != nil {
		size = max(size, int64(d.Source.Size))
		if store != nil {
			if err := fill(ctx, store, f, d.Source.Digest); err != nil {
				return err
			}
		}
	}
	// QEMU's raw disks have whole sectors.
	if err := f.Truncate((size + 511) &^ 511); err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// growDisk makes a disk that is there as large as it should be, and never smaller.
func growDisk(path string, st os.FileInfo, size int64) error {
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%s is no plain file", path)
	}
	if st.Size() >= size {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Sync(), f.Close())
}

// fill copies an artifact: by sharing its blocks where the file system can, and
// otherwise leaving out its holes and long runs of zeros.
func fill(ctx context.Context, store *artifact.Store, to *os.File, digest string) error {
	from, err := store.Open(ctx, digest)
	if err != nil {
		return err
	}
	defer from.Close()
	if unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) == nil {
		return nil
	}
	buf := make([]byte, 1<<20)
	for at := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(from, buf)
		for i := 0; i < n; i += 64 << 10 {
			piece := buf[i:min(n, i+64<<10)]
			if zero(piece) {
				continue
			}
			if _, err := to.WriteAt(piece, at+int64(i)); err != nil {
				return err
			}
		}
		at += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
