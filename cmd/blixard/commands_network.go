package main

import (
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func (c *NetworkCreateCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	return s.change(func(id string) error {
		r, err := s.Network.Create(s.ctx, connect.NewRequest(&blixardv1.NetworkServiceCreateRequest{
			RequestId: id, Name: c.Name, Spec: &blixardv1.NetworkSpec{Cidr: c.CIDR, Gateway: c.Gateway, Bridge: c.Bridge, Dns: c.DNS},
		}))
		if err != nil {
			return err
		}
		return s.showNetwork(r.Msg.GetNetwork())
	})
}

func (s *session) showNetwork(n *blixardv1.ClusterNetwork) error {
	return s.show(s.g, n, func() table { return networkTable([]*blixardv1.ClusterNetwork{n}, time.Now()) })
}

func networkTable(list []*blixardv1.ClusterNetwork, now time.Time) table {
	t := table{head: []string{"NAME", "CIDR", "GATEWAY", "BRIDGE", "DNS", "AGE"}}
	for _, n := range list {
		t.names = append(t.names, n.GetName())
		t.rows = append(t.rows, []string{
			n.GetName(), n.GetSpec().GetCidr(), n.GetSpec().GetGateway(), n.GetSpec().GetBridge(), strings.Join(n.GetSpec().GetDns(), " "), age(n.GetCreateTime(), now),
		})
	}
	return t
}

func (c *NetworkListCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	r, err := s.Network.List(s.ctx, connect.NewRequest(&blixardv1.NetworkServiceListRequest{Stale: c.Stale}))
	if err != nil {
		return err
	}
	return s.show(g, r.Msg, func() table { return networkTable(r.Msg.GetNetworks(), time.Now()) })
}

func (c *NetworkGetCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	r, err := s.Network.Get(s.ctx, connect.NewRequest(&blixardv1.NetworkServiceGetRequest{Name: c.Name, Stale: c.Stale}))
	if err != nil {
		return err
	}
	return s.show(g, r.Msg, func() table {
		tab := networkTable([]*blixardv1.ClusterNetwork{r.Msg.GetNetwork()}, time.Now())
		tab.notes = append(tab.notes, fmt.Sprintf("%d of %d addresses are in use", r.Msg.GetUsed(), r.Msg.GetSize()))
		for _, a := range r.Msg.GetAddresses() {
			tab.notes = append(tab.notes, a.GetAddress()+" "+a.GetVm())
		}
		if more := int(r.Msg.GetUsed()) - len(r.Msg.GetAddresses()); more > 0 {
			tab.notes = append(tab.notes, fmt.Sprintf("and %d more", more))
		}
		return tab
	})
}

func (c *NetworkDeleteCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	return s.each(c.Names, func(name string) error {
		return s.change(func(id string) error {
			r, err := s.Network.Delete(s.ctx, connect.NewRequest(&blixardv1.NetworkServiceDeleteRequest{RequestId: id, Name: name}))
			if err != nil {
				return err
			}
			if g.Output == "table" || g.Output == "wide" {
				fmt.Fprintf(t.out, "Network %s is deleted\n", name)
				return nil
			}
			return s.showNetwork(r.Msg.GetNetwork())
		})
	})
}

// networkNotes say what a VM's interfaces have.
func networkNotes(vm *blixardv1.VM) (notes []string) {
	for i, w := range vm.GetSpec().GetNetworks() {
		if i >= len(vm.GetAttachments()) {
			break
		}
		a := vm.GetAttachments()[i]
		note := fmt.Sprintf("eth%d: %s on network %s, %s", i, a.GetAddress(), a.GetNetwork(), a.GetMac())
		if w.GetUser() != nil {
			note = fmt.Sprintf("eth%d: user network, %s", i, a.GetMac())
		}
		for _, p := range w.GetPorts() {
			note += fmt.Sprintf("; port %d of its host leads to its %d", p.GetHostPort(), p.GetGuestPort())
			if p.GetProtocol() == blixardv1.Protocol_PROTOCOL_UDP {
				note += "/udp"
			}
		}
		notes = append(notes, note)
	}
	return notes
}
