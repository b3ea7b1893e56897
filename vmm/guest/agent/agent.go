// Package agent is the language that a host and the agent inside a guest
// speak over one byte stream: on QEMU the virtio-serial port named Port.
//
// The machine. The host writes requests, the guest writes responses, each one
// JSON object on one line:
//
//	host  -> {"id":1,"op":"ping"}
//	guest -> {"id":1,"ok":true,"name":"web","uptime_ms":4210}
//
// A response carries the id of its request. Responses may come in another
// order than their requests, since an exec can take long and a ping must not
// wait for it.
//
// A virtio-serial port has no connections: a host that goes away leaves
// behind half a line in one direction and unread responses in the other. So
//
//   - whoever opens the port first writes an empty line (Hello), which ends
//     any half line; both sides ignore empty lines;
//   - a host starts its ids at a number that the one before it will not have
//     used (a random one will do), and ignores responses whose id it does not
//     know;
//   - a line longer than MaxLine is dropped up to its end, not believed.
//
// A guest that goes on from a snapshot does not know it: its clock stands where
// it was, what it takes for chance is what another has, and it may be a copy
// with another name. Its host says so with the operation "restored", once or
// more often.
//
// An operation that was asked may have happened although no response came.
// Ping and info may be repeated, shutdown too; whether an exec may is for the
// one who asks to know.
//
// This package holds the messages and the framing only. It imports nothing of
// ours and does no I/O of its own, so that a static init can afford it.
package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// Port is the name of the virtio-serial port the guest looks for.
const Port = "org.blixard.agent"

// Hello is what a host writes first. It ends a half line left by another.
const Hello = "\n"

const (
	// MaxLine bounds one message, its newline excluded.
	MaxLine = 1 << 20
	// MaxOutput bounds stdout and stderr of one exec, each, before base64:
	// 2 * MaxOutput * 4/3 plus the rest of the response stays below MaxLine.
	MaxOutput = 256 << 10
)

// Op names an operation.
type Op string

const (
	// Ping answers name and uptime, and nothing else can go wrong.
	Ping Op = "ping"
	// Info answers Response.Info.
	Info Op = "info"
	// Exec runs Request.Exec and answers Response.Exec when it has ended.
	Exec Op = "exec"
	// Shutdown answers, then powers the guest off.
	Shutdown Op = "shutdown"
	// Read reads a piece of a file, as Request.Read says, and answers Response.Read.
	Read Op = "read"
	// Write writes a piece of a file, as Request.Write says.
	Write Op = "write"
	// Restored says that the guest goes on from a snapshot. It becomes who
	// Request.Restored says, sets its clock, mixes the seed into what its kernel
	// draws chance from, and answers Response.Restored.
	Restored Op = "restored"
)

// Request is what a host asks.
type Request struct {
	ID   uint64       `json:"id"`
	Op   Op           `json:"op"`
	Exec *ExecRequest `json:"exec,omitempty"` // with Op Exec only

	Read  *ReadRequest  `json:"read,omitempty"`  // with Op Read only
	Write *WriteRequest `json:"write,omitempty"` // with Op Write only

	Restored *RestoredRequest `json:"restored,omitempty"` // with Op Restored only
}

// Response is what a guest answers. OK is false exactly when Error says why.
// An exec whose program exits with 7 is OK: the agent did what was asked.
type Response struct {
	ID       uint64        `json:"id"`
	OK       bool          `json:"ok"`
	Error    string        `json:"error,omitempty"`
	Name     string        `json:"name,omitempty"`
	UptimeMS int64         `json:"uptime_ms,omitempty"`
	Info     *InfoResponse `json:"info,omitempty"`
	Exec     *ExecResponse `json:"exec,omitempty"`
	Read     *ReadResponse `json:"read,omitempty"`

	Restored *RestoredResponse `json:"restored,omitempty"`
}

// MinSeed and MaxSeed bound RestoredRequest.Seed.
const (
	MinSeed = 32
	MaxSeed = 512
)

// RestoredRequest is what has changed under a guest.
type RestoredRequest struct {
	UnixNS  int64  `json:"unix_ns"`  // the time now
	Seed    []byte `json:"seed_b64"` // random bytes that nobody else has
	Name    string `json:"name"`
	UID     string `json:"uid"`
	Attempt uint64 `json:"attempt"`
}

// RestoredResponse says by how much the guest's clock was moved.
type RestoredResponse struct {
	StepMS int64 `json:"step_ms"`
}

// ReadRequest is a piece of a file, at most MaxOutput bytes from an offset on.
type ReadRequest struct {
	Path   string `json:"path"` // absolute
	Offset int64  `json:"offset,omitempty"`
}

// ReadResponse is that piece.
type ReadResponse struct {
	Data []byte `json:"data_b64"`
	Mode uint32 `json:"mode"` // permission bits
	End  bool   `json:"end,omitempty"`
}

// WriteRequest is a piece to be written, at most MaxOutput bytes. At offset 0 the
// file is made, or cut to nothing.
type WriteRequest struct {
	Path   string `json:"path"` // absolute
	Offset int64  `json:"offset,omitempty"`
	Mode   uint32 `json:"mode,omitempty"` // of a file that is made; 0: 0644
	Data   []byte `json:"data_b64"`
}

// ExecRequest is a program to run: no shell, no terminal.
type ExecRequest struct {
	Argv      []string `json:"argv"`
	Env       []string `json:"env,omitempty"` // KEY=VALUE, added to the guest's own
	Stdin     []byte   `json:"stdin_b64,omitempty"`
	TimeoutMS int64    `json:"timeout_ms,omitempty"` // 0: the agent's own limit
}

// ExecResponse is how it ended.
type ExecResponse struct {
	Exit     int    `json:"exit"` // 128+n when signal n ended it
	Stdout   []byte `json:"stdout_b64"`
	Stderr   []byte `json:"stderr_b64"`
	Bounded  bool   `json:"bounded,omitempty"`   // output beyond MaxOutput was dropped
	TimedOut bool   `json:"timed_out,omitempty"` // killed at its timeout
}

// InfoResponse is how the guest is doing.
type InfoResponse struct {
	UID           string     `json:"uid"`
	Attempt       uint64     `json:"attempt"`
	Kernel        string     `json:"kernel"`
	CPUs          int        `json:"cpus"`
	Load          [3]float64 `json:"load"` // over 1, 5 and 15 minutes
	MemTotalBytes uint64     `json:"mem_total_bytes"`
	MemFreeBytes  uint64     `json:"mem_free_bytes"`
	Processes     uint64     `json:"processes"`
}

// ErrLineTooLong is a message beyond MaxLine.
var ErrLineTooLong = errors.New("message too long")

// Encode is v as one line, its newline included.
func Encode(v any) ([]byte, error) {
	line, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode agent message: %w", err)
	}
	if len(line) > MaxLine {
		return nil, fmt.Errorf("encode agent message: %w: %d bytes, at most %d", ErrLineTooLong, len(line), MaxLine)
	}
	return append(line, '\n'), nil
}

// DecodeRequest reads one line. When the line is no request the returned one
// still carries the id, if any could be read, so that the error can be sent
// to whoever asked.
func DecodeRequest(line []byte) (Request, error) {
	var r Request
	if err := json.Unmarshal(line, &r); err != nil {
		var only struct {
			ID uint64 `json:"id"`
		}
		_ = json.Unmarshal(line, &only) // the first error is the one to report
		return Request{ID: only.ID}, fmt.Errorf("decode agent request: %w", err)
	}
	return r, r.check()
}

// check says what is wrong with a request that is well-formed JSON.
func (r Request) check() error {
	switch r.Op {
	case Ping, Info, Shutdown:
		return nil
	case Exec:
		if r.Exec == nil || len(r.Exec.Argv) == 0 || r.Exec.Argv[0] == "" {
			return errors.New(`op "exec" needs exec.argv with a program in it`)
		}
		if r.Exec.TimeoutMS < 0 {
			return fmt.Errorf("exec.timeout_ms is %d, it must not be negative", r.Exec.TimeoutMS)
		}
		return nil
	case Read:
		if r.Read == nil {
			return errors.New(`op "read" needs read.path`)
		}
		return checkPath(r.Read.Path, r.Read.Offset)
	case Write:
		if r.Write == nil {
			return errors.New(`op "write" needs write.path`)
		}
		if n := len(r.Write.Data); n > MaxOutput {
			return fmt.Errorf("write.data is %d bytes, it must be at most %d", n, MaxOutput)
		}
		return checkPath(r.Write.Path, r.Write.Offset)
	case Restored:
		switch r := r.Restored; {
		case r == nil:
			return errors.New(`op "restored" needs restored`)
		case len(r.Seed) < MinSeed || len(r.Seed) > MaxSeed:
			return fmt.Errorf("restored.seed is %d bytes, it must be %d to %d", len(r.Seed), MinSeed, MaxSeed)
		case r.UnixNS <= 0:
			return fmt.Errorf("restored.unix_ns is %d, it must be positive", r.UnixNS)
		}
		return nil
	case "":
		return errors.New("no op: want " + ops)
	}
	return fmt.Errorf("unknown op %q: want "+ops, r.Op)
}

const ops = `"ping", "info", "exec", "read", "write", "restored" or "shutdown"`

func checkPath(path string, offset int64) error {
	switch {
	case path == "" || path[0] != '/':
		return fmt.Errorf("%q is no absolute path", path)
	case offset < 0:
		return fmt.Errorf("offset is %d, it must not be negative", offset)
	}
	return nil
}

// DecodeResponse reads one line.
func DecodeResponse(line []byte) (Response, error) {
	var r Response
	if err := json.Unmarshal(line, &r); err != nil {
		return Response{}, fmt.Errorf("decode agent response: %w", err)
	}
	return r, nil
}

// Lines cuts a stream into lines. The zero value is ready.
//
// Invariant: len(pending) <= MaxLine, whatever the other side sends.
type Lines struct {
	pending  []byte
	skipping bool // inside a line that was too long
}

// Feed takes the bytes that just arrived and calls yield for each complete,
// non-empty line. The line is valid only during the call. It returns
// ErrLineTooLong if a line had to be dropped; the stream remains usable.
func (l *Lines) Feed(p []byte, yield func(line []byte)) error {
	var err error
	for len(p) > 0 {
		part, rest, whole := bytes.Cut(p, []byte{'\n'})
		p = rest
		if !l.skipping && len(l.pending)+len(part) > MaxLine {
			l.skipping, l.pending = true, nil
			err = ErrLineTooLong
		}
		if !l.skipping {
			l.pending = append(l.pending, part...)
		}
		if !whole {
			break
		}
		if line := bytes.TrimSuffix(l.pending, []byte{'\r'}); !l.skipping && len(line) > 0 {
			yield(line)
		}
		l.pending, l.skipping = l.pending[:0], false
	}
	return err
}

// Reset forgets a half line, as when the other side went away.
func (l *Lines) Reset() { l.pending, l.skipping = nil, false }
