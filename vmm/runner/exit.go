package runner

import (
	"fmt"
	"strings"
	"syscall"

	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/runner/vmdir"
	"github.com/blixard/blixard/vmm/shim"
)

// Reasons for which an instance has ended; one word each, for machines.
const (
	Exited      = "Exited"      // by itself
	Crashed     = "Crashed"     // by a signal, or the guest reset itself
	Panicked    = "Panicked"    // the guest's kernel did
	Killed      = "Killed"      // we did it
	Lapsed      = "Lapsed"      // its host's lease had passed
	BootFailed  = "BootFailed"  // the hypervisor could not start it
	StartFailed = "StartFailed" // we could not
	PortTaken   = "PortTaken"   // another program has a port of its host that is to lead to it
	Starved     = "Starved"     // it wanted more memory than it may have
	NotArrived  = "NotArrived"  // its guest was to come from another host, and did not
	ShareLost   = "ShareLost"   // what served its shares has ended
	Interrupted = "Interrupted" // our daemon has, while its saved boot was loaded
)

// understand says how an instance ended, from its shim's last word.
func understand(e shim.Exit, s session, ready bool) *vmm.Exit {
	switch e.Reason {
	case shim.ReasonExited:
		return s.ended(e, ready)
	case shim.ReasonKilled:
		if e.Asked != int(syscall.SIGKILL) {
			return s.ended(e, ready)
		}
		return &vmm.Exit{Code: 128 + int32(syscall.SIGKILL), Reason: Killed, Message: "it was killed"}
	case shim.ReasonSignaled:
		sig := syscall.Signal(e.Signal)
		return &vmm.Exit{Code: 128 + int32(sig), Reason: Crashed, Message: fmt.Sprintf("its process was ended by signal %d (%v), which we did not send", sig, sig)}
	case shim.ReasonLapsed:
		return &vmm.Exit{Code: 1, Reason: Lapsed, Message: "the lease of its host had passed before it was started"}
	case shim.ReasonExec:
		return &vmm.Exit{Code: 1, Reason: BootFailed, Message: e.Error}
	}
	return &vmm.Exit{Code: 1, Reason: StartFailed, Message: fmt.Sprintf("its shim refused (%s): %s", e.Reason, e.Error)}
}

// stepFailed says what an instance ended for of which a step failed, by what its shim
// wrote down; nil when it was none.
func stepFailed(e shim.Exit, said string) *vmm.Exit {
	line := ""
	for l := range strings.Lines(said) {
		if strings.HasPrefix(l, shim.StepSays) {
			line = strings.TrimSpace(l)
		}
	}
	switch {
	case e.Code != shim.StepFailed || line == "":
		return nil
	case strings.HasSuffix(line, shim.WhileItRan):
		return &vmm.Exit{Code: shim.StepFailed, Reason: ShareLost, Message: "what serves the shares of its host has ended, for which its guest would have waited for ever: " +
			lastLines(strings.TrimPrefix(line, shim.StepSays), 1, 300)}
	}
	return &vmm.Exit{Code: shim.StepFailed, Reason: BootFailed, Message: lastLines(said, 3, 600)}
}

// tail gives the last lines of a small file, as one line of at most most bytes.
func tail(path string, lines, most int) string {
	b, err := vmdir.ReadFile(path, 8<<20)
	if err != nil {
		return ""
	}
	return lastLines(string(b), lines, most)
}

func lastLines(text string, lines, most int) string {
	text = strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' || r == 0x7f {
			return -1
		}
		return r
	}, text))
	all := strings.Split(text, "\n")
	text = strings.Join(all[max(0, len(all)-lines):], " / ")
	if len(text) > most {
		text = "..." + strings.ToValidUTF8(text[len(text)-most:], "")
	}
	return text
}
