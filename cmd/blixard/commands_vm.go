package main

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func (c *VMCreateCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	drafts, err := c.drafts(t)
	if err != nil {
		return err
	}
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	return s.eachDraft(drafts, func(d *draft) error { return s.create(d, c.ValidateOnly) })
}

func (c *VMCreateCmd) drafts(t *terminal) ([]*draft, error) {
	if len(c.File) == 0 {
		d, err := c.draft()
		return []*draft{d}, err
	}
	alone := VMCreateCmd{File: c.File, ValidateOnly: c.ValidateOnly}
	if !reflect.DeepEqual(alone, *c) {
		return nil, usagef("-f says everything of a VM: no name and no other flag goes with it")
	}
	return readAllSpecs(c.File, t)
}

func readAllSpecs(files []string, t *terminal) (all []*draft, err error) {
	for _, f := range files {
		d, err := readSpecs(f, t.in)
		if err != nil {
			return nil, err
		}
		all = append(all, d...)
	}
	return all, nil
}

// eachDraft does something with every VM that is described, once.
func (s *session) eachDraft(drafts []*draft, do func(*draft) error) error {
	byName := map[string]*draft{}
	var names []string
	for _, d := range drafts {
		if byName[d.name] != nil {
			return usagef("VM %s is described twice", d.name)
		}
		byName[d.name] = d
		names = append(names, d.name)
	}
	return s.each(names, func(name string) error { return do(byName[name]) })
}

func (s *session) create(d *draft, validateOnly bool) error {
	if err := d.resolve(s.ctx, s.Client, s.terminal); err != nil {
		return err
	}
	return s.change(func(id string) error {
		r, err := s.VM.Create(s.ctx, connect.NewRequest(&blixardv1.CreateRequest{
			RequestId: id, Name: d.name, Spec: d.spec, ValidateOnly: validateOnly}))
		if err != nil {
			return err
		}
		vm := r.Msg.GetVm()
		if validateOnly {
			return s.showValid(vm, "created")
		}
		if !s.g.Wait {
			return s.showVM(vm, s.nodeOf(vm))
		}
		vm, node, err := s.await(d.name, vm.GetUid(), "create", running(vm, placed))
		if err != nil {
			return err
		}
		return s.showVM(vm, node)
	})
}

// showValid shows a VM that was only checked: it has no life to show.
func (s *session) showValid(vm *blixardv1.VM, done string) error {
	if s.g.Output == "table" || s.g.Output == "wide" {
		_, err := fmt.Fprintf(s.out, "VM %s is valid; nothing was %s\n", vm.GetName(), done)
		return err
	}
	return s.showVM(vm, "")
}

// showVM shows one VM, and what is to be said of it; more is for who asked about it.
func (s *session) showVM(vm *blixardv1.VM, node string, more ...string) error {
	return s.show(s.g, vm, func() table {
		t := vmTable([]*blixardv1.VM{vm}, func(*blixardv1.VM) string { return node }, time.Now())
		t.notes = slices.Concat(statusNotes(vm), more, memoryNotes(vm), buildNotes(vm, s.nodeNames(vm)), networkNotes(vm), volumeNotes(vm), deviceNotes(vm))
		return t
	})
}

func (c *VMGetCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	r, err := s.VM.Get(s.ctx, connect.NewRequest(&blixardv1.GetRequest{Name: c.Name, Stale: c.Stale}))
	if err != nil {
		return err
	}
	return s.showVM(r.Msg.GetVm(), r.Msg.GetNode(), warmNotes(r.Msg.GetVm())...)
}

func (c *VMListCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	if c.Watch {
		return c.watch(g, t, ctx)
	}
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	all := &blixardv1.ListResponse{Nodes: map[uint64]string{}}
	for token := ""; ; {
		r, err := s.VM.List(s.ctx, connect.NewRequest(&blixardv1.ListRequest{
			PageSize: 1000, PageToken: token, Stale: c.Stale, Labels: c.Label}))
		if err != nil {
			return err
		}
		all.Vms = append(all.Vms, r.Msg.GetVms()...)
		for id, n := range r.Msg.GetNodes() {
			all.Nodes[id] = n
		}
		all.Revision = r.Msg.GetRevision()
		if token = r.Msg.GetNextPageToken(); token == "" {
			break
		}
	}
	return s.show(g, all, func() table {
		return vmTable(all.GetVms(), func(v *blixardv1.VM) string { return all.GetNodes()[v.GetPlacement().GetNodeId()] }, time.Now())
	})
}

func (c *VMStartCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	return power(g, t, ctx, c.Names, "start", func(s *session, id, name string) (*blixardv1.VM, error) {
		r, err := s.VM.Start(s.ctx, connect.NewRequest(&blixardv1.StartRequest{RequestId: id, Name: name}))
		if err != nil {
			return nil, err
		}
		return r.Msg.GetVm(), nil
	}, func(v *blixardv1.VM) func(*blixardv1.VM) (bool, error) { return running(v, placed) })
}

func (c *VMStopCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	return power(g, t, ctx, c.Names, "stop", func(s *session, id, name string) (*blixardv1.VM, error) {
		r, err := s.VM.Stop(s.ctx, connect.NewRequest(&blixardv1.StopRequest{RequestId: id, Name: name}))
		if err != nil {
			return nil, err
		}
		return r.Msg.GetVm(), nil
	}, func(*blixardv1.VM) func(*blixardv1.VM) (bool, error) { return stopped })
}

func (c *VMRestartCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	return power(g, t, ctx, c.Names, "restart", func(s *session, id, name string) (*blixardv1.VM, error) {
		r, err := s.VM.Restart(s.ctx, connect.NewRequest(&blixardv1.RestartRequest{RequestId: id, Name: name}))
		if err != nil {
			return nil, err
		}
		return r.Msg.GetVm(), nil
	}, func(v *blixardv1.VM) func(*blixardv1.VM) (bool, error) {
		return running(v, again)
	})
}

func (c *VMPauseCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	return power(g, t, ctx, c.Names, "pause", func(s *session, id, name string) (*blixardv1.VM, error) {
		r, err := s.VM.Pause(s.ctx, connect.NewRequest(&blixardv1.PauseRequest{RequestId: id, Name: name}))
		if err != nil {
			return nil, err
		}
		return r.Msg.GetVm(), nil
	}, func(*blixardv1.VM) func(*blixardv1.VM) (bool, error) { return paused })
}

func (c *VMResumeCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	return power(g, t, ctx, c.Names, "resume", func(s *session, id, name string) (*blixardv1.VM, error) {
		r, err := s.VM.Resume(s.ctx, connect.NewRequest(&blixardv1.ResumeRequest{RequestId: id, Name: name}))
		if err != nil {
			return nil, err
		}
		return r.Msg.GetVm(), nil
	}, func(*blixardv1.VM) func(*blixardv1.VM) (bool, error) { return resumed })
}

func (c *VMDeleteCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	if c.UID != "" && len(c.Names) > 1 {
		return usagef("--uid names one VM")
	}
	what := "Delete VM " + c.Names[0] + " and everything it owns?"
	if k := len(c.Names); k > 1 {
		what = fmt.Sprintf("Delete %d VMs and everything they own?", k)
	}
	if err := t.confirm(g, what); err != nil {
		return err
	}
	return power(g, t, ctx, c.Names, "delete", func(s *session, id, name string) (*blixardv1.VM, error) {
		r, err := s.VM.Delete(s.ctx, connect.NewRequest(&blixardv1.DeleteRequest{RequestId: id, Name: name, Uid: c.UID, Volumes: c.Volumes}))
		if err != nil {
			return nil, err
		}
		return r.Msg.GetVm(), nil
	}, func(*blixardv1.VM) func(*blixardv1.VM) (bool, error) { return gone })
}

// power asks for one change of each VM's life, waits for it and shows the VM.
func power(g *Globals, t *terminal, ctx *runContext, names []string, what string,
	ask func(s *session, id, name string) (*blixardv1.VM, error),
	done func(*blixardv1.VM) func(*blixardv1.VM) (bool, error),
) error {
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	return s.each(names, func(name string) error {
		return s.change(func(id string) error {
			vm, err := ask(s, id, name)
			if err != nil {
				return err
			}
			node := ""
			if g.Wait {
				last := vm
				vm, node, err = s.await(name, vm.GetUid(), what, done(vm))
				if err != nil {
					return err
				}
				if vm == nil {
					vm = last
					if g.Output == "table" || g.Output == "wide" {
						fmt.Fprintf(t.out, "VM %s is deleted\n", name)
						keptVolumes(t, vm, vm.GetDeleteVolumes())
						return nil
					}
				}
			}
			if node == "" {
				node = s.nodeOf(vm)
			}
			return s.showVM(vm, node)
		})
	})
}

// nodeOf is the name of the node that a VM was placed on, if that is soon known:
// what changes a VM answers with the VM alone.
func (s *session) nodeOf(vm *blixardv1.VM) string {
	if vm.GetPlacement().GetNodeId() == 0 {
		return ""
	}
	ctx, cancel := context.WithTimeout(s.ctx, time.Second)
	defer cancel()
	r, err := s.VM.Get(ctx, connect.NewRequest(&blixardv1.GetRequest{Name: vm.GetName(), Stale: true}))
	if err != nil || r.Msg.GetVm().GetPlacement().GetNodeId() != vm.GetPlacement().GetNodeId() {
		return ""
	}
	return r.Msg.GetNode()
}

func (c *VMLogsCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	use := s.ctx
	if c.Follow {
		use = ctx // for as long as one likes
	}
	stream, err := s.VM.Logs(use, connect.NewRequest(&blixardv1.LogsRequest{Name: c.Name, Follow: c.Follow, TailBytes: c.Tail, Build: c.Build}))
	if err != nil {
		return err
	}
	defer stream.Close()
	for stream.Receive() {
		if _, err := t.out.Write(stream.Msg().GetData()); err != nil {
			return err // our reader has gone
		}
	}
	if ctx.Err() != nil {
		return errors.Join(ctx.Err(), stream.Err())
	}
	return stream.Err()
}

func (c *VMExplainCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	r, err := s.VM.Explain(s.ctx, connect.NewRequest(&blixardv1.ExplainRequest{Name: c.Name, Stale: c.Stale}))
	if err != nil {
		return err
	}
	if g.Output == "table" || g.Output == "wide" {
		fmt.Fprintf(t.out, "%s\n", oneLine(r.Msg.GetSummary()))
		for _, n := range statusNotes(r.Msg.GetVm()) {
			n = strings.TrimSuffix(n, "; 'blixard vm explain "+c.Name+"' says why") // which this is
			fmt.Fprintf(t.out, "%s: %s\n", phaseText(r.Msg.GetVm()), oneLine(n))
		}
		fmt.Fprintln(t.out)
	}
	return s.show(g, r.Msg, func() table { return verdictTable(r.Msg.GetVerdicts()) })
}
