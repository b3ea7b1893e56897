package shimproc

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/vmm/runner/lease"
	"github.com/blixard/blixard/vmm/runner/vmdir"
	"github.com/blixard/blixard/vmm/shim"
)

// process carries out one machine.
type process struct {
	dir   string
	ready int // a pipe to whoever started us, closed when the VM runs; -1: none
	m     shim.Machine
	inbox []shim.Input

	lockFD int
	start  shim.Start
	pages  map[string]*lease.Page
	look   shim.Output // the Read that waits; Path empty: none
	timer  *timer
	vm     vm
	door   door
	wake   [2]int // a pipe that signals write to

	ended bool
	code  int
}

func newProcess(dir string, ready int) *process {
	if ready >= 0 {
		unix.CloseOnExec(ready)
	}
	return &process{
		dir: dir, ready: ready, lockFD: -1,
		pages: map[string]*lease.Page{}, door: door{fd: -1},
		inbox: []shim.Input{{Kind: shim.Begin}},
	}
}

func (p *process) run() int {
	if _, err := vmdir.SocketPath(p.dir); err != nil {
		return trouble(shim.CodeUsage, Name+": "+err.Error()+"\n")
	}
	if err := p.heedSignals(); err != nil {
		return trouble(shim.CodeTrouble, Name+": "+err.Error()+"\n")
	}
	for {
		for len(p.inbox) > 0 && !p.ended {
			in := p.inbox[0]
			p.inbox = p.inbox[1:]
			for _, out := range p.m.Step(lease.Now(), in) {
				p.do(out)
			}
		}
		if p.ended {
			p.door.close()
			return p.code
		}
		p.wait()
	}
}

func (p *process) happened(in shim.Input) { p.inbox = append(p.inbox, in) }

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (p *process) complain(what string, err error) {
	if err != nil {
		os.Stderr.WriteString(Name + ": " + what + ": " + err.Error() + "\n")
	}
}

// do carries out one output. What comes of it goes into the inbox.
func (p *process) do(out shim.Output) {
	switch out.Kind {
	case shim.Lock:
		fd, err := vmdir.Lock(p.dir)
		p.lockFD = fd
		p.complain("lock", err)
		p.happened(shim.Input{Kind: shim.Locked, Held: errors.Is(err, vmdir.ErrLocked), Err: text(err)})
	case shim.Load:
		p.happened(p.load())
	case shim.Read:
		if out.At == 0 {
			p.happened(p.readPage(out.Path))
		} else {
			p.look = out
		}
	case shim.Arm:
		err := p.arm(out.Deadline)
		p.happened(shim.Input{Kind: shim.Armed, Deadline: out.Deadline, Err: text(err)})
	case shim.Fork:
		err := p.fork()
		p.happened(shim.Input{Kind: shim.Forked, PID: p.vm.pid, Err: text(err)})
	case shim.Publish:
		p.complain("shim.json", vmdir.WriteJSON(p.dir, vmdir.StateFile, p.state()))
		p.forgetPages()
		p.tellReady()
	case shim.Signal:
		p.complain("signal", p.vm.signal(syscall.Signal(out.Signal)))
	case shim.Sweep:
		end, err := p.vm.sweep()
		p.complain("sweep", err)
		p.happened(shim.Input{Kind: shim.Swept, Status: end})
	case shim.Record:
		p.record(*out.Exit)
	case shim.Reply:
		p.forgetPages() // one that was refused may be another file next time
		s := p.state()
		p.door.say(out.Conn, shim.Message{Type: shim.MsgReply, ID: out.ID, Error: out.Error, State: &s})
	case shim.Die:
		unix.Kill(unix.Getpid(), unix.SIGKILL)
	case shim.End:
		p.ended, p.code = true, out.Code
	}
}

// load reads the order to start. We hold the lock: what a shim before us left
// behind is about a VM that is dead.
func (p *process) load() shim.Input {
	in := shim.Input{Kind: shim.Loaded}
	for _, name := range []string{vmdir.ExitFile, vmdir.StateFile, vmdir.Socket} {
		if err := os.Remove(filepath.Join(p.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			in.Err = err.Error()
			return in
		}
	}
	b, err := vmdir.ReadFile(filepath.Join(p.dir, vmdir.StartFile), shim.MaxStart)
	if err == nil {
		p.start, err = shim.DecodeStart(b)
	}
	if err == nil {
		in.Boot, err = lease.BootID()
	}
	if err == nil {
		err = p.door.open(p.dir)
	}
	in.Start, in.Err = p.start, text(err)
	return in
}

func (p *process) readPage(path string) shim.Input {
	in := shim.Input{Kind: shim.Paged, Path: path}
	page, err := p.pages[path], error(nil)
	if page == nil {
		if page, err = lease.Watch(path); err == nil {
			p.pages[path] = page
		}
	}
	if err == nil {
		in.Page, err = page.Load()
	}
	in.Err = text(err)
	return in
}

// forgetPages unmaps the pages that are not in effect any more.
func (p *process) forgetPages() {
	for path, page := range p.pages {
		if path != p.m.Path {
			page.Close()
			delete(p.pages, path)
		}
	}
	if p.look.Path != p.m.Path {
		p.look = shim.Output{}
	}
}

func (p *process) arm(deadline uint64) (err error) {
	if p.timer == nil {
		if p.timer, err = newTimer(); err != nil {
			return err
		}
	}
	return p.timer.set(deadline)
}

func (p *process) state() shim.State {
	s := p.m.State()
	s.Shim = vmdir.Identify(unix.Getpid())
	s.VM = p.vm.process
	s.Cgroup = p.start.Cgroup
	return s
}

func (p *process) tellReady() {
	if p.ready < 0 {
		return
	}
	unix.Write(p.ready, []byte("running\n"))
	unix.Close(p.ready)
	p.ready = -1
}

func (p *process) record(e shim.Exit) {
	e.Wall = time.Now().UTC().Format(time.RFC3339Nano)
	p.complain("exit.json", vmdir.WriteJSON(p.dir, vmdir.ExitFile, e))
	p.door.sayAll(shim.Message{Type: shim.MsgExit, Exit: &e})
	if e.Error != "" {
		os.Stderr.WriteString(Name + ": " + string(e.Reason) + ": " + e.Error + "\n")
	}
}
