package shim

import "fmt"

// Phase is where a shim is in its one life.
type Phase string

const (
	Fresh    Phase = ""
	Locking  Phase = "locking"  // asked for the directory's lock
	Loading  Phase = "loading"  // asked for start.json
	Reading  Phase = "reading"  // asked for the page
	Arming   Phase = "arming"   // asked for the timer
	Checking Phase = "checking" // armed; asked for the page once more
	Forking  Phase = "forking"  // asked for the VM
	Running  Phase = "running"
	Sweeping Phase = "sweeping" // the program ended; asked to kill what it left
	Over     Phase = "over"
)

// InputKind says what happened.
type InputKind string

const (
	Begin   InputKind = "begin"   // first, once
	Locked  InputKind = "locked"  // Held or Err: not
	Loaded  InputKind = "loaded"  // Start and Boot, or Err
	Paged   InputKind = "paged"   // Path was read: Page, or Err
	Armed   InputKind = "armed"   // the timer stands at Deadline (0: off), or Err: as before
	Forked  InputKind = "forked"  // the VM runs as PID, or Err: nothing runs
	Exited  InputKind = "exited"  // the program ended
	Swept   InputKind = "swept"   // nothing of the VM lives; Status is the program's
	Asked   InputKind = "asked"   // a daemon on Conn made a Request
	Stopped InputKind = "stopped" // the shim itself was sent Signal
)

// Input is one thing that happened.
type Input struct {
	Kind     InputKind `json:"kind"`
	Err      string    `json:"err,omitempty"`
	Held     bool      `json:"held,omitempty"`
	Start    Start     `json:"start,omitzero"`
	Boot     string    `json:"boot,omitempty"` // the running kernel's boot id
	Path     string    `json:"path,omitempty"`
	Page     Page      `json:"page,omitzero"`
	Deadline uint64    `json:"deadlineNs,omitempty"`
	PID      int       `json:"pid,omitempty"`
	Status   Status    `json:"status,omitzero"`
	Conn     uint64    `json:"conn,omitempty"`
	Request  Request   `json:"request,omitzero"`
	Signal   int       `json:"signal,omitempty"`
}

// OutputKind says what to do.
type OutputKind string

const (
	Lock    OutputKind = "lock"    // take the directory's lock -> Locked
	Load    OutputKind = "load"    // forget the last life's files, read start.json -> Loaded
	Read    OutputKind = "read"    // read the page Path, not before At -> Paged
	Arm     OutputKind = "arm"     // set the kernel's timer to Deadline (0: off) -> Armed
	Fork    OutputKind = "fork"    // start the VM -> Forked, later Exited
	Publish OutputKind = "publish" // write shim.json
	Signal  OutputKind = "signal"  // send the VM Signal
	Sweep   OutputKind = "sweep"   // kill all that is left of the VM -> Swept
	Record  OutputKind = "record"  // write exit.json durably, tell the daemons
	Reply   OutputKind = "reply"   // answer the Request ID on Conn
	Die     OutputKind = "die"     // SIGKILL yourself: the kernel's timer should have
	End     OutputKind = "end"     // exit with Code
)

// Output is one thing to do. Outputs are done in the order given, each before
// the next Input is taken. One Read that must wait is kept: a later one with an
// At replaces it.
type Output struct {
	Kind     OutputKind `json:"kind"`
	Path     string     `json:"path,omitempty"`
	At       uint64     `json:"atNs,omitempty"` // 0: now
	Deadline uint64     `json:"deadlineNs,omitempty"`
	Signal   int        `json:"signal,omitempty"`
	Exit     *Exit      `json:"exit,omitempty"`
	Conn     uint64     `json:"conn,omitempty"`
	ID       uint64     `json:"id,omitempty"`
	Error    string     `json:"error,omitempty"`
	Code     int        `json:"code,omitempty"`
}

// Machine is the state of one shim. The zero value is a shim that has done
// nothing yet. All of it can be written out and read back between two steps.
type Machine struct {
	Phase    Phase    `json:"phase"`
	Instance Instance `json:"instance"`
	Host     Host     `json:"host"` // of the page in effect, or of the order to start
	Path     string   `json:"path,omitempty"`
	// Deadline is the time the kernel's timer stands at; 0: it does not stand.
	// While a change is under way it is the old one.
	Deadline uint64  `json:"deadlineNs,omitempty"`
	Change   *Change `json:"change,omitempty"`
	PID      int     `json:"pid,omitempty"`
	Started  uint64  `json:"startedNs,omitempty"`
	Asked    int     `json:"asked,omitempty"`
	Status   Status  `json:"status,omitzero"`
}

// Change is a move of the timer under way: because the page has grown, or
// because a daemon asked for another page.
type Change struct {
	Path     string `json:"path,omitempty"`
	Host     Host   `json:"host,omitzero"`
	Deadline uint64 `json:"deadlineNs,omitempty"` // what the timer was told
	Armed    bool   `json:"armed,omitempty"`      // it was told
	Rebind   bool   `json:"rebind,omitempty"`     // and these want to know:
	Conn     uint64 `json:"conn,omitempty"`
	ID       uint64 `json:"id,omitempty"`
}

// Passed says that the armed deadline has passed. It never stops being true.
func (m *Machine) Passed(now uint64) bool { return m.Deadline != 0 && now >= m.Deadline }

// Step takes one thing that happened at now, CLOCK_BOOTTIME in ns, and says
// what to do. An input that does not belong to the phase is ignored: it is
// about something that is over.
func (m *Machine) Step(now uint64, in Input) []Output {
	if m.Phase == Over {
		return nil
	}
	if m.Passed(now) {
		return m.lapse(now)
	}
	switch m.Phase {
	case Fresh:
		if in.Kind == Begin {
			m.Phase = Locking
			return []Output{{Kind: Lock}}
		}
	case Locking:
		if in.Kind == Locked {
			return m.locked(in)
		}
	case Loading:
		if in.Kind == Loaded {
			return m.loaded(now, in)
		}
	case Reading:
		if in.Kind == Paged {
			return m.read(now, in)
		}
	case Arming:
		if in.Kind == Armed {
			return m.armed(now, in)
		}
	case Checking:
		if in.Kind == Paged {
			return m.checked(now, in)
		}
	case Forking:
		if in.Kind == Forked {
			return m.forked(now, in)
		}
	case Running:
		return m.running(now, in)
	case Sweeping:
		if in.Kind == Swept {
			return m.swept(now, in)
		}
	}
	if in.Kind == Asked {
		return []Output{m.reply(in, ErrorPhase+": "+string(m.Phase))}
	}
	return nil
}

// lapse ends a shim whose deadline has passed. Once a VM may exist there is
// nothing left to ask or to record: the kernel should have killed us already.
func (m *Machine) lapse(now uint64) []Output {
	if m.Phase == Arming || m.Phase == Checking {
		return m.refuse(now, ReasonLapsed, CodeLapsed, "the deadline passed before the VM was started")
	}
	m.Phase = Over
	return []Output{{Kind: Die}}
}

// refuse ends a shim whose VM never ran.
func (m *Machine) refuse(now uint64, why Reason, code int, text string) []Output {
	m.Phase = Over
	return []Output{{Kind: Record, Exit: m.exit(now, why, text)}, {Kind: End, Code: code}}
}

func (m *Machine) exit(now uint64, why Reason, text string) *Exit {
	return &Exit{
		Version: ExitVersion, Instance: m.Instance, Reason: why, Error: text,
		Code: m.Status.Code, Signal: m.Status.Signal, Asked: m.Asked,
		Start: m.Started, End: now,
	}
}

func (m *Machine) reply(in Input, err string) Output {
	return Output{Kind: Reply, Conn: in.Conn, ID: in.Request.ID, Error: err}
}

// State is what the machine knows of a State; who carries it out fills in the
// processes.
func (m *Machine) State() State {
	return State{
		Phase: m.Phase, Instance: m.Instance, Host: m.Host, Page: m.Path,
		Deadline: m.Deadline, Started: m.Started, Asked: m.Asked,
		VM: Process{PID: m.PID},
	}
}

// badPage says why a page read must not bind this shim, or "".
func (m *Machine) badPage(in Input) string {
	if in.Err != "" {
		return in.Err
	}
	if !m.Host.covers(in.Page.Host) {
		return fmt.Sprintf("page of host %s in boot %s, generation %d, epoch %d; ours is %s in boot %s, generation %d, epoch %d",
			in.Page.Host.ID, in.Page.Host.Boot, in.Page.Host.Generation, in.Page.Host.Epoch,
			m.Host.ID, m.Host.Boot, m.Host.Generation, m.Host.Epoch)
	}
	return ""
}
