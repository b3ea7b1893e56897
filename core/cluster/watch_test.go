package cluster

import (
	"fmt"
	"maps"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// watcher is somebody who knows only what Since has told.
type watcher struct {
	revision uint64
	vms      map[string]*blixardv1.VM // by uid
	nodes    map[uint64]*blixardv1.Node
	events   int
}

func newWatcher() *watcher {
	return &watcher{vms: map[string]*blixardv1.VM{}, nodes: map[uint64]*blixardv1.Node{}}
}

// hear takes what is new, and says what of it is wrong.
func (w *watcher) hear(s *State) error {
	n, ok := s.Since(w.revision, true)
	if !ok {
		return fmt.Errorf("%d is too long ago", w.revision)
	}
	for _, r := range n.Removed {
		if r.Uid != "" {
			if w.vms[r.Uid] == nil {
				continue // it came and went meanwhile
			}
			delete(w.vms, r.Uid)
		} else {
			delete(w.nodes, r.NodeId)
		}
	}
	told := map[string]bool{}
	for _, vm := range n.VMs {
		if told[vm.Uid] {
			return fmt.Errorf("%s is told twice", vm.Uid)
		}
		told[vm.Uid] = true
		w.vms[vm.Uid] = vm
	}
	for _, n := range n.Nodes {
		w.nodes[n.Id] = n
	}
	w.events += len(n.Events)
	w.revision = s.Revision()
	vms, nodes, events := map[string]*blixardv1.VM{}, map[uint64]*blixardv1.Node{}, 0
	s.VMs("", func(vm *blixardv1.VM) bool { vms[vm.Uid] = s.Shown(vm); return true })
	s.Nodes(func(n *blixardv1.Node) bool { nodes[n.Id] = n; return true })
	s.Events(0, func(*blixardv1.Event) bool { events++; return true })
	if !maps.EqualFunc(w.vms, vms, equal) || !maps.EqualFunc(w.nodes, nodes, equal) || w.events != events {
		return fmt.Errorf("the watcher knows %v, %v, %d events, and there are %v, %v, %d", w.vms, w.nodes, w.events, vms, nodes, events)
	}
	return nil
}

func equal[M proto.Message](a, b M) bool { return proto.Equal(a, b) }

// Whoever watches knows what is there, whenever and however often he asks.
func TestWatchersKnow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := newDriver()
		d.boot(FirstID)
		often, seldom := newWatcher(), newWatcher()
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			d.step(t)
			for _, w := range []*watcher{often, seldom} {
				if w == seldom && rapid.IntRange(0, 7).Draw(t, "seldom") != 0 {
					continue
				}
				if err := w.hear(d.State); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// What is forgotten is not passed over.
func TestWatchersAreToldOfGaps(t *testing.T) {
	d := newDriver()
	d.boot(FirstID)
	w := newWatcher()
	if err := w.hear(d.State); err != nil {
		t.Fatal(err)
	}
	create := func(name string) { d.request(createOp(name, 64, 1)) }
	remove := func(name string) {
		vm := d.VM(name)
		d.request(&blixardv1.Command{Op: &blixardv1.Command_DeleteVm{DeleteVm: &blixardv1.DeleteVMOp{Name: name}}})
		o := seen(vm, blixardv1.Phase_PHASE_DELETING)
		o.Removed, o.AssignmentRevision = true, d.VM(name).AssignmentRevision
		d.report(FirstID, o)
	}
	create("a")
	remove("a")
	if d.VM("a") != nil {
		t.Fatal("it is still there")
	}
	if n, ok := d.Since(w.revision, false); !ok || len(n.Removed) != 1 || n.Removed[0].Name != "a" {
		t.Fatal(n, ok)
	}
	for range maxRemoved {
		create("b")
		remove("b")
	}
	if d.buried != maxRemoved {
		t.Fatalf("%d removals are kept", d.buried)
	}
	if _, ok := d.Since(w.revision, false); ok {
		t.Fatal("a removal was forgotten, and nobody says so")
	}
	if _, ok := d.Since(d.meta.RemovedFloor, false); !ok {
		t.Fatal("all since then is known")
	}
	if _, ok := d.Since(d.meta.RemovedFloor, true); ok {
		t.Fatal("events were forgotten, and nobody says so")
	}
	if n, ok := d.Since(0, true); !ok || len(n.Events) != maxEvents || len(n.Removed) != 0 {
		t.Fatal("who begins is told all there is", len(n.Events), len(n.Removed), ok)
	}
}

// A VM that goes from host to host is both hosts': news of both tell of it once.
func TestWatchTellsOfAMoveOnce(t *testing.T) {
	d, vm := underway(t)
	after := d.Revision()
	for _, id := range []uint64{vm.Placement.NodeId, vm.Migration.Other.NodeId} {
		d.apply(&blixardv1.Command{Op: &blixardv1.Command_Suspect{Suspect: &blixardv1.SuspectOp{NodeId: id, Epoch: d.Node(id).Host.Epoch, Suspect: true}}})
	}
	n, ok := d.Since(after, false)
	if !ok || len(n.VMs) != 1 || n.VMs[0].Status.Phase != blixardv1.Phase_PHASE_UNREACHABLE {
		t.Fatalf("news of %d VMs: %v", len(n.VMs), n.VMs)
	}
}

// BenchmarkWithManyVMs says what the loop pays for readers while there are many
// VMs: to freeze the state, and for a watcher to find what one change was.
func BenchmarkWithManyVMs(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		d := newDriver()
		d.boot(FirstID)
		for i := range n {
			d.request(createOp(fmt.Sprintf("vm%06d", i), 64, 1))
		}
		b.Run(fmt.Sprintf("freeze/vms=%d", n), func(b *testing.B) {
			for range b.N {
				d.Freeze()
			}
		})
		b.Run(fmt.Sprintf("since/vms=%d", n), func(b *testing.B) {
			for range b.N {
				if news, ok := d.Since(d.Revision()-1, true); !ok || len(news.VMs) == 0 {
					b.Fatal(news)
				}
			}
		})
	}
}
