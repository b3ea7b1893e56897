package shim

import "github.com/blixard/blixard/core/mutant"

// The way to a running VM: lock, load, read, arm, check, fork. Every step of it
// can only go on or end.

func (m *Machine) locked(in Input) []Output {
	switch {
	case in.Held:
		m.Phase = Over
		return []Output{{Kind: End, Code: CodeLocked}}
	case in.Err != "":
		m.Phase = Over
		return []Output{{Kind: End, Code: CodeTrouble}}
	}
	m.Phase = Loading
	return []Output{{Kind: Load}}
}

func (m *Machine) loaded(now uint64, in Input) []Output {
	m.Instance, m.Host = in.Start.Instance, in.Start.Host
	if in.Err != "" {
		return m.refuse(now, ReasonStart, CodeStart, in.Err)
	}
	if in.Boot != m.Host.Boot {
		return m.refuse(now, ReasonStart, CodeStart, "the order to start is of boot "+m.Host.Boot+"; this is "+in.Boot)
	}
	if in.Start.Page == "" {
		m.Phase = Forking
		return []Output{{Kind: Fork}}
	}
	m.Path = in.Start.Page
	m.Phase = Reading
	return []Output{{Kind: Read, Path: m.Path}}
}

func (m *Machine) read(now uint64, in Input) []Output {
	if in.Path != m.Path {
		return nil
	}
	if why := m.badStartPage(in); why != "" {
		return m.refuse(now, ReasonPage, CodePage, why)
	}
	if now >= in.Page.Deadline {
		return m.refuse(now, ReasonLapsed, CodeLapsed, "the page's deadline has passed")
	}
	if mutant.On("CheckBeforeArm") {
		m.Phase = Forking
		return []Output{{Kind: Fork}}
	}
	m.Change = &Change{Deadline: in.Page.Deadline}
	m.Phase = Arming
	return []Output{{Kind: Arm, Deadline: in.Page.Deadline}}
}

// armed: from here on the kernel kills us at D, whatever we do. The page is
// read again, because what was true before the timer stood need not be now.
func (m *Machine) armed(now uint64, in Input) []Output {
	if in.Err != "" {
		return m.refuse(now, ReasonTimer, CodeTrouble, in.Err)
	}
	if in.Deadline != m.Change.Deadline {
		return nil
	}
	m.Deadline, m.Change = in.Deadline, nil
	if m.Passed(now) {
		return m.lapse(now)
	}
	m.Phase = Checking
	return []Output{{Kind: Read, Path: m.Path}}
}

// checked: Step has seen that now < D. That the page may show more by now is
// for later: what is armed is what counts.
func (m *Machine) checked(now uint64, in Input) []Output {
	if in.Path != m.Path {
		return nil
	}
	if why := m.badStartPage(in); why != "" {
		return m.refuse(now, ReasonPage, CodePage, why)
	}
	m.Phase = Forking
	return []Output{{Kind: Fork}}
}

func (m *Machine) forked(now uint64, in Input) []Output {
	if in.Err != "" {
		return m.refuse(now, ReasonExec, CodeExec, in.Err)
	}
	m.Phase, m.PID, m.Started = Running, in.PID, now
	return append([]Output{{Kind: Publish}}, m.next(now)...)
}

// badStartPage: the first page must be of exactly the epoch that was asked for.
func (m *Machine) badStartPage(in Input) string {
	if why := m.badPage(in); why != "" || in.Page.Host == m.Host {
		return why
	}
	return "page of another epoch than the order to start"
}
