package rpc

import (
	"context"
	"errors"
	"strings"
	"testing"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// fakeGuests says what it was asked.
type fakeGuests struct {
	node  string
	stats []*blixardv1.VMStats
	typed []string
}

func (g *fakeGuests) Stats(context.Context) []*blixardv1.VMStats { return g.stats }

func (g *fakeGuests) Exec(_ context.Context, uid string, r *blixardv1.ExecRequest) (*blixardv1.ExecResponse, error) {
	if r.Argv[0] == "nothing" {
		return nil, errors.New("no agent answers in it")
	}
	return &blixardv1.ExecResponse{ExitCode: 7, Stdout: []byte(g.node + " " + uid + " " + strings.Join(r.Argv, " "))}, nil
}

func (g *fakeGuests) ReadFile(_ context.Context, _ string, r *blixardv1.ReadFileRequest) (*blixardv1.ReadFileResponse, error) {
	return &blixardv1.ReadFileResponse{Data: []byte(r.Path), End: true}, nil
}

func (g *fakeGuests) WriteFile(context.Context, string, *blixardv1.WriteFileRequest) error {
	return errors.New("the disk is full")
}

func (g *fakeGuests) WriteConsole(_ context.Context, uid string, data []byte) error {
	g.typed = append(g.typed, uid+" "+string(data))
	return nil
}

// Whoever is asked, it is the VM's host that does it.
func TestGuestsThroughAnyNode(t *testing.T) {
	a, b, c := &node{}, &node{}, &node{hostOnly: true}
	all := []*node{a, b, c}
	w := serve(t, noTLS, all...)
	for _, n := range all {
		w.boot(n.id)
	}
	client := func(n *node) *Client { return dial(t, nil, n) }
	ctx := t.Context()
	names := map[string]*node{} // of VMs, by where they are
	for _, name := range []string{"x", "y", "z"} {
		r, err := client(a).VM.Create(ctx, connect.NewRequest(&blixardv1.CreateRequest{Name: name, Spec: processSpec()}))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range all {
			if n.id == r.Msg.Vm.Placement.NodeId {
				names[name] = n
				n.guests.stats = append(n.guests.stats, &blixardv1.VMStats{Uid: r.Msg.Vm.Uid, CpuNs: 5, TimeNs: 9})
			}
		}
	}
	for _, asked := range all {
		k := client(asked).Guest
		for name, host := range names {
			r, err := k.Exec(ctx, connect.NewRequest(&blixardv1.ExecRequest{Name: name, Argv: []string{"do", "it"}}))
			if err != nil || r.Msg.ExitCode != 7 || !strings.HasPrefix(string(r.Msg.Stdout), host.name+" 1-") || !strings.HasSuffix(string(r.Msg.Stdout), " do it") {
				t.Errorf("%s asked about %s on %s: %v, %v", asked.name, name, host.name, r, err)
			}
			if _, err := k.WriteConsole(ctx, connect.NewRequest(&blixardv1.WriteConsoleRequest{Name: name, Data: []byte(asked.name)})); err != nil {
				t.Error(err)
			}
			_, err = k.Exec(ctx, connect.NewRequest(&blixardv1.ExecRequest{Name: name, Argv: []string{"nothing"}}))
			if d, _ := Refused(err); connect.CodeOf(err) != connect.CodeFailedPrecondition || !strings.Contains(d.GetMessage(), name+": no agent answers") {
				t.Errorf("%s asked about %s: %v", asked.name, name, err)
			}
			_, err = k.WriteFile(ctx, connect.NewRequest(&blixardv1.WriteFileRequest{Name: name, Path: "/x"}))
			if d, _ := Refused(err); !strings.Contains(d.GetMessage(), "the disk is full") {
				t.Errorf("write: %v", err)
			}
		}
		r, err := k.Stats(ctx, connect.NewRequest(&blixardv1.StatsRequest{}))
		if err != nil || len(r.Msg.Vms) != 3 || r.Msg.Vms[0].Name != "x" || r.Msg.Vms[2].Node != names["z"].name || r.Msg.Vms[1].Vcpus != 1 || r.Msg.Vms[1].CpuNs != 5 {
			t.Errorf("stats of all, by %s: %v, %v", asked.name, r, err)
		}
		r, err = k.Stats(ctx, connect.NewRequest(&blixardv1.StatsRequest{Names: []string{"y"}}))
		if err != nil || len(r.Msg.Vms) != 1 || r.Msg.Vms[0].Name != "y" {
			t.Errorf("stats of one: %v, %v", r, err)
		}
		for want, err := range map[connect.Code]error{
			connect.CodeNotFound:        last(k.Stats(ctx, connect.NewRequest(&blixardv1.StatsRequest{Names: []string{"q"}}))),
			connect.CodeInvalidArgument: last(k.ReadFile(ctx, connect.NewRequest(&blixardv1.ReadFileRequest{Name: "x", Path: "relative"}))),
		} {
			if connect.CodeOf(err) != want {
				t.Errorf("want %s, got %v", want, err)
			}
		}
	}
	for _, n := range all {
		if len(n.guests.typed) != 3 {
			t.Errorf("on %s was typed %q", n.name, n.guests.typed)
		}
	}
	// A host that is gone is named, and keeps nobody else.
	gone := names["x"]
	if gone == a {
		gone = names["y"]
	}
	gone.server.http.Close()
	r, err := client(a).Guest.Stats(ctx, connect.NewRequest(&blixardv1.StatsRequest{}))
	if err != nil || len(r.Msg.Vms) != 2 || len(r.Msg.Silent) != 1 || r.Msg.Silent[0] != gone.name {
		t.Errorf("one host is gone: %v, %v", r, err)
	}
}

func last[T any](_ T, err error) error { return err }
