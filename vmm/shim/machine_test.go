package shim

import (
	"encoding/json"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

const (
	testBoot = "6e62c347-6633-4127-8433-8d72daad827e"
	second   = uint64(1_000_000_000)
)

var testHost = Host{ID: "h1", Generation: 3, Boot: testBoot, Epoch: 7}

func testStart(page string) Start {
	return Start{
		Version: StartVersion, Instance: Instance{UID: "u1", Generation: 3, Index: 57, Attempt: 1},
		Host: testHost, Page: page, Argv: []string{"/bin/vm"},
	}
}

// world is a kernel, some pages and a slow pair of hands around one Machine.
// Between any two things, time may pass; anything asked for may fail.
type world struct {
	t      *rapid.T
	kernel bool // the kernel's timer works; if not, the machine alone must obey
	now    uint64
	m      Machine
	pages  map[string]*Page
	seen   map[uint64]bool // deadlines that a good page showed while they had not passed

	todo  []Output
	inbox []Input
	look  Output

	timer   uint64
	passed  bool // once the timer's time has come
	bound   bool // the start named a page
	forks   int
	rebound bool
	vm      bool
	alive   bool // the shim
	ended   bool
}

func (w *world) advance(d uint64) {
	w.now += d
	if w.timer != 0 && w.now >= w.timer {
		w.passed = true
		if w.kernel {
			w.alive, w.vm = false, false
		}
	}
}

// step gives the machine an input, through JSON now and then, and holds it to
// the rules of the package's doc.
func (w *world) step(in Input) {
	if rapid.IntRange(0, 9).Draw(w.t, "json") == 0 {
		b, err := json.Marshal(w.m)
		var m Machine
		if err != nil || json.Unmarshal(b, &m) != nil || !reflect.DeepEqual(m, w.m) {
			w.t.Fatalf("machine does not survive JSON: %s", b)
		}
		w.m = m
	}
	for _, out := range w.m.Step(w.now, in) {
		switch out.Kind {
		case Fork, Arm:
			if w.passed {
				w.t.Fatalf("%s after the deadline %d, at %d", out.Kind, w.timer, w.now)
			}
		}
		if out.Kind == Fork && w.bound && (w.timer == 0 || w.now >= w.timer) {
			w.t.Fatalf("fork unarmed: timer %d, now %d", w.timer, w.now)
		}
		if out.Kind == Arm && out.Deadline != 0 && (out.Deadline <= w.now || !w.seen[out.Deadline]) {
			w.t.Fatalf("arm at %d, which no page showed in time; now %d", out.Deadline, w.now)
		}
		w.todo = append(w.todo, out)
	}
	w.rebound = w.rebound || w.m.Path == "/b"
	if w.passed && w.vm && w.m.Phase != Over && !w.knowsNot() {
		w.t.Fatalf("deadline %d passed at %d and the machine goes on in %s", w.timer, w.now, w.m.Phase)
	}
}

// knowsNot: the timer stands, but the machine has not been told.
func (w *world) knowsNot() bool { return w.m.Deadline != w.timer }

func (w *world) do(out Output) {
	fails := rapid.IntRange(0, 29).Draw(w.t, "fails") == 0
	err := ""
	if fails {
		err = "no luck"
	}
	switch out.Kind {
	case Lock:
		w.inbox = append(w.inbox, Input{Kind: Locked, Held: fails})
	case Load:
		page := ""
		if w.bound {
			page = "/a"
		}
		w.inbox = append(w.inbox, Input{Kind: Loaded, Start: testStart(page), Boot: testBoot, Err: err})
	case Read:
		if out.At > w.now {
			w.look = out
			return
		}
		w.readPage(out.Path, err)
	case Arm:
		if !fails {
			w.timer = out.Deadline
			w.advance(0)
		}
		w.inbox = append(w.inbox, Input{Kind: Armed, Deadline: out.Deadline, Err: err})
	case Fork:
		if w.forks++; w.forks > 1 {
			w.t.Fatal("two forks")
		}
		w.vm = !fails
		w.inbox = append(w.inbox, Input{Kind: Forked, PID: 42, Err: err})
	case Signal:
		if w.vm && out.Signal == 9 {
			w.exit()
		}
	case Sweep:
		w.vm = false
		w.inbox = append(w.inbox, Input{Kind: Swept})
	case Die:
		w.alive, w.vm = false, false
	case End:
		if w.vm {
			w.t.Fatal("the shim ended before its VM")
		}
		w.alive, w.ended = false, true
	}
}

func (w *world) exit() {
	w.vm = false
	w.inbox = append(w.inbox, Input{Kind: Exited})
}

func (w *world) readPage(path, err string) {
	p := w.pages[path]
	in := Input{Kind: Paged, Path: path, Err: err}
	if p == nil {
		in.Err = "not there"
	} else if in.Page = *p; err == "" && p.Deadline > w.now {
		w.seen[p.Deadline] = true
	}
	w.inbox = append(w.inbox, in)
}

func (w *world) act() {
	switch rapid.SampledFrom([]string{
		"do", "do", "do", "do", "deliver", "deliver", "deliver", "deliver", "time", "grow", "look", "ask", "noise", "epoch", "exit",
	}).Draw(w.t, "act") {
	case "time":
		w.advance(rapid.SampledFrom([]uint64{0, 1, second / 100, second / 10, second, 5 * second}).Draw(w.t, "ns"))
	case "do":
		if len(w.todo) > 0 {
			out := w.todo[0]
			w.todo = w.todo[1:]
			w.do(out)
		}
	case "deliver": // outputs come before the next input
		if len(w.inbox) > 0 && len(w.todo) == 0 {
			in := w.inbox[0]
			w.inbox = w.inbox[1:]
			w.step(in)
		}
	case "grow": // the world does not care whether it had passed
		p := w.pages[rapid.SampledFrom([]string{"/a", "/b"}).Draw(w.t, "page")]
		p.Deadline = max(p.Deadline, w.now) + rapid.Uint64Range(0, 15*second).Draw(w.t, "grow")
	case "look":
		if w.look.Path != "" && w.now >= w.look.At {
			w.readPage(w.look.Path, "")
			w.look = Output{}
		}
	case "ask":
		r := Request{V: 1, ID: 1, Type: rapid.SampledFrom([]string{MsgKill, MsgRebind, MsgRebind, MsgStatus, "?"}).Draw(w.t, "type")}
		r.Signal = rapid.SampledFrom([]int{9, 15, 0}).Draw(w.t, "signal")
		r.Page = rapid.SampledFrom([]string{"", "/a", "/b", "/gone"}).Draw(w.t, "page")
		w.inbox = append(w.inbox, Input{Kind: Asked, Conn: 1, Request: r})
	case "exit":
		if w.vm && rapid.IntRange(0, 9).Draw(w.t, "really") == 0 {
			w.exit()
		}
	case "epoch":
		p := w.pages["/b"]
		p.Host.Epoch = rapid.Uint64Range(6, 8).Draw(w.t, "epoch")
	case "noise": // a late word about something that is over
		if len(w.todo) == 0 {
			w.step(rapid.SampledFrom([]Input{
				{Kind: Begin}, {Kind: Swept}, {Kind: Paged, Path: "/gone", Err: "x"}, {Kind: Stopped, Signal: 15},
			}).Draw(w.t, "noise"))
		}
	}
	if w.kernel && w.passed && w.vm {
		w.t.Fatalf("a VM runs at %d, after its deadline %d", w.now, w.timer)
	}
	if !w.alive && w.vm {
		w.t.Fatal("a VM outlived its shim")
	}
}

func TestRules(t *testing.T) {
	ran, lapsed, rebound := 0, 0, 0
	property := func(t *rapid.T) {
		w := &world{
			t: t, alive: true, now: 100 * second, seen: map[uint64]bool{},
			kernel: rapid.Bool().Draw(t, "kernel"), bound: rapid.IntRange(0, 3).Draw(t, "bound") > 0,
			pages: map[string]*Page{"/a": {Host: testHost}, "/b": {Host: testHost}},
		}
		for _, name := range []string{"/a", "/b"} {
			w.pages[name].Deadline = w.now + rapid.Uint64Range(0, 15*second).Draw(t, "deadline")
		}
		w.step(Input{Kind: Begin})
		for i := 0; i < 400 && w.alive; i++ {
			w.act()
		}
		if w.forks > 0 {
			ran++
		}
		if w.passed {
			lapsed++
		}
		if w.rebound {
			rebound++
		}
	}
	for round := 0; round < 20 && (round == 0 || min(ran, lapsed, rebound) == 0); round++ {
		rapid.Check(t, property)
	}
	if ran == 0 || lapsed == 0 || rebound == 0 {
		t.Fatalf("the test tests nothing: %d ran, %d lapsed, %d rebound", ran, lapsed, rebound)
	}
	t.Logf("%d ran, %d lapsed, %d rebound", ran, lapsed, rebound)
}
