package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A snapshot travels as its files, each as a disk does: first the manifest, then what
// that names, in its order. Who gets it sees from the manifest whether it can go on
// with it, and whether there is room, before the rest comes.

const mostManifest = 1 << 20

// ReadSnapshot sends a snapshot of this host.
func (h *Host) ReadSnapshot(ctx context.Context, uid string, send func(*blixardv1.VolumeData) error) error {
	if err := checkUID(uid); err != nil {
		return err
	}
	dir := h.at.snapshotOf(uid)
	m, _, err := readManifest(dir)
	if err != nil {
		return err
	}
	for _, saved := range append([]savedFile{{Name: manifestFile}}, m.Files...) {
		if !filepath.IsLocal(saved.Name) {
			return fmt.Errorf("%s names a file outside: %.80q", manifestFile, saved.Name)
		}
		if err := sendNamed(ctx, dir, saved.Name, send); err != nil {
			return err
		}
	}
	return nil
}

func sendNamed(ctx context.Context, dir, name string, send func(*blixardv1.VolumeData) error) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDisk, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	sum, err := sendFile(ctx, f, &blixardv1.VolumeHeader{
		Format: blixardv1.VolumeFormat_VOLUME_FORMAT_RAW, Name: name, Bytes: uint64(st.Size()), SizeMib: uint64(st.Size()+1<<20-1) >> 20,
	}, send)
	if err != nil {
		return err
	}
	return send(sum.end())
}

// WriteSnapshot makes a snapshot of what comes, whole or not at all.
func (h *Host) WriteSnapshot(ctx context.Context, uid string, next func() (*blixardv1.VolumeData, error)) (*blixardv1.SnapshotImage, error) {
	if err := checkUID(uid); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dir, tmp := h.at.snapshotOf(uid), h.at.snapshotNew(uid)
	if err := h.receives(uid, cancel); err != nil {
		return nil, err
	}
	defer h.endSnapshot(uid)
	defer os.RemoveAll(tmp)
	if err := errors.Join(os.RemoveAll(tmp), os.MkdirAll(tmp, 0o700)); err != nil {
		return nil, err
	}
	err := h.receive(ctx, tmp, func() (*blixardv1.VolumeData, error) {
		if ctx.Err() != nil {
			return nil, errOvertaken
		}
		return next()
	})
	if err == nil {
		err = syncTree(tmp)
	}
	if err == nil {
		err = h.snapshots.name(tmp, dir, uid)
	}
	if err != nil {
		return nil, full(err, errSnapshotFull)
	}
	_, image, err := readManifest(dir)
	return image, err
}

// receives notes that a snapshot comes, if it is neither here nor on its way.
func (h *Host) receives(uid string, cancel context.CancelFunc) error {
	s := &h.snapshots
	s.mu.Lock()
	_, comes := s.taking[uid]
	s.mu.Unlock()
	if _, err := os.Lstat(filepath.Join(h.at.snapshotOf(uid), manifestFile)); comes || err == nil {
		return fmt.Errorf("%w: the snapshot is here already, or is just coming", ErrDisk)
	}
	return s.begin(uid, cancel)
}

// receive writes what comes into a folder.
func (h *Host) receive(ctx context.Context, dir string, next func() (*blixardv1.VolumeData, error)) error {
	if err := takeNamed(dir, manifestFile, -1, next); err != nil {
		return err
	}
	m, _, err := readManifest(dir)
	if err != nil {
		return err
	}
	d, err := h.hypervisor(m.Hypervisor)
	if err != nil {
		return err
	}
	var machines []string // that a VM can have here
	if r, can := d.(reviver); can {
		for _, t := range []blixardv1.Machine{blixardv1.Machine_MACHINE_MICROVM, blixardv1.Machine_MACHINE_Q35} {
			machines = append(machines, r.machineName(&blixardv1.VMSpec{Machine: t}))
		}
	}
	if err := m.goesOn(d, m.Hypervisor, h.versions[m.Hypervisor], slices.Compact(machines)...); err != nil {
		return err
	}
	need := int64(0)
	for _, f := range m.Files {
		if f.Size < 0 || f.Size > 1<<47 || !filepath.IsLocal(f.Name) {
			return fmt.Errorf("%w: %s names a file of %d bytes, %.80q", ErrDisk, manifestFile, f.Size, f.Name)
		}
		need += f.Size
	}
	if err := room(dir, need); err != nil {
		return err
	}
	for _, f := range m.Files {
		if err := takeNamed(dir, f.Name, f.Size, next); err != nil {
			return err
		}
	}
	if _, err := next(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: more comes than its manifest names (%v)", ErrDisk, err)
	}
	return checkSums(ctx, dir, m)
}

// takeNamed writes the next file, of that name and, unless that is -1, of that size.
func takeNamed(dir, name string, size int64, next func() (*blixardv1.VolumeData, error)) error {
	first, err := next()
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: what came ends before %s", ErrDisk, name)
	}
	if err != nil {
		return err
	}
	header := first.GetHeader()
	switch {
	case header == nil || header.Name != name:
		return fmt.Errorf("%w: what came is not %s, which is next", ErrDisk, name)
	case size >= 0 && header.Bytes != uint64(size), size < 0 && header.Bytes > mostManifest:
		return fmt.Errorf("%w: %s comes with %d bytes", ErrDisk, name, header.Bytes)
	}
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(fillTo(f, header.Bytes, header.Bytes, next), f.Close())
}
