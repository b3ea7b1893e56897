package main

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func (c *ClusterInitCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	settings, err := c.message("blixard cluster init", cluster.DefaultSettings())
	if err != nil {
		return err
	}
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	r, err := s.Cluster.Init(s.ctx, connect.NewRequest(&blixardv1.InitRequest{Settings: settings}))
	if err != nil {
		return err
	}
	if g.Output != "json" && g.Output != "yaml" {
		fmt.Fprintf(t.out, "Cluster %s has its first node. On each other node:\n  blixard cluster join %s\n", r.Msg.GetClusterId(), g.Server[0])
		return nil
	}
	return s.show(g, r.Msg, nil)
}

func (c *ClusterJoinCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	r, err := s.Cluster.Join(s.ctx, connect.NewRequest(&blixardv1.JoinRequest{Server: c.To}))
	if err != nil {
		return err
	}
	if g.Output != "json" && g.Output != "yaml" {
		fmt.Fprintf(t.out, "Joined cluster %s as node %d.\n", r.Msg.GetClusterId(), r.Msg.GetNodeId())
		return nil
	}
	return s.show(g, r.Msg, nil)
}

func (c *ClusterStatusCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	r, err := s.Cluster.Status(s.ctx, connect.NewRequest(&blixardv1.StatusRequest{}))
	if err != nil {
		return err
	}
	m := r.Msg
	if g.Output == "table" || g.Output == "wide" {
		leader := "none known"
		for _, n := range m.GetNodes() {
			if n.GetId() == m.GetLeaderId() {
				leader = n.GetName()
			}
		}
		fmt.Fprintf(t.out, "Cluster:  %s\nAsked:    %s (node %d, %s)\nLeader:   %s",
			or(m.GetClusterId(), "none"), or(m.GetNode(), "?"), m.GetNodeId(), m.GetVersion(), leader)
		if m.GetTerm() != 0 { // of a server
			fmt.Fprintf(t.out, ", term %d\nApplied:  %d of %d, state %s", m.GetTerm(), m.GetApplied(), m.GetCommitted(), or(m.GetStateHash(), "-"))
		}
		fmt.Fprintf(t.out, "\n%s\n\n", oneLine(m.GetSummary()))
		if len(m.GetNodes()) == 0 {
			return nil
		}
	}
	return s.show(g, m, func() table {
		if m.GetSettings() == nil { // a host has no state to show: it knows of the servers
			return serverTable(m.GetNodes())
		}
		return nodeTable(m.GetNodes(), time.Now())
	})
}

func (c *ClusterRemoveCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	if c.Lost {
		if err := c.warn(g, t, ctx); err != nil {
			return err
		}
	} else if err := t.confirm(g, fmt.Sprintf("Take node %s out of the cluster?", c.Name)); err != nil {
		return err
	}
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	return s.change(func(id string) error {
		r, err := s.Cluster.RemoveMember(s.ctx, connect.NewRequest(&blixardv1.RemoveMemberRequest{RequestId: id, Name: c.Name, Lost: c.Lost}))
		if err != nil {
			return err
		}
		n := r.Msg.GetNode()
		if g.Wait {
			if err := s.awaitRemoved(n); err != nil {
				return err
			}
			if g.Output == "table" || g.Output == "wide" {
				fmt.Fprintf(t.out, "Node %s is removed\n", n.GetName())
				return nil
			}
		}
		return s.show(g, n, func() table { return nodeTable([]*blixardv1.Node{n}, time.Now()) })
	})
}

// awaitRemoved waits until a server that leaves does not vote any more: its
// machine may be switched off then. A host is gone with the answer.
func (s *session) awaitRemoved(n *blixardv1.Node) error {
	p := s.progress()
	defer p.done()
	for start := time.Now(); ; {
		r, err := s.Node.Get(s.ctx, connect.NewRequest(&blixardv1.NodeServiceGetRequest{Name: n.GetName()}))
		switch {
		case connect.CodeOf(err) == connect.CodeNotFound, err == nil && r.Msg.GetNode().GetId() != n.GetId():
			return nil
		case err != nil && !s.late(err):
			// The removed server itself hears nothing of the cluster any more.
			st, err := s.Cluster.Status(s.ctx, connect.NewRequest(&blixardv1.StatusRequest{}))
			if err == nil && st.Msg.GetNodeId() == n.GetId() {
				return nil
			}
		}
		p.say("remove %s: it is to leave the servers (%ds)", n.GetName(), int(time.Since(start).Seconds()))
		select {
		case <-time.After(100 * time.Millisecond):
		case <-s.ctx.Done():
			f := &failure{code: exitTimeout, what: fmt.Sprintf("remove %s: not done within %s; it goes on in the cluster", n.GetName(), s.patience),
				why: "a majority of the servers must agree to be without it", next: "blixard cluster status"}
			if errors.Is(s.ctx.Err(), context.Canceled) {
				f.code, f.what = exitInterrupted, fmt.Sprintf("remove %s: interrupted; it goes on in the cluster", n.GetName())
			}
			return f
		}
	}
}

// warn says what --lost puts at risk, and has somebody answer for it.
func (c *ClusterRemoveCmd) warn(g *Globals, t *terminal, ctx *runContext) error {
	if !g.Yes && !t.asks() {
		return &failure{code: exitUsage, what: "--lost needs somebody's word",
			why:  "if the machine of " + c.Name + " still runs, its VMs may come to run twice",
			next: "make sure that it is off and will never run again; then -y gives the word in a script"}
	}
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	r, err := s.Node.Get(s.ctx, connect.NewRequest(&blixardv1.NodeServiceGetRequest{Name: c.Name}))
	if err != nil {
		return err
	}
	fmt.Fprintf(t.err, "With --lost you say that the machine of node %s (%s) is off and will never run again.\n",
		c.Name, oneLine(r.Msg.GetNode().GetAddress()))
	if vms := r.Msg.GetVms(); len(vms) > 0 {
		fmt.Fprintf(t.err, `  VMs placed there: %s
  Those that wait for their host are left stopped, the others start elsewhere;
  what their disks hold on %s is given up.
  If the machine does run, a VM that only its power can stop runs twice from now on.
`, strings.Join(vms, " "), c.Name)
	}
	fmt.Fprintf(t.err, "  Should it return, it is told to end what it runs, and can only join as a new node.\n")
	return t.confirm(g, fmt.Sprintf("Is it off for good, and shall %s be given up?", c.Name))
}

func (c *VersionCmd) Run(g *Globals, t *terminal) error {
	switch g.Output {
	case "json", "yaml":
		return t.show(g, &blixardv1.StatusResponse{Version: versionText()}, nil)
	case "name":
		fmt.Fprintln(t.out, versionText())
		return nil
	}
	fmt.Fprintf(t.out, "blixard %s\n", versionText())
	return nil
}

// versionText is the linked version, or the commit that was built.
func versionText() string {
	if version != "dev" {
		return version
	}
	if b, ok := debug.ReadBuildInfo(); ok {
		for _, s := range b.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				return "dev-" + s.Value[:12]
			}
		}
	}
	return version
}
