package bolt

import (
	"bytes"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/blixard/blixard/core"
	"go.etcd.io/bbolt"
)

// What our reader accepts is all that bbolt ever writes, and it finds the same
// in it: after every one of many batches, with splits, merges and whole tables
// that come and go.
func TestReaderAgreesWithBolt(t *testing.T) {
	for seed := range uint64(4) {
		path := filepath.Join(t.TempDir(), "db")
		w := make(written, 1)
		opts := w.options()
		opts.tune = func(o *bbolt.Options) { o.NoSync = true }
		d, _ := mustOpen(t, path, opts)
		r := rand.New(rand.NewPCG(seed, 0))
		for seq := 1; seq <= 300; seq++ {
			d.Write(core.Batch{Seq: uint64(seq), Ops: randomOps(r, seq)})
			if err := <-w; err != nil {
				t.Fatal(err)
			}
			info, _ := d.file.Stat()
			image, found, err := load(d.file, info.Size())
			if err != nil {
				t.Fatalf("seed %d, batch %d: %v", seed, seq, err)
			}
			if found != d.summaries {
				t.Fatalf("seed %d, batch %d: found %v, and kept %v", seed, seq, found, d.summaries)
			}
			if seq%20 == 0 {
				agree(t, d.db, image)
			}
		}
		d.Close()
	}
}

func agree(t *testing.T, db *bbolt.DB, image core.Image) {
	t.Helper()
	err := db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			return err
		}
		for table, records := range image {
			i := 0
			if err := tx.Bucket(bucketName(core.Table(table))).ForEach(func(k, v []byte) error {
				if i >= len(records) || !bytes.Equal(k, records[i].Key) || !bytes.Equal(v[:len(v)-crcLen], records[i].Value) {
					t.Fatalf("table %s differs at record %d", core.Table(table), i)
				}
				i++
				return nil
			}); err != nil {
				return err
			}
			if i != len(records) {
				t.Fatalf("table %s has %d records, not %d", core.Table(table), i, len(records))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
