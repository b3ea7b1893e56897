package runner

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// What a disk holds travels as its parts: a header, chunks of what is not zero in
// ascending order, and an end with a sum of all chunks. Whoever has no end has
// nothing whole.

// MostChunk is how large a chunk is at most.
const MostChunk = 256 << 10

// dataSum sums up the chunks of one disk.
type dataSum struct {
	hash.Hash
	chunks uint64
}

func newDataSum() *dataSum { return &dataSum{Hash: sha256.New()} }

func (s *dataSum) add(c *blixardv1.VolumeChunk) {
	var head [16]byte
	binary.BigEndian.PutUint64(head[:], c.Offset)
	binary.BigEndian.PutUint64(head[8:], uint64(len(c.Data)))
	s.Write(head[:])
	s.Write(c.Data)
	s.chunks++
}

func (s *dataSum) end() *blixardv1.VolumeData {
	return &blixardv1.VolumeData{Part: &blixardv1.VolumeData_End{End: &blixardv1.VolumeEnd{Chunks: s.chunks, Sha256: s.Sum(nil)}}}
}

// ErrDisk says that a disk cannot be read or written now, and why.
var ErrDisk = errors.New("the disk cannot be copied")

// ReadDisk sends what a volume of this host holds, or, without one, a disk of a VM's
// own. It fails when a VM runs that may write it, or has run meanwhile: then what was
// sent is of no moment at all.
func (h *Host) ReadDisk(ctx context.Context, volume, vm, name string, send func(*blixardv1.VolumeData) error) error {
	path, header := "", &blixardv1.VolumeHeader{Format: blixardv1.VolumeFormat_VOLUME_FORMAT_RAW}
	var writers []string
	if volume != "" {
		if err := checkUID(volume); err != nil {
			return err
		}
		s := h.volumes
		s.mu.Lock()
		is, err := s.look(volume)
		for by, writes := range s.open[volume] {
			if writes {
				writers = append(writers, by)
			}
		}
		why := s.busy[volume]
		if is.GetArriving() {
			why = "it is on its way here"
		}
		s.mu.Unlock()
		if err != nil || why != "" {
			return fmt.Errorf("%w: %s: %w", ErrDisk, why, err)
		}
		path, header.Format = s.disk(volume), max(is.Format, header.Format)
	} else {
		if err := errors.Join(checkUID(vm), checkDisk(&blixardv1.Disk{Name: name, SizeMib: 1})); err != nil {
			return err
		}
		path, writers = diskPath(h.at.stateOf(vm), name), []string{vm}
	}
	before, err := h.still(ctx, writers)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDisk, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	size := st.Size()
	header.Bytes = uint64(size)
	if header.Format == blixardv1.VolumeFormat_VOLUME_FORMAT_QCOW2 {
		if size, err = qcow2Size(f); err != nil {
			return fmt.Errorf("%w: %w", ErrDisk, err)
		}
	}
	header.SizeMib = uint64(size+1<<20-1) >> 20
	sum, err := sendFile(ctx, f, header, send)
	if err != nil {
		return err
	}
	after, err := h.still(ctx, writers)
	if err != nil {
		return err
	}
	now, err := os.Lstat(path)
	if err != nil || now.Size() != st.Size() || !now.ModTime().Equal(st.ModTime()) || before != after {
		return fmt.Errorf("%w: it was written meanwhile: was the VM started or resumed? (%v)", ErrDisk, err)
	}
	return send(sum.end())
}

// sendFile sends a file but for its end.
func sendFile(ctx context.Context, f *os.File, header *blixardv1.VolumeHeader, send func(*blixardv1.VolumeData) error) (*dataSum, error) {
	if err := send(&blixardv1.VolumeData{Part: &blixardv1.VolumeData_Header{Header: header}}); err != nil {
		return nil, err
	}
	sum := newDataSum()
	return sum, chunksOf(ctx, f, int64(header.Bytes), func(c *blixardv1.VolumeChunk) error {
		sum.add(c)
		return send(&blixardv1.VolumeData{Part: &blixardv1.VolumeData_Chunk{Chunk: c}})
	})
}

// still says in which state VMs are, none of which writes; and fails if one may.
func (h *Host) still(ctx context.Context, vms []string) (states string, err error) {
	for _, uid := range vms {
		h.mu.Lock()
		v := h.vms[uid]
		h.mu.Unlock()
		if v == nil {
			continue
		}
		said := make(chan string, 1)
		if !v.q.put(func() {
			v.settle()
			switch {
			case !v.alive:
				said <- "down " + v.rec.String()
			case v.ready && v.paused:
				said <- "paused " + v.rec.String()
			default:
				said <- ""
			}
		}) {
			continue
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case s := <-said:
			if s == "" {
				return "", fmt.Errorf("%w: VM %s runs, and may be writing it: stop or pause it first", ErrDisk, uid)
			}
			states += s + "\n"
		}
	}
	return states, nil
}

// String is which attempt of which instance it is.
func (r *record) String() string {
	if r == nil {
		return "nothing"
	}
	return r.Instance.String()
}

// chunksOf cuts what is not zero out of a file, leaving out its holes unread.
func chunksOf(ctx context.Context, f *os.File, size int64, take func(*blixardv1.VolumeChunk) error) error {
	buf := make([]byte, MostChunk)
	for at := int64(0); at < size; {
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // only holes are left
		}
		if err == nil {
			at = data
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := f.ReadAt(buf[:min(MostChunk, size-at)], at)
		if err != nil && err != io.EOF {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		if !zero(buf[:n]) {
			if err := take(&blixardv1.VolumeChunk{Offset: uint64(at), Data: append([]byte(nil), buf[:n]...)}); err != nil {
				return err
			}
		}
		at += int64(n)
	}
	return nil
}

// orderPatience is how long who sends a volume may be ahead of the order for it.
const orderPatience = 10 * time.Second

// expected is the order for a volume that is to be sent; nil: there is none.
func (s *volumes) expected(uid string) *blixardv1.VolumeOrder {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.orders {
		if o.Uid == uid && o.Written && !o.Remove {
			return o
		}
	}
	return nil
}

// WriteVolume makes a volume of what comes, whole or not at all. It was ordered, or
// will be in a moment.
func (h *Host) WriteVolume(ctx context.Context, uid string, next func() (*blixardv1.VolumeData, error)) error {
	if err := checkUID(uid); err != nil {
		return err
	}
	s := h.volumes
	o := s.expected(uid)
	for end := time.Now().Add(orderPatience); o == nil && ctx.Err() == nil && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		o = s.expected(uid)
	}
	s.mu.Lock()
	switch {
	case o == nil:
		s.mu.Unlock()
		return fmt.Errorf("%w: this host has not been told yet to expect it", ErrDisk)
	case s.has(uid), s.busy[uid] != "":
		s.mu.Unlock()
		return fmt.Errorf("%w: it is here already, or is just being written", ErrDisk)
	}
	s.busy[uid] = "it is being written"
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.busy, uid)
		s.say(true)
	}()
	first, err := next()
	if err != nil {
		return err
	}
	header := first.GetHeader()
	format := max(header.GetFormat(), blixardv1.VolumeFormat_VOLUME_FORMAT_RAW)
	switch {
	case header == nil:
		return fmt.Errorf("%w: what came begins with no header", ErrDisk)
	case header.SizeMib != o.SizeMib || format != o.Format:
		return fmt.Errorf("%w: what came is %v of %d MiB, and ordered was %v of %d", ErrDisk, format, header.SizeMib, o.Format, o.SizeMib)
	case header.Bytes > 1<<47, format == blixardv1.VolumeFormat_VOLUME_FORMAT_RAW && header.Bytes > header.SizeMib<<20:
		return fmt.Errorf("%w: a volume of %d MiB has no %d bytes", ErrDisk, header.SizeMib, header.Bytes)
	}
	if err := s.room(int64(header.SizeMib) << 20); err != nil {
		return fmt.Errorf("%w: volume %s: %w", errDiskFull, o.Name, err)
	}
	return s.create(o, func(f *os.File) error { return fillFrom(f, header, next) })
}

// fillFrom writes the chunks that come into a file, and believes nothing of them
// before the end has said that they are all.
func fillFrom(f *os.File, header *blixardv1.VolumeHeader, next func() (*blixardv1.VolumeData, error)) error {
	size := header.Bytes
	if header.Format != blixardv1.VolumeFormat_VOLUME_FORMAT_QCOW2 {
		size = header.SizeMib << 20
	}
	if err := fillTo(f, size, header.Bytes, next); err != nil {
		return err
	}
	if header.Format == blixardv1.VolumeFormat_VOLUME_FORMAT_QCOW2 {
		if n, err := qcow2Size(f); err != nil || uint64(n) != header.SizeMib<<20 {
			return fmt.Errorf("%w: what came is no qcow2 image of %d MiB: %v", ErrDisk, header.SizeMib, err)
		}
	}
	return nil
}

// fillTo makes a file of that size of the chunks that come, which are all below most.
func fillTo(f *os.File, size, most uint64, next func() (*blixardv1.VolumeData, error)) error {
	if err := f.Truncate(int64(size)); err != nil {
		return err
	}
	sum, at := newDataSum(), uint64(0)
	for {
		part, err := next()
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: what came ends too early", ErrDisk)
		}
		if err != nil {
			return err
		}
		switch p := part.GetPart().(type) {
		case *blixardv1.VolumeData_Chunk:
			c := p.Chunk
			n := uint64(len(c.Data))
			if c.Offset < at || n == 0 || n > MostChunk || c.Offset > most || c.Offset+n > most {
				return fmt.Errorf("%w: a part of %d bytes at %d does not belong there", ErrDisk, n, c.Offset)
			}
			sum.add(c)
			at = c.Offset + n
			if _, err := f.WriteAt(c.Data, int64(c.Offset)); err != nil {
				return err
			}
		case *blixardv1.VolumeData_End:
			if p.End.Chunks != sum.chunks || string(p.End.Sha256) != string(sum.Sum(nil)) {
				return fmt.Errorf("%w: its checksum is not that of what came", ErrDisk)
			}
			return nil
		default:
			return fmt.Errorf("%w: a part that nobody knows", ErrDisk)
		}
	}
}
