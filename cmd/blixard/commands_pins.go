package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core/cluster"
	"github.com/blixard/blixard/nixflake"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/rpc"
)

// Pins are set by the operator for the whole cluster. A lock that does not belong
// to the references would be thrown away by the first build, silently, and every
// host would build something else: so they are held against each other here.

func (c *ClusterPinsShowCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	r, err := s.Cluster.GetPins(s.ctx, connect.NewRequest(&blixardv1.GetPinsRequest{Stale: c.Stale}))
	if err != nil {
		return err
	}
	return s.showPins(r.Msg.GetPins())
}

func (s *session) showPins(p *blixardv1.Pins) error {
	if p == nil {
		p = &blixardv1.Pins{}
	}
	return s.show(s.g, p, func() table {
		t := table{head: []string{"INPUT", "FROM"}}
		for _, i := range pinned(p) {
			from := i.ref
			if i.def {
				from += " (the default)"
			}
			t.names = append(t.names, i.name)
			t.rows = append(t.rows, []string{i.name, from})
		}
		if l := p.GetLock(); l != nil {
			t.notes = append(t.notes, fmt.Sprintf("Locked by sha256:%s (%s).", l.GetDigest(), bytesText(l.GetSize())))
		} else {
			t.notes = append(t.notes, "Not locked: the first build of each VM takes the newest there is, and keeps to it. blixard cluster pins set --lock FILE locks them for all.")
		}
		return t
	})
}

// pin is one input as its flakes name it.
type pin struct {
	name, ref string
	def       bool // nobody has set it
}

func pinned(p *blixardv1.Pins) []pin {
	list := []pin{
		{"nixpkgs", cmp.Or(p.GetNixpkgs(), nixflake.DefaultNixpkgs), p.GetNixpkgs() == ""},
		{"flake-parts", cmp.Or(p.GetFlakeParts(), nixflake.DefaultFlakeParts), p.GetFlakeParts() == ""},
		{"microvm", cmp.Or(p.GetMicrovm(), nixflake.DefaultMicrovm), p.GetMicrovm() == ""},
		{"blixard-modules", p.GetModules(), p.GetModules() == ""},
	}
	if p.GetModules() == "" {
		list[3].ref = "those of the daemon that builds"
	}
	return list
}

func (c *ClusterPinsSetCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	if *c == (ClusterPinsSetCmd{}) {
		return &failure{code: exitUsage, what: "nothing was said to change", next: "give references such as --nixpkgs github:NixOS/nixpkgs/nixos-25.11, --lock FILE, or all of them by -f FILE"}
	}
	if c.File != "" && *c != (ClusterPinsSetCmd{File: c.File}) {
		return usagef("-f says all of the pins: no other flag goes with it")
	}
	d, pins := &draft{}, &blixardv1.Pins{}
	if c.File != "" {
		if err := readMessage(c.File, t.in, d, pins); err != nil {
			return err
		}
	}
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if c.File == "" {
		r, err := s.Cluster.GetPins(s.ctx, connect.NewRequest(&blixardv1.GetPinsRequest{}))
		if err != nil {
			return err
		}
		if old := r.Msg.GetPins(); old != nil {
			pins = proto.CloneOf(old)
		}
		c.change(d, pins)
	}
	if err := d.resolve(s.ctx, s.Client, s.terminal); err != nil {
		return err
	}
	if bad := cluster.ValidatePins(pins); bad != nil {
		return refused(bad)
	}
	if pins.Lock != nil {
		lock, err := s.content(pins.Lock)
		if err != nil {
			return fmt.Errorf("cannot hold the lock against the references: %w", err)
		}
		if err := checkLock(lock, pins); err != nil {
			return err
		}
	}
	return s.change(func(id string) error {
		r, err := s.Cluster.SetPins(s.ctx, connect.NewRequest(&blixardv1.SetPinsRequest{RequestId: id, Pins: pins}))
		if err != nil {
			return err
		}
		return s.showPins(r.Msg.GetPins())
	})
}

// change sets what flags say.
func (c *ClusterPinsSetCmd) change(d *draft, p *blixardv1.Pins) {
	given(&p.Nixpkgs, c.Nixpkgs)
	given(&p.FlakeParts, c.FlakeParts)
	given(&p.Microvm, c.Microvm)
	given(&p.Modules, c.BlixardModules)
	switch {
	case c.Lock == nil:
	case *c.Lock == "":
		p.Lock = nil
	default:
		p.Lock = d.refer("--lock", *c.Lock, "")
		d.refs[0].most = 1 << 20
	}
}

// content reads a small artifact from whichever node holds it. The references
// may change under a lock that the cluster has had for long.
func (s *session) content(a *blixardv1.Artifact) ([]byte, error) {
	record, err := lookup(s.ctx, s.Client, func(r *blixardv1.ArtifactRecord) bool { return r.GetDigest() == a.GetDigest() })
	if err != nil {
		return nil, err
	}
	nodes, err := s.Node.List(s.ctx, connect.NewRequest(&blixardv1.NodeServiceListRequest{}))
	if err != nil {
		return nil, err
	}
	source := &blixardv1.ArtifactSource{Artifact: a}
	for _, n := range nodes.Msg.GetNodes() {
		if slices.Contains(record.GetNodes(), n.GetId()) {
			source.Addresses = append(source.Addresses, n.GetAddress())
		}
	}
	r, err := rpc.NewFetcher(s.tls).Fetch(s.ctx, source)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, int64(a.GetSize())))
	if sum := sha256.Sum256(b); err == nil && hex.EncodeToString(sum[:]) != a.GetDigest() {
		err = fmt.Errorf("the content of sha256:%s is another one", a.GetDigest())
	}
	return b, err
}

// checkLock holds a lock against the references beside it.
func checkLock(lock []byte, p *blixardv1.Pins) error {
	err := nixflake.CheckLock(lock, nixflake.Pins{Nixpkgs: p.GetNixpkgs(), FlakeParts: p.GetFlakeParts(), Microvm: p.GetMicrovm(), Modules: p.GetModules()})
	if err == nil {
		return nil
	}
	return &failure{code: exitUsage, what: "the pins are not changed", why: strings.TrimPrefix(err.Error(), "nixflake: "),
		next: "make the lock of the flake that is built: blixard vm render -f SPEC -o DIR with the same references, nix flake lock path:DIR, and give DIR/flake.lock"}
}
