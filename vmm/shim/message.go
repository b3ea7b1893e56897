package shim

import (
	"encoding/json"
	"errors"
	"fmt"
)

// The daemon and a shim talk over a unix socket in JSON, one message a line.
//
//	shim   -> {"type":"hello","min":1,"max":1,"state":{...}}         first, always
//	daemon -> {"v":1,"id":7,"type":"kill","signal":15}
//	daemon -> {"v":1,"id":8,"type":"rebind","page":"/run/.../x.lease"}   "" or absent: none
//	daemon -> {"v":1,"id":9,"type":"status"}
//	shim   -> {"type":"reply","id":8,"error":"lapsed","state":{...}}  no error: done
//	shim   -> {"type":"exit","exit":{...}}                           last, if it can
//
// # Versions
//
// A shim is as old as its VM, a daemon is as new as its last upgrade. So the
// shim speaks first and says which versions it understands; the daemon, which
// must understand those of the release before its own, takes the highest both
// know and marks every request with it. No common version is an error of the
// daemon's: it leaves that shim alone, and the VM lives on until its deadline.
//
// Within a version, fields and message types may be added: both sides skip what
// they do not know, and a shim answers an unknown type with the error
// "unknown". A version is raised only when something old changes its meaning.
const (
	ProtocolMin = 1
	ProtocolMax = 1
	MaxLine     = 8192 // bytes, the newline included; more ends the connection
)

// Types of messages.
const (
	MsgHello  = "hello"
	MsgReply  = "reply"
	MsgExit   = "exit"
	MsgKill   = "kill"
	MsgRebind = "rebind"
	MsgStatus = "status"
)

// Errors in a reply; after a colon there may be more.
const (
	ErrorUnknown = "unknown" // no such message type or version
	ErrorInvalid = "invalid" // the request makes no sense
	ErrorPhase   = "phase"   // not now: starting, ending, or another rebind under way
	ErrorPage    = "page"    // the page is missing, corrupt, or another host's
	ErrorLapsed  = "lapsed"  // the page's deadline has passed
	ErrorTimer   = "timer"   // the kernel refused
)

// Request is what a daemon says.
type Request struct {
	V      int    `json:"v"`
	ID     uint64 `json:"id"`
	Type   string `json:"type"`
	Signal int    `json:"signal,omitempty"`
	Page   string `json:"page,omitempty"`
}

// Message is what a shim says.
type Message struct {
	Type  string `json:"type"`
	Min   int    `json:"min,omitempty"` // hello
	Max   int    `json:"max,omitempty"` // hello
	ID    uint64 `json:"id,omitempty"`  // reply
	Error string `json:"error,omitempty"`
	State *State `json:"state,omitempty"` // hello, reply
	Exit  *Exit  `json:"exit,omitempty"`  // exit
}

// State is what a shim tells about itself: in a hello, in a reply, and in
// shim.json, which survives it.
type State struct {
	Phase    Phase    `json:"phase"`
	Instance Instance `json:"instance"`
	Host     Host     `json:"host"` // of the page in effect
	Page     string   `json:"page,omitempty"`
	// Deadline is the armed one; 0: unbound. Not kept up to date in shim.json.
	Deadline uint64 `json:"deadlineNs,omitempty"`
	Started  uint64 `json:"startedNs,omitempty"` // CLOCK_BOOTTIME
	Asked    int    `json:"asked,omitempty"`     // the last signal asked for

	Shim Process `json:"shim"`
	// VM is the program; with a PID namespace, the namespace's init.
	VM     Process `json:"vm"`
	Cgroup string  `json:"cgroup,omitempty"`
}

// Process names a process for as long as the kernel runs: pids are reused, a
// pid and its start time are not.
type Process struct {
	PID   int    `json:"pid,omitempty"`
	Start uint64 `json:"start,omitempty"` // field 22 of /proc/PID/stat
}

// ErrMessage says that a line is not a message.
var ErrMessage = errors.New("bad message")

// DecodeRequest reads one line of a daemon's. A line that is no JSON object
// gives ErrMessage; whether the request makes sense is for the machine.
func DecodeRequest(line []byte) (Request, error) { return decodeLine[Request](line) }

// DecodeMessage reads one line of a shim's.
func DecodeMessage(line []byte) (Message, error) {
	m, err := decodeLine[Message](line)
	if err == nil && m.Type == MsgHello && (m.State == nil || m.Min < 1 || m.Max < m.Min) {
		return Message{}, fmt.Errorf("%w: hello without versions or state", ErrMessage)
	}
	return m, err
}

func decodeLine[T any](line []byte) (T, error) {
	var v T
	if len(line) > MaxLine {
		return v, fmt.Errorf("%w: more than %d bytes", ErrMessage, MaxLine)
	}
	if err := json.Unmarshal(line, &v); err != nil {
		var none T
		return none, fmt.Errorf("%w: %w", ErrMessage, err)
	}
	return v, nil
}

// EncodeLine gives the line of a Request or a Message, newline included.
func EncodeLine(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("shim: a message that is no JSON: " + err.Error())
	}
	return append(b, '\n')
}

// Negotiate gives the version to speak with a shim that said hello.
func Negotiate(hello Message) (int, error) {
	v := min(hello.Max, ProtocolMax)
	if v < max(hello.Min, ProtocolMin) {
		return 0, fmt.Errorf("shim speaks protocol %d to %d, this daemon %d to %d",
			hello.Min, hello.Max, ProtocolMin, ProtocolMax)
	}
	return v, nil
}
