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

func (c *VolumeCreateCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	spec := &blixardv1.VolumeSpec{SizeMib: c.Size}
	if err := enumFlag(&spec.Format, "--format", c.Format); err != nil {
		return err
	}
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	return s.change(func(id string) error {
		r, err := s.Volume.Create(s.ctx, connect.NewRequest(&blixardv1.VolumeServiceCreateRequest{RequestId: id, Name: c.Name, Spec: spec, Host: c.Host}))
		if err != nil {
			return err
		}
		return s.settleVolume("create", r.Msg.GetVolume())
	})
}

func (c *VolumeGrowCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	return s.change(func(id string) error {
		r, err := s.Volume.Grow(s.ctx, connect.NewRequest(&blixardv1.VolumeServiceGrowRequest{RequestId: id, Name: c.Name, SizeMib: c.Size}))
		if err != nil {
			return err
		}
		return s.settleVolume("grow", r.Msg.GetVolume())
	})
}

func (c *VolumeDeleteCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	what := "Delete volume " + c.Names[0] + " and all that it holds?"
	if k := len(c.Names); k > 1 {
		what = fmt.Sprintf("Delete %d volumes and all that they hold?", k)
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
			r, err := s.Volume.Delete(s.ctx, connect.NewRequest(&blixardv1.VolumeServiceDeleteRequest{RequestId: id, Name: name}))
			if err != nil {
				return err
			}
			v := &blixardv1.VolumeServiceGetResponse{Volume: r.Msg.GetVolume()}
			if g.Wait {
				last := v
				v, err = s.awaitVolume("delete", v.GetVolume(), func(v *blixardv1.VolumeServiceGetResponse) (bool, error) { return v == nil, nil })
				if err != nil {
					return err
				}
				if v == nil {
					v = last
					if g.Output == "table" || g.Output == "wide" {
						fmt.Fprintf(t.out, "Volume %s is deleted\n", name)
						return nil
					}
				}
			}
			return s.showVolume(v)
		})
	})
}

func (c *VolumeGetCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	r, err := s.Volume.Get(s.ctx, connect.NewRequest(&blixardv1.VolumeServiceGetRequest{Name: c.Name, Stale: c.Stale}))
	if err != nil {
		return err
	}
	return s.showVolume(r.Msg)
}

func (c *VolumeListCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	r, err := s.Volume.List(s.ctx, connect.NewRequest(&blixardv1.VolumeServiceListRequest{Stale: c.Stale}))
	if err != nil {
		return err
	}
	return s.show(g, r.Msg, func() table {
		tab := volumeTable(r.Msg.GetVolumes(), time.Now())
		for _, o := range r.Msg.GetOrphans() {
			v := o.GetVolume()
			tab.notes = append(tab.notes, fmt.Sprintf("%s has a volume that the cluster does not know: %s, called %s, %s, in its data directory under host/volumes/%s. Nobody removes it",
				o.GetNode(), v.GetUid(), or(v.GetName(), "?"), mib(v.GetSizeMib()), v.GetUid()))
		}
		return tab
	})
}

// settleVolume waits until a volume is as an answer promised, and shows it.
func (s *session) settleVolume(what string, v *blixardv1.ClusterVolume) error {
	shown := &blixardv1.VolumeServiceGetResponse{Volume: v}
	if s.g.Wait {
		var err error
		if shown, err = s.awaitVolume(what, v, volumeReady); err != nil {
			return err
		}
	}
	return s.showVolume(shown)
}

// volumeReady is done once a volume is there, or waits for somebody else than its
// host.
func volumeReady(r *blixardv1.VolumeServiceGetResponse) (bool, error) {
	v := r.GetVolume()
	switch v.GetStatus().GetPhase() {
	case blixardv1.VolumePhase_VOLUME_PHASE_UNSPECIFIED, blixardv1.VolumePhase_VOLUME_PHASE_DELETING:
		return false, &failure{code: exitConflict, what: "the volume is gone", why: errGone.Error()}
	case blixardv1.VolumePhase_VOLUME_PHASE_FAILED, blixardv1.VolumePhase_VOLUME_PHASE_LOST:
		return false, &failure{code: exitError, what: fmt.Sprintf("volume %s is not as it should be", v.GetName()), why: v.GetStatus().GetMessage(),
			next: "its host tries again; blixard volume get " + v.GetName() + " shows how it goes"}
	case blixardv1.VolumePhase_VOLUME_PHASE_WAITING:
		return true, nil
	case blixardv1.VolumePhase_VOLUME_PHASE_READY:
		return v.GetStatus().GetSizeMib() >= v.GetSpec().GetSizeMib() || len(r.GetUses()) > 0, nil
	}
	return false, nil
}

// awaitVolume asks for a volume until done says so; it is nil once there is none of
// that uid.
func (s *session) awaitVolume(what string, v *blixardv1.ClusterVolume, done func(*blixardv1.VolumeServiceGetResponse) (bool, error)) (*blixardv1.VolumeServiceGetResponse, error) {
	p := s.progress()
	defer p.done()
	last := "no answer yet"
	for pause := 20 * time.Millisecond; ; pause = min(pause*3/2, 500*time.Millisecond) {
		r, err := s.Volume.Get(s.ctx, connect.NewRequest(&blixardv1.VolumeServiceGetRequest{Name: v.GetName()}))
		var is *blixardv1.VolumeServiceGetResponse
		switch {
		case err == nil && r.Msg.GetVolume().GetUid() == v.GetUid():
			is = r.Msg
		case err != nil && connect.CodeOf(err) == connect.CodeNotFound, err == nil:
			err = nil
		case !s.late(err) && connect.CodeOf(err) != connect.CodeUnavailable:
			return nil, err
		}
		if err == nil {
			if ok, err := done(is); ok || err != nil {
				return is, err
			}
			last = fmt.Sprintf("%s: %s", volumePhase(is.GetVolume()), is.GetVolume().GetStatus().GetMessage())
		}
		p.say("%s volume %s: %s", what, v.GetName(), last)
		select {
		case <-time.After(pause):
		case <-s.ctx.Done():
			f := &failure{code: exitTimeout, what: fmt.Sprintf("%s volume %s: not done within %s; it goes on in the cluster", what, v.GetName(), s.patience),
				why: "last seen: " + last, next: "blixard volume get " + v.GetName()}
			if errors.Is(s.ctx.Err(), context.Canceled) {
				f.code, f.what = exitInterrupted, fmt.Sprintf("%s volume %s: interrupted; it goes on in the cluster", what, v.GetName())
			}
			return nil, f
		}
	}
}

func (s *session) showVolume(r *blixardv1.VolumeServiceGetResponse) error {
	return s.show(s.g, r, func() table {
		t := volumeTable([]*blixardv1.VolumeServiceGetResponse{r}, time.Now())
		if m := r.GetVolume().GetStatus().GetMessage(); m != "" {
			t.notes = append(t.notes, m)
		}
		return t
	})
}

func volumeTable(list []*blixardv1.VolumeServiceGetResponse, now time.Time) table {
	t := table{head: []string{"NAME", "SIZE", "FORMAT", "HOST", "STATE", "USED BY", "AGE"}, wide: []string{"UID", "MESSAGE"}}
	for _, r := range list {
		v := r.GetVolume()
		var by []string
		for _, u := range r.GetUses() {
			text := u.GetVm()
			if u.GetReadOnly() {
				text += ":ro"
			}
			by = append(by, text)
		}
		t.names = append(t.names, v.GetName())
		t.rows = append(t.rows, []string{
			v.GetName(), mib(v.GetSpec().GetSizeMib()), kebab(v.GetSpec().GetFormat().String(), "VOLUME_FORMAT_"), v.GetNode(), volumePhase(v),
			strings.Join(by, " "), age(v.GetCreateTime(), now), v.GetUid(), v.GetStatus().GetMessage(),
		})
	}
	return t
}

func volumePhase(v *blixardv1.ClusterVolume) string {
	return kebab(v.GetStatus().GetPhase().String(), "VOLUME_PHASE_")
}

// parseMount reads NAME[:ro].
func parseMount(text string) (*blixardv1.VolumeMount, error) {
	name, how, said := strings.Cut(text, ":")
	if name == "" || said && how != "ro" && how != "rw" {
		return nil, errors.New("want NAME, or NAME:ro")
	}
	return &blixardv1.VolumeMount{Volume: name, ReadOnly: how == "ro"}, nil
}

// volumes sets which volumes of the cluster a VM has, beside those that it has
// already.
func (c *SpecFlags) volumes(s *blixardv1.VMSpec) error {
	for _, text := range c.Volume {
		m, err := parseMount(text)
		if err != nil {
			return usagef("--volume %s: %v", text, err)
		}
		i := slices.IndexFunc(s.Volumes, func(o *blixardv1.VolumeMount) bool { return o.Volume == m.Volume })
		if i >= 0 {
			s.Volumes[i].ReadOnly = m.ReadOnly
			continue
		}
		s.Volumes = append(s.Volumes, m)
	}
	return nil
}

// detach takes volumes out of a spec.
func (c *VMUpdateCmd) detach(s *blixardv1.VMSpec) error {
	for _, name := range c.Detach {
		i := slices.IndexFunc(s.Volumes, func(o *blixardv1.VolumeMount) bool { return o.Volume == name })
		if i < 0 {
			return usagef("--detach %s: the VM has no such volume", name)
		}
		s.Volumes = slices.Delete(s.Volumes, i, i+1)
	}
	return nil
}

// volumeNotes say which volumes a VM has.
func volumeNotes(vm *blixardv1.VM) (notes []string) {
	for _, m := range vm.GetSpec().GetVolumes() {
		note := "Volume " + m.GetVolume()
		if m.GetDisk() != m.GetVolume() {
			note += ", which it sees as disk " + m.GetDisk()
		}
		if m.GetReadOnly() {
			note += ", read-only"
		}
		notes = append(notes, note)
	}
	for _, h := range vm.GetVolumes() {
		if h.GetLeaving() {
			notes = append(notes, fmt.Sprintf("Volume %s is of an earlier spec: it is given back when the VM runs with the newest (blixard vm restart %s)", h.GetVolume(), vm.GetName()))
		}
	}
	return notes
}

// keptVolumes says what a VM that was deleted has left.
func keptVolumes(t *terminal, vm *blixardv1.VM, deleted bool) {
	var names []string
	for _, h := range vm.GetVolumes() {
		if !slices.Contains(names, h.GetVolume()) {
			names = append(names, h.GetVolume())
		}
	}
	switch {
	case len(names) == 0:
	case deleted:
		fmt.Fprintf(t.out, "Its volumes go, too, but for those that another VM has: %s\n", strings.Join(names, ", "))
	default:
		fmt.Fprintf(t.out, "Kept: volume %s. 'blixard volume delete %s' removes what is kept\n", strings.Join(names, ", volume "), strings.Join(names, " "))
	}
}
