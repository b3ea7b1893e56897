package shim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// Start is the order to start a VM: start.json in the VM's directory.
type Start struct {
	Version  int      `json:"version"`
	Instance Instance `json:"instance"`
	// Host is who is asked to start it. The page must be of this very host; the
	// boot id must be the running kernel's.
	Host Host `json:"host"`
	// Page is the path of the lease page; empty: nothing binds, which is right
	// only while the cluster has one host, or the VM is never re-placed.
	Page string `json:"page,omitempty"`

	Argv []string `json:"argv"`           // argv[0] is an absolute path
	Env  []string `json:"env,omitempty"`  // KEY=VALUE, the whole environment
	Dir  string   `json:"dir,omitempty"`  // working directory; default: the VM's
	User *User    `json:"user,omitempty"` // default: the shim's own

	// Console takes the program's stdout and stderr, appended; default: nowhere.
	Console string `json:"console,omitempty"`
	// PIDNamespace holds a program that forks: when the shim dies, the kernel
	// kills everything in the namespace. Refused where it cannot be had.
	PIDNamespace bool `json:"pidNamespace,omitempty"`
	// Cgroup is a cgroup2 directory that does not exist yet: the shim makes it,
	// starts the program in it, and removes it at the end. It must be fresh for
	// every start: in a cgroup that was killed once, the kernel kills newborns.
	Cgroup string `json:"cgroup,omitempty"`
	// Steps are what else runs around the program.
	Steps *Steps `json:"steps,omitempty"`
}

// Steps surround a program that cannot run alone:
//
//	Before   one after the other; each must end with 0     as the shim's user
//	Beside   all at once, until the program ends; they make Sockets   as the shim's user;
//	         one that ends before the program fails it all
//	Argv     when all Sockets are there                     as User
//	Stop     whenever the shim is asked to send a SIGTERM   as User, with MAINPID
//
// They have the program's environment, directory and console, and end with it.
// The standard input of the program and of Stop is a pipe that nobody writes to
// and that stays open. A step that fails, or takes longer than Seconds, ends it
// all with the exit code StepFailed, and a line on the console that says why.
// Without Stop, a SIGTERM is the program's.
//
// They need an init that is not the program: with them there is one without a
// PID namespace, too, but then what forks is held only as long as that init
// lives.
type Steps struct {
	Before  [][]string `json:"before,omitempty"`
	Beside  Programs   `json:"beside,omitempty"`
	Sockets []string   `json:"sockets,omitempty"` // absolute, or relative to Dir
	Stop    []string   `json:"stop,omitempty"`
	Seconds uint32     `json:"seconds,omitempty"` // default: 60
}

// Programs run at the same time. In JSON one alone is a list of words, which is all
// that shims before these knew.
type Programs [][]string

// MarshalJSON keeps what older shims can read as they read it.
func (p Programs) MarshalJSON() ([]byte, error) {
	if len(p) == 1 {
		return json.Marshal(p[0])
	}
	return json.Marshal([][]string(p))
}

// UnmarshalJSON reads both.
func (p *Programs) UnmarshalJSON(b []byte) error {
	var one []string
	if err := json.Unmarshal(b, &one); err == nil {
		if *p = nil; len(one) > 0 {
			*p = Programs{one}
		}
		return nil
	}
	return json.Unmarshal(b, (*[][]string)(p))
}

// Self as the first word of a step, or of Argv where there are Steps, is the shim's own
// program: see package shimproc for what it can do.
const Self = "/proc/self/exe"

// StepFailed is the exit code of a program of which a step failed.
const StepFailed = 125

// StepSays begins the line that says why a step failed; WhileItRan ends it when it was
// one beside the program, which ran by then.
const (
	StepSays   = "blixard: "
	WhileItRan = " while the VM ran"
)

// User is who the program runs as.
type User struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups,omitempty"`
}

const (
	StartVersion = 1
	MaxStart     = 1 << 20 // bytes of start.json
)

// ErrStart says that start.json is not an order this shim can carry out.
var ErrStart = errors.New("bad start.json")

// DecodeStart reads start.json. An unknown field is refused: it may be a demand
// (hold it, bind it) that this shim does not know how to meet.
func DecodeStart(b []byte) (Start, error) {
	var s Start
	if len(b) > MaxStart {
		return s, fmt.Errorf("%w: more than %d bytes", ErrStart, MaxStart)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return Start{}, fmt.Errorf("%w: %w", ErrStart, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return Start{}, fmt.Errorf("%w: something follows the object", ErrStart)
	}
	if err := s.Validate(); err != nil {
		return Start{}, err
	}
	return s, nil
}

// Validate says what is wrong with a Start, or nil.
func (s Start) Validate() error {
	bad := func(why string) error { return fmt.Errorf("%w: %s", ErrStart, why) }
	if s.Version != StartVersion {
		return bad(fmt.Sprintf("version %d, not %d", s.Version, StartVersion))
	}
	if s.Instance.UID == "" || len(s.Instance.UID) > 255 {
		return bad("instance.uid must have 1 to 255 bytes")
	}
	if err := s.Host.validate(); err != nil {
		return bad(err.Error())
	}
	if len(s.Argv) == 0 || !path.IsAbs(s.Argv[0]) {
		return bad("argv[0] must be an absolute path")
	}
	for _, f := range []struct{ name, path string }{
		{"page", s.Page}, {"dir", s.Dir}, {"console", s.Console}, {"cgroup", s.Cgroup},
	} {
		if f.path != "" && !goodPath(f.path) {
			return bad(fmt.Sprintf("%s must be an absolute path of at most %d bytes", f.name, maxPath))
		}
	}
	for _, a := range s.Argv {
		if strings.ContainsRune(a, 0) {
			return bad("argv has a NUL")
		}
	}
	if err := s.Steps.validate(); err != nil {
		return bad(err.Error())
	}
	for _, e := range s.Env {
		if strings.ContainsRune(e, 0) || strings.IndexByte(e, '=') <= 0 {
			return bad("env must be KEY=VALUE")
		}
	}
	return nil
}

func (s *Steps) validate() error {
	if s == nil {
		return nil
	}
	if len(s.Before) > 16 || len(s.Beside) > 16 || len(s.Sockets) > 64 || s.Seconds > 3600 {
		return errors.New("steps: at most 16 before, 16 beside, 64 sockets and 3600 seconds")
	}
	for _, argv := range slices.Concat([][]string{s.Stop}, s.Beside, s.Before) {
		if len(argv) > 0 && !goodPath(argv[0]) {
			return errors.New("steps: argv[0] must be an absolute path")
		}
		for _, a := range argv {
			if strings.ContainsRune(a, 0) {
				return errors.New("steps: argv has a NUL")
			}
		}
	}
	for _, argv := range slices.Concat(s.Before, s.Beside) {
		if len(argv) == 0 {
			return errors.New("steps: nothing to run before or beside")
		}
	}
	for _, p := range s.Sockets {
		if p == "" || len(p) > maxPath || strings.ContainsRune(p, 0) {
			return fmt.Errorf("steps: a socket must be a path of at most %d bytes", maxPath)
		}
	}
	return nil
}

const maxPath = 1024

func goodPath(p string) bool {
	return path.IsAbs(p) && len(p) <= maxPath && !strings.ContainsRune(p, 0)
}
