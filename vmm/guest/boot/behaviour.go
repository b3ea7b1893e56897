package boot

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Kind is how a guest lives and ends. All but Normal exist so that tests and
// demonstrations can see how a host deals with them.
type Kind uint8

const (
	// Normal ticks until the power button or the agent says shut down.
	Normal Kind = iota
	// Deaf is Normal, but ignores the power button: only a kill ends it.
	Deaf
	// Exit says it is up and powers off at once. See Behaviour.Code.
	Exit
	// Panic says it is up and makes the kernel panic.
	Panic
	// Reboot says it is up and resets the machine.
	Reboot
	// Hang never says it is up.
	Hang
	// CrashAfter is Normal, and panics after Behaviour.After.
	CrashAfter
)

// Behaviour is blixard.behave.
type Behaviour struct {
	Kind  Kind
	Code  int           // with Exit: what the hypervisor's process exits with
	After time.Duration // with CrashAfter
}

var kinds = map[string]Kind{
	"": Normal, "normal": Normal, "deaf": Deaf, "exit": Exit, "panic": Panic, "reboot": Reboot, "hang": Hang,
}

var errBehaviour = errors.New("want normal, deaf, exit, exit=N, panic, reboot, hang or crash-after=DURATION")

// parseBehaviour reads the value of blixard.behave.
func parseBehaviour(s string) (Behaviour, error) {
	if k, ok := kinds[s]; ok {
		return Behaviour{Kind: k}, nil
	}
	kind, arg, _ := strings.Cut(s, "=")
	switch kind {
	case "exit":
		code, err := strconv.Atoi(arg)
		if err != nil || code < 0 || code > 255 || code != 0 && code%2 == 0 {
			// QEMU's isa-debug-exit device turns a written v into (v<<1)|1.
			return Behaviour{}, fmt.Errorf("exit=%s: want 0 or an odd number up to 255, as a guest can make QEMU exit with no other", arg)
		}
		return Behaviour{Kind: Exit, Code: code}, nil
	case "crash-after":
		d, err := parsePositive(arg)
		if err != nil {
			return Behaviour{}, fmt.Errorf("crash-after=%s: %w", arg, err)
		}
		return Behaviour{Kind: CrashAfter, After: d}, nil
	}
	return Behaviour{}, errBehaviour
}

// String is b as blixard.behave takes it.
func (b Behaviour) String() string {
	switch b.Kind {
	case Normal:
		return "normal"
	case Deaf:
		return "deaf"
	case Exit:
		if b.Code != 0 {
			return fmt.Sprintf("exit=%d", b.Code)
		}
		return "exit"
	case Panic:
		return "panic"
	case Reboot:
		return "reboot"
	case Hang:
		return "hang"
	case CrashAfter:
		return "crash-after=" + b.After.String()
	}
	return fmt.Sprintf("Kind(%d)", b.Kind)
}
