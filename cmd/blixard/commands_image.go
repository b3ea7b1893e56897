package main

import (
	"fmt"
	"path/filepath"
	"time"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func (c *ImagePushCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	f, err := openPlain(c.File)
	if err != nil {
		return usagef("%v", err)
	}
	defer f.Close()
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	a, _, err := push(s.ctx, s.Client, t, f, or(c.Name, filepath.Base(c.File)))
	if err != nil {
		return fmt.Errorf("cannot push %s: %w", c.File, err)
	}
	return s.show(g, a, func() table { return artifactTable([]*blixardv1.ArtifactRecord{a}, time.Now()) })
}

func (c *ImageListCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	r, err := s.Artifact.List(s.ctx, connect.NewRequest(&blixardv1.ArtifactServiceListRequest{Stale: c.Stale}))
	if err != nil {
		return err
	}
	return s.show(g, r.Msg, func() table { return artifactTable(r.Msg.GetArtifacts(), time.Now()) })
}
