package bolt

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/blixard/blixard/core"
	"go.etcd.io/bbolt"
)

// Disk is a core.Disk on a bbolt file.
type Disk struct {
	path string
	opts Options
	file *os.File
	db   *bbolt.DB
	// summaries of what is committed. Only run uses them, as it does db.
	summaries summaries

	mu     sync.Mutex
	wake   *sync.Cond
	queue  []core.Batch
	closed bool

	done   chan struct{} // closed when run has ended
	failed error         // set before done
}

// point is a place where a test may end the life of a disk.
type point int

const (
	beforeCommit point = iota
	beforeReport
)

var errGate = errors.New("ended by a test")

// Write queues a batch and returns at once. The batch, keys and values included,
// must not be changed until it is reported. A batch that no disk can hold is a
// bug of the caller, and panics.
func (d *Disk) Write(b core.Batch) {
	for i, op := range b.Ops {
		if err := check(op); err != nil {
			panic(fmt.Sprintf("bolt: operation %d of batch %d: %v", i, b.Seq, err))
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.queue = append(d.queue, b)
		d.wake.Signal()
	}
}

// Close writes what is queued, ends, and lets go of the file. Batches that come
// later are dropped. It returns the error that Failed was called with, if any.
func (d *Disk) Close() error {
	d.mu.Lock()
	d.closed = true
	d.wake.Signal()
	d.mu.Unlock()
	<-d.done
	if errors.Is(d.failed, errPanic) {
		release(d.file)
		return d.failed
	}
	return errors.Join(d.failed, d.db.Close())
}

// run writes until the disk is closed or a write fails.
func (d *Disk) run() {
	defer close(d.done)
	for {
		group := d.take()
		if group == nil {
			return
		}
		begin := time.Now()
		if err := d.commit(group); err != nil {
			d.fail(group, err)
			return
		}
		if d.opts.Took != nil {
			d.opts.Took(time.Since(begin))
		}
		if !d.pass(beforeReport) {
			d.failed = errGate
			return
		}
		if d.opts.Wrote != nil {
			d.opts.Wrote(core.Wrote{Seq: group[len(group)-1].Seq})
		}
	}
}

// take waits for batches and takes all there are; nil means the end.
func (d *Disk) take() []core.Batch {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.queue) == 0 && !d.closed {
		d.wake.Wait()
	}
	group := d.queue
	d.queue = nil
	return group
}

func (d *Disk) fail(group []core.Batch, err error) {
	d.mu.Lock()
	d.closed, d.queue = true, nil
	d.mu.Unlock()
	if errors.Is(err, errGate) {
		d.failed = err
		return
	}
	d.failed = fmt.Errorf("bolt: writing batch %d to %s: %w; the disk is stopped, and %s", group[0].Seq, d.path, err, next(err))
	if d.opts.Failed != nil {
		d.opts.Failed(d.failed)
	}
}

func (d *Disk) pass(p point) bool { return d.opts.gate == nil || d.opts.gate(p) }

// commit writes a group of batches in one transaction.
func (d *Disk) commit(group []core.Batch) (err error) {
	if !d.pass(beforeCommit) {
		return errGate
	}
	defer guard(&err)()
	tx, err := d.db.Begin(true)
	if err != nil {
		return err
	}
	changed := d.summaries
	if err := apply(tx, &changed, group); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	d.summaries = changed
	return nil
}
