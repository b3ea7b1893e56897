package bolt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/blixard/blixard/core"
)

// logKey is how a log would name entry i.
func logKey(i int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(i)) }

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// randomOps are changes as a node makes them: entries appended and cut off at
// both ends, state that comes, changes and goes, a small record in meta.
func randomOps(r *rand.Rand, seq int) []core.Op {
	ops := []core.Op{{Table: core.Meta, Key: []byte("hard"), Value: randomBytes(r, 24)}}
	for i := range r.IntN(8) {
		ops = append(ops, core.Op{Table: core.Log, Key: logKey(seq*8 + i), Value: randomBytes(r, r.IntN(1200))})
	}
	for range r.IntN(10) {
		op := core.Op{Table: core.State, Key: fmt.Appendf(nil, "vm/%03d", r.IntN(300))}
		if r.IntN(3) > 0 {
			op.Value = randomBytes(r, r.IntN(900))
		}
		if r.IntN(40) == 0 {
			op.Value = randomBytes(r, 9000)
		}
		ops = append(ops, op)
	}
	switch r.IntN(25) {
	case 0:
		ops = append(ops, core.Op{Table: core.Log, Range: true, End: logKey(max(0, seq*8-100))})
	case 1:
		ops = append(ops, core.Op{Table: core.Log, Range: true, Key: logKey(seq*8 - 20)})
	case 2:
		ops = append(ops, core.Op{Table: core.State, Range: true, Key: []byte("vm/1"), End: []byte("vm/25")})
	case 3:
		ops = append(ops, core.Op{Table: core.State, Range: true})
	}
	return ops
}

// written waits for reports.
type written chan error

func (w written) options() Options {
	return Options{
		Wrote:  func(core.Wrote) { w <- nil },
		Failed: func(err error) { w <- err },
	}
}

func mustOpen(t testing.TB, path string, opts Options) (*Disk, core.Image) {
	t.Helper()
	d, image, err := Open(path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d, image
}

// database makes one of so many random batches and returns its bytes and contents.
func database(t testing.TB, seed uint64, batches int) ([]byte, core.Image) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	w := make(written, 1)
	d, _ := mustOpen(t, path, w.options())
	r := rand.New(rand.NewPCG(seed, 0))
	for seq := 1; seq <= batches; seq++ {
		d.Write(core.Batch{Seq: uint64(seq), Ops: randomOps(r, seq)})
		if err := <-w; err != nil {
			t.Fatal(err)
		}
	}
	d.Close()
	d, image := mustOpen(t, path, Options{})
	d.Close()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// Without the room that bbolt made to grow: the tests copy it often.
	return b[:highWater(t, b)], image
}

func equalImages(a, b core.Image) bool {
	for t := range a {
		if len(a[t]) != len(b[t]) {
			return false
		}
		for i := range a[t] {
			if !bytes.Equal(a[t][i].Key, b[t][i].Key) || !bytes.Equal(a[t][i].Value, b[t][i].Value) {
				return false
			}
		}
	}
	return true
}
