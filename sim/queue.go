package sim

import "slices"

// kind says what an event is about.
type kind uint8

const (
	_ kind = iota
	// To a daemon: lost when it dies, held while it is stopped.
	evTick
	evReceive
	evPeerLost
	evSnapshotSent
	evWrote
	evRequest
	evRequestEnd // the adapter looks whether the request was answered
	evObserve    // the hypervisor's adapter looks at a VM
	evObserved   // and tells the node
	evAction     // the hypervisor's adapter goes on with a VM's orders
	evBuilt      // the hypervisor's adapter has built something
	evProbed     // and has asked a guest how it is
	evPrepare    // the hypervisor's adapter gets what it is to hold ready
	evKeep       // the hypervisor's adapter sees to its volumes
	evExtend     // the hypervisor's adapter writes the lease pages
	evSaved      // the hypervisor's adapter has written a snapshot down
	evKept       // and removes those that are not kept
	evSilent     // the hypervisor's adapter has waited for a shim's answer

	// To a machine: lost when its power goes.
	evDurable // the disk has finished a batch
	evBoot    // starts the daemon
	evShim    // a shim takes one input
	evLook    // a shim's poll ends
	evTimer   // the kernel's timer of a shim
	evReady   // a guest is up
	evLoaded  // a guest that goes on from a snapshot has its memory
	evExit    // a guest ends by itself
	evDead    // a guest that was killed is gone
	evReap    // and from the process table

	// To nobody who can die.
	evArrive   // a message is at its recipient's door
	evPower    // a machine gets power
	evEnd      // a fault ends
	evStrike   // a fault strikes
	evClient   // a client does its next thing
	evAsk      // a client's request arrives
	evAnswer   // a client's answer arrives
	evGiveUp   // a client has waited long enough for an attempt
	evJoined   // a machine that was admitted has its identity
	evWake     // somebody outside wants to look
	evChore    // a machine's keeper goes on
	evLastKind // none
)

var kindNames = [evLastKind]string{
	"?", "tick", "receive", "peer lost", "snapshot sent", "wrote", "request", "request end", "observe",
	"observed", "action", "built", "probed", "prepare", "keep", "extend", "saved", "kept", "silent", "durable", "boot", "shim", "look", "timer", "ready", "loaded", "exit",
	"dead", "reap", "arrive", "power", "fault ends", "fault", "client", "ask", "answer", "give up", "joined", "wake", "chore",
}

func (k kind) String() string { return kindNames[k] }

// event is one thing that is going to happen. It is a value: n and ref are all
// that it carries.
type event struct {
	at   int64 // real time
	seq  uint64
	kind kind
	m    *Machine // nil: the world
	// life is the daemon's, the boot's or the process's; the event is dropped
	// when that life is over.
	life uint64
	n    uint64
	ref  any
}

// queue is a 4-ary heap of events on (at, seq).
type queue struct {
	h   []event
	seq uint64
}

func (e *event) before(f *event) bool { return e.at < f.at || e.at == f.at && e.seq < f.seq }

func (q *queue) push(e event) {
	q.seq++
	e.seq = q.seq
	q.h = append(q.h, e)
	i := len(q.h) - 1
	for i > 0 {
		up := (i - 1) / 4
		if !e.before(&q.h[up]) {
			break
		}
		q.h[i] = q.h[up]
		i = up
	}
	q.h[i] = e
}

func (q *queue) pop() event {
	top := q.h[0]
	n := len(q.h) - 1
	e := q.h[n]
	q.h[n] = event{}
	q.h = q.h[:n]
	if n == 0 {
		return top
	}
	i := 0
	for {
		first := 4*i + 1
		if first >= n {
			break
		}
		least := first
		for c := first + 1; c < min(first+4, n); c++ {
			if q.h[c].before(&q.h[least]) {
				least = c
			}
		}
		if !q.h[least].before(&e) {
			break
		}
		q.h[i] = q.h[least]
		i = least
	}
	q.h[i] = e
	return top
}

// bring lets a machine's events of one time happen at another, in the order that
// they have.
func (q *queue) bring(m *Machine, from, to int64) {
	for i := range q.h {
		if e := &q.h[i]; e.m == m && e.at == from && e.kind < evArrive {
			e.at = to
		}
	}
	slices.SortFunc(q.h, func(a, b event) int { // what is in order is a heap
		if a.before(&b) {
			return -1
		}
		return 1
	})
}
