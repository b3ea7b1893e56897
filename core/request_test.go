package core

import (
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A server passes everything on to the leader that clients may ask for, and
// nothing of what a leader decides by itself. Whoever adds an operation says
// here which it is.
func TestWhatServersPassOn(t *testing.T) {
	internal := []string{"init", "host_boot", "host_report", "suspect", "fence", "collect", "place", "clone", "level", "restore", "settle", "switch"}
	clients := []string{
		"create_vm", "delete_vm", "power", "cordon", "add_node", "remove_node", "announce", "tag",
		"update_vm", "rollback_vm", "build_vm", "set_pins", "pause", "set_settings", "drain", "restore_node", "create_network", "delete_network", "readmit",
		"migrate_vm", "cancel_migration", "create_volume", "grow_volume", "delete_volume", "create_snapshot", "delete_snapshot", "restore_snapshot", "clone_snapshot",
		"add_snapshot", "snapshot_added",
	}
	ops := (&blixardv1.Command{}).ProtoReflect().Descriptor().Oneofs().ByName("op").Fields()
	for i := range ops.Len() {
		f := ops.Get(i)
		cmd := &blixardv1.Command{}
		cmd.ProtoReflect().Mutable(f)
		name, passed := string(f.Name()), clientOp(cmd)
		if !slices.Contains(internal, name) && !slices.Contains(clients, name) {
			t.Errorf("%s is in neither list", name)
		}
		if passed != slices.Contains(clients, name) {
			t.Errorf("%s is passed on: %t", name, passed)
		}
	}
	if clientOp(&blixardv1.Command{}) {
		t.Error("an operation that is not known is passed on")
	}
}

// What is proposed is the command as it was, but for its times.
func TestStampedIsWhole(t *testing.T) {
	cmd := &blixardv1.Command{RequestId: "r", Principal: "p", PayloadHash: []byte("h"), Op: &blixardv1.Command_Cordon{Cordon: &blixardv1.CordonOp{Name: "n"}}}
	fields := cmd.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if f := fields.Get(i); f.ContainingOneof() == nil && !cmd.ProtoReflect().Has(f) && f.Name() != "logged_time" && f.Name() != "wall_time" {
			t.Errorf("%s is not tried", f.Name())
		}
	}
	got := stamped(cmd, 7, 8)
	cmd.LoggedTime, cmd.WallTime = 7, 8
	if !proto.Equal(got, cmd) {
		t.Errorf("%v, want %v", got, cmd)
	}
}

// A watcher is answered when there is something new, on any server, and with what
// there is when nothing came.
func TestWatchersWait(t *testing.T) {
	v := three(t)
	v.run(5 * second)
	for i, id := range v.ids() {
		seen := v.wait(id, Request{}).View.Revision()
		v.request++
		ask := v.request
		v.step(id, Request{ID: ask, After: seen})
		if _, ok := v.replies[ask]; ok {
			t.Fatal("answered at once")
		}
		v.create(v.ids()[0], fmt.Sprintf("vm%d", i))
		v.run(second)
		if r, ok := v.replies[ask]; !ok || r.View.Revision() <= seen || r.View.VM(fmt.Sprintf("vm%d", i)) == nil {
			t.Fatalf("server %d: %v", id, r)
		}
		if r := v.wait(id, Request{After: seen}); r.View.Revision() <= seen {
			t.Fatal("not answered with what it has missed")
		}
		v.run(10 * second)
		begin := v.now
		last := v.wait(id, Request{}).View.Revision()
		if r := v.wait(id, Request{After: last + 1000, Timeout: 3 * second}); r.View.Revision() != last || v.now-begin < 3*second {
			t.Fatalf("after %d ns: %v", v.now-begin, r)
		}
	}
}
