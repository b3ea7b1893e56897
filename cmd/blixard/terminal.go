package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// columns is how wide a terminal is; 0 when that is not known.
func columns(w any) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Col)
}

// progress draws one line that is drawn over again; off a terminal, nothing.
type progress struct {
	w     io.Writer
	drawn bool
}

func (t *terminal) progress() *progress {
	if !t.tty {
		return &progress{}
	}
	return &progress{w: t.err}
}

func (p *progress) say(format string, args ...any) {
	if p.w == nil {
		return
	}
	text := fmt.Sprintf(format, args...)
	if n := columns(p.w); n > 1 { // a line that wraps could not be drawn over
		text = shorten(text, n-1)
	}
	fmt.Fprintf(p.w, "\r\x1b[K%s", text)
	p.drawn = true
}

func (p *progress) done() {
	if p.drawn {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.drawn = false
	}
}

// asks says whether somebody is there to answer.
func (t *terminal) asks() bool { return t.tty && isTerminal(t.in) }

// confirm asks, if somebody is there to answer.
func (t *terminal) confirm(g *Globals, what string) error {
	if g.Yes || !t.asks() {
		return nil
	}
	fmt.Fprintf(t.err, "%s [y/N] ", what)
	line, _ := bufio.NewReader(t.in).ReadString('\n')
	if a := strings.ToLower(strings.TrimSpace(line)); a == "y" || a == "yes" {
		return nil
	}
	return &failure{code: exitError, what: "nothing was changed", next: "-y does not ask"}
}
