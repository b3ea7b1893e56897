package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/shim"
)

// road is two hosts, and what there is between them: a guest on one, and the way
// to the other, which can be cut.
type road struct {
	t        testing.TB
	from, to guestBench
	a        *blixardv1.Assignment // of the source
	source   shim.Instance
	index    uint64 // of the last target

	mu    sync.Mutex
	steps func(string) // is called at each step of a move
	// cutAfter so many bytes the way is cut; 0: never.
	cutAfter int64
	ways     []func()
}

// roads are those of the tests that run: the steps of all moves come to one place.
var roads sync.Map

func init() {
	step = func(run, name string) {
		roads.Range(func(k, _ any) bool {
			r := k.(*road)
			if within(run, r.from.cfg.RunRoot) || within(run, r.to.cfg.RunRoot) {
				r.mu.Lock()
				f := r.steps
				r.mu.Unlock()
				if f != nil {
					f(name)
				}
			}
			return true
		})
	}
}

const (
	roamer     = "1-7"
	sourceNode = 7
)

func newRoad(t testing.TB, cmdline string, change ...func(*blixardv1.Assignment)) *road {
	t.Helper()
	r := &road{t: t, from: newGuestBench(t), to: newGuestBench(t), source: instance(roamer, 1), index: 100}
	image := r.from.image(roamer, cmdline).Spec.GetImage()
	for _, a := range []*blixardv1.Artifact{image.Kernel, image.Initrd} {
		f, err := r.from.store.Open(t.Context(), a.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.to.store.Put(t.Context(), f, a.Digest, a.Size); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	r.from.h.cfg.Passage, r.from.cfg.Passage = r.passage, r.passage
	roads.Store(r, nil)
	t.Cleanup(func() { roads.Delete(r) })
	r.a = r.from.image(roamer, cmdline)
	for _, f := range change {
		f(r.a)
	}
	r.from.must(vmm.Start, r.source, r.a)
	r.from.awaitConsole(roamer, "tick 3 ")
	return r
}

// at has something happen at a step, once.
func (r *road) at(name string, f func()) {
	var once sync.Once
	r.mu.Lock()
	defer r.mu.Unlock()
	r.steps = func(now string) {
		if now == name {
			once.Do(f)
		}
	}
}

// passage is the way: a socket pair that can be cut.
func (r *road) passage(ctx context.Context, p Passage) (Stream, error) {
	p.Node = sourceNode // as the target's node sees it
	carry, err := r.to.h.Admit(ctx, p)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", filepath.Join(r.to.cfg.RunRoot, fmt.Sprint("way", time.Now().UnixNano())))
	if err != nil {
		return nil, err
	}
	defer l.Close()
	near, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		return nil, err
	}
	far, err := l.Accept()
	if err != nil {
		return nil, err
	}
	s := &cuttable{UnixConn: near.(*net.UnixConn), left: &atomic.Int64{}}
	r.mu.Lock()
	s.limited = r.cutAfter > 0
	s.left.Store(r.cutAfter)
	r.ways = append(r.ways, func() { near.Close(); far.Close() })
	r.mu.Unlock()
	go func() {
		err := carry(context.Background(), far.(*net.UnixConn))
		r.from.t.Logf("the target's way ended: %v", err)
	}()
	return s, nil
}

// cut cuts the way that is there.
func (r *road) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.ways {
		f()
	}
	r.ways = nil
}

type cuttable struct {
	*net.UnixConn
	limited bool
	left    *atomic.Int64
}

func (c *cuttable) Write(b []byte) (int, error) {
	if c.limited && c.left.Add(-int64(len(b))) < 0 {
		c.Close()
		return 0, io.ErrClosedPipe
	}
	return c.UnixConn.Write(b)
}

// receive starts a target that waits.
func (r *road) receive() shim.Instance {
	r.t.Helper()
	r.index++
	i := shim.Instance{UID: roamer, Generation: 1, Index: r.index, Attempt: 1}
	a := proto.CloneOf(r.a)
	a.Incarnation.Index = r.index
	a.Migration = &blixardv1.MigrationOrder{Id: r.index, Role: blixardv1.MigrationRole_MIGRATION_ROLE_TARGET, PeerNodeId: sourceNode}
	for _, m := range a.Volumes {
		m.Volume.Copy, m.Volume.Arriving = r.index, true
	}
	r.to.must(vmm.Receive, i, a)
	r.to.report("listening", i, func(p vmm.Report) bool { return p.Incoming == vmm.Listening && !p.Ready && !p.Paused })
	return i
}

// send begins to send the guest to the newest target.
func (r *road) send() {
	r.t.Helper()
	a := proto.CloneOf(r.a)
	a.Migration = &blixardv1.MigrationOrder{Id: r.index, Role: blixardv1.MigrationRole_MIGRATION_ROLE_SOURCE, PeerNodeId: 2, PeerAddress: "there", Attempt: 1, Send: true}
	r.from.must(vmm.Send, r.source, a)
}

// left waits until the source has handed the guest over, or says that it stays.
func (r *road) outcome() vmm.Report {
	r.t.Helper()
	return r.from.report("end of the move", r.source, func(p vmm.Report) bool {
		return p.HandedOver == r.index || p.Outgoing.Migration == r.index && p.Outgoing.Failed || p.Liveness == vmm.Down
	})
}

func (r *road) consoles() string { return r.from.console(roamer) + r.to.console(roamer) }

var attemptLine = regexp.MustCompile(`\n?--- attempt \d+ ---\n`)

// counts are what the guest has said on a console.
func counts(t testing.TB, text string) (all []int) {
	for _, m := range regexp.MustCompile(`tick (\d+) `).FindAllStringSubmatch(attemptLine.ReplaceAllString(text, ""), -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, n)
	}
	return all
}

// inOrder fails unless the guest has counted on without a gap, over both consoles.
func (r *road) inOrder() int {
	r.t.Helper()
	all := counts(r.t, r.consoles())
	for i := 1; i < len(all); i++ {
		if all[i] != all[i-1]+1 {
			r.t.Fatalf("after %d it said %d", all[i-1], all[i])
		}
	}
	return len(all)
}

// goesOn waits until the guest has counted further on a host.
func goesOn(b guestBench) {
	b.t.Helper()
	n := len(counts(b.t, b.console(roamer)))
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if len(counts(b.t, b.console(roamer))) > n+2 {
			return
		}
	}
	b.t.Fatalf("its guest does not count on: %.300s", b.console(roamer)[max(0, len(b.console(roamer))-300):])
}

// still fails when a guest counts.
func still(b guestBench) {
	b.t.Helper()
	n := len(counts(b.t, b.console(roamer)))
	time.Sleep(300 * time.Millisecond)
	if len(counts(b.t, b.console(roamer))) != n {
		b.t.Fatal("a guest runs that must not")
	}
}

// gone ends a target and takes its files away.
func (r *road) gone(i shim.Instance) {
	r.t.Helper()
	r.to.must(vmm.Kill, i, nil)
	r.to.must(vmm.Remove, i, nil)
}

func TestAGuestMoves(t *testing.T) {
	t.Parallel()
	r := newRoad(t, "blixard.tick=20ms")
	target := r.receive()
	if err := r.to.do(vmm.Resume, target, nil); err == nil {
		t.Error("a guest that has not come was let run")
	}
	if err := r.to.do(vmm.TakeOver, target, nil); err == nil {
		t.Error("a guest that has not come was taken over")
	}
	begin := time.Now()
	r.send()
	if p := r.outcome(); p.HandedOver == 0 {
		t.Fatalf("it stays: %+v", p.Outgoing)
	}
	r.to.report("loaded", target, func(p vmm.Report) bool { return p.Incoming == vmm.Loaded && !p.Ready && !p.Paused })
	handed := time.Since(begin)
	still(r.from)
	still(r.to)
	// Nothing brings it back here, and nothing lets it run there before its time.
	if err := r.from.do(vmm.Resume, r.source, nil); err == nil {
		t.Error("a guest that has left was let run")
	}
	if err := r.from.do(vmm.Unsend, r.source, nil); err == nil {
		t.Error("a guest that has left was called back")
	}
	r.from.must(vmm.Send, r.source, r.a)
	if err := r.to.do(vmm.Resume, target, nil); err == nil {
		t.Error("a guest ran before it was taken over")
	}
	r.from.reopen()
	r.to.reopen()
	r.from.report("handed over, after a restart", r.source, func(p vmm.Report) bool { return p.HandedOver == r.index && p.Liveness == vmm.Alive })
	r.to.report("loaded, after a restart", target, func(p vmm.Report) bool { return p.Incoming == vmm.Loaded && !p.Ready && !p.Paused })
	if err := r.from.do(vmm.Resume, r.source, nil); err == nil {
		t.Error("a guest that has left was let run")
	}
	still(r.from)
	still(r.to)
	r.to.must(vmm.TakeOver, target, nil)
	r.to.must(vmm.TakeOver, target, nil)
	r.to.report("ready", target, func(p vmm.Report) bool { return p.Ready && !p.Paused && p.Incoming == 0 })
	goesOn(r.to)
	still(r.from)
	r.from.must(vmm.Stop, r.source, nil) // there is nobody to hear it: it is killed
	p := r.from.report("down", r.source, func(p vmm.Report) bool { return p.Liveness == vmm.Down })
	if p.HandedOver != r.index {
		t.Errorf("of what has left nobody knows any more: %+v", p)
	}
	r.from.must(vmm.Remove, r.source, nil)
	t.Logf("handed over in %v", handed)
	if n := counts(t, r.to.console(roamer)); n[0] < 3 {
		t.Errorf("it began anew: %v", n[:3])
	}
	// What has arrived is a VM like any other: here is where it stops, by its button.
	r.to.must(vmm.Stop, target, nil)
	r.to.exit(target, Exited)
}

// What has gone wrong leaves one guest, which runs on where it was and has missed
// nothing; and the next try works.
func TestAMoveThatFailsLeavesTheGuestWhereItIs(t *testing.T) {
	t.Parallel()
	r := newRoad(t, "blixard.tick=50ms")
	begun := r.from.console(roamer)
	for name, spoil := range map[string]func(shim.Instance){
		"the way is cut at once": func(shim.Instance) { r.cutAfter = 1 },
		"the way is cut midway":  func(shim.Instance) { r.cutAfter = 20 << 20 },
		"the way is cut at the door": func(shim.Instance) {
			r.at("door", r.cut)
		},
		"the way is cut when all is marked": func(shim.Instance) { r.at("marked", r.cut) },
		"the target dies while it waits": func(i shim.Instance) {
			r.at("open", func() { kill9(t, r.to.state(i).VM.PID) })
		},
		"the target dies at the door":    func(i shim.Instance) { r.at("door", func() { kill9(t, r.to.state(i).VM.PID) }) },
		"the target dies when handed to": func(i shim.Instance) { r.at("marked", func() { kill9(t, r.to.state(i).Shim.PID) }) },
		"nobody carries it":              func(shim.Instance) { r.from.h.cfg.Passage = nil },
		"it is not admitted":             func(i shim.Instance) { r.index++ },
		"the other way does not answer": func(shim.Instance) {
			r.from.h.cfg.Passage = func(context.Context, Passage) (Stream, error) { return nil, errors.New("nobody there") }
		},
	} {
		t.Run(name, func(t *testing.T) {
			r.from.t, r.to.t, r.t = t, t, t
			r.cutAfter = 0
			r.from.h.cfg.Passage = r.passage
			target := r.receive()
			spoil(target)
			a := proto.CloneOf(r.a)
			a.Migration = &blixardv1.MigrationOrder{Id: r.index, PeerNodeId: 2, PeerAddress: "there", Send: true}
			if err := r.from.do(vmm.Send, r.source, a); err == nil {
				p := r.outcome()
				if p.HandedOver != 0 || !p.Outgoing.Failed || p.Outgoing.Message == "" || !p.Ready || p.Paused {
					t.Errorf("%+v", p)
				}
				t.Logf("%s", p.Outgoing.Message)
			} else {
				t.Log(err)
			}
			goesOn(r.from)
			if err := r.from.do(vmm.Unsend, r.source, nil); err != nil {
				t.Errorf("nothing is under way: %v", err)
			}
			r.mu.Lock()
			r.steps, r.cutAfter = nil, 0
			r.mu.Unlock()
			r.gone(target)
			r.from.h.cfg.Passage = r.passage
		})
	}
	r.from.t, r.to.t, r.t = t, t, t
	if !strings.HasPrefix(r.from.console(roamer), begun) {
		t.Error("the console has changed")
	}
	r.moves()
}

// moves has the guest move, whatever happened before.
func (r *road) moves() shim.Instance {
	r.t.Helper()
	target := r.receive()
	r.send()
	if p := r.outcome(); p.HandedOver == 0 {
		r.t.Fatalf("it stays: %+v", p)
	}
	r.to.report("loaded", target, func(p vmm.Report) bool { return p.Incoming == vmm.Loaded })
	r.to.must(vmm.TakeOver, target, nil)
	goesOn(r.to)
	still(r.from)
	if n := r.inOrder(); n < 10 {
		r.t.Errorf("it has counted to %d only", n)
	}
	return target
}

// Whenever a move is called off, it is either off, and the guest runs here, or it
// is too late, and that is said.
func TestAMoveThatIsCalledOff(t *testing.T) {
	t.Parallel()
	r := newRoad(t, "blixard.tick=50ms")
	for _, at := range []string{"open", "send", "door", "marked", "handed"} {
		t.Run(at, func(t *testing.T) {
			r.from.t, r.to.t, r.t = t, t, t
			target := r.receive()
			reached, go_ := make(chan struct{}), make(chan struct{})
			r.at(at, func() { close(reached); <-go_ })
			r.send()
			<-reached
			time.AfterFunc(50*time.Millisecond, func() { close(go_) })
			err := r.from.do(vmm.Unsend, r.source, nil)
			if err == nil {
				goesOn(r.from)
				r.gone(target)
				return
			}
			t.Log(err)
			if p := r.outcome(); at != "handed" || p.HandedOver == 0 {
				t.Fatalf("%v, but %+v", err, p)
			}
		})
		if t.Failed() || r.outcomeNow().HandedOver != 0 {
			break
		}
	}
}

func (r *road) outcomeNow() (last vmm.Report) {
	r.from.mu.Lock()
	defer r.from.mu.Unlock()
	for _, o := range r.from.seen {
		for _, p := range o.Reports {
			last = p
		}
	}
	return last
}

// A daemon that ends in the middle of a move leaves a guest that its successor
// finds: here, running, or handed over. The target's QEMU has ended by itself.
func TestADaemonThatEndsInTheMiddleOfAMove(t *testing.T) {
	t.Parallel()
	r := newRoad(t, "blixard.tick=50ms")
	for _, at := range []string{"open", "send", "door", "marked"} {
		t.Run(at, func(t *testing.T) {
			r.from.t, r.to.t, r.t = t, t, t
			r.daemonEnds(at)
			r.mu.Lock()
			r.steps = nil
			r.mu.Unlock()
		})
	}
	r.from.t, r.to.t, r.t = t, t, t
	target := r.moves()
	r.to.must(vmm.Kill, target, nil)
}

// A source that dies in the middle is dead, and its target ends.
func TestASourceThatDiesWhileItIsSent(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"send", "door", "marked"} {
		t.Run(at, func(t *testing.T) {
			r := newRoad(t, "blixard.tick=50ms")
			target := r.receive()
			r.at(at, func() { kill9(t, r.from.state(r.source).VM.PID) })
			r.send()
			p := r.from.report("down", r.source, func(p vmm.Report) bool { return p.Liveness == vmm.Down })
			if p.HandedOver != 0 {
				t.Errorf("%+v", p)
			}
			r.to.exit(target, NotArrived)
			still(r.to)
			// Its host starts it anew, and nobody minds the move.
			next := instance(roamer, 2)
			r.from.must(vmm.Start, next, r.a)
			r.from.ready(next)
		})
	}
}

// On q35, with its disk, a guest moves as on microvm; and goes nowhere where its QEMU
// gives it another machine.
func TestAGuestOnQ35Moves(t *testing.T) {
	t.Parallel()
	r := newRoad(t, "blixard.tick=50ms", func(a *blixardv1.Assignment) {
		a.Spec.Machine = blixardv1.Machine_MACHINE_Q35
		a.Spec.GetImage().Disks = []*blixardv1.Disk{{Name: "data", SizeMib: 8}}
	})
	r.a.Spec.Machine = blixardv1.Machine_MACHINE_MICROVM
	target := r.receive()
	r.send()
	if p := r.outcome(); p.HandedOver != 0 || !strings.Contains(p.Outgoing.Message, "machines differ") {
		t.Fatalf("%+v", p.Outgoing)
	}
	goesOn(r.from)
	r.gone(target)
	r.a.Spec.Machine = blixardv1.Machine_MACHINE_Q35
	target = r.receive()
	r.send()
	r.lands(target)
}

// lands waits until a guest that is sent has left, and has it go on at the target.
func (r *road) lands(target shim.Instance) {
	r.t.Helper()
	if p := r.outcome(); p.HandedOver == 0 {
		r.t.Fatalf("%+v", p)
	}
	r.to.report("loaded", target, func(p vmm.Report) bool { return p.Incoming == vmm.Loaded })
	still(r.to)
	r.to.must(vmm.TakeOver, target, nil)
	goesOn(r.to)
	r.inOrder()
}

// A guest that its user paused stays paused, wherever it is; and one whose balloon has
// some of its memory has no more of it there.
func TestAPausedGuestMoves(t *testing.T) {
	t.Parallel()
	r := newRoad(t, "blixard.tick=50ms")
	less, boot := proto.CloneOf(r.a), r.a.Spec.MemoryMib
	less.Spec.MemoryMib -= 16
	has := func(b guestBench, i shim.Instance) {
		t.Helper()
		err := b.do(vmm.Balloon, i, less)
		for n := 0; err != nil && n < 5; n++ { // a guest on a busy machine gives it slowly
			err = b.do(vmm.Balloon, i, less)
		}
		if err != nil {
			t.Fatal(err)
		}
		b.report("less memory", i, func(v vmm.Report) bool { return v.BootMiB == boot && v.MemoryMiB == boot-16 })
	}
	has(r.from, r.source)
	r.from.must(vmm.Pause, r.source, nil)
	target := r.receive()
	r.at("door", r.cut)
	r.send()
	if p := r.outcome(); p.HandedOver != 0 || !p.Paused {
		t.Fatalf("%+v", p)
	}
	still(r.from)
	r.gone(target)
	// QEMU sends no guest again that stands still after such a try.
	r.from.must(vmm.Resume, r.source, nil)
	goesOn(r.from)
	r.from.must(vmm.Pause, r.source, nil)
	target = r.receive()
	r.send()
	r.lands(target)
	has(r.to, target)
}

func TestOnlyWhatFitsIsAdmitted(t *testing.T) {
	t.Parallel()
	m := machine{tscKHz: 1_000_000}
	shape := m.shape(aBoot())
	for words, ok := range map[string]bool{
		shape: true,
		machine{tscKHz: 1_005_000}.shape(aBoot()):   true,
		machine{tscKHz: 1_100_000}.shape(aBoot()):   false,
		machine{tscKHz: 0}.shape(aBoot()):           false,
		machine{kvm: true}.shape(aBoot()):           false,
		strings.Replace(shape, "smp=2", "smp=3", 1): false,
		shape + "\nmore":                            false,
		"":                                          false,
	} {
		if err := fits(shapeWith("7.2", shape), shapeWith("7.2", words)); (err == nil) != ok {
			t.Errorf("%q: %v", words, err)
		}
	}
	if err := fits(shapeWith("7.2.1", shape), shapeWith("7.2.2", shape)); err == nil {
		t.Error("another QEMU")
	}
	b := newBench(t)
	for _, p := range []Passage{{}, {UID: "../x"}, {UID: "1-9", Migration: 3}} {
		if _, err := b.h.Admit(t.Context(), p); err == nil {
			t.Errorf("%+v: admitted", p)
		}
	}
}

// BenchmarkLiveMigration moves a guest to and fro once an iteration, and says for
// how long it stood still: from the last count there to the first here, less the
// time between two counts, and by QEMU's own word. TakeOver is ordered at once: what
// a cluster adds is the time of one log entry.
func BenchmarkLiveMigration(t *testing.B) {
	for t.Loop() {
		r := newRoad(t, "blixard.tick=10ms")
		target := r.receive()
		begin := time.Now()
		stopped := make(chan time.Time, 1)
		r.at("door", func() { stopped <- time.Now() })
		r.send()
		if p := r.outcome(); p.HandedOver == 0 {
			t.Fatalf("it stays: %+v", p)
		}
		r.to.report("loaded", target, func(p vmm.Report) bool { return p.Incoming == vmm.Loaded })
		r.to.must(vmm.TakeOver, target, nil)
		runs := time.Now()
		t.ReportMetric(float64(runs.Sub(<-stopped).Microseconds())/1000, "ms-stopped")
		t.ReportMetric(float64(runs.Sub(begin).Microseconds())/1000, "ms-in-all")
		goesOn(r.to)
		r.inOrder()
		r.from.must(vmm.Kill, r.source, nil)
		r.to.must(vmm.Kill, target, nil)
	}
}
