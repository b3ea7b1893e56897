package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// drainPatience is --timeout of a drain where it is not given: a move takes a
// stop's grace and a boot, and there may be many.
const drainPatience = time.Hour

func (c *NodeDrainCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	return s.each(c.Names, func(name string) error {
		ask := &blixardv1.NodeServiceDrainRequest{Name: name, Parallel: c.Parallel, StopLocal: c.StopLocal, ValidateOnly: c.DryRun}
		if c.DryRun {
			r, err := s.Node.Drain(s.ctx, connect.NewRequest(ask))
			if err != nil {
				return err
			}
			return s.show(g, r.Msg, func() table { return moveTable(r.Msg.GetMoves()) })
		}
		err := s.change(func(id string) error {
			ask.RequestId = id
			r, err := s.Node.Drain(s.ctx, connect.NewRequest(ask))
			if err != nil || g.Wait {
				return err
			}
			return s.show(g, r.Msg.GetNode(), func() table { return nodeTable([]*blixardv1.Node{r.Msg.GetNode()}, time.Now()) })
		})
		if err != nil || !g.Wait {
			return err
		}
		s.allow(drainPatience)
		r, err := s.awaitDrain(name)
		if err != nil {
			return err
		}
		if err := s.show(g, r, func() table {
			tab := nodeTable([]*blixardv1.Node{r.GetNode()}, time.Now())
			tab.notes = drainNotes(r)
			return tab
		}); err != nil {
			return err
		}
		return remaining(r)
	})
}

func (c *NodeRestoreCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	return change(g, t, ctx, c.Names, func(s *session, id, name string) (*blixardv1.Node, error) {
		r, err := s.Node.Restore(s.ctx, connect.NewRequest(&blixardv1.NodeServiceRestoreRequest{RequestId: id, Name: name}))
		if err != nil {
			return nil, err
		}
		return r.Msg.GetNode(), nil
	})
}

// awaitDrain waits until nothing of a node is under way, or yet to be.
func (s *session) awaitDrain(name string) (*blixardv1.NodeServiceGetResponse, error) {
	p := s.progress()
	defer p.done()
	start := time.Now()
	last := "no answer yet"
	var said word
	for pause := 50 * time.Millisecond; ; pause = min(pause*3/2, time.Second) {
		r, err := s.Node.Get(s.ctx, connect.NewRequest(&blixardv1.NodeServiceGetRequest{Name: name}))
		switch {
		case err == nil && r.Msg.GetNode().GetDrain() == nil:
			return nil, &failure{code: exitConflict, what: fmt.Sprintf("node %s is not drained any more", name), why: "somebody restored it meanwhile"}
		case err == nil:
			done := true
			for _, m := range r.Msg.GetMoves() {
				done = done && settled(m.GetStep())
			}
			if done {
				return r.Msg, nil
			}
			last = drainText(r.Msg)
		case !s.late(err) && connect.CodeOf(err) != connect.CodeUnavailable:
			return nil, err
		case !s.late(err):
			last = asFailure(err).what
		}
		p.say("draining %s: %s (%ds)", name, last, int(time.Since(start).Seconds()))
		if p.w == nil && said.due(last, time.Now()) {
			fmt.Fprintf(s.err, "draining %s: %s\n", name, last)
		}
		select {
		case <-time.After(pause):
		case <-s.ctx.Done():
			f := &failure{code: exitTimeout,
				what: fmt.Sprintf("node %s: not drained within %s; it goes on in the cluster", name, s.patience),
				why:  "last seen: " + last,
				next: fmt.Sprintf("blixard node get %s shows how far it is, and blixard node restore %s ends it", name, name)}
			if errors.Is(s.ctx.Err(), context.Canceled) {
				f.code, f.what = exitInterrupted, fmt.Sprintf("node %s: interrupted; the drain goes on in the cluster", name)
			}
			return nil, f
		}
	}
}

// settled says that a drain does nothing more about a VM, whatever is freed.
func settled(s blixardv1.DrainStep) bool {
	return s == blixardv1.DrainStep_DRAIN_STEP_STAYS || s == blixardv1.DrainStep_DRAIN_STEP_STOPPED
}

// drainText says how far a drain is, in one line.
func drainText(r *blixardv1.NodeServiceGetResponse) string {
	moved := int(r.GetNode().GetDrain().GetMoved())
	by, left := map[blixardv1.DrainStep][]string{}, 0
	for _, m := range r.GetMoves() {
		by[m.GetStep()] = append(by[m.GetStep()], m.GetVm())
		switch m.GetStep() {
		case blixardv1.DrainStep_DRAIN_STEP_MOVING, blixardv1.DrainStep_DRAIN_STEP_NEXT, blixardv1.DrainStep_DRAIN_STEP_WAITS:
			left++
		}
	}
	text := fmt.Sprintf("%d of %d moved", moved, moved+left)
	for _, w := range []struct {
		step blixardv1.DrainStep
		word string
	}{
		{blixardv1.DrainStep_DRAIN_STEP_MOVING, "moving"},
		{blixardv1.DrainStep_DRAIN_STEP_STOPPING, "stopping"},
		{blixardv1.DrainStep_DRAIN_STEP_WAITS, "no room elsewhere for"},
	} {
		if names := by[w.step]; len(names) > 0 {
			text += "; " + w.word + " " + someOf(names)
		}
	}
	return text
}

// someOf names a few and counts the rest.
func someOf(names []string) string {
	const most = 4
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// drainNotes say how far a drain is, and about each VM that is left.
func drainNotes(r *blixardv1.NodeServiceGetResponse) (notes []string) {
	if r.GetNode().GetDrain() == nil {
		return nil
	}
	notes = append(notes, "drain: "+drainText(r))
	for _, m := range r.GetMoves() {
		notes = append(notes, fmt.Sprintf("  %s: %s", m.GetVm(), m.GetMessage()))
	}
	return notes
}

// remaining is what a drain that is over has left running.
func remaining(r *blixardv1.NodeServiceGetResponse) error {
	var stay []string
	for _, m := range r.GetMoves() {
		if m.GetStep() == blixardv1.DrainStep_DRAIN_STEP_STAYS {
			stay = append(stay, m.GetVm())
		}
	}
	if len(stay) == 0 {
		return nil
	}
	name := r.GetNode().GetName()
	return &failure{code: exitPartial, what: fmt.Sprintf("%s still runs %s", name, someOf(stay)),
		why:  "they wait for their host (on_host_loss), because of what their disks hold there, and are not moved",
		next: fmt.Sprintf("blixard node drain %s --stop-local stops them there, until blixard node restore %s", name, name)}
}

func moveTable(moves []*blixardv1.DrainMove) table {
	t := table{head: []string{"VM", "STEP", "TO", "WHY"}}
	for _, m := range moves {
		t.names = append(t.names, m.GetVm())
		t.rows = append(t.rows, []string{m.GetVm(), kebab(m.GetStep().String(), "DRAIN_STEP_"), m.GetNode(), m.GetMessage()})
	}
	return t
}
