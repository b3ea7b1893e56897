package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// drainPatience is --timeout of a drain where it is not given: a move takes a
// stop's grace and a boot, and there may be many.
const drainPatience = time.Hour

func (c *NodeDrainCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	parallel := uint32(0)
	if c.Parallel != nil {
		if parallel = *c.Parallel; parallel == 0 {
			return usagef("--parallel 0 is out of range: want 1 to 1000")
		}
	}
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	names := slices.Compact(slices.Sorted(slices.Values(c.Names)))
	if c.DryRun {
		return c.dryRun(s, names)
	}
	if len(names) > 1 {
		// All of them first, so that nothing goes from one to the next.
		if err := s.each(names, func(name string) error {
			return s.change(func(id string) error {
				_, err := s.Node.Cordon(s.ctx, connect.NewRequest(&blixardv1.CordonRequest{RequestId: id, Name: name}))
				return err
			})
		}); err != nil {
			return err
		}
	}
	if err := s.each(names, func(name string) error {
		return s.change(func(id string) error {
			r, err := s.Node.Drain(s.ctx, connect.NewRequest(&blixardv1.NodeServiceDrainRequest{RequestId: id, Name: name, Parallel: parallel, StopLocal: c.StopLocal}))
			if err != nil || g.Wait {
				return err
			}
			return s.show(g, r.Msg.GetNode(), func() table { return nodeTable([]*blixardv1.Node{r.Msg.GetNode()}, time.Now()) })
		})
	}); err != nil || !g.Wait {
		return err
	}
	s.allow(drainPatience)
	d := s.awaitDrains(names)
	return s.collect(names, func(name string) error {
		if d[name].err != nil {
			return d[name].err
		}
		r := d[name].seen
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

// dryRun says what a drain of all of them together would do.
func (c *NodeDrainCmd) dryRun(s *session, names []string) error {
	r, err := s.Node.Drain(s.ctx, connect.NewRequest(&blixardv1.NodeServiceDrainRequest{
		Name: names[0], Also: names[1:], StopLocal: c.StopLocal, ValidateOnly: true}))
	if err != nil {
		return err
	}
	return s.show(s.g, r.Msg, func() table { return moveTable(r.Msg.GetMoves(), names) })
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

// drained is how far the drain of one node is: over, when done or err says so.
type drained struct {
	seen *blixardv1.NodeServiceGetResponse
	last string
	done bool
	err  error
}

// awaitDrains waits until nothing of these nodes is under way, or yet to be.
func (s *session) awaitDrains(names []string) map[string]*drained {
	p := s.progress()
	defer p.done()
	start := time.Now()
	all := map[string]*drained{}
	for _, name := range names {
		all[name] = &drained{last: "nothing yet"}
	}
	var said word
	for pause := 50 * time.Millisecond; ; pause = min(pause*3/2, time.Second) {
		var under []string
		for _, name := range names {
			if d := all[name]; !d.done && d.err == nil {
				s.lookAtDrain(name, d)
			}
			if d := all[name]; !d.done && d.err == nil {
				under = append(under, name+": "+d.last)
			}
		}
		if len(under) == 0 {
			return all
		}
		text := strings.Join(under, " | ")
		p.say("draining %s (%ds)", text, int(time.Since(start).Seconds()))
		if p.w == nil && said.due(text, time.Now()) {
			fmt.Fprintf(s.err, "draining %s\n", text)
		}
		select {
		case <-time.After(pause):
			continue
		case <-s.ctx.Done():
		}
		for _, name := range names {
			d := all[name]
			if d.done || d.err != nil {
				continue
			}
			f := &failure{code: exitTimeout,
				what: fmt.Sprintf("node %s: not drained within %s; it goes on in the cluster", name, s.patience),
				why:  "last seen: " + d.last,
				next: fmt.Sprintf("blixard node get %s shows how far it is, and blixard node restore %s ends it", name, name)}
			if errors.Is(s.ctx.Err(), context.Canceled) {
				f.code, f.what = exitInterrupted, fmt.Sprintf("node %s: interrupted; the drain goes on in the cluster", name)
			}
			d.err = f
		}
		return all
	}
}

// lookAtDrain asks once how far a drain is.
func (s *session) lookAtDrain(name string, d *drained) {
	r, err := s.Node.Get(s.ctx, connect.NewRequest(&blixardv1.NodeServiceGetRequest{Name: name}))
	switch {
	case err == nil && r.Msg.GetNode().GetDrain() == nil:
		d.err = &failure{code: exitConflict, what: fmt.Sprintf("node %s is not drained any more", name), why: "somebody restored it meanwhile"}
	case err == nil:
		d.seen, d.last, d.done = r.Msg, drainText(r.Msg), true
		for _, m := range r.Msg.GetMoves() {
			d.done = d.done && settled(m.GetStep())
		}
	case s.late(err):
	case connect.CodeOf(err) != connect.CodeUnavailable:
		d.err = err
	default:
		d.last = asFailure(err).what
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
		why:  "they wait for their host (on_host_loss), because of what their disks hold there, and cannot go live (blixard node drain " + name + " --dry-run says why)",
		next: fmt.Sprintf("blixard node drain %s --stop-local stops them there, until blixard node restore %s", name, name)}
}

func moveTable(moves []*blixardv1.DrainMove, nodes []string) table {
	t := table{head: []string{"VM", "FROM", "STEP", "TO", "WHY"}}
	has := map[string]bool{}
	for _, m := range moves {
		has[m.GetFrom()] = true
		t.names = append(t.names, m.GetVm())
		t.rows = append(t.rows, []string{m.GetVm(), m.GetFrom(), kebab(m.GetStep().String(), "DRAIN_STEP_"), m.GetNode(), m.GetMessage()})
	}
	for _, n := range nodes {
		if !has[n] {
			t.notes = append(t.notes, n+" has no VM")
		}
	}
	return t
}
