package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"testing"
)

// FuzzOpen changes a small database and reads it. The input is a list of changes
// of 5 bytes: where (3), what to add to the byte (1), and how (1):
//
//	bit 0: cut the file there instead
//	bit 1: then make the checksum of the first meta page right, as damage does
//	       not but an attacker would: the result may then be an older truth
//	bit 2: the same for the second
//
// Whatever comes, it is an error that says what is wrong, or the right data.
func FuzzOpen(f *testing.F) {
	whole, image := database(f, 6, 40)
	f.Add([]byte{})
	f.Add([]byte{0x30, 0, 0, 1, 0})
	f.Add([]byte{0, 0x20, 0, 0, 1})
	f.Add([]byte{headerLen + 16, 0, 0, 1, 2, headerLen + 40, 0, 0, 9, 2})
	for page := range len(whole) / 4096 {
		var changes []byte
		for _, at := range []int{8, 10, 12, 24} {
			changes = binary.LittleEndian.AppendUint32(changes, uint32(page*4096+at)|1<<24)
			changes = append(changes, 0)
		}
		f.Add(changes)
	}
	f.Fuzz(func(t *testing.T, changes []byte) {
		b := bytes.Clone(whole)
		forged := false
		for ; len(changes) >= 5 && len(b) > 0; changes = changes[5:] {
			at := int(binary.LittleEndian.Uint32(changes)&0xffffff) % len(b)
			how := changes[4]
			if how&1 != 0 {
				b = b[:at]
				continue
			}
			b[at] += changes[3]
			for i, bit := range []byte{2, 4} {
				if how&bit != 0 && len(b) >= 2*4096 {
					m := b[i*4096+headerLen:]
					sum := fnv.New64a()
					sum.Write(m[:metaLen-8])
					native.PutUint64(m[metaLen-8:], sum.Sum64())
					forged = true
				}
			}
		}
		got, _, err := load(bytes.NewReader(b), int64(len(b)))
		switch {
		case err != nil:
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("not explained: %v", err)
			}
		case !forged && !equalImages(got, image):
			t.Fatal("wrong data was accepted")
		}
	})
}
