package sim

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"time"
)

// trace is what happened: a hash over all of it, and the last of it in words.
type trace struct {
	hash   uint64
	events uint64
	last   [lastKept]line
	n      int
	log    io.Writer // nil: silent
}

const lastKept = 64

// line is one thing that happened. It is put into words only when somebody asks.
type line struct {
	at   int64
	who  string
	what any // string, or something that describe knows
}

func (t *trace) fold(x uint64) {
	t.hash = bits.RotateLeft64((t.hash^x)*0x9e3779b97f4a7c15, 29)
}

func (t *trace) foldBytes(b []byte) {
	t.fold(uint64(len(b)))
	for len(b) >= 8 {
		t.fold(binary.LittleEndian.Uint64(b))
		b = b[8:]
	}
	var last [8]byte
	copy(last[:], b)
	t.fold(binary.LittleEndian.Uint64(last[:]))
}

func (t *trace) foldString(s string) {
	t.fold(uint64(len(s)))
	for i := range len(s) {
		t.hash = (t.hash ^ uint64(s[i])) * 0x100000001b3
	}
}

func (t *trace) keep(l line) {
	t.last[t.n%lastKept] = l
	t.n++
	if t.log != nil {
		fmt.Fprintln(t.log, l)
	}
}

// lines returns the last things that happened, oldest first.
func (t *trace) lines(most int) []line {
	n := min(most, lastKept, t.n)
	out := make([]line, 0, n)
	for i := t.n - n; i < t.n; i++ {
		out = append(out, t.last[i%lastKept])
	}
	return out
}

func (l line) String() string {
	return fmt.Sprintf("%12s %-4s %s", stamp(l.at), l.who, describe(l.what))
}

// stamp is a real time as people read it.
func stamp(at int64) string { return fmt.Sprintf("%.6fs", time.Duration(at).Seconds()) }
