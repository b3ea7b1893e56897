package main

import (
	"fmt"
	"path/filepath"
	"time"

	"connectrpc.com/connect"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func (c *ImagePushCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	f, err := openPlain(c.File)
	if err != nil {
		return &failure{code: exitUsage, what: "cannot push " + c.File, why: err.Error(), next: "name a file that you may read, such as a kernel, an initrd or a disk"}
	}
	defer f.Close()
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	name := or(c.Name, filepath.Base(c.File))
	if refused := cluster.ValidateName(name); refused != nil && c.Name == "" {
		f := usagef("%s is no name for an image: %s", name, refused.GetMessage())
		f.next = fmt.Sprintf("give one: blixard image push %s NAME; %s", c.File, refused.GetAdvice())
		return f
	}
	before, err := s.Artifact.List(s.ctx, connect.NewRequest(&blixardv1.ArtifactServiceListRequest{}))
	if err != nil {
		return err
	}
	a, _, err := push(s.ctx, s.Client, t, f, name)
	if err != nil {
		return fmt.Errorf("cannot push %s: %w", c.File, err)
	}
	for _, b := range before.Msg.GetArtifacts() {
		t.renamed(b, a)
	}
	return s.show(g, a, func() table { return artifactTable([]*blixardv1.ArtifactRecord{a}, time.Now()) })
}

// renamed says what a push has taken a name from: an image has one name, and a
// name is of one image.
func (t *terminal) renamed(before, after *blixardv1.ArtifactRecord) {
	same := before.GetDigest() == after.GetDigest()
	switch {
	case before.GetName() == "" || same == (before.GetName() == after.GetName()):
	case same:
		fmt.Fprintf(t.err, "note: these bytes were called %s; an image has one name, so %s names nothing now\n", before.GetName(), before.GetName())
	case before.GetName() == after.GetName():
		fmt.Fprintf(t.err, "note: %s was sha256:%s before; VMs that were created with that keep it\n", before.GetName(), before.GetDigest())
	}
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
