package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// This file reads what bbolt writes, believing nothing. bbolt uses the byte
// order of the machine, so a file from a machine of the other order has no magic.
//
//	page    id 8 | flags 2 | count 2 | overflow 4 | elements | keys and values
//	leaf    flags 4 | pos 4 | key size 4 | value size 4     pos: from the element
//	branch  pos 4 | key size 4 | page 8                     to its key
//	bucket  root page 8 | sequence 8 | when root is 0: a leaf page   (a leaf's value)
//	meta    magic 4 | version 4 | page size 4 | flags 4 | root bucket 16 |
//	        free list 8 | high-water mark 8 | transaction 8 | FNV-1a of these 8
const (
	headerLen = 16
	leafLen   = 16
	branchLen = 16
	bucketLen = 16
	metaLen   = 64

	branchFlag = 0x01
	leafFlag   = 0x02
	bucketFlag = 0x01

	magic        = 0xED0CDAED
	boltVersion  = 2
	noFreelist   = ^uint64(0)
	minPageSize  = 1 << 10
	maxPageSize  = 1 << 16
	firstPage    = 2 // behind the two meta pages
	maxDepth     = 64
	metaPageSpan = headerLen + metaLen
)

var native = binary.NativeEndian

// meta is one of the two pages that say where everything is.
type meta struct{ pageSize, root, pages, tx uint64 }

// file is a bbolt file that is being read.
type file struct {
	r io.ReaderAt
	meta
	// seen[p] says that page p belongs to something: it may do so once.
	seen []bool
}

// openFile reads the meta pages.
func openFile(r io.ReaderAt, size int64) (*file, error) {
	if size == 0 {
		return nil, corrupt("the file is empty")
	}
	first, err := readMeta(r, 0)
	if err != nil {
		return nil, err
	}
	second, err := readMeta(r, int64(first.pageSize))
	if err != nil {
		return nil, err
	}
	newest := first
	if second.tx > first.tx {
		newest = second
	}
	older := first.tx + second.tx - newest.tx
	if first.pageSize != second.pageSize || first.tx%2 != 0 || second.tx%2 != 1 || older+1 != newest.tx {
		return nil, corrupt("its two meta pages do not follow on each other (transactions %d and %d)", first.tx, second.tx)
	}
	if limit := uint64(size) / newest.pageSize; newest.pages > limit {
		return nil, corrupt("the file is cut short: it should have %d pages of %d bytes, but ends after %d",
			newest.pages, newest.pageSize, limit)
	}
	return &file{r: r, meta: newest, seen: make([]bool, newest.pages)}, nil
}

func readMeta(r io.ReaderAt, offset int64) (meta, error) {
	var page [metaPageSpan]byte
	if err := readFull(r, page[:], offset); err != nil {
		return meta{}, err
	}
	b := page[headerLen:]
	sum := fnv.New64a()
	sum.Write(b[:metaLen-8])
	m := meta{
		pageSize: uint64(native.Uint32(b[8:])),
		root:     native.Uint64(b[16:]),
		pages:    native.Uint64(b[40:]),
		tx:       native.Uint64(b[48:]),
	}
	switch {
	case native.Uint32(b) != magic:
		return m, corrupt("no meta page at byte %d: this is no database of blixard, or its head is lost", offset)
	case native.Uint64(b[metaLen-8:]) != sum.Sum64():
		return m, corrupt("the meta page at byte %d does not match its checksum", offset)
	case native.Uint32(b[4:]) != boltVersion:
		return m, corrupt("the meta page at byte %d has version %d", offset, native.Uint32(b[4:]))
	case m.pageSize < minPageSize || m.pageSize > maxPageSize || m.pageSize&(m.pageSize-1) != 0:
		return m, corrupt("the meta page at byte %d claims pages of %d bytes", offset, m.pageSize)
	case m.tx > 1 && native.Uint64(b[32:]) != noFreelist:
		// The first two transactions are bbolt's own, and do store one.
		return m, corrupt("the meta page at byte %d names a free list, and this program writes none", offset)
	}
	return m, nil
}

// readFull tells a file that ended from a drive that cannot read.
func readFull(r io.ReaderAt, b []byte, offset int64) error {
	n, err := r.ReadAt(b, offset)
	if n == len(b) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return corrupt("the file is cut short: nothing at byte %d", offset+int64(n))
	}
	return fmt.Errorf("reading %d bytes at byte %d: %w", len(b), offset, err)
}

// claim notes that pages [id, id+n) belong to something.
func (f *file) claim(id, n uint64) error {
	if id < firstPage || id >= f.pages || n > f.pages-id {
		return corrupt("page %d (and %d more) lies outside of the %d pages", id, n-1, f.pages)
	}
	for p := id; p < id+n; p++ {
		if f.seen[p] {
			return corrupt("page %d is used twice", p)
		}
		f.seen[p] = true
	}
	return nil
}

// node reads page id with its overflow pages.
func (f *file) node(id uint64) (*node, error) {
	if err := f.claim(id, 1); err != nil {
		return nil, err
	}
	b := make([]byte, f.pageSize)
	offset := int64(id * f.pageSize)
	if err := readFull(f.r, b, offset); err != nil {
		return nil, err
	}
	if got := native.Uint64(b); got != id {
		return nil, corrupt("page %d says that it is page %d", id, got)
	}
	if more := uint64(native.Uint32(b[12:])); more > 0 {
		if err := f.claim(id+1, more); err != nil {
			return nil, err
		}
		b = make([]byte, (1+more)*f.pageSize)
		if err := readFull(f.r, b, offset); err != nil {
			return nil, err
		}
	}
	n, err := parseNode(b)
	if err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	if want := (uint64(n.used) + f.pageSize - 1) / f.pageSize * f.pageSize; want != uint64(len(b)) {
		return nil, corrupt("page %d has %d bytes, and takes %d", id, n.used, len(b))
	}
	return n, nil
}

// element of a node: of a leaf a key and its value, of a branch a key and a page.
type element struct {
	bucket     bool
	key, value []byte
	page       uint64
}

type node struct {
	leaf     bool
	used     int // bytes, from the beginning of the page
	elements []element
}

// parseNode reads a page exactly as bbolt packs it: the elements, then key and
// value of each, in order, without a gap.
func parseNode(b []byte) (*node, error) {
	flags, count := native.Uint16(b[8:]), int(native.Uint16(b[10:]))
	n := &node{leaf: flags == leafFlag, used: headerLen + count*leafLen}
	if flags != leafFlag && flags != branchFlag {
		return nil, corrupt("it is neither leaf nor branch (%#x)", flags)
	}
	if !n.leaf && count == 0 {
		return nil, corrupt("it is a branch without children")
	}
	if n.used > len(b) {
		return nil, corrupt("its %d elements do not fit", count)
	}
	n.elements = make([]element, count)
	for i := range n.elements {
		at := headerLen + i*leafLen
		raw := b[at : at+leafLen]
		var e element
		var pos, keyLen, valueLen uint32
		if n.leaf {
			kind := native.Uint32(raw)
			if kind > bucketFlag {
				return nil, corrupt("its element %d is of kind %d", i, kind)
			}
			e.bucket = kind == bucketFlag
			pos, keyLen, valueLen = native.Uint32(raw[4:]), native.Uint32(raw[8:]), native.Uint32(raw[12:])
		} else {
			pos, keyLen, e.page = native.Uint32(raw), native.Uint32(raw[4:]), native.Uint64(raw[8:])
		}
		if at+int(pos) != n.used || keyLen == 0 || uint64(keyLen)+uint64(valueLen) > uint64(len(b)-n.used) {
			return nil, corrupt("its element %d is not where it should be", i)
		}
		value := n.used + int(keyLen)
		end := value + int(valueLen)
		e.key, e.value = b[n.used:value:value], b[value:end:end]
		n.used = end
		if i > 0 && bytes.Compare(n.elements[i-1].key, e.key) >= 0 {
			return nil, corrupt("its element %d is out of order", i)
		}
		n.elements[i] = e
	}
	return n, nil
}

// bucket calls each, in the order of the keys, for every element of the bucket
// that value, the value of a leaf's element, describes.
func (f *file) bucket(value []byte, each func(element) error) error {
	if len(value) < bucketLen {
		return corrupt("a bucket's header has %d bytes", len(value))
	}
	root, sequence := native.Uint64(value), native.Uint64(value[8:])
	if sequence != 0 {
		return corrupt("a bucket has sequence %d, and this program uses none", sequence)
	}
	if root != 0 {
		if len(value) != bucketLen {
			return corrupt("a bucket's header has %d bytes", len(value))
		}
		return f.walk(root, each)
	}
	// A small bucket is a page of its own inside the value.
	inner := value[bucketLen:]
	if len(inner) < headerLen || native.Uint64(inner) != 0 || native.Uint32(inner[12:]) != 0 {
		return corrupt("a small bucket has no page")
	}
	n, err := parseNode(inner)
	if err != nil {
		return fmt.Errorf("small bucket: %w", err)
	}
	if !n.leaf || n.used != len(inner) {
		return corrupt("a small bucket has %d bytes, and takes %d", n.used, len(inner))
	}
	for _, e := range n.elements {
		if err := each(e); err != nil {
			return err
		}
	}
	return nil
}

// walk calls each for every element of the tree under page root.
func (f *file) walk(root uint64, each func(element) error) error {
	var last []byte
	var down func(id uint64, first []byte, depth int) error
	down = func(id uint64, first []byte, depth int) error {
		if depth > maxDepth {
			return corrupt("page %d is more than %d pages deep", id, maxDepth)
		}
		n, err := f.node(id)
		if err != nil {
			return err
		}
		// bbolt finds a page in its parent by its first key, so they are equal.
		// Only a root may be empty.
		if first != nil && (len(n.elements) == 0 || !bytes.Equal(first, n.elements[0].key)) {
			return corrupt("page %d does not begin with the key that its parent has for it", id)
		}
		for _, e := range n.elements {
			if !n.leaf {
				if err := down(e.page, e.key, depth+1); err != nil {
					return err
				}
				continue
			}
			if last != nil && bytes.Compare(last, e.key) >= 0 {
				return corrupt("page %d is out of order", id)
			}
			last = e.key
			if err := each(e); err != nil {
				return fmt.Errorf("page %d: %w", id, err)
			}
		}
		return nil
	}
	return down(root, nil, 0)
}
