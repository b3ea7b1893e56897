package main

import (
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"

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
	err = s.show(g, r.Msg, func() table { return nodeTable([]*blixardv1.Node{r.Msg.GetNode()}, time.Now()) })
	if err == nil && (g.Output == "table" || g.Output == "wide") && len(r.Msg.GetVms()) > 0 {
		fmt.Fprintf(t.out, "\nVMs: %s\n", strings.Join(r.Msg.GetVms(), " "))
	}
	return err
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
