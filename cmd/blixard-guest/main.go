//go:build linux && amd64

// Command blixard-guest is the whole user space of our own guest: the static
// program that runs as PID 1 in the microVMs of the demo and of the tests.
//
// The machine. It mounts what a Linux program expects, loads the kernel
// modules that it was packed with (see package vmm/guest), reads who it is
// from the kernel's command line (package vmm/guest/boot), and then does
// three things at once until one of them ends it:
//
//   - it prints a line to the console each tick, so that anyone can see that
//     it lives, and that its counter never goes back or stands still;
//   - it waits for the power button, and powers off;
//   - it answers a host on the agent's port (package vmm/guest/agent).
//
// With interfaces to configure, it echoes on TCP port 7, and greets whom it is
// told to, a line each time that the greeting comes back.
//
// The console is an interface too: hosts, tests and people read these lines.
//
//	blixard-guest: up name=NAME uid=UID attempt=N
//	blixard-guest: tick N name=NAME
//	blixard-guest: power button, shutting down
//	blixard-guest: power button, ignored
//	blixard-guest: shutting down, asked by the agent
//	blixard-guest: net DEVICE ADDRESS/BITS
//	blixard-guest: reached HOST:PORT
//	blixard-guest: disk SERIAL of BYTES holds "NOTE"
//	blixard-guest: disk SERIAL is read-only
//	blixard-guest: disk SERIAL has a note now
//	blixard-guest: share TAG holds "NOTE"
//	blixard-guest: share TAG is read-only
//	blixard-guest: share TAG has a note now
//	blixard-guest: disk SERIAL has counted to N
//	blixard-guest: restored name=NAME uid=UID attempt=N clock=+SECONDSs
//	blixard-guest: error: WHAT
//
// "up" is printed when the power button is watched: from then on a request to
// shut down is not lost.
//
// As PID 1 it must never return: the kernel panics when it does, and that is
// also how it is told to crash. Started as any other process it is one of a
// few tiny programs (see applets.go), so that an exec has something to run.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/vmm/guest/boot"
)

func main() {
	if os.Getpid() != 1 {
		os.Exit(applet(filepath.Base(os.Args[0]), os.Args[1:]))
	}
	mountErr := mountAll()
	out := openConsole()
	if mountErr != nil {
		out.say("error: %v", mountErr)
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		out.say("error: %v", err)
	}
	params, err := boot.Parse(string(cmdline))
	if params.Behave.Kind == boot.Hang {
		forever()
	}
	if err != nil {
		out.say("error: %v", err)
	}
	live(out, params)
}

// live never returns.
func live(out *console, p boot.Params) {
	for _, err := range loadModules("/modules") {
		out.say("error: %v", err)
	}
	linkApplets(out)

	pressed := watchPowerButton()
	asked := make(chan struct{}, 1)
	who := &identity{out: out, name: p.Name, uid: p.UID, attempt: p.Attempt}
	if err := setHostname(p.Name); err != nil {
		out.say("error: %v", err)
	}
	go serveAgent(out, &agentState{who: who, shutdown: asked, refresh: refresh})

	leaveNotes(out, p)
	mountShares(out, p)
	out.say("up name=%s uid=%s attempt=%d", p.Name, p.UID, p.Attempt)
	if nets := p.Nets.List(); len(nets) > 0 {
		go serveNet(out, nets, p)
	}

	end := func(how func()) {
		out.drain()
		how()
	}
	if p.Work > 0 {
		go work(out, int(p.Work))
	}
	var crash <-chan time.Time
	switch p.Behave.Kind {
	case boot.Exit:
		end(func() { exit(p.Behave.Code) })
	case boot.Panic:
		end(panicKernel)
	case boot.Reboot:
		end(restart)
	case boot.CrashAfter:
		crash = time.After(p.Behave.After)
	}

	note, n := countOn(out, p.Count)
	tick := time.NewTicker(p.Tick)
	for {
		select {
		case <-tick.C:
			if err := note(n); err != nil {
				out.say("error: disk %s: %v", p.Count, err)
				continue // what was not written down is not said
			}
			name, _, _ := who.is()
			out.say("tick %d name=%s", n, name)
			n++
		case how := <-pressed:
			if p.Behave.Kind == boot.Deaf {
				out.say("%s, ignored", how)
				continue
			}
			out.say("%s, shutting down", how)
			end(how.end)
		case <-asked:
			out.say("shutting down, asked by the agent")
			end(powerOff)
		case <-crash:
			end(panicKernel)
		}
	}
}

// work writes memory and checks it, page by page, and never ends. What was written
// and is not there says that whoever runs this machine has lost a write.
func work(out *console, pages int) {
	const words = 4096 / 8
	all := make([]uint64, pages*words)
	for round := uint64(1); ; round++ {
		for at := 0; at < len(all); at += words {
			if all[at] != round-1 {
				out.say("error: memory was lost: page %d holds %d, and not %d", at/words, all[at], round-1)
			}
			all[at] = round
		}
		if round%1024 == 0 {
			time.Sleep(time.Millisecond) // others want to run, too
		}
	}
}

func forever() {
	for {
		time.Sleep(time.Hour)
	}
}

// console writes whole lines, each with one call, so that no two are mixed.
type console struct{ f *os.File }

// drain waits until what was said has left the serial port: a machine that
// ends takes what is still in its buffers with it.
func (c *console) drain() {
	const waitOnly = 1 // send no break
	_ = unix.IoctlSetInt(int(c.f.Fd()), unix.TCSBRK, waitOnly)
}

func (c *console) say(format string, args ...any) {
	fmt.Fprintf(c.f, "blixard-guest: "+format+"\n", args...)
}
