// Package disktest is the contract of core.Disk as a test. The real disk and the
// simulated one both pass it, so that what holds over one holds over the other.
//
// # Model
//
// A disk is a prefix of the batches that were written, in this and in earlier
// lives. The naive model here keeps the tables as maps, and one copy of them
// after every batch. After a crash the disk must equal one of these copies, not
// older than the last batch that was reported.
//
// # What a disk promises
//
//   - Reports ascend, name only what was written, and after a while the last.
//   - A batch is there whole or not at all, and batch n+1 never without batch n.
//   - What was reported is there in every later life; so is everything after an
//     orderly end.
//   - Operations of a batch take effect in order: a put after a delete of the
//     same key stays. A nil value deletes; an empty one is a value. A deletion of
//     what is not there is fine. A range is [Key, End), an empty End the end of
//     the table, an empty Key its beginning.
//   - An image has every table in the order of the keys, compared as bytes.
//
// # What it does not promise, so a fake may do it
//
// After a crash any number of unreported batches may be there, none to all. A
// report may cover several batches (only the last one's Seq appears).
package disktest
