package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// What follows the cluster prints lines as they come: columns of a fixed width,
// or one JSON document a line.

// errShown ends a watch that was to show only what there is.
var errShown = errors.New("all is shown")

func (c *EventsCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	w, err := newWatch(g, t, ctx)
	if err != nil {
		return err
	}
	defer w.close()
	use := w.ctx
	if c.Follow {
		use = ctx
	}
	shown := 0
	err = w.Follow(use, &blixardv1.WatchRequest{Events: true, Vm: c.VM, Revision: c.Since}, func(step *blixardv1.WatchResponse) error {
		for _, e := range step.Events {
			if err := w.line(e, eventLine(e)); err != nil {
				return err
			}
			shown++
		}
		if !c.Follow {
			return errShown
		}
		return nil
	})
	if errors.Is(err, errShown) {
		if shown == 0 && c.VM != "" {
			return w.noEvents(c.VM)
		}
		return nil
	}
	return err
}

// noEvents says why there is nothing to show of a VM.
func (w *watch) noEvents(name string) error {
	_, err := w.VM.Get(w.ctx, connect.NewRequest(&blixardv1.GetRequest{Name: name}))
	if err == nil {
		fmt.Fprintf(w.err, "Nothing is kept of what happened to %s.\n", name)
	}
	return err
}

func eventLine(e *blixardv1.Event) string {
	about := e.GetVm()
	if n := e.GetNode(); n != "" && about != "" {
		about += " on " + n
	} else if n != "" {
		about = n
	}
	who := ""
	if p := e.GetPrincipal(); p != "" {
		who = "  (" + p + ")"
	}
	return fmt.Sprintf("%s  %6d  %-16s  %-20s  %s%s", time.Unix(0, e.GetWallTime()).Local().Format("2006-01-02 15:04:05"),
		e.GetIndex(), e.GetType(), about, e.GetMessage(), who)
}

// watch prints VMs as they change, until the user has seen enough.
func (c *VMListCmd) watch(g *Globals, t *terminal, ctx *runContext) error {
	if len(c.Label) > 0 || c.Stale {
		return usagef("--watch shows every VM, as a quorum has it: no --label and no --stale goes with it")
	}
	w, err := newWatch(g, t, ctx)
	if err != nil {
		return err
	}
	defer w.close()
	nodes := map[uint64]string{}
	return w.Follow(ctx, &blixardv1.WatchRequest{Vms: true, Nodes: true}, func(step *blixardv1.WatchResponse) error {
		for _, n := range step.Nodes {
			nodes[n.Id] = n.Name
		}
		for _, r := range step.Removed {
			if r.Uid == "" {
				continue
			}
			if err := w.line(r, vmLine(r.Name, "", "Gone", "")); err != nil {
				return err
			}
		}
		for _, vm := range step.Vms {
			note := ""
			if notes := statusNotes(vm); len(notes) > 0 {
				note = notes[0]
			}
			if err := w.line(vm, vmLine(vm.Name, nodes[vm.GetPlacement().GetNodeId()], phaseText(vm), note)); err != nil {
				return err
			}
		}
		return nil
	})
}

func vmLine(name, node, phase, note string) string {
	if node == "" {
		node = "-"
	}
	return fmt.Sprintf("%s  %-20s  %-12s  %-11s  %s", time.Now().Format("15:04:05.000"), name, node, phase, note)
}

// watch is a session that prints a line at a time.
type watch struct {
	*session
	json *json.Encoder
	out  io.Writer
}

func newWatch(g *Globals, t *terminal, ctx context.Context) (*watch, error) {
	w := &watch{out: t.out}
	switch g.Output {
	case "json":
		w.json = json.NewEncoder(t.out)
	case "table", "wide":
	default:
		return nil, usagef("-o %s: what comes line by line is a table or json", g.Output)
	}
	var err error
	w.session, err = open(g, t, ctx)
	return w, err
}

func (w *watch) line(m proto.Message, text string) error {
	if w.json == nil {
		_, err := fmt.Fprintln(w.out, oneLine(text))
		return err
	}
	b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return err
	}
	return w.json.Encode(json.RawMessage(b))
}
