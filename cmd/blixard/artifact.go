package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/rpc"
	"github.com/blixard/blixard/vmm/runner"
)

// Kernels, initrds and disks travel to the cluster before a VM that needs them
// is created: nothing there ever reads our disk. Each is named by its SHA-256,
// so what the cluster already holds is not sent again.

// resolve finds every artifact of a draft, uploading what the cluster lacks.
func (d *draft) resolve(ctx context.Context, c *rpc.Client, t *terminal) error {
	for _, r := range d.refs {
		a, err := r.find(ctx, c, t)
		if err != nil {
			return err
		}
		r.target.Digest, r.target.Size = a.GetDigest(), a.GetSize()
	}
	return nil
}

// find takes, in this order: sha256:DIGEST, a file, a name in the cluster.
func (r ref) find(ctx context.Context, c *rpc.Client, t *terminal) (*blixardv1.ArtifactRecord, error) {
	if digest, ok := strings.CutPrefix(r.text, "sha256:"); ok {
		a, err := lookup(ctx, c, func(a *blixardv1.ArtifactRecord) bool { return a.GetDigest() == digest })
		if a == nil && err == nil {
			err = &failure{code: exitNotFound, what: fmt.Sprintf("%s: the cluster has no artifact %s", r.field, r.text),
				next: "give the file, or blixard image push FILE; blixard image list shows what is there"}
		}
		return a, err
	}
	path := r.path()
	f, packed, err := r.open()
	if errors.Is(err, os.ErrNotExist) && !r.folder {
		a, err := lookup(ctx, c, func(a *blixardv1.ArtifactRecord) bool { return a.GetName() == r.text })
		if a == nil && err == nil {
			err = &failure{code: exitNotFound, what: fmt.Sprintf("%s: there is no %s", r.field, r.text),
				why:  fmt.Sprintf("no file %s, and no image of that name in the cluster", path),
				next: "check the path; blixard image list shows the names"}
		}
		return a, err
	}
	if err != nil {
		return nil, r.fail("%v", err)
	}
	defer f.Close()
	if r.kernel {
		if err := isKernel(f); err != nil {
			return nil, r.fail("%v", err)
		}
	}
	a, there, err := push(ctx, c, t, f, "")
	if err != nil {
		return nil, fmt.Errorf("cannot bring %s to the cluster: %w", path, err)
	}
	if packed != "" {
		if there {
			packed += "; the cluster has it already"
		}
		fmt.Fprintln(t.err, packed)
	}
	return a, nil
}

func lookup(ctx context.Context, c *rpc.Client, is func(*blixardv1.ArtifactRecord) bool) (*blixardv1.ArtifactRecord, error) {
	list, err := c.Artifact.List(ctx, connect.NewRequest(&blixardv1.ArtifactServiceListRequest{}))
	if err != nil {
		return nil, fmt.Errorf("cannot ask for the cluster's images: %w", err)
	}
	for _, a := range list.Msg.GetArtifacts() {
		if is(a) {
			return a, nil
		}
	}
	return nil, nil
}

// push brings a file to the cluster, unless that has its bytes already, and names
// it unless the name is empty. True means that it was there.
func push(ctx context.Context, c *rpc.Client, t *terminal, f *os.File, name string) (*blixardv1.ArtifactRecord, bool, error) {
	p := t.progress()
	defer p.done()
	st, err := f.Stat()
	if err != nil {
		return nil, false, err
	}
	if st.Mode().IsRegular() && st.Size() == 0 {
		return nil, false, &failure{code: exitUsage, what: f.Name() + " is empty", why: "it has 0 bytes, and no VM starts from nothing", next: "make it again, or name another file; what made it may have failed"}
	}
	r := &meter{r: f, total: st.Size(), p: p, what: "reading " + filepath.Base(f.Name())}
	h := sha256.New()
	size, err := io.Copy(h, r)
	if err != nil {
		return nil, false, err
	}
	header := &blixardv1.UploadHeader{Digest: hex.EncodeToString(h.Sum(nil)), Size: uint64(size), Name: name}
	a, err := lookup(ctx, c, func(a *blixardv1.ArtifactRecord) bool {
		return a.GetDigest() == header.Digest && a.GetSize() == header.Size && len(a.GetNodes()) > 0
	})
	if err != nil {
		return nil, false, err
	}
	if a != nil && name == "" {
		return a, true, nil
	}
	if a != nil {
		r, err := c.Artifact.Tag(ctx, connect.NewRequest(&blixardv1.TagRequest{Digest: header.Digest, Name: name}))
		if err != nil {
			return nil, true, err
		}
		return r.Msg.GetArtifact(), true, nil
	}
	resp, err := c.Upload(ctx, header, &meter{r: f, total: size, p: p, what: "uploading " + filepath.Base(f.Name())})
	return resp.GetArtifact(), resp.GetExists(), err
}

func openPlain(path string) (*os.File, error) {
	st, err := os.Stat(path) // before the open, which a FIFO would block
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no plain file", path)
	}
	return os.Open(path)
}

// meter shows how far a reader has come.
type meter struct {
	r                  io.ReadSeeker
	p                  *progress
	what               string
	total, done, shown int64
}

func (m *meter) Read(b []byte) (int, error) {
	n, err := m.r.Read(b)
	m.done += int64(n)
	if m.total > 8<<20 && m.done-m.shown >= m.total/100 {
		m.shown = m.done
		m.p.say("%s: %d%% of %s", m.what, min(100, 100*m.done/m.total), bytesText(uint64(m.total)))
	}
	return n, err
}

func (m *meter) Seek(offset int64, whence int) (int64, error) {
	at, err := m.r.Seek(offset, whence)
	m.done, m.shown = at, at
	return at, err
}

// isKernel refuses what no hypervisor boots before it travels, and leaves the
// file at its beginning.
func isKernel(f *os.File) error {
	head := make([]byte, runner.KernelHead)
	n, err := f.ReadAt(head, 0)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return err
	case !runner.IsKernel(head[:n]):
		return errors.New("it is no Linux kernel: neither a bzImage (vmlinuz) nor an ELF file (vmlinux)")
	}
	return nil
}
