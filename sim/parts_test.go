package sim

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func TestQueueIsInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q queue
		var want []event
		for range rapid.IntRange(1, 300).Draw(t, "n") {
			if len(want) > 0 && rapid.IntRange(0, 2).Draw(t, "pop") == 0 {
				slices.SortFunc(want, func(a, b event) int {
					if a.before(&b) {
						return -1
					}
					return 1
				})
				if e := q.pop(); e.at != want[0].at || e.seq != want[0].seq {
					t.Fatalf("got %d/%d, want %d/%d", e.at, e.seq, want[0].at, want[0].seq)
				}
				want = want[1:]
				continue
			}
			at := rapid.Int64Range(0, 20).Draw(t, "at")
			q.push(event{at: at})
			want = append(want, event{at: at, seq: q.seq})
		}
	})
}

func TestStreamsDoNotDisturbEachOther(t *testing.T) {
	c := chance{7}
	a, b := c.stream("a"), c.stream("a")
	other := c.stream("b")
	same := 0
	for range 100 {
		x := a.Uint64()
		if x != b.Uint64() {
			t.Fatal("one name gives two streams")
		}
		if x == other.Uint64() {
			same++
		}
	}
	if same > 0 {
		t.Fatal("two names give one stream")
	}
}

func TestClockShowsADeadlineNoSooner(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := clock{
			booted: rapid.Int64Range(0, 1e15).Draw(t, "booted"), start: rapid.Int64Range(0, 1e11).Draw(t, "start"),
			rate: rapid.Float64Range(0.9, 1.1).Draw(t, "rate"),
		}
		boot := c.start + rapid.Int64Range(0, 1e13).Draw(t, "boot")
		at := c.when(boot)
		if c.now(at) < boot {
			t.Fatalf("at %d the clock shows %d, not %d", at, c.now(at), boot)
		}
		if before := c.now(at - 3); before > boot {
			t.Fatalf("3 ns before %d the clock shows %d, after %d already", at, before, boot)
		}
	})
}

func TestFaultsPrintAndParse(t *testing.T) {
	mix := drawMix(chance{1}.stream("x"))
	for _, name := range faultNames {
		mix.Weights[name] = 1
	}
	r := chance{2}.stream("x")
	seen := map[string]bool{}
	for range 1000 {
		f := drawFault(r, &mix, 3)
		back, err := ParseFault(FaultString(f))
		if err != nil || back != f {
			t.Fatalf("%s parses to %v: %v", FaultString(f), back, err)
		}
		seen[faultName(f)] = true
	}
	if len(seen) != len(faultKinds) {
		t.Errorf("of %d faults %d are drawn", len(faultKinds), len(seen))
	}
	for _, f := range []Mishap{
		{Name: "Drop", At: place{1, 2}}, {Name: "Late", At: place{1, 12}, For: 1500 * time.Millisecond},
		{Name: "Deaf", At: place{From: 3}}, {Name: "Duplicate", At: place{2, 1}, Skip: 2}, {Name: "SlowKill", At: place{From: 1}, For: 1},
	} {
		if back, err := ParseFault(f.String()); err != nil || back != f {
			t.Errorf("%s parses to %v: %v", f, back, err)
		}
	}
	for _, bad := range []string{"", "(Nothing n1)", "(Crash n1)", "(Crash x 1s)", "(Isolate n1 soon)", "(Drop)", "(Drop x)", "(Drop n1>n2>n3)", "(Late n1>n2 soon)", "(Late n1>n2 1s +x)"} {
		if _, err := ParseFault(bad); err == nil {
			t.Errorf("%q parses", bad)
		}
	}
}

// The judge of histories, on histories made by hand.

func vmOf(uid string, run bool, gen uint32, deleting bool) *blixardv1.VM {
	return &blixardv1.VM{Name: "a", Uid: uid, Run: run, RunGeneration: gen, SpecGeneration: 1, Deleting: deleting}
}

func updated(vm *blixardv1.VM) *blixardv1.VM {
	vm.SpecGeneration++
	return vm
}

func refused(code blixardv1.ErrorCode) *blixardv1.Error { return &blixardv1.Error{Code: code} }

func judged(ops ...*Operation) *Failure {
	w := &World{history: ops, counts: map[string]int{}, judges: judges{judged: map[string]int{}}}
	for i, op := range ops {
		op.Name = "a"
		if op.Call == 0 {
			op.Call = int64(10 * (i + 1))
		}
		if op.Return == 0 && !op.Unknown {
			op.Return = op.Call + 5
		}
	}
	judgeHistories(w)
	return w.failure
}

func TestJudgeHistories(t *testing.T) {
	const taken, none = blixardv1.ErrorCode_ERROR_CODE_ALREADY_EXISTS, blixardv1.ErrorCode_ERROR_CODE_NOT_FOUND
	create := func(uid string) *Operation { return &Operation{Verb: Create, VM: vmOf(uid, true, 1, false)} }
	get := func(vm *blixardv1.VM) *Operation { return &Operation{Verb: Get, VM: vm} }
	for _, c := range []struct {
		what string
		ok   bool
		ops  []*Operation
	}{
		{"created and seen", true, []*Operation{get(nil), create("1"), get(vmOf("1", true, 1, false))}},
		{"created and not seen", false, []*Operation{create("1"), get(nil)}},
		{"another uid", false, []*Operation{create("1"), get(vmOf("2", true, 1, false))}},
		{"created twice", false, []*Operation{create("1"), create("2")}},
		{"refused, and rightly", true, []*Operation{create("1"), {Verb: Create, Error: refused(taken)}}},
		{"refused, and wrongly", false, []*Operation{{Verb: Create, Error: refused(taken)}, get(nil)}},
		{"stopped", true, []*Operation{create("1"), {Verb: Stop, VM: vmOf("1", false, 1, false)}, get(vmOf("1", false, 1, false))}},
		{"a stop is lost", false, []*Operation{create("1"), {Verb: Stop, VM: vmOf("1", false, 1, false)}, get(vmOf("1", true, 1, false))}},
		{"restarted once", true, []*Operation{create("1"), {Verb: Restart, VM: vmOf("1", true, 2, false)}}},
		{"restarted twice for one request", false, []*Operation{create("1"), {Verb: Restart, VM: vmOf("1", true, 2, false)}, get(vmOf("1", true, 3, false))}},
		{"deleted, seen, gone, made again", true, []*Operation{
			create("1"), {Verb: Delete, VM: vmOf("1", false, 1, true)}, get(vmOf("1", false, 1, true)),
			{Verb: Create, Error: refused(taken)}, get(nil), create("2"), get(vmOf("2", true, 1, false)),
		}},
		{"gone and back", false, []*Operation{create("1"), {Verb: Delete, VM: vmOf("1", false, 1, true)}, get(nil), get(vmOf("1", false, 1, true))}},
		{"an unknown create that happened late", true, []*Operation{{Verb: Create, Unknown: true}, get(nil), get(vmOf("1", true, 1, false))}},
		{"an unknown create that never happened", true, []*Operation{{Verb: Create, Unknown: true}, get(nil), create("2")}},
		{"an unknown create that happened twice", false, []*Operation{
			{Verb: Create, Unknown: true}, get(vmOf("1", true, 1, false)), {Verb: Delete, VM: vmOf("1", false, 1, true)},
			get(nil), get(vmOf("2", true, 1, false)),
		}},
		{"an unknown create while the old one goes", true, []*Operation{
			create("1"), {Verb: Delete, VM: vmOf("1", false, 1, true)}, {Verb: Create, Unknown: true}, get(vmOf("2", true, 1, false)),
		}},
		{"updated", true, []*Operation{create("1"), {Verb: Update, VM: updated(vmOf("1", true, 1, false))}, get(updated(vmOf("1", true, 1, false)))}},
		{"an update is lost", false, []*Operation{create("1"), {Verb: Update, VM: updated(vmOf("1", true, 1, false))}, get(vmOf("1", true, 1, false))}},
		{"an update that nobody heard of", true, []*Operation{create("1"), {Verb: Update, Unknown: true}, get(updated(vmOf("1", true, 1, false)))}},
		{"an update that there was no room for", true, []*Operation{create("1"), {Verb: Update, Unknown: true}, get(vmOf("1", true, 1, false))}},
		{"an update counted twice", false, []*Operation{create("1"), {Verb: Update, Unknown: true}, get(updated(updated(vmOf("1", true, 1, false))))}},
		{"not found, and there", false, []*Operation{create("1"), {Verb: Stop, Error: refused(none)}}},
		{"at the same time, either order", true, []*Operation{
			{Verb: Create, VM: vmOf("1", true, 1, false), Call: 10, Return: 30}, {Verb: Get, Call: 10, Return: 30},
		}},
	} {
		if f := judged(c.ops...); (f == nil) != c.ok {
			t.Errorf("%s: %v", c.what, f)
		}
	}
}

func TestJudgeCopies(t *testing.T) {
	w := New(Config{Seed: 1})
	defer w.Close()
	for _, m := range w.machines[:2] {
		m.boot()
		d := &vmDir{uid: "1-2"}
		d.guest = &guest{dir: d, m: m}
		d.guest.instance.UID = d.uid
		m.dirs.Set(d.uid, d)
		m.guests = append(m.guests, d.guest)
		w.forked(d.guest)
	}
	if w.failure == nil || !strings.Contains(w.failure.Text, "n1:") || !strings.Contains(w.failure.Text, "n2:") {
		t.Fatalf("two copies are not seen: %v", w.failure)
	}
}
