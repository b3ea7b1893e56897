package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/rpc"
	"github.com/blixard/blixard/vmm/runner/artifact"
)

// One store of artifacts serves both sides of a node: clients and peers by rpc,
// VMs by the runner. These are the two views of it.

// blobs is rpc's view.
type blobs struct{ store *artifact.Store }

func (b blobs) Put(ctx context.Context, digest string, size uint64, r io.Reader) error {
	return b.store.Put(ctx, r, digest, size)
}

func (b blobs) Open(digest string) (io.ReadSeekCloser, error) {
	f, err := b.store.Open(context.Background(), digest)
	if err != nil {
		if errors.Is(err, artifact.ErrMissing) || errors.Is(err, artifact.ErrCorrupt) {
			err = fmt.Errorf("%w: %w", fs.ErrNotExist, err)
		}
		return nil, err
	}
	return f, nil
}

func (b blobs) Has(digest string) bool {
	_, ok := b.store.Has(digest)
	return ok
}

func (b blobs) List(f func(digest string, size uint64, modified time.Time) bool) error {
	all, err := b.store.List()
	if err != nil {
		return err
	}
	for _, a := range all {
		path, err := b.store.Path(context.Background(), a.Digest)
		if err != nil {
			continue // it has gone meanwhile, or is no longer what it was
		}
		st, err := os.Stat(path)
		if err != nil {
			continue
		}
		if !f(a.Digest, a.Size, st.ModTime()) {
			break
		}
	}
	return nil
}

func (b blobs) Delete(digest string) error { return b.store.Delete(digest) }

// fetches is the runner's view of the other nodes' stores: rpc fetches into our
// own store, from where the runner reads it.
type fetches struct {
	fetcher *rpc.Fetcher
	store   *artifact.Store
}

func (f fetches) Fetch(ctx context.Context, source *blixardv1.ArtifactSource) (io.ReadCloser, error) {
	if err := f.fetcher.Fetch(ctx, source); err != nil {
		return nil, err
	}
	return f.store.Open(ctx, source.GetArtifact().GetDigest())
}
