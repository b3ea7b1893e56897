// Package boot is what a host tells our guest when it starts it: words on the
// kernel's command line, which the guest reads back from /proc/cmdline.
//
//	blixard.name=web blixard.uid=... blixard.attempt=3 blixard.behave=normal
//
// The command line is one string that the boot loader, the kernel and a
// person may all have added to, so reading it is lenient about everything
// that is not ours and strict about what is: a wrong value is an error that
// names the word, never a guess. Words are quoted as the kernel quotes them:
// a double quote begins or ends a stretch in which spaces belong to the word.
// A double quote itself cannot be written, nor can a control character.
//
// When a word occurs twice the last one counts, as it does in the kernel.
package boot

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Params is all that a guest can be told. The zero value is valid, and is
// what an empty command line means once Parse has filled in the tick.
type Params struct {
	Name    string        // blixard.name: for people
	UID     string        // blixard.uid: which VM this is
	Attempt uint64        // blixard.attempt: which start of it
	Tick    time.Duration // blixard.tick: between heartbeats; default 5s
	Behave  Behaviour     // blixard.behave
	Nets    Nets          // ip, ifname
	Dial    string        // blixard.dial: HOST:PORT that the guest greets with each tick
	Note    string        // blixard.note: disks, by serial, that it reads a note from and leaves one on: a,b
	Share   string        // blixard.share: shares, by tag, that it mounts at /run/TAG, reads a note from and leaves one in: a,b
	Work    uint32        // blixard.work: pages of memory that it writes and checks, over and over; at most 65536
	Count   string        // blixard.count: the disk, by serial, on which it counts its heartbeats
}

// DefaultTick is the time between heartbeats unless told otherwise: under
// emulation, each costs what hundreds of milliseconds of idling cost.
const DefaultTick = 5 * time.Second

// minTick keeps a slip of the pen from making the guest spin.
const minTick = time.Millisecond

// Parse reads our words in a kernel command line. On an error the Params
// still hold every word that was right: a guest prefers to come up and
// complain.
func Parse(cmdline string) (Params, error) {
	p := Params{Tick: DefaultTick}
	var errs []error
	for _, w := range words(cmdline) {
		if w == "--" {
			break // what follows is for init's argv, as in the kernel
		}
		key, value, _ := strings.Cut(w, "=")
		if err := p.set(key, value); err != nil {
			errs = append(errs, fmt.Errorf("%s=%s: %w", key, value, err))
		}
	}
	return p, errors.Join(errs...)
}

func (p *Params) set(key, value string) (err error) {
	switch key {
	case "blixard.name":
		p.Name = value
	case "blixard.uid":
		p.UID = value
	case "blixard.attempt":
		var n uint64
		if n, err = strconv.ParseUint(value, 10, 64); err == nil {
			p.Attempt = n
		}
	case "blixard.tick":
		var d time.Duration
		if d, err = parsePositive(value); err == nil {
			p.Tick = d
		}
	case "blixard.behave":
		var b Behaviour
		if b, err = parseBehaviour(value); err == nil {
			p.Behave = b
		}
	case "blixard.dial":
		if _, err = netip.ParseAddrPort(value); err == nil {
			p.Dial = value
		}
	case "blixard.note":
		p.Note = value
	case "blixard.share":
		p.Share = value
	case "blixard.work":
		var n uint64
		if n, err = strconv.ParseUint(value, 10, 17); err == nil {
			p.Work = uint32(min(n, 65536))
		}
	case "blixard.count":
		p.Count = value
	case "ip":
		err = p.Nets.ip(value)
	case "ifname":
		err = p.Nets.ifname(value)
	default:
		if strings.HasPrefix(key, "blixard.") {
			return errors.New("no such parameter")
		}
	}
	return err
}

// Cmdline is p as words for a kernel command line: Parse(p.Cmdline()) == p.
func (p Params) Cmdline() (string, error) {
	tick := p.Tick
	if tick == 0 {
		tick = DefaultTick
	}
	pairs := [][2]string{
		{"blixard.name", p.Name},
		{"blixard.uid", p.UID},
		{"blixard.attempt", strconv.FormatUint(p.Attempt, 10)},
		{"blixard.tick", tick.String()},
		{"blixard.behave", p.Behave.String()},
	}
	if p.Dial != "" {
		pairs = append(pairs, [2]string{"blixard.dial", p.Dial})
	}
	if p.Note != "" {
		pairs = append(pairs, [2]string{"blixard.note", p.Note})
	}
	if p.Share != "" {
		pairs = append(pairs, [2]string{"blixard.share", p.Share})
	}
	if p.Work != 0 {
		pairs = append(pairs, [2]string{"blixard.work", strconv.FormatUint(uint64(p.Work), 10)})
	}
	if p.Count != "" {
		pairs = append(pairs, [2]string{"blixard.count", p.Count})
	}
	for _, n := range p.Nets {
		pairs = append(pairs, n.words()...)
	}
	out := make([]string, 0, len(pairs))
	for _, kv := range pairs {
		w, err := quote(kv[0], kv[1])
		if err != nil {
			return "", err
		}
		out = append(out, w)
	}
	return strings.Join(out, " "), nil
}

// quote is key=value as one word, or an error if no quoting can make it one.
func quote(key, value string) (string, error) {
	for _, r := range value {
		if r == '"' || r < ' ' || r == 0x7f {
			return "", fmt.Errorf("%s=%q: a kernel command line cannot carry %q", key, value, r)
		}
	}
	if strings.Contains(value, " ") {
		return key + `="` + value + `"`, nil
	}
	return key + "=" + value, nil
}

// words splits as the kernel's next_arg does, quotes removed.
func words(cmdline string) []string {
	var out []string
	var w strings.Builder
	inWord, quoted := false, false
	for i := range len(cmdline) {
		switch c := cmdline[i]; {
		case c == '"':
			inWord, quoted = true, !quoted
		case !quoted && strings.IndexByte(" \t\n\r\v\f", c) >= 0:
			if inWord {
				out = append(out, w.String())
				w.Reset()
			}
			inWord = false
		default:
			inWord = true
			w.WriteByte(c)
		}
	}
	if inWord {
		out = append(out, w.String())
	}
	return out
}

func parsePositive(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, errors.New("want a duration, such as 500ms or 5s")
	}
	if d < minTick {
		return 0, fmt.Errorf("want at least %v", minTick)
	}
	return d, nil
}
