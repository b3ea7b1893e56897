package main

import (
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/blixard/blixard/core/hypervisor"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func (c *NodeListCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	r, err := s.Node.List(s.ctx, connect.NewRequest(&blixardv1.NodeServiceListRequest{Stale: c.Stale}))
	if err != nil {
		return err
	}
	return s.show(g, r.Msg, func() table { return nodeTable(r.Msg.GetNodes(), time.Now()) })
}

func (c *NodeGetCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	r, err := s.Node.Get(s.ctx, connect.NewRequest(&blixardv1.NodeServiceGetRequest{Name: c.Name, Stale: c.Stale}))
	if err != nil {
		return err
	}
	err = s.show(g, r.Msg, func() table {
		tab := nodeTable([]*blixardv1.Node{r.Msg.GetNode()}, time.Now())
		tab.notes = append(drainNotes(r.Msg), hostNotes(r.Msg.GetNode().GetHost().GetFacts())...)
		return tab
	})
	if err == nil && (g.Output == "table" || g.Output == "wide") && len(r.Msg.GetVms()) > 0 {
		fmt.Fprintf(t.out, "\nVMs: %s\n", strings.Join(r.Msg.GetVms(), " "))
	}
	return err
}

// hostNotes say what a host runs VMs with, and what it has not.
func hostNotes(f *blixardv1.HostFacts) (notes []string) {
	if f == nil {
		return nil
	}
	if k := f.GetKvm(); k != nil {
		how := "not usable"
		if k.GetUsable() {
			how = "usable"
		}
		notes = append(notes, fmt.Sprintf("KVM is %s: %s", how, k.GetWhy()))
	}
	has := map[blixardv1.Hypervisor]*blixardv1.HypervisorFact{}
	for _, h := range f.GetHypervisors() {
		has[h.GetHypervisor()] = h
	}
	for _, k := range hypervisor.Table {
		h := has[k.Hypervisor]
		if h == nil {
			notes = append(notes, k.Name+": not here")
			continue
		}
		note := fmt.Sprintf("%s %s", k.Name, strings.TrimPrefix(h.GetVersion(), k.Name+": "))
		switch {
		case h.GetKvm() || k.Program == "":
		case k.Answer(blixardv1.Capability_CAPABILITY_EMULATION) == hypervisor.Yes:
			note += ", emulates"
		default:
			note += ", of no use without KVM"
		}
		can := hypervisor.Of(h.GetCapabilities()...)
		var lacks []string
		for _, c := range k.Can().List() {
			if !can.Has(hypervisor.Of(c)) && len(h.GetCapabilities()) > 0 {
				lacks = append(lacks, hypervisor.Name(c))
			}
		}
		if len(lacks) > 0 {
			note += "; this one has no " + strings.Join(lacks, ", ")
		}
		notes = append(notes, note)
	}
	for _, d := range f.GetDevices() {
		notes = append(notes, fmt.Sprintf("device %s: %s", d.GetKind(), d.GetAddress()))
	}
	if !f.GetBridges() {
		notes = append(notes, "VMs cannot be plugged into networks here: the daemon may not make bridges and taps (CAP_NET_ADMIN, /dev/net/tun), or the users of VMs may not open /dev/net/tun: its log says which")
	}
	if why := f.GetSharesWhy(); why != "" {
		notes = append(notes, "folders cannot be shared with VMs of images here: "+why)
	}
	if list := f.GetAllowPaths(); len(list) > 0 {
		notes = append(notes, "folders that shares of VMs may be in: "+strings.Join(list, ", "))
	} else if f.GetShares() {
		notes = append(notes, "no folder may be shared with VMs here (serve --allow-path)")
	}
	if i := f.GetIsolation(); i != nil {
		note := "cgroups bound what a VM takes: " + strings.Join(i.GetBounds(), ", ")
		if len(i.GetBounds()) == 0 {
			note = "cgroups bound nothing of what a VM takes"
		}
		if i.GetBoundsWhy() != "" {
			note += "; " + i.GetBoundsWhy()
		}
		notes = append(notes, note)
		if i.GetUsers() != "" {
			notes = append(notes, "hypervisors of images run as users of their own: "+i.GetUsers())
		} else if i.GetUsersWhy() != "" {
			notes = append(notes, i.GetUsersWhy())
		}
		if i.GetJailer() != "" {
			notes = append(notes, "Firecracker of images runs in its jailer: "+i.GetJailer())
		} else if i.GetJailerWhy() != "" {
			notes = append(notes, "Firecracker runs without its jailer: "+i.GetJailerWhy())
		}
	}
	if f.GetNix() {
		notes = append(notes, "Nix is here: NixOS systems and flakes can be built")
	} else {
		notes = append(notes, "Nix is not here: NixOS systems and flakes cannot be built")
	}
	return notes
}

func (c *NodeCordonCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	return change(g, t, ctx, c.Names, func(s *session, id, name string) (*blixardv1.Node, error) {
		r, err := s.Node.Cordon(s.ctx, connect.NewRequest(&blixardv1.CordonRequest{RequestId: id, Name: name}))
		if err != nil {
			return nil, err
		}
		return r.Msg.GetNode(), nil
	})
}

func (c *NodeUncordonCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	return change(g, t, ctx, c.Names, func(s *session, id, name string) (*blixardv1.Node, error) {
		r, err := s.Node.Uncordon(s.ctx, connect.NewRequest(&blixardv1.UncordonRequest{RequestId: id, Name: name}))
		if err != nil {
			return nil, err
		}
		return r.Msg.GetNode(), nil
	})
}

// change carries out one change of each node and shows the node.
func change(g *Globals, t *terminal, ctx *runContext, names []string, ask func(s *session, id, name string) (*blixardv1.Node, error)) error {
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	return s.each(names, func(name string) error {
		return s.change(func(id string) error {
			n, err := ask(s, id, name)
			if err != nil {
				return err
			}
			return s.show(g, n, func() table { return nodeTable([]*blixardv1.Node{n}, time.Now()) })
		})
	})
}
