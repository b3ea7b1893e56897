package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// One seed is one run: in every process, however it was built and whatever else
// the machine does. To see where two runs part, each event leaves a mark.

// Mark is one event, and the hash over all that happened up to it: the effects of
// the events before, not its own.
type Mark struct {
	Hash uint64
	At   int64
	Kind uint8
	Who  uint8 // a machine's number; 0: the world
	N    uint32
}

// mark is the event that has just been folded in.
func (w *World) mark(e *event) Mark {
	m := Mark{Hash: w.trace.hash, At: e.at, Kind: uint8(e.kind), N: uint32(e.n)}
	if e.m != nil {
		m.Who = uint8(e.m.Index)
	}
	return m
}

func (m Mark) String() string {
	who := "the world"
	if m.Who > 0 {
		who = fmt.Sprintf("n%d", m.Who)
	}
	return fmt.Sprintf("%s, %s of %s (%d)", stamp(m.At), kind(m.Kind), who, m.N)
}

func (m Mark) same(o Mark) bool {
	return m.At == o.At && m.Kind == o.Kind && m.Who == o.Who && m.N == o.N
}

// Part says where two runs part, by their marks; event is 0 when they do not. It
// is the last event that was the same in both: what came of it was not.
func Part(a, b []Mark) (event uint64, text string) {
	for i := range max(len(a), len(b)) {
		if i < len(a) && i < len(b) && a[i] == b[i] {
			continue
		}
		at := func(list []Mark) string {
			if i < len(list) {
				return list[i].String()
			}
			return "nothing: it has ended"
		}
		before := "the beginning"
		if i > 0 {
			before = a[i-1].String()
		}
		text = fmt.Sprintf("the first %d events are the same. The last of them is\n  %s\nand what came of it differs; then came\n  %s\n  %s", i, before, at(a), at(b))
		if i < len(a) && i < len(b) && a[i].same(b[i]) {
			text += "\nwhich looks the same"
		}
		return uint64(max(i, 1)), text
	}
	return 0, ""
}

// Marks runs a world and gives its marks.
func Marks(cfg Config) (r Result, marks []Mark) {
	cfg.marked = func(m Mark) bool {
		marks = append(marks, m)
		return true
	}
	return Run(cfg), marks
}

// repeatable is the promise of every world.
const repeatable = "the same seed gives the same run"

// Twice runs a world two times. Where the second run is another one than the
// first, that is its failure.
func Twice(cfg Config) Result {
	first, marks := Marks(cfg)
	if first.Failure != nil {
		return first // which says more
	}
	return against(cfg, marks)
}

// against runs a world beside the marks of a run before, and stops where the two
// part.
func against(cfg Config, marks []Mark) Result {
	w := New(cfg)
	defer w.Close()
	n := 0
	w.cfg.marked = func(m Mark) bool {
		if n < len(marks) && marks[n] == m {
			n++
			return true
		}
		_, text := Part(marks, append(marks[:n:n], m))
		w.fail(repeatable, "%s", text)
		return false
	}
	w.run()
	if n < len(marks) && w.failure == nil {
		_, text := Part(marks, marks[:n])
		w.fail(repeatable, "%s", text)
	}
	return w.Result()
}

// WriteMarks and ReadMarks carry marks from one process to another.
func WriteMarks(out io.Writer, marks []Mark) error {
	return binary.Write(out, binary.LittleEndian, marks)
}

// ReadMarks reads what WriteMarks has written.
func ReadMarks(in io.Reader) (list []Mark, err error) {
	for {
		var m Mark
		if err := binary.Read(in, binary.LittleEndian, &m); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return list, err
		}
		list = append(list, m)
	}
}
