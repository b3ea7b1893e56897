package nix

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// Bounds of what is written down of one build. A builder may say anything, for
// ever.
const (
	maxLog  = 16 << 20 // bytes of a build's log
	maxLine = 8 << 10
	// tailLines and tailBytes are what an error repeats of it.
	tailLines = 20
	tailBytes = 2 << 10
	tailLine  = 400
)

// log takes lines and gives them to all who wait for one build.
type log struct {
	mu    sync.Mutex
	sinks []*sink
}

// sink is where one order's log goes. It has its own bound, since orders come
// and go.
type sink struct {
	w    io.Writer
	left int
}

func newLog() *log { return &log{} }

func newSink(w io.Writer) *sink { return &sink{w, maxLog} }

func (s *sink) put(line string) {
	if s.w == nil {
		return
	}
	if s.left -= len(line) + 1; s.left < 0 {
		line = fmt.Sprintf("the log is longer than %d MiB: the rest is left out", maxLog>>20)
	}
	if _, err := io.WriteString(s.w, line+"\n"); err != nil || s.left < 0 {
		s.w = nil
	}
}

func (l *log) add(s *sink) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sinks = append(l.sinks, s)
}

func (l *log) remove(s *sink) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.sinks {
		if l.sinks[i] == s {
			l.sinks = append(l.sinks[:i:i], l.sinks[i+1:]...)
			return
		}
	}
}

func (l *log) put(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.sinks {
		s.put(line)
	}
}

// line is a word of ours to all.
func (l *log) line(format string, args ...any) { l.put("blixard: " + fmt.Sprintf(format, args...)) }

// voice takes what one process says on its standard error: it passes it on line
// by line, and remembers the last of it.
type voice struct {
	log     *log // nil: to nobody
	part    []byte
	last    []string
	dropped bool // of the line at hand, what is beyond maxLine
}

func (v *voice) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			v.keep(p)
			break
		}
		v.keep(p[:i])
		v.end()
		p = p[i+1:]
	}
	return n, nil
}

func (v *voice) keep(p []byte) {
	if room := maxLine - len(v.part); len(p) > room {
		p, v.dropped = p[:max(room, 0)], true
	}
	v.part = append(v.part, p...)
}

// end ends the line at hand.
func (v *voice) end() {
	line := readable(v.part)
	if v.dropped {
		line += " ..."
	}
	v.part, v.dropped = v.part[:0], false
	if v.log != nil {
		v.log.put(line)
	}
	if strings.TrimSpace(line) == "" {
		return
	}
	if len(line) > tailLine {
		line = strings.ToValidUTF8(line[:tailLine], "") + " ..."
	}
	if v.last = append(v.last, line); len(v.last) > tailLines {
		v.last = v.last[1:]
	}
}

// close ends what was not ended by a newline.
func (v *voice) close() {
	if len(v.part) > 0 {
		v.end()
	}
}

// verdict is the last line with which Nix says what is wrong.
func (v *voice) verdict() string {
	for _, line := range slices.Backward(v.last) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "error: ") {
			return line
		}
	}
	return "it said"
}

// tail is the last that was said, as many lines as fit.
func (v *voice) tail() string {
	lines, total := v.last, 0
	first := len(lines)
	for first > 0 && total+len(lines[first-1])+1 <= tailBytes {
		first--
		total += len(lines[first]) + 1
	}
	return strings.Join(lines[first:], "\n")
}

// says whether one of the last lines has one of the words.
func (v *voice) says(words ...string) bool {
	for _, line := range v.last {
		line = strings.ToLower(line)
		for _, w := range words {
			if strings.Contains(line, w) {
				return true
			}
		}
	}
	return false
}

// readable is a line as a plain file and a person can have it: valid UTF-8,
// without the codes that colour a terminal or move about on it.
func readable(b []byte) string {
	if i := bytes.LastIndexByte(bytes.TrimRight(b, "\r"), '\r'); i >= 0 {
		b = b[i+1:] // a progress bar: only what it came to
	}
	var s strings.Builder
	for len(b) > 0 {
		if n := escape(b); n > 0 {
			b = b[n:]
			continue
		}
		r, n := utf8.DecodeRune(b)
		if r == '\t' || !unicode.IsControl(r) {
			s.WriteRune(r) // U+FFFD for what is no UTF-8
		}
		b = b[n:]
	}
	return strings.TrimRight(s.String(), " ")
}

// escape is the length of the escape sequence at the beginning of b, or 0.
func escape(b []byte) int {
	if b[0] != 0x1b {
		return 0
	}
	if len(b) < 2 {
		return 1
	}
	switch b[1] {
	case '[':
		for i := 2; i < len(b); i++ {
			if b[i] >= 0x40 && b[i] <= 0x7e {
				return i + 1
			}
		}
		return len(b)
	case ']':
		for i := 2; i < len(b); i++ {
			if b[i] == 0x07 {
				return i + 1
			}
			if b[i] == 0x1b && i+1 < len(b) && b[i+1] == '\\' {
				return i + 2
			}
		}
		return len(b)
	}
	return 2
}
