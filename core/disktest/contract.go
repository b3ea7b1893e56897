package disktest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/blixard/blixard/core"
	"pgregory.net/rapid"
)

// Contract tests a disk. open makes a new harness, over an empty disk; it is
// called many times.
func Contract(t *testing.T, open func(t *testing.T) Harness) {
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) {
			l := begin(t, open(t))
			for _, ops := range s.batches {
				l.write(ops)
			}
			l.settle()
			l.crash(0)
			l.end()
		})
	}
	t.Run("any number of batches may be lost, but in order", func(t *testing.T) {
		for choice := range uint64(16) {
			l := begin(t, open(t))
			for i := range byte(10) {
				l.write([]core.Op{put(core.Log, string('a'+i), "entry"), put(core.Meta, "last", string('a'+i))})
				if uint64(i) == choice {
					l.settle()
				}
			}
			l.crash(choice)
			l.end()
		}
	})
	t.Run("against the model", func(t *testing.T) {
		rapid.Check(t, func(r *rapid.T) {
			l := begin(r, open(t))
			r.Repeat(map[string]func(*rapid.T){
				"write":  func(r *rapid.T) { l.t = r; l.write(rapid.SliceOfN(anyOp, 0, 12).Draw(r, "ops")) },
				"settle": func(r *rapid.T) { l.t = r; l.settle() },
				"crash":  func(r *rapid.T) { l.t = r; l.crash(rapid.Uint64().Draw(r, "choice")) },
				"close":  func(r *rapid.T) { l.t = r; l.close() },
			})
			l.t = r
			l.end()
		})
	})
}

// fataler is what *testing.T and *rapid.T have in common here.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// life drives a harness and the model side by side.
type life struct {
	t    fataler
	h    Harness
	disk core.Disk
	// after[n] is the model after batch n of this life; after[0] what it began with.
	after []tables
}

func begin(t fataler, h Harness) *life {
	l := &life{t: t, h: h, after: []tables{tables{}.clone()}}
	l.open(0, 0)
	return l
}

// open begins a life, which must find one of after[from..to].
func (l *life) open(from, to int) {
	l.t.Helper()
	disk, image := l.h.Open()
	var last string
	for n := to; n >= from; n-- {
		if last = l.after[n].diff(image); last == "" {
			l.disk, l.after = disk, []tables{l.after[n]}
			return
		}
	}
	l.t.Fatalf("the disk is no prefix of what was written: it should be as after one of batches %d to %d, but compared with %d %s",
		from, to, from, last)
}

func (l *life) written() int { return len(l.after) - 1 }

func (l *life) write(ops []core.Op) {
	b := core.Batch{Seq: uint64(len(l.after)), Ops: ops}
	l.after = append(l.after, l.after[l.written()].apply(b))
	l.disk.Write(b)
}

// reported checks the reports and returns the last.
func (l *life) reported() int {
	l.t.Helper()
	reports := l.h.Reports()
	var last uint64
	for _, seq := range reports {
		if seq <= last || seq > uint64(l.written()) {
			l.t.Fatalf("reports do not ascend, or run ahead of batch %d: %v", l.written(), reports)
		}
		last = seq
	}
	return int(last)
}

func (l *life) settle() {
	l.t.Helper()
	l.h.Settle()
	if got := l.reported(); got != l.written() {
		l.t.Fatalf("batch %d of %d was the last one reported", got, l.written())
	}
}

func (l *life) crash(choice uint64) {
	l.t.Helper()
	l.h.Crash(choice)
	l.open(l.reported(), l.written())
}

func (l *life) close() {
	l.t.Helper()
	l.h.Close()
	l.open(l.written(), l.written())
}

// end is a life that does nothing: what the one before left must last.
func (l *life) end() {
	l.t.Helper()
	l.close()
	l.h.Close()
}

func put(t core.Table, key, value string) core.Op {
	return core.Op{Table: t, Key: []byte(key), Value: []byte(value)}
}

func del(t core.Table, key string) core.Op { return core.Op{Table: t, Key: []byte(key)} }

func delRange(t core.Table, from, to string) core.Op {
	return core.Op{Table: t, Key: []byte(from), End: []byte(to), Range: true}
}

func number(i int) string { return fmt.Sprintf("%06d", i) }

// many puts records of growing size, so that pages split and some are long.
func many(from, to int) []core.Op {
	var ops []core.Op
	for i := from; i < to; i++ {
		ops = append(ops, put(core.State, number(i), strings.Repeat("x", i*i%9000)))
	}
	return ops
}

// stories are what a reader should know by name.
var stories = []struct {
	name    string
	batches [][]core.Op
}{
	{"nothing", nil},
	{"an empty batch", [][]core.Op{{}}},
	{"tables do not mix", [][]core.Op{{put(core.Meta, "k", "m"), put(core.Log, "k", "l"), put(core.State, "k", "s")}, {del(core.Log, "k")}}},
	{"an empty value is a value", [][]core.Op{{put(core.State, "k", "")}, {put(core.State, "l", "x")}}},
	{"delete, then put", [][]core.Op{{put(core.State, "k", "1")}, {del(core.State, "k"), put(core.State, "k", "2")}}},
	{"put, then delete", [][]core.Op{{put(core.State, "k", "1"), del(core.State, "k")}}},
	{"the last put counts", [][]core.Op{{put(core.State, "k", "1"), put(core.State, "k", "2"), put(core.State, "k", "")}}},
	{"delete nothing", [][]core.Op{{del(core.State, "k"), delRange(core.Log, "a", "b")}}},
	{"a range without its end", [][]core.Op{{put(core.Log, "a", "1"), put(core.Log, "b", "2"), put(core.Log, "c", "3")}, {delRange(core.Log, "a", "c")}}},
	{"a range to the end of the table", [][]core.Op{{put(core.Log, "a", "1"), put(core.Log, "b", "2"), put(core.Log, "\xff\xff", "3"), put(core.State, "z", "4")}, {delRange(core.Log, "b", "")}}},
	{"a whole table, then a put", [][]core.Op{{put(core.State, "a", "1"), put(core.State, "b", "2")}, {delRange(core.State, "", ""), put(core.State, "b", "3")}}},
	{"a backward range", [][]core.Op{{put(core.Log, "a", "1"), put(core.Log, "b", "2")}, {delRange(core.Log, "b", "a"), delRange(core.Log, "a", "a")}}},
	{"keys are ordered as bytes", [][]core.Op{{put(core.State, "b", ""), put(core.State, "a\x00", ""), put(core.State, "a", ""), put(core.State, "\x00", ""), put(core.State, "\xff", ""), put(core.State, "B", "")}}},
	{"much in one batch", [][]core.Op{many(0, 500), many(250, 700), {delRange(core.State, number(100), number(600))}}},
}
