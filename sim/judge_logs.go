package sim

import (
	"encoding/binary"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/blixard/blixard/core"
)

// Two logs that hold an entry of one index and term hold the same entries up to it.
//
// By induction it is enough that such entries are equal and follow on entries of
// equal terms. Looked at is what is durable, on every disk.
type judgeLogs struct {
	at map[logAt]logEntry
}

type logAt struct{ index, term uint64 }

type logEntry struct {
	hash   uint64
	before uint64 // term of the entry before; 0: that is in a snapshot
	who    string
}

// written looks at an entry that has become durable.
func (j *judgeLogs) written(w *World, m *Machine, d *Disk, key, value []byte) {
	at := logAt{binary.BigEndian.Uint64(key), termOf(value)}
	var t trace
	t.foldBytes(value)
	e := logEntry{hash: t.hash, who: m.Name}
	if b := d.value(core.Log, binary.BigEndian.AppendUint64(nil, at.index-1)); b != nil {
		e.before = termOf(b)
	}
	old, ok := j.at[at]
	if !ok {
		j.at[at] = e
		return
	}
	w.judges.judged["logs"]++
	switch {
	case old.hash != e.hash:
		w.fail("logs match", "entry %d of term %d is one thing on %s and another on %s", at.index, at.term, old.who, e.who)
	case old.before != e.before && old.before != 0 && e.before != 0:
		w.fail("logs match", "entry %d of term %d follows on term %d on %s and on term %d on %s", at.index, at.term, old.before, old.who, e.before, e.who)
	case old.before == 0:
		j.at[at] = e
	}
}

// termOf reads an entry's term out of its encoding.
func termOf(entry []byte) (term uint64) {
	for len(entry) > 0 {
		n, kind, size := protowire.ConsumeTag(entry)
		if size < 0 {
			break
		}
		if n == 2 {
			term, _ = protowire.ConsumeVarint(entry[size:])
			return term
		}
		skip := protowire.ConsumeFieldValue(n, kind, entry[size:])
		if skip < 0 {
			break
		}
		entry = entry[size+skip:]
	}
	return term
}
