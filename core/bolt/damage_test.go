package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/blixard/blixard/core"
	"go.etcd.io/bbolt"
)

// A damaged file is refused, or the damage is where nobody reads. Never wrong
// data, never a panic, never a hang; a refused file keeps every byte, and an
// accepted one stays good when it is written to.
func TestDamage(t *testing.T) {
	whole, image := database(t, 1, 60)
	used := highWater(t, whole)
	path := filepath.Join(t.TempDir(), "db")
	r := rand.New(rand.NewPCG(2, 0))
	var refused, accepted int
	for range 1000 {
		b := bytes.Clone(whole)
		switch r.IntN(10) {
		default: // a bit
			b[r.IntN(used)] ^= 1 << r.IntN(8)
		case 0: // cut short
			b = b[:r.IntN(used)]
		case 1: // a bit in a meta page
			b[r.IntN(2)*4096+r.IntN(metaPageSpan)] ^= 1 << r.IntN(8)
		case 2: // a page that is another one
			copy(b[page(r, used):][:4096], whole[page(r, used):])
		case 3: // a page of nothing
			clear(b[page(r, used):][:4096])
		case 4: // a torn write
			at := r.IntN(used-512) &^ 511
			copy(b[at:at+512], randomBytes(r, 512))
		}
		if tryDamaged(t, path, b, image) {
			accepted++
		} else {
			refused++
		}
	}
	t.Logf("%d refused, %d accepted with the right data", refused, accepted)
	if refused < 300 {
		t.Fatalf("only %d were refused", refused)
	}
}

func page(r *rand.Rand, used int) int { return r.IntN(used/4096) * 4096 }

// highWater is where the pages that bbolt knows of end.
func highWater(t testing.TB, b []byte) int {
	f, err := openFile(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return int(f.pages * f.pageSize)
}

// tryDamaged opens a file of bytes b, which was image once.
func tryDamaged(t *testing.T, path string, b []byte, image core.Image) (accepted bool) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	d, got, err := Open(path, Options{tune: func(o *bbolt.Options) { o.NoSync = true }})
	if took := time.Since(begun); took > 5*time.Second {
		t.Fatalf("it took %s", took)
	}
	if err != nil {
		if !errors.Is(err, ErrCorrupt) {
			t.Fatalf("not explained: %v", err)
		}
		if after, _ := os.ReadFile(path); !bytes.Equal(after, b) {
			t.Fatal("a refused file was changed")
		}
		return false
	}
	if !equalImages(got, image) {
		t.Fatal("wrong data was accepted")
	}
	// What was accepted must not hurt later.
	extra := core.Op{Table: core.State, Key: []byte("vm/150x"), Value: []byte("more")}
	d.Write(core.Batch{Seq: 1, Ops: []core.Op{extra, {Table: core.Log, Key: logKey(1 << 40), Value: []byte("entry")}}})
	d.Write(core.Batch{Seq: 2, Ops: []core.Op{{Table: core.State, Key: extra.Key}, {Table: core.Log, Key: logKey(1 << 40)}}})
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d, got, err = Open(path, Options{})
	if err != nil {
		t.Fatalf("after writing to an accepted file: %v", err)
	}
	d.Close()
	if !equalImages(got, image) {
		t.Fatal("an accepted file went bad when it was written to")
	}
	return true
}

func TestRefused(t *testing.T) {
	whole, image := database(t, 3, 20)
	used := highWater(t, whole)
	newer := reseal(t, whole, func(b *bbolt.Bucket) {
		v, _ := seal(own, versionKey, binary.BigEndian.AppendUint32(nil, version+6))
		b.Put(versionKey, v)
	})
	foreign := func() []byte {
		path := filepath.Join(t.TempDir(), "db")
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true})
		if err != nil {
			t.Fatal(err)
		}
		db.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("theirs")); return err })
		db.Close()
		b, _ := os.ReadFile(path)
		return b
	}
	for _, c := range []struct {
		name string
		file []byte
		want error
		says string
	}{
		{"empty", nil, ErrCorrupt, "empty"},
		{"half-written", whole[:used/2], ErrCorrupt, "cut short"},
		{"only a head", whole[:4096], ErrCorrupt, "cut short"},
		{"one page short", whole[:used-4096], ErrCorrupt, "cut short"},
		{"a text", []byte(strings.Repeat("hello, world\n", 5000)), ErrCorrupt, "no database of blixard"},
		{"nothing but zeros", make([]byte, 1<<16), ErrCorrupt, "no database of blixard"},
		{"a database of someone else", foreign(), ErrCorrupt, "no database of blixard"},
		{"a newer version", newer, ErrNewer, "format 7"},
		{"the newest meta page is lost", spoilNewest(t, whole), ErrCorrupt, "meta page"},
		{"a record is missing", reseal(t, whole, func(b *bbolt.Bucket) {
			meta := b.Tx().Bucket([]byte("meta"))
			meta.Delete([]byte("hard"))
		}), ErrCorrupt, "table meta has 0 records"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			if err := os.WriteFile(path, c.file, 0o600); err != nil {
				t.Fatal(err)
			}
			_, _, err := Open(path, Options{})
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), path) {
				t.Fatalf("got %v", err)
			}
			t.Log(err)
			if after, _ := os.ReadFile(path); !bytes.Equal(after, c.file) {
				t.Fatal("the file was changed")
			}
		})
	}
	path := filepath.Join(t.TempDir(), "db")
	if !tryDamaged(t, path, whole, image) {
		t.Fatal("the undamaged one must do")
	}
}

// reseal changes a database behind our back, with bbolt alone.
func reseal(t *testing.T, whole []byte, change func(own *bbolt.Bucket)) []byte {
	path := filepath.Join(t.TempDir(), "db")
	os.WriteFile(path, whole, 0o600)
	db, err := bbolt.Open(path, 0o600, Options{}.bbolt())
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bbolt.Tx) error { change(tx.Bucket(ownBucket)); return nil }); err != nil {
		t.Fatal(err)
	}
	db.Close()
	b, _ := os.ReadFile(path)
	return b
}

// spoilNewest flips one bit in the newer meta page. bbolt alone would open it,
// without the last transaction.
func spoilNewest(t *testing.T, whole []byte) []byte {
	b := bytes.Clone(whole)
	first, _ := readMeta(bytes.NewReader(b), 0)
	second, _ := readMeta(bytes.NewReader(b), 4096)
	at := 0
	if second.tx > first.tx {
		at = 4096
	}
	b[at+headerLen+20] ^= 4
	return b
}

// A tree that leads into itself, with every checksum right that a page has.
func TestCycle(t *testing.T) {
	whole, image := database(t, 4, 60)
	f, err := openFile(bytes.NewReader(whole), int64(len(whole)))
	if err != nil {
		t.Fatal(err)
	}
	size := int(f.pageSize)
	path := filepath.Join(t.TempDir(), "db")
	branches := 0
	for id := firstPage; id < int(f.pages); id++ {
		p := whole[id*size:]
		if native.Uint64(p) != uint64(id) || native.Uint16(p[8:]) != branchFlag {
			continue
		}
		branches++
		b := bytes.Clone(whole)
		native.PutUint64(b[id*size+headerLen+8:], uint64(id))
		tryDamaged(t, path, b, image)
	}
	if branches == 0 {
		t.Fatal("no branch was found")
	}
}

func TestInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	d, _ := mustOpen(t, path, Options{})
	_, _, err := Open(path, Options{LockWait: time.Millisecond})
	if !errors.Is(err, ErrInUse) {
		t.Fatalf("got %v", err)
	}
	t.Log(err)
	d.Close()
	mustOpen(t, path, Options{LockWait: time.Millisecond})
}

// Of many who create at once, one gets it, and nothing is left lying about.
func TestCreateRace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "db")
	results := make(chan *Disk)
	for range 8 {
		go func() {
			d, _, err := Open(path, Options{LockWait: 100 * time.Millisecond})
			if err != nil && !errors.Is(err, ErrInUse) {
				t.Errorf("got %v", err)
			}
			results <- d
		}()
	}
	var got []*Disk
	for range 8 {
		if d := <-results; d != nil {
			got = append(got, d)
		}
	}
	if len(got) != 1 {
		t.Fatalf("%d got it", len(got))
	}
	got[0].Close()
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Fatalf("left: %v", entries)
	}
}
