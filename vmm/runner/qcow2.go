package runner

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// A qcow2 image, as far as we make one: version 3, empty, clusters of 64 KiB.
//
//	0            header
//	1            refcount table: one cluster, for files of up to 16 TiB
//	2            the first refcount block: the clusters of this very head are in use
//	3 ... 18     L1 table, for 64 TiB, which is the most that a volume can have
//
// The L1 table has its full size from the beginning, so that an image grows by one
// number in its first sector: whoever is killed meanwhile has grown it or has not.
const (
	qcow2Cluster  = 64 << 10
	qcow2Magic    = 0x514649fb
	qcow2L1       = 3 // cluster
	qcow2L1Count  = 16
	qcow2L1Entry  = qcow2Cluster / 8 * qcow2Cluster // bytes of the disk that one L1 entry is for
	qcow2MostSize = qcow2L1Count * qcow2Cluster / 8 * qcow2L1Entry
	qcow2Header   = 104
)

// makeQcow2 writes an empty image into an empty file.
func makeQcow2(f *os.File, size int64) error {
	if size <= 0 || size%512 != 0 || size > qcow2MostSize {
		return fmt.Errorf("no qcow2 image has %d bytes", size)
	}
	h := make([]byte, qcow2Header)
	be := binary.BigEndian
	be.PutUint32(h[0:], qcow2Magic)
	be.PutUint32(h[4:], 3)   // version
	be.PutUint32(h[20:], 16) // cluster bits
	be.PutUint64(h[24:], uint64(size))
	be.PutUint32(h[36:], qcow2L1Count*qcow2Cluster/8)
	be.PutUint64(h[40:], qcow2L1*qcow2Cluster)
	be.PutUint64(h[48:], 1*qcow2Cluster) // refcount table
	be.PutUint32(h[56:], 1)              // its clusters
	be.PutUint32(h[96:], 4)              // refcounts of 16 bits
	be.PutUint32(h[100:], qcow2Header)
	table := make([]byte, 8)
	be.PutUint64(table, 2*qcow2Cluster)
	const used = qcow2L1 + qcow2L1Count
	counts := make([]byte, 2*used)
	for i := range used {
		be.PutUint16(counts[2*i:], 1)
	}
	for at, b := range map[int64][]byte{0: h, qcow2Cluster: table, 2 * qcow2Cluster: counts} {
		if _, err := f.WriteAt(b, at); err != nil {
			return err
		}
	}
	return f.Truncate(used * qcow2Cluster)
}

// qcow2Size is the size of the disk that an image is of; what is none that could be
// a volume's is an error.
func qcow2Size(f io.ReaderAt) (size int64, err error) {
	h := make([]byte, qcow2Header)
	if _, err := f.ReadAt(h, 0); err != nil {
		return 0, fmt.Errorf("read the head of a qcow2 image: %w", err)
	}
	be := binary.BigEndian
	size = int64(be.Uint64(h[24:]))
	switch {
	case be.Uint32(h) != qcow2Magic || be.Uint32(h[4:]) != 3:
		return 0, errors.New("it is no qcow2 image of version 3")
	case be.Uint64(h[8:]) != 0:
		return 0, errors.New("it is a qcow2 image upon another one, which is not here")
	case be.Uint32(h[32:]) != 0:
		return 0, errors.New("it is an encrypted qcow2 image")
	case be.Uint64(h[72:])&4 != 0:
		return 0, errors.New("it is a qcow2 image whose data are in another file")
	case size <= 0 || size > qcow2MostSize:
		return 0, fmt.Errorf("it is a qcow2 image of %d bytes", size)
	}
	return size, nil
}

// growQcow2 makes the disk of an image that nobody has open larger.
func growQcow2(f *os.File, size int64) error {
	was, err := qcow2Size(f)
	if err != nil || was >= size {
		return err
	}
	h := make([]byte, qcow2Header)
	if _, err := f.ReadAt(h, 0); err != nil {
		return err
	}
	be := binary.BigEndian
	entry := int64(1) << (2*be.Uint32(h[20:]) - 3) // of the disk, for each in the L1 table
	switch {
	case be.Uint32(h[60:]) != 0:
		return errors.New("it has snapshots inside, and grows only without")
	case (size+entry-1)/entry > int64(be.Uint32(h[36:])):
		return errors.New("its L1 table has no room for that: somebody else has made the image")
	}
	b := make([]byte, 8)
	be.PutUint64(b, uint64(size))
	_, err = f.WriteAt(b, 24)
	return err
}
