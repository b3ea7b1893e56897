package main

import (
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blixard/blixard/core"
)

// loop is the one goroutine that steps a node: take an input, step, carry out.
// It never waits for what it carries out; see core.Env.
type loop struct {
	node   *core.Node
	env    core.Env
	inbox  *inbox
	status atomic.Pointer[core.Status]
	// stepped, if any, hears of every step.
	stepped func(core.Output)
	// removed, if any, is called once when the cluster has removed this node.
	removed func()
	done    chan struct{} // closed when run has ended
	err     error         // why; read after done
}

// tick is core.Config.Tick.
const tick = 100 * time.Millisecond

func newLoop(node *core.Node, env core.Env, in *inbox) *loop {
	l := &loop{node: node, env: env, inbox: in, done: make(chan struct{})}
	l.publish()
	return l
}

// run steps the node until the inbox is closed or the node cannot go on.
func (l *loop) run() {
	defer close(l.done)
	var batch []core.Input
	for {
		if batch = l.inbox.take(batch); batch == nil {
			return
		}
		for _, in := range batch {
			if err := l.turn(in); err != nil {
				l.err = err
				l.inbox.close()
				return
			}
		}
		l.publish()
	}
}

func (l *loop) turn(in core.Input) error {
	out, err := l.node.Step(readTime(l.env.Clock), in)
	if err != nil {
		return fmt.Errorf("the node cannot go on after %T: %w", in, err)
	}
	if l.stepped != nil {
		l.stepped(out)
	}
	if out.Write != nil {
		l.env.Disk.Write(*out.Write)
	}
	for _, m := range out.Messages {
		l.env.Network.Send(m)
	}
	for _, a := range out.Actions {
		l.env.Hypervisor.Do(a)
	}
	for _, r := range out.Replies {
		l.env.Clients.Reply(r)
	}
	return nil
}

// publish lets others see how the node is without asking the loop.
func (l *loop) publish() {
	s := l.node.Status()
	if was := l.status.Swap(&s); s.Removed && !was.Removed && l.removed != nil {
		l.removed()
	}
}

// ticks puts a Tick into the inbox every so often, until stop is closed.
func ticks(in *inbox, stop <-chan struct{}) {
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			in.put(core.Tick{})
		case <-stop:
			return
		}
	}
}

// bootClock is core.Clock on CLOCK_BOOTTIME.
type bootClock struct{}

func (bootClock) Now() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(fmt.Sprintf("CLOCK_BOOTTIME cannot be read: %v", err)) // Linux has had it since 2.6.39
	}
	return t.Nano()
}

func (bootClock) Wall() int64 { return time.Now().UnixNano() }

func readTime(c core.Clock) core.Time { return core.Time{Boot: c.Now(), Wall: c.Wall()} }
