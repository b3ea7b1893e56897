package bolt

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/blixard/blixard/core"
)

// load reads and checks a whole database. It believes nothing that it reads,
// takes memory and time in proportion to size, and never panics.
func load(r io.ReaderAt, size int64) (core.Image, summaries, error) {
	var image core.Image
	var found summaries
	f, err := openFile(r, size)
	if err != nil {
		return image, found, err
	}
	buckets, err := f.buckets()
	if err != nil {
		return image, found, err
	}
	stored, err := f.own(buckets[string(ownBucket)])
	if err != nil {
		return image, found, err
	}
	for t := range core.Table(core.Tables) {
		value, ok := buckets[t.String()]
		if !ok {
			return image, found, corrupt("table %s is missing", t)
		}
		if image[t], found[t], err = f.table(t, value); err != nil {
			return core.Image{}, found, fmt.Errorf("table %s: %w", t, err)
		}
		if found[t] != stored[t] {
			return core.Image{}, found, corrupt("table %s has %d records with sum %x, and should have %d with sum %x",
				t, found[t].count, found[t].sum, stored[t].count, stored[t].sum)
		}
	}
	if len(buckets) != 1+core.Tables {
		return core.Image{}, found, corrupt("there are %d buckets", len(buckets))
	}
	return image, found, nil
}

// buckets returns the header of each bucket by its name.
func (f *file) buckets() (map[string][]byte, error) {
	all := map[string][]byte{}
	err := f.walk(f.root, func(e element) error {
		if !e.bucket {
			return corrupt("the record %.64q is outside of the tables", e.key)
		}
		all[string(e.key)] = e.value
		return nil
	})
	return all, err
}

// own reads our own bucket: the version first, since nothing else is known of a
// file of another one.
func (f *file) own(header []byte) (summaries, error) {
	if header == nil {
		return summaries{}, corrupt("bucket %s is missing: this is no database of blixard", ownBucket)
	}
	records := map[string][]byte{}
	err := f.bucket(header, func(e element) error {
		records[string(e.key)] = e.value
		return nil
	})
	if err != nil {
		return summaries{}, err
	}
	v, _, err := unseal(own, versionKey, records[string(versionKey)])
	if err != nil {
		return summaries{}, err
	}
	if len(v) != 4 {
		return summaries{}, corrupt("its version has %d bytes", len(v))
	}
	if n := binary.BigEndian.Uint32(v); n > version {
		return summaries{}, fmt.Errorf("%w: it has format %d, and this program knows formats up to %d", ErrNewer, n, version)
	} else if n != version {
		return summaries{}, corrupt("it has format %d", n)
	}
	if len(records) != 2 {
		return summaries{}, corrupt("bucket %s has %d records", ownBucket, len(records))
	}
	s, _, err := unseal(own, summaryKey, records[string(summaryKey)])
	if err != nil {
		return summaries{}, err
	}
	return decodeSummaries(s)
}

func (f *file) table(t core.Table, header []byte) ([]core.KV, summary, error) {
	var records []core.KV
	var found summary
	err := f.bucket(header, func(e element) error {
		if e.bucket {
			return corrupt("the record %.64q is a bucket", e.key)
		}
		value, crc, err := unseal(t, e.key, e.value)
		if err != nil {
			return err
		}
		found.add(crc)
		records = append(records, core.KV{Key: e.key, Value: value})
		return nil
	})
	return records, found, err
}
