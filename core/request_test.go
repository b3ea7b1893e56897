package core

import (
	"slices"
	"testing"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A server passes everything on to the leader that clients may ask for, and
// nothing of what a leader decides by itself. Whoever adds an operation says
// here which it is.
func TestWhatServersPassOn(t *testing.T) {
	internal := []string{"init", "host_boot", "host_report", "suspect", "fence", "collect", "place", "clone"}
	clients := []string{
		"create_vm", "delete_vm", "power", "cordon", "add_node", "remove_node", "announce", "tag",
		"update_vm", "rollback_vm", "build_vm", "set_pins",
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
