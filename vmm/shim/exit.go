package shim

// Exit is the shim's last word: exit.json in the VM's directory. A directory
// with a free lock and no exit.json belonged to a shim that was killed, at its
// deadline or otherwise.
type Exit struct {
	Version  int      `json:"version"`
	Instance Instance `json:"instance"`
	Reason   Reason   `json:"reason"`
	// Error is the text of what went wrong, for the reasons that are refusals.
	Error string `json:"error,omitempty"`
	// Code is the program's exit code, Signal the signal that ended it. One of
	// them means something, and only if the program ran.
	Code   int    `json:"code"`
	Signal int    `json:"signal,omitempty"`
	Asked  int    `json:"asked,omitempty"` // the last signal the daemon asked for
	Start  uint64 `json:"startNs,omitempty"`
	End    uint64 `json:"endNs"`          // CLOCK_BOOTTIME
	Wall   string `json:"wall,omitempty"` // RFC 3339, for show
}

const ExitVersion = 1

// Reason says why a VM is not running.
type Reason string

const (
	ReasonExited   Reason = "exited"    // by itself, with a code
	ReasonSignaled Reason = "signaled"  // by a signal we did not ask for
	ReasonKilled   Reason = "killed"    // ended after the daemon asked for a signal
	ReasonStart    Reason = "bad-start" // never ran: start.json
	ReasonPage     Reason = "bad-page"  // never ran: page missing, corrupt, or another host's
	ReasonLapsed   Reason = "lapsed"    // never ran: the deadline had passed
	ReasonExec     Reason = "exec"      // never ran: fork or exec failed
	ReasonTimer    Reason = "timer"     // never ran: the kernel gave no timer
)

// Exit codes of the shim itself.
const (
	CodeEnded   = 0 // the VM ran and ended; exit.json says how
	CodeTrouble = 1 // nothing could be done at all; see stderr
	CodeUsage   = 2
	CodeLocked  = 3 // another shim, or what it left, has the directory; nothing was touched
	CodePage    = 4
	CodeLapsed  = 5
	CodeStart   = 6
	CodeExec    = 7
)

// Status is the program's end, as the kernel reports it.
type Status struct {
	Code   int `json:"code,omitempty"`
	Signal int `json:"signal,omitempty"`
}
