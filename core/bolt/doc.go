// Package bolt is the real disk of a node, on bbolt.
//
// # Model
//
// A disk is three ordered tables (core.Meta, core.Log, core.State) in one file,
// changed by batches. One goroutine takes whatever batches have queued up,
// writes them in one bbolt transaction (two syncs, however many there are), and
// then reports the last of them. So each batch is there whole or not at all, and
// batch n+1 never without batch n.
//
// At Open everything is read once, checked, and handed over as a core.Image.
// After that the disk is only written: a node answers reads from its memory.
//
// # What bbolt does not notice
//
// bbolt has checksums on its two meta pages only: a flipped bit in a record, a
// lost page or a truncated file give wrong data, an endless loop or a crash. And
// where the newer meta page is damaged it takes the older one, which silently
// takes back a transaction that was acknowledged: a vote, or a committed entry.
// So this package reads the file itself, before bbolt sees it (page.go, load.go):
//
//   - both meta pages are valid, and one transaction apart;
//   - the file is as long as the high-water mark of its pages;
//   - every page is exactly what bbolt writes: its id, its size, the packing of
//     its elements, the order of the keys; branch key = first key below it; no
//     page is reached twice, and none is deeper than maxDepth;
//   - every record carries a CRC-32C over its table, key and value;
//   - every table's records are summed up (how many, and the sum of their
//     checksums), in the same transaction, so that a missing, an extra or an old
//     record is noticed too.
//
// A file that fails any of these is refused with ErrCorrupt, and not one byte of
// it is changed. What remains unchecked is what nobody reads: free pages, the
// slack behind a page's last element, and the file behind the high-water mark.
//
// Assumed: a 512-byte sector is written whole or not at all (a meta page's data
// is its first 80 bytes), and the drive keeps what it said it synced. A drive
// that forgets its last writes as a whole is not noticed here.
//
// # File
//
// A bbolt file of four buckets; its free list is not stored, but found at Open.
//
//	bucket   key        value
//	blixard  "version"  format version, 4 bytes big endian, crc
//	         "summary"  per table in order: count, sum, 8 bytes big endian each; crc
//	meta     key        value, crc
//	log      key        value, crc
//	state    key        value, crc
//
//	crc = CRC-32C(table, length of key in 4 bytes big endian, key, value),
//	      4 bytes big endian; the table is core.Table, or 255 in bucket blixard
//
// The first row never changes: by it a file of a newer version is known and
// refused with ErrNewer.
//
// A new file is made beside its place and linked there when it is complete, so
// that an empty or half-written file is always damage and never a beginning.
package bolt
