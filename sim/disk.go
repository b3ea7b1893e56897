package sim

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/blixard/blixard/core"
)

// Disk is one machine's disk behind the seam of core.Disk.
//
// It promises what core/env.go says and no more: batches are atomic, become
// durable in the order in which they were written, and each is reported once it
// is durable. When the power goes or the process is killed, the batches that
// were under way are lost, but for a prefix of them, which may be there: the
// machine had got that far without having said so.
//
// It may be slow, stall, and fail a write; a failed write is final for the
// process, and nothing of that batch is on the disk.
type Disk struct {
	tables  [core.Tables]map[string][]byte // put into order only when they are read
	log     []core.KV                      // the table core.Log, in order: it grows at its end
	pending []core.Batch
	logged  func(key, value []byte) // hears of every entry of the log
	rand    *rand.Rand

	// Faults in effect.
	slow    float64 // latency times this; 0 means 1
	stalled int64   // nothing becomes durable before this real time
	broken  bool    // the next write fails
	full    bool    // and every one after it
	corrupt bool    // nothing can be read
	last    int64   // when the batch before becomes durable
}

func newDisk(r *rand.Rand) *Disk {
	d := &Disk{rand: r}
	for t := range d.tables {
		d.tables[t] = map[string][]byte{}
	}
	return d
}

// copy is another disk that holds the same.
func (d *Disk) copy() *Disk {
	c := newDisk(d.rand)
	for t := range d.tables {
		c.tables[t] = maps.Clone(d.tables[t])
	}
	c.log = slices.Clone(d.log)
	return c
}

// write takes a batch and says when it will be durable.
func (d *Disk) write(now int64, b core.Batch) int64 {
	latency := between(d.rand, 50*time.Microsecond, time.Millisecond) + tail(d.rand, 500*time.Microsecond, 200*time.Millisecond)
	if d.slow > 1 {
		latency = int64(float64(latency) * d.slow)
	}
	d.pending = append(d.pending, b)
	d.last = max(d.last+1, now+latency, d.stalled)
	return d.last
}

// durable makes the oldest pending batch durable and returns its number.
func (d *Disk) durable() uint64 {
	b := d.pending[0]
	d.pending = d.pending[1:]
	d.apply(b)
	return b.Seq
}

// crash forgets what was under way, but for a prefix.
func (d *Disk) crash() {
	kept := d.rand.IntN(len(d.pending) + 1)
	for _, b := range d.pending[:kept] {
		d.apply(b)
	}
	for _, b := range d.pending[kept:] {
		d.apply(mutateLoss(b))
	}
	d.pending, d.last = nil, 0
}

func (d *Disk) apply(b core.Batch) {
	for i := range b.Ops {
		op := &b.Ops[i]
		if op.Table == core.Log {
			d.applyLog(op)
			continue
		}
		t := d.tables[op.Table]
		switch {
		case op.Range:
			from, end := string(op.Key), string(op.End)
			maps.DeleteFunc(t, func(k string, _ []byte) bool { return k >= from && (end == "" || k < end) })
		case op.Value == nil:
			delete(t, string(op.Key))
		default:
			t[string(op.Key)] = op.Value
		}
	}
}

func (d *Disk) applyLog(op *core.Op) {
	at, found := d.find(op.Key)
	switch {
	case op.Range:
		end := len(d.log)
		if len(op.End) > 0 {
			end, _ = d.find(op.End)
		}
		d.log = slices.Delete(d.log, at, max(at, end))
	case op.Value == nil && found:
		d.log = slices.Delete(d.log, at, at+1)
	case op.Value == nil:
	case found:
		d.log[at].Value = op.Value
	default:
		d.log = slices.Insert(d.log, at, core.KV{Key: op.Key, Value: op.Value})
	}
	if !op.Range && op.Value != nil && d.logged != nil {
		d.logged(op.Key, op.Value)
	}
}

// find is where in the log a key is, or belongs.
func (d *Disk) find(key []byte) (at int, found bool) {
	if n := len(d.log); n == 0 || bytes.Compare(d.log[n-1].Key, key) < 0 {
		return n, false
	}
	return slices.BinarySearchFunc(d.log, key, func(kv core.KV, key []byte) int { return bytes.Compare(kv.Key, key) })
}

func (d *Disk) value(t core.Table, key []byte) []byte {
	if t != core.Log {
		return d.tables[t][string(key)]
	}
	if at, found := d.find(key); found {
		return d.log[at].Value
	}
	return nil
}

// Image is what the disk holds: what a process that starts now will read.
func (d *Disk) Image() core.Image {
	var img core.Image
	for t := range d.tables {
		for _, k := range slices.Sorted(maps.Keys(d.tables[t])) {
			img[t] = append(img[t], core.KV{Key: []byte(k), Value: bytes.Clone(d.tables[t][k])})
		}
	}
	for _, kv := range d.log {
		img[core.Log] = append(img[core.Log], core.KV{Key: bytes.Clone(kv.Key), Value: bytes.Clone(kv.Value)})
	}
	return img
}
