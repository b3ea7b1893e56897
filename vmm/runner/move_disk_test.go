package runner

import (
	"encoding/binary"
	"os"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/shim"
)

// withDisk gives a VM a disk of its own, on which its guest counts.
func withDisk(a *blixardv1.Assignment) {
	a.Spec.GetImage().Disks = []*blixardv1.Disk{{Name: "data", SizeMib: 64}}
}

const countsOnDisk = "blixard.tick=20ms blixard.count=data"

// The guest's ring: see cmd/blixard-guest.
const (
	countSlots = 128
	countPage  = 4096
)

// holdsAll fails unless a disk, which nobody writes any more, holds every number up
// to the last that was said, as far back as the ring goes.
func holdsAll(t testing.TB, path string, said int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := max(1, said-countSlots+2); n <= said; n++ {
		at := n % countSlots * countPage
		for _, off := range []int{0, countPage - 8} {
			if is := int(binary.LittleEndian.Uint64(b[at+off:])); is != n && is != n+countSlots {
				t.Fatalf("it said %d, and where %d was written the disk has %d", said, n, is)
			}
		}
	}
}

func last(all []int) int { return all[len(all)-1] }

func (b guestBench) disk() string { return diskPath(b.h.at.stateOf(roamer), "data") }

// A guest that writes moves with its disk: whatever goes wrong at first disturbs nobody
// and costs nothing, and when it has moved, all that it was told is written is there.
func TestAGuestMovesWithItsDisk(t *testing.T) {
	t.Parallel()
	r := newRoad(t, countsOnDisk, withDisk)
	r.onlyWhoWasNamed()
	killed := func(i shim.Instance) func() { return func() { kill9(r.t.(*testing.T), r.to.state(i).VM.PID) } }
	for _, c := range []struct {
		name, at string
		spoil    func(shim.Instance) func()
		always   bool
	}{
		{"the way is cut midway", "copying", func(shim.Instance) func() { return r.cut }, true},
		{"the way is cut when the memory goes", "send", func(shim.Instance) func() { return r.cut }, false},
		{"the way is cut at the door", "door", func(shim.Instance) func() { return r.cut }, true},
		{"the way is cut when the disks have gone", "settled", func(shim.Instance) func() { return r.cut }, false},
		{"the target dies while it is copied to", "copying", killed, false},
		{"the target dies at the door", "door", killed, false},
		{"the daemon ends when a mirror begins", "mirror", nil, false},
		{"the daemon ends midway", "copying", nil, true},
		{"the daemon ends when the memory goes", "send", nil, false},
		{"the daemon ends at the door", "door", nil, false},
		{"the daemon ends when the disks have gone", "settled", nil, true},
	} {
		// scripts/soak migrations does all.
		if !c.always && os.Getenv("BLIXARD_MIGRATIONS") == "" {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			r.from.t, r.to.t, r.t = t, t, t
			if c.spoil == nil {
				r.daemonEnds(c.at)
			} else {
				r.fails(c.at, c.spoil)
			}
			r.mu.Lock()
			r.steps = nil
			r.mu.Unlock()
		})
	}
	r.from.t, r.to.t, r.t = t, t, t
	target := r.moves()
	if err := r.from.do(vmm.Resume, r.source, nil); err == nil {
		t.Error("a guest that has left was let run")
	}
	r.from.must(vmm.Kill, r.source, nil)
	// Both copies have all that it had said when it left; and then only one is written.
	left := last(counts(t, r.from.console(roamer)))
	holdsAll(t, r.from.disk(), left)
	r.from.must(vmm.Remove, r.source, nil)
	r.to.must(vmm.Kill, target, nil)
	said := last(counts(t, r.to.console(roamer)))
	if said <= left {
		t.Errorf("it had said %d there, and has said %d here", left, said)
	}
	holdsAll(t, r.to.disk(), said)
}

// fails has a move come to nothing at a step.
func (r *road) fails(at string, spoil func(shim.Instance) func()) {
	r.t.Helper()
	target := r.receive()
	r.at(at, spoil(target))
	r.send()
	p := r.outcome()
	if p.HandedOver != 0 || !p.Outgoing.Failed || p.Outgoing.Message == "" || !p.Ready || p.Paused {
		r.t.Errorf("%+v", p)
	}
	r.t.Logf("%s", p.Outgoing.Message)
	goesOn(r.from)
	r.gone(target)
}

// daemonEnds has the source's daemon end at a step: its successor finds a guest that
// runs.
func (r *road) daemonEnds(at string) {
	r.t.Helper()
	target := r.receive()
	reached, go_ := make(chan struct{}), make(chan struct{})
	r.at(at, func() { close(reached); <-go_ })
	r.send()
	<-reached
	r.from.h.cancel() // its end begins: nothing more is done
	r.cut()
	close(go_)
	r.from.reopen()
	r.from.report("ready", r.source, func(p vmm.Report) bool { return p.Ready && !p.Paused && p.HandedOver == 0 })
	goesOn(r.from)
	r.gone(target)
}

// onlyWhoWasNamed: a guest or a disk comes from the host that was named, to where it
// belongs and where there is room for it.
func (r *road) onlyWhoWasNamed() {
	r.t.Helper()
	target := r.receive()
	for name, p := range map[string]Passage{
		"another node, memory": {Node: sourceNode + 1},
		"another node, a disk": {Node: sourceNode + 1, Disk: "d0"},
		"a disk it has not":    {Node: sourceNode, Disk: "d1"},
	} {
		p.UID, p.Migration = roamer, r.index
		if _, err := r.to.h.Admit(r.t.Context(), p); err == nil {
			r.t.Errorf("%s: admitted", name)
		} else if !regexp.MustCompile(`comes from node|has no disk`).MatchString(err.Error()) {
			r.t.Errorf("%s: %v", name, err)
		}
	}
	r.gone(target)
	r.index++
	i := shim.Instance{UID: roamer, Generation: 1, Index: r.index, Attempt: 1}
	a := proto.CloneOf(r.a)
	a.Incarnation.Index = r.index
	a.Spec.GetImage().Disks[0].SizeMib = 1 << 30
	a.Migration = &blixardv1.MigrationOrder{Id: r.index, Role: blixardv1.MigrationRole_MIGRATION_ROLE_TARGET, PeerNodeId: sourceNode}
	if err := r.to.do(vmm.Receive, i, a); err == nil || !strings.Contains(err.Error(), "no space") {
		r.t.Errorf("it has room for all of that: %v", err)
	}
	r.to.must(vmm.Remove, i, nil)
}
