package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func (c *SnapshotCreateCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	stamp := time.Now().UTC().Format("-20060102-150405")
	name := cmp.Or(c.Name, c.VM[:min(len(c.VM), 63-len(stamp))]+stamp)
	return s.change(func(id string) error {
		r, err := s.Snapshot.Create(s.ctx, connect.NewRequest(&blixardv1.SnapshotServiceCreateRequest{RequestId: id, Name: name, Vm: c.VM}))
		if err != nil {
			return err
		}
		p := r.Msg.GetSnapshot()
		if g.Wait {
			if p, err = s.awaitSnapshot(p, "snapshot create", blixardv1.SnapshotState_SNAPSHOT_STATE_CREATING); err != nil {
				return err
			}
			switch {
			case p == nil:
				return &failure{code: exitConflict, what: "the snapshot " + name + " is gone", why: errGone.Error()}
			case p.GetState() != blixardv1.SnapshotState_SNAPSHOT_STATE_READY:
				return &failure{code: exitError, what: "no snapshot of the VM " + c.VM + " was taken", why: p.GetMessage(), next: "blixard snapshot delete " + name + ", and try again"}
			}
		}
		return s.showSnapshot(p)
	})
}

// awaitSnapshot asks for a snapshot until it is in that state no more; nil: it is gone.
func (s *session) awaitSnapshot(p *blixardv1.VMSnapshot, what string, while blixardv1.SnapshotState) (*blixardv1.VMSnapshot, error) {
	w := s.progress()
	defer w.done()
	start := time.Now()
	for pause := 20 * time.Millisecond; ; pause = min(pause*3/2, 500*time.Millisecond) {
		r, err := s.Snapshot.Get(s.ctx, connect.NewRequest(&blixardv1.SnapshotServiceGetRequest{Name: p.GetName()}))
		switch {
		case connect.CodeOf(err) == connect.CodeNotFound, err == nil && r.Msg.GetSnapshot().GetUid() != p.GetUid():
			return nil, nil
		case err != nil && !s.late(err) && connect.CodeOf(err) != connect.CodeUnavailable:
			return nil, err
		case err == nil && r.Msg.GetSnapshot().GetState() != while:
			return r.Msg.GetSnapshot(), nil
		}
		w.say("%s %s: on %s (%ds)", what, p.GetName(), p.GetNode(), int(time.Since(start).Seconds()))
		select {
		case <-time.After(pause):
		case <-s.ctx.Done():
			return nil, &failure{code: exitTimeout, what: fmt.Sprintf("%s %s: not done within %s; it goes on in the cluster", what, p.GetName(), s.patience),
				why: "its host " + p.GetNode() + " has not said that it is done", next: "blixard snapshot get " + p.GetName()}
		}
	}
}

func (s *session) showSnapshot(p *blixardv1.VMSnapshot) error {
	return s.show(s.g, p, func() table { return snapshotTable([]*blixardv1.VMSnapshot{p}, time.Now()) })
}

func snapshotTable(list []*blixardv1.VMSnapshot, now time.Time) table {
	t := table{head: []string{"NAME", "VM", "STATE", "SIZE", "PAUSED", "NODE", "AGE"}, wide: []string{"UID", "HYPERVISOR", "SHA256"}}
	for _, p := range list {
		state := strings.ToLower(strings.TrimPrefix(p.GetState().String(), "SNAPSHOT_STATE_"))
		size, paused := "-", "-"
		if i := p.GetImage(); i != nil {
			size, paused = fmt.Sprintf("%d MiB", (i.GetSizeBytes()+1<<20-1)>>20), fmt.Sprintf("%d ms", i.GetPausedMs())
		}
		t.names = append(t.names, p.GetName())
		t.rows = append(t.rows, []string{
			p.GetName(), p.GetVm(), state, size, paused, p.GetNode(), age(p.GetCreateTime(), now),
			p.GetUid(), ranUnder(p), p.GetImage().GetSha256(),
		})
		if p.GetMessage() != "" {
			t.notes = append(t.notes, p.GetName()+": "+p.GetMessage())
		}
	}
	return t
}

func ranUnder(p *blixardv1.VMSnapshot) string {
	return strings.TrimSpace(strings.ToLower(strings.TrimPrefix(p.GetHypervisor().String(), "HYPERVISOR_")) + " " + p.GetImage().GetVersion())
}

func (c *SnapshotGetCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	r, err := s.Snapshot.Get(s.ctx, connect.NewRequest(&blixardv1.SnapshotServiceGetRequest{Name: c.Name, Stale: c.Stale}))
	if err != nil {
		return err
	}
	return s.showSnapshot(r.Msg.GetSnapshot())
}

func (c *SnapshotListCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	r, err := s.Snapshot.List(s.ctx, connect.NewRequest(&blixardv1.SnapshotServiceListRequest{Vm: c.VM, Stale: c.Stale}))
	if err != nil {
		return err
	}
	return s.show(g, r.Msg, func() table { return snapshotTable(r.Msg.GetSnapshots(), time.Now()) })
}

func (c *SnapshotDeleteCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	what := "Delete the snapshot " + c.Names[0] + "?"
	if k := len(c.Names); k > 1 {
		what = fmt.Sprintf("Delete %d snapshots?", k)
	}
	if err := t.confirm(g, what); err != nil {
		return err
	}
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	return s.each(c.Names, func(name string) error {
		return s.change(func(id string) error {
			r, err := s.Snapshot.Delete(s.ctx, connect.NewRequest(&blixardv1.SnapshotServiceDeleteRequest{RequestId: id, Name: name}))
			if err != nil {
				return err
			}
			p := r.Msg.GetSnapshot()
			if g.Wait {
				if _, err := s.awaitSnapshot(p, "snapshot delete", blixardv1.SnapshotState_SNAPSHOT_STATE_DELETING); err != nil {
					return err
				}
			}
			if g.Wait && (g.Output == "table" || g.Output == "wide") {
				fmt.Fprintf(t.out, "Snapshot %s is deleted\n", name)
				return nil
			}
			return s.showSnapshot(p)
		})
	})
}

func (c *SnapshotRestoreCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	if err := t.confirm(g, "Have the VM go back to its snapshot "+c.Name+"? What has happened since, on its disks too, is gone."); err != nil {
		return err
	}
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	return s.change(func(id string) error {
		r, err := s.Snapshot.Restore(s.ctx, connect.NewRequest(&blixardv1.SnapshotServiceRestoreRequest{RequestId: id, Name: c.Name}))
		if err != nil {
			return err
		}
		return s.restored(r.Msg.GetVm(), "snapshot restore")
	})
}

func (c *VMCloneCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	return s.change(func(id string) error {
		r, err := s.Snapshot.Clone(s.ctx, connect.NewRequest(&blixardv1.SnapshotServiceCloneRequest{RequestId: id, Name: c.Snapshot, Vm: c.Name, Memory: c.Memory}))
		if err != nil {
			return err
		}
		return s.restored(r.Msg.GetVm(), "clone")
	})
}

// restored waits until a VM has gone on from its snapshot, if that is wanted, and
// shows it. A start from a snapshot that fails is told at once: it is tried again,
// and who asked may know better.
func (s *session) restored(vm *blixardv1.VM, what string) error {
	node := s.nodeOf(vm)
	if s.g.Wait {
		later, first := running(vm, again), vm.GetStatus().GetSequence()
		var err error
		vm, node, err = s.await(vm.GetName(), vm.GetUid(), what, func(v *blixardv1.VM) (bool, error) {
			st := v.GetStatus()
			if v.GetRestore() != nil && st.GetPhase() == blixardv1.Phase_PHASE_FAILED && st.GetSequence() > first {
				return false, &failure{code: exitError, what: fmt.Sprintf("the VM %s does not start from the snapshot %s", v.GetName(), v.GetRestore().GetName()),
					why: st.GetMessage(), next: "it is tried again; 'blixard vm restart " + v.GetName() + "' gives it up, and starts the VM with the disks that it had"}
			}
			done, err := later(v)
			return done && v.GetRestore() == nil, err
		})
		if err != nil {
			return err
		}
	}
	return s.showVM(vm, node)
}
