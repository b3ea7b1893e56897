package bolt

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/blixard/blixard/core"
)

const (
	// version of the format that this program writes, and the newest it reads.
	version = 1
	// crcLen bytes stand behind every value.
	crcLen = 4
	// own is the table byte in the checksums of our own bucket.
	own = core.Table(255)
)

var (
	ownBucket  = []byte("blixard")
	versionKey = []byte("version")
	summaryKey = []byte("summary")

	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

func bucketName(t core.Table) []byte { return []byte(t.String()) }

func checksum(t core.Table, key, value []byte) uint32 {
	var head [5]byte
	head[0] = byte(t)
	binary.BigEndian.PutUint32(head[1:], uint32(len(key)))
	crc := crc32.Update(0, castagnoli, head[:])
	crc = crc32.Update(crc, castagnoli, key)
	return crc32.Update(crc, castagnoli, value)
}

// seal returns what is stored for value, and its checksum.
func seal(t core.Table, key, value []byte) ([]byte, uint32) {
	crc := checksum(t, key, value)
	stored := make([]byte, 0, len(value)+crcLen)
	stored = append(stored, value...)
	return binary.BigEndian.AppendUint32(stored, crc), crc
}

// crcOf returns the checksum that a stored value carries.
func crcOf(stored []byte) (uint32, error) {
	if len(stored) < crcLen {
		return 0, corrupt("a record of %d bytes is shorter than its checksum", len(stored))
	}
	return binary.BigEndian.Uint32(stored[len(stored)-crcLen:]), nil
}

// unseal checks a stored value. The result shares its memory.
func unseal(t core.Table, key, stored []byte) ([]byte, uint32, error) {
	crc, err := crcOf(stored)
	if err != nil {
		return nil, 0, err
	}
	n := len(stored) - crcLen
	value := stored[:n:n]
	if checksum(t, key, value) != crc {
		return nil, 0, corrupt("the record with key %.64q does not match its checksum", key)
	}
	return value, crc, nil
}

// summary is what all records of a table come to. It is kept as records come
// and go, and does not depend on their order.
type summary struct{ count, sum uint64 }

func (s *summary) add(crc uint32)  { s.count++; s.sum += uint64(crc) }
func (s *summary) drop(crc uint32) { s.count--; s.sum -= uint64(crc) }

type summaries [core.Tables]summary

func (s *summaries) encode() []byte {
	var b []byte
	for _, t := range s {
		b = binary.BigEndian.AppendUint64(b, t.count)
		b = binary.BigEndian.AppendUint64(b, t.sum)
	}
	return b
}

func decodeSummaries(b []byte) (summaries, error) {
	var s summaries
	if len(b) != 16*len(s) {
		return s, corrupt("the summary of the tables has %d bytes", len(b))
	}
	for i := range s {
		s[i].count = binary.BigEndian.Uint64(b[16*i:])
		s[i].sum = binary.BigEndian.Uint64(b[16*i+8:])
	}
	return s, nil
}
