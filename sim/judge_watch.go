package sim

import (
	"fmt"
	"time"

	"github.com/blixard/blixard/core"
	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Whoever watches knows, at every revision that he is told of, exactly what is
// there: nothing is missing, nothing is told twice in one step, and the revisions
// only grow, on whichever server he goes on after a break.
//
// A watcher asks as rpc's Watch does: linearizably at the beginning of a stream
// and now and then, and between for whatever is newer than what he knows, from
// that server's own copy. He is slow at times, and leaves for another server when
// he is not answered, or for no reason.
type watcher struct {
	*client
	known   uint64
	vms     map[string]shown  // by uid
	nodes   map[uint64]uint64 // revision by id
	waiting uint64            // the attempt of which he waits for the answer; 0: none
	proof   bool              // he needs one before he believes this server
}

// shown is a VM as he was told of it.
type shown struct {
	revision uint64
	phase    blixardv1.Phase
}

func showing(vm *blixardv1.VM) shown { return shown{vm.Revision, vm.GetStatus().GetPhase()} }

const watchPatience = 4 * time.Second

func (w *World) newWatcher() {
	x := &watcher{client: w.person(-len(w.machines)-1, "watcher")}
	w.watcher = x
	x.begin()
	x.later(0)
}

func (x *watcher) begin() {
	x.known, x.vms, x.nodes, x.proof = 0, map[string]shown{}, map[uint64]uint64{}, true
}

// later asks after a while.
func (x *watcher) later(after time.Duration) {
	if maybe(x.rand, 0.02) { // he is busy with something else
		after += time.Duration(between(x.rand, time.Second, time.Minute))
	}
	x.w.push(event{at: x.w.now + int64(after) + tail(x.rand, 50*time.Millisecond, 10*time.Second), kind: evChore, ref: x.look})
}

func (x *watcher) look() {
	w := x.w
	servers := w.voters()
	if x.proof || maybe(x.rand, 0.05) {
		x.server, x.proof = x.rand.IntN(len(servers)), true
	}
	in := core.Request{Timeout: int64(watchPatience), After: x.known}
	if x.proof {
		in.After = 0
	}
	w.attempts++
	x.waiting = w.attempts
	a := &ask{client: x.client, attempt: x.waiting, server: servers[x.server%len(servers)], request: in, heard: x.heard}
	w.push(event{at: w.now + between(x.rand, 100*time.Microsecond, 2*time.Millisecond), kind: evAsk, ref: a})
	attempt := x.waiting
	w.push(event{at: w.now + int64(2*watchPatience), kind: evChore, ref: func() {
		if x.waiting == attempt { // silent: it may be cut off, or dead
			x.proof = true
			x.look()
		}
	}})
}

// heard takes an answer.
func (x *watcher) heard(o *outcome) {
	if o.ask.attempt != x.waiting {
		return
	}
	x.waiting = 0
	if o.reply == nil || o.reply.View == nil {
		x.proof = true // refused, or the connection broke
		x.later(100 * time.Millisecond)
		return
	}
	v := o.reply.View
	if x.proof && v.Revision() < x.known {
		x.w.fail("a watcher knows what is there", "%s is at %d, as a quorum has it, and he has been told of %d before", o.ask.server.Name, v.Revision(), x.known)
		return
	}
	// Nothing new in time: he sees whether that server still follows the cluster.
	x.proof = !x.proof && v.Revision() <= x.known
	x.take(v)
	x.later(0)
}

// take puts what is new upon what he knows, and looks whether that is all.
func (x *watcher) take(v *cluster.State) {
	if v.Revision() <= x.known {
		return
	}
	news, ok := v.Since(x.known, false)
	if !ok {
		x.w.fired("Compacted")
		x.begin()
		return
	}
	for _, r := range news.Removed {
		if r.Uid != "" {
			delete(x.vms, r.Uid)
		} else {
			delete(x.nodes, r.NodeId)
		}
	}
	twice := ""
	told := map[string]bool{}
	for _, vm := range news.VMs {
		if told[vm.Uid] {
			twice = vm.Uid
		}
		told[vm.Uid], x.vms[vm.Uid] = true, showing(vm)
	}
	for _, n := range news.Nodes {
		x.nodes[n.Id] = n.Revision
	}
	from := x.known
	x.known = v.Revision()
	x.w.judges.judged["watch"]++
	if why := x.misses(v); why != "" || twice != "" {
		x.w.fail("a watcher knows what is there", "from revision %d to %d: %s%s", from, x.known, why, twice)
	}
}

// misses says in what he is mistaken.
func (x *watcher) misses(v *cluster.State) (why string) {
	vms, nodes := 0, 0
	v.VMs("", func(vm *blixardv1.VM) bool {
		vms++
		if is := showing(v.Shown(vm)); x.vms[vm.Uid] != is {
			why = fmt.Sprintf("of VM %s he knows %v, and it is %v", vm.Uid, x.vms[vm.Uid], is)
		}
		return why == ""
	})
	v.Nodes(func(n *blixardv1.Node) bool {
		nodes++
		if x.nodes[n.Id] != n.Revision {
			why = fmt.Sprintf("of node %s he knows revision %d, and it is at %d", n.Name, x.nodes[n.Id], n.Revision)
		}
		return why == ""
	})
	if why == "" && (vms != len(x.vms) || nodes != len(x.nodes)) {
		why = fmt.Sprintf("he knows %d VMs and %d nodes, and there are %d and %d", len(x.vms), len(x.nodes), vms, nodes)
	}
	return why
}
