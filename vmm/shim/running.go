package shim

import "github.com/blixard/blixard/core/mutant"

// A running VM: the page grows, daemons ask, the program ends.

const (
	pollMost  = 1_000_000_000 // ns
	pollLeast = 50_000_000
)

// next asks for the next look at the page: often enough that a page which grows
// in its last third is still seen in time.
func (m *Machine) next(now uint64) []Output {
	if m.Path == "" {
		return nil
	}
	wait := uint64(pollMost)
	if m.Deadline > now {
		wait = max(pollLeast, min(pollMost, (m.Deadline-now)/3))
	}
	return []Output{{Kind: Read, Path: m.Path, At: now + wait}}
}

// running: Step has seen that now < D.
func (m *Machine) running(now uint64, in Input) []Output {
	switch in.Kind {
	case Paged:
		return m.paged(now, in)
	case Armed:
		return m.rearmed(now, in)
	case Exited:
		m.Phase, m.Change = Sweeping, nil
		return []Output{{Kind: Sweep}}
	case Stopped:
		m.Asked = in.Signal
		return []Output{{Kind: Signal, Signal: in.Signal}}
	case Asked:
		return m.asked(now, in)
	}
	return nil
}

func (m *Machine) asked(now uint64, in Input) []Output {
	r := in.Request
	switch {
	case r.V < ProtocolMin || r.V > ProtocolMax:
		return []Output{m.reply(in, ErrorUnknown+": version")}
	case r.Type == MsgStatus:
		return []Output{m.reply(in, "")}
	case r.Type == MsgKill && (r.Signal < 1 || r.Signal > 31):
		return []Output{m.reply(in, ErrorInvalid+": signal must be 1 to 31")}
	case r.Type == MsgKill:
		m.Asked = r.Signal
		return []Output{{Kind: Signal, Signal: r.Signal}, m.reply(in, "")}
	case r.Type != MsgRebind:
		return []Output{m.reply(in, ErrorUnknown+": type")}
	case m.Change != nil:
		return []Output{m.reply(in, ErrorPhase+": the timer is being moved")}
	case r.Page == m.Path:
		return []Output{m.reply(in, "")}
	case r.Page == "":
		m.Change = &Change{Host: m.Host, Armed: true, Rebind: true, Conn: in.Conn, ID: r.ID}
		return []Output{{Kind: Arm, Deadline: 0}}
	case !goodPath(r.Page):
		return []Output{m.reply(in, ErrorInvalid+": page must be an absolute path")}
	}
	m.Change = &Change{Path: r.Page, Rebind: true, Conn: in.Conn, ID: r.ID}
	return []Output{{Kind: Read, Path: r.Page}}
}

// paged looks at a page: the one in effect, which may have grown, or the one
// that a daemon wants.
func (m *Machine) paged(now uint64, in Input) []Output {
	c := m.Change
	switch {
	case c != nil && c.Rebind && !c.Armed && in.Path == c.Path:
		if why := m.badPage(in); why != "" {
			return m.settle(now, ErrorPage+": "+why)
		}
		if now >= in.Page.Deadline {
			return m.settle(now, ErrorLapsed+": the page's deadline has passed")
		}
		c.Host, c.Deadline, c.Armed = in.Page.Host, in.Page.Deadline, true
		return []Output{{Kind: Arm, Deadline: c.Deadline}}
	case in.Path != m.Path || m.Path == "":
		return nil
	case c != nil || m.badPage(in) != "" || in.Page.Host != m.Host || in.Page.Deadline <= m.Deadline || mutant.On("TimerNotMoved"):
		// Not grown, or spoiled: then what is armed stands, and the VM ends at D.
		return m.next(now)
	}
	m.Change = &Change{Path: m.Path, Host: m.Host, Deadline: in.Page.Deadline, Armed: true}
	return []Output{{Kind: Arm, Deadline: in.Page.Deadline}}
}

// rearmed: the timer was moved, or could not be.
func (m *Machine) rearmed(now uint64, in Input) []Output {
	c := m.Change
	if c == nil || !c.Armed || in.Err == "" && in.Deadline != c.Deadline {
		return nil
	}
	if in.Err != "" {
		return m.settle(now, ErrorTimer+": "+in.Err)
	}
	m.Path, m.Host, m.Deadline = c.Path, c.Host, c.Deadline
	if m.Passed(now) {
		return m.lapse(now)
	}
	return m.settle(now, "")
}

// settle ends a change, tells who asked for it, and goes on watching the page.
func (m *Machine) settle(now uint64, err string) []Output {
	c := m.Change
	m.Change = nil
	var out []Output
	if c.Rebind {
		if err == "" {
			out = append(out, Output{Kind: Publish})
		}
		out = append(out, Output{Kind: Reply, Conn: c.Conn, ID: c.ID, Error: err})
	}
	return append(out, m.next(now)...)
}

func (m *Machine) swept(now uint64, in Input) []Output {
	m.Status = in.Status
	why := ReasonExited
	switch {
	case m.Asked != 0:
		why = ReasonKilled
	case m.Status.Signal != 0:
		why = ReasonSignaled
	}
	m.Phase = Over
	return []Output{{Kind: Record, Exit: m.exit(now, why, "")}, {Kind: End, Code: CodeEnded}}
}
