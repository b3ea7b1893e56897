package bolt

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/blixard/blixard/core"
	"go.etcd.io/bbolt"
)

// One batch at a time, as a node writes: so many log entries of 600 B, alone or
// with a record of the state for each. Run with -benchtime=1s -count=4: a sync
// differs from minute to minute, so only lines of one run compare. BLIXARD_BENCH
// names a folder on the drive to measure.
func BenchmarkWrite(b *testing.B) {
	for _, n := range []int{1, 16, 64} {
		for _, state := range []bool{false, true} {
			name := fmt.Sprintf("log=%d", n)
			if state {
				name += "+state"
			}
			b.Run(name, func(b *testing.B) { benchWrite(b, n, state, nil, nil) })
		}
	}
}

// What each choice in Options.bbolt brings.
func BenchmarkChoices(b *testing.B) {
	for _, c := range []struct {
		name    string
		tune    func(*bbolt.Options)
		prepare func(*os.File) error
	}{
		{"as it is", nil, nil},
		{"free list stored", func(o *bbolt.Options) { o.NoFreelistSync = false }, nil},
		{"free list in a map", func(o *bbolt.Options) { o.FreelistType = bbolt.FreelistMapType }, nil},
		{"small mapping", func(o *bbolt.Options) { o.InitialMmapSize = 0 }, nil},
		{"no grow sync", func(o *bbolt.Options) { o.NoGrowSync = true }, nil},
		{"no sync at all", func(o *bbolt.Options) { o.NoSync = true }, nil},
		{"allocated", nil, func(f *os.File) error { return syscall.Fallocate(int(f.Fd()), 0, 0, 64<<20) }},
		{"filled with zeros", nil, func(f *os.File) error {
			info, _ := f.Stat()
			if _, err := f.WriteAt(make([]byte, 64<<20), info.Size()); err != nil {
				return err
			}
			return f.Sync()
		}},
	} {
		for _, n := range []int{1, 16} {
			b.Run(fmt.Sprintf("%s/log=%d", c.name, n), func(b *testing.B) { benchWrite(b, n, true, c.tune, c.prepare) })
		}
	}
}

func benchWrite(b *testing.B, n int, state bool, tune func(*bbolt.Options), prepare func(*os.File) error) {
	w := make(written, 1)
	opts := w.options()
	opts.tune = tune
	d, _ := mustOpen(b, benchPath(b), opts)
	if prepare != nil {
		if err := prepare(d.file); err != nil {
			b.Fatal(err)
		}
	}
	value := randomBytes(rand.New(rand.NewPCG(1, 1)), 600)
	index := 0
	for seq := uint64(1); b.Loop(); seq++ {
		ops := []core.Op{{Table: core.Meta, Key: []byte("hard"), Value: value[:24]}}
		for range n {
			index++
			ops = append(ops, core.Op{Table: core.Log, Key: logKey(index), Value: value})
			if state {
				key := binary.BigEndian.AppendUint64(nil, uint64(index*2654435761)%10_000)
				ops = append(ops, core.Op{Table: core.State, Key: key, Value: value})
			}
		}
		if index%10_000 < n { // keep a tail of 10,000 entries
			ops = append(ops, core.Op{Table: core.Log, Range: true, End: logKey(index - 10_000)})
		}
		d.Write(core.Batch{Seq: seq, Ops: ops})
		if err := <-w; err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "us/entry")
	info, _ := d.file.Stat()
	b.ReportMetric(float64(info.Size()>>20), "MiB")
}

// Opening a state of 10,000 records and a log of as many.
func BenchmarkOpen(b *testing.B) {
	path := benchPath(b)
	w := make(written, 1)
	d, _ := mustOpen(b, path, w.options())
	value := randomBytes(rand.New(rand.NewPCG(1, 1)), 600)
	var ops []core.Op
	for i := range 10_000 {
		ops = append(ops, core.Op{Table: core.Log, Key: logKey(i), Value: value}, core.Op{Table: core.State, Key: logKey(i * 7), Value: value})
	}
	d.Write(core.Batch{Seq: 1, Ops: ops})
	if err := <-w; err != nil {
		b.Fatal(err)
	}
	d.Close()
	b.ReportAllocs()
	for b.Loop() {
		d, _ := mustOpen(b, path, Options{})
		d.Close()
	}
}

func benchPath(b *testing.B) string {
	if dir := os.Getenv("BLIXARD_BENCH"); dir != "" {
		dir, err := os.MkdirTemp(dir, "bench")
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { os.RemoveAll(dir) })
		return filepath.Join(dir, "db")
	}
	return filepath.Join(b.TempDir(), "db")
}
