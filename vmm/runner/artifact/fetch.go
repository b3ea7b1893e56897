package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Fetcher opens a stream of an artifact's bytes, from one of the addresses of
// its source. Ensure gives it one address at a time, verifies what comes, and
// closes it. A stream that stands still must end with an error: the Fetcher has
// the timeouts.
type Fetcher interface {
	Fetch(ctx context.Context, source *blixardv1.ArtifactSource) (io.ReadCloser, error)
}

// Rounds over all the addresses, and the pauses between them.
var pauses = []time.Duration{0, 300 * time.Millisecond, 2 * time.Second}

// Ensure makes the store have the artifact of a source: it fetches what is not
// there, from each address in turn, some times over. Two that want the same one
// fetch it once.
func (s *Store) Ensure(ctx context.Context, fetcher Fetcher, source *blixardv1.ArtifactSource) error {
	a := source.GetArtifact()
	if _, err := s.path(a.GetDigest()); err != nil {
		return err
	}
	err := s.check(ctx, a)
	if err == nil || !errors.Is(err, ErrMissing) && !errors.Is(err, ErrCorrupt) {
		return err
	}
	if fetcher == nil || len(source.Addresses) == 0 {
		return fmt.Errorf("%w: %s, and no node is known to have it: push the image again", ErrMissing, a.Digest)
	}
	defer s.lock(a.Digest)()
	if have, ok := s.Has(a.Digest); ok && have == a.Size {
		return nil // the one before us fetched it
	}
	for _, pause := range pauses {
		select {
		case <-ctx.Done():
			return fmt.Errorf("fetch artifact %s: %w", short(a.Digest), ctx.Err())
		case <-time.After(pause):
		}
		if err = s.round(ctx, fetcher, source); err == nil || errors.Is(err, ErrFull) || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// check says whether the artifact is there as it should be.
func (s *Store) check(ctx context.Context, a *blixardv1.Artifact) error {
	f, err := s.Open(ctx, a.Digest)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err == nil && uint64(st.Size()) != a.Size {
		return fmt.Errorf("artifact %s has %d bytes, and the VM's spec says %d: correct the spec", a.Digest, st.Size(), a.Size)
	}
	return err
}

// round asks each address once.
func (s *Store) round(ctx context.Context, fetcher Fetcher, source *blixardv1.ArtifactSource) error {
	var words []string
	for _, address := range source.Addresses {
		err := s.fetch(ctx, fetcher, address, source.Artifact)
		if err == nil || errors.Is(err, ErrFull) {
			return err
		}
		words = append(words, fmt.Sprintf("%s: %v", address, err))
	}
	return fmt.Errorf("fetch artifact %s: %s", short(source.Artifact.Digest), strings.Join(words, "; "))
}

func (s *Store) fetch(ctx context.Context, fetcher Fetcher, address string, a *blixardv1.Artifact) error {
	r, err := fetcher.Fetch(ctx, &blixardv1.ArtifactSource{Artifact: a, Addresses: []string{address}})
	if err != nil {
		return err
	}
	defer r.Close()
	return s.Put(ctx, r, a.Digest, a.Size)
}
