package disktest

import "github.com/blixard/blixard/core"

// Harness is one disk under test, through several lives. All calls come from one
// goroutine. A Harness fails the test by itself when a disk cannot be opened.
//
// A life begins with Open and ends with Crash or Close; then comes the next Open,
// or nothing. Between them the test calls Write of the disk, with Seq from 1 in
// each life, and Settle. A test case may end in the middle of a life, so a
// harness that holds resources should release them in t.Cleanup.
//
// Over a simulated disk, Write puts an event in the world's queue, Settle runs
// the queue until it is empty, and Crash drops the rest of it.
type Harness interface {
	// Open begins a life, on what the one before has left; the first one finds an
	// empty disk.
	Open() (core.Disk, core.Image)
	// Settle returns when all batches of this life were reported.
	Settle()
	// Reports returns the Seq of every core.Wrote of this life so far, in the
	// order in which they came. It is also asked once after Crash, and must then
	// say exactly what the crashed life had reported.
	Reports() []uint64
	// Crash ends the life as a kill -9 or a loss of power would, at any point of
	// what is under way. choice is arbitrary: it should decide which point, and
	// how many of the unreported batches stay.
	Crash(choice uint64)
	// Close ends the life in order: everything that was written stays.
	Close()
}
