package rpc

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Replicator makes a server hold every artifact that the cluster knows, and
// none that it has forgotten. It looks at this server's own copy of the state;
// only before it deletes something it asks for a current one. A host that is no
// server holds what it has fetched for its VMs, until the cluster forgets it.
type Replicator struct {
	Backend Backend
	Blobs   Blobs
	Fetcher *Fetcher
	// List gives the digests of what the store holds.
	List func() ([]string, error)
	// Log may be nil.
	Log *slog.Logger

	missed map[string]time.Time // digest -> not tried again before
	strays map[string]time.Time // digest -> first seen unknown to the cluster
	verify time.Duration        // 0: verifyEvery
	grace  time.Duration        // 0: strayGrace
}

const (
	replicateEvery = time.Second
	// verifyEvery looks at the store even when the state has not changed.
	verifyEvery = time.Minute
	retryFetch  = 5 * time.Second
	// strayGrace leaves uploads alone that are stored and not yet announced.
	strayGrace  = time.Hour
	fetchAtOnce = 2
)

// Run works until ctx ends. On a node that is in no cluster, or was removed from
// it, it waits.
func (r *Replicator) Run(ctx context.Context) {
	if r.Log == nil {
		r.Log = slog.Default()
	}
	r.missed, r.strays = map[string]time.Time{}, map[string]time.Time{}
	r.verify, r.grace = cmp.Or(r.verify, verifyEvery), cmp.Or(r.grace, strayGrace)
	ticker := time.NewTicker(replicateEvery)
	defer ticker.Stop()
	var seen uint64
	var looked time.Time
	for {
		due := time.Since(looked) > r.verify
		switch st := r.Backend.Status(); {
		case st.Identity.ClusterID == "" || st.Removed:
		case st.Identity.Server:
			view, err := r.Backend.Read(ctx, true)
			if err != nil || view == nil {
				break
			}
			if view.Revision() != seen || len(r.missed) > 0 || due {
				seen = view.Revision()
				r.fetch(ctx, view, st.Identity.ID)
			}
			if due {
				looked = time.Now()
				r.sweep(ctx, r.known)
			}
		case due:
			looked = time.Now()
			r.sweep(ctx, r.ask)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// fetch gets what this server lacks, and announces what it has unannounced.
func (r *Replicator) fetch(ctx context.Context, view *cluster.State, self uint64) {
	var (
		wg    sync.WaitGroup
		slots = make(chan struct{}, fetchAtOnce)
		mu    sync.Mutex
	)
	now := time.Now()
	view.Artifacts(func(a *blixardv1.ArtifactRecord) bool {
		size, has := r.Blobs.Has(a.Digest)
		if has = has && size == a.Size; has && slices.Contains(a.Nodes, self) {
			return ctx.Err() == nil
		}
		mu.Lock()
		wait := r.missed[a.Digest].After(now)
		delete(r.missed, a.Digest)
		if wait {
			r.missed[a.Digest] = now.Add(retryFetch)
		}
		mu.Unlock()
		if wait {
			return true
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := r.one(ctx, view, a, self, has); err != nil && ctx.Err() == nil {
				r.Log.Warn("an artifact is not here yet", "digest", a.Digest, "error", err)
				mu.Lock()
				r.missed[a.Digest] = time.Now().Add(retryFetch)
				mu.Unlock()
			}
		})
		return ctx.Err() == nil
	})
	wg.Wait()
}

func (r *Replicator) one(ctx context.Context, view *cluster.State, a *blixardv1.ArtifactRecord, self uint64, has bool) error {
	if !has {
		src := &blixardv1.ArtifactSource{Artifact: &blixardv1.Artifact{Digest: a.Digest, Size: a.Size}}
		for _, id := range a.Nodes {
			if n := view.Node(id); id != self && n != nil {
				src.Addresses = append(src.Addresses, n.Address)
			}
		}
		body, err := r.Fetcher.Fetch(ctx, src)
		if err != nil {
			return err
		}
		defer body.Close()
		if err := r.Blobs.Put(ctx, body, a.Digest, a.Size); err != nil {
			return err
		}
	}
	if slices.Contains(a.Nodes, self) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	_, err := announce(ctx, r.Backend, &blixardv1.AnnounceOp{Digest: a.Digest, Size: a.Size, NodeId: self})
	return err
}

// sweep deletes what the cluster has not known for a while.
func (r *Replicator) sweep(ctx context.Context, known func(context.Context) (func(digest string) bool, error)) {
	all, err := r.List()
	if err != nil {
		r.Log.Warn("the artifacts here could not be listed", "error", err)
		return
	}
	if len(all) == 0 {
		return
	}
	knows, err := known(ctx)
	if err != nil {
		return
	}
	now, still := time.Now(), map[string]time.Time{}
	for _, digest := range all {
		if knows(digest) {
			continue
		}
		first, ok := r.strays[digest]
		if !ok {
			first = now
		}
		if now.Sub(first) < r.grace {
			still[digest] = first
			continue
		}
		if err := r.Blobs.Delete(digest); err != nil {
			r.Log.Warn("an artifact that nobody knows could not be deleted", "digest", digest, "error", err)
		}
	}
	r.strays = still
}

// known is what the cluster knows. An own copy of the state that lags must not
// decide that, so it takes a current one.
func (r *Replicator) known(ctx context.Context) (func(digest string) bool, error) {
	view, err := r.Backend.Read(ctx, false)
	if err != nil || view == nil {
		return nil, cmp.Or(err, errors.New("no state to look at"))
	}
	return func(digest string) bool { return view.Artifact(digest) != nil }, nil
}

// ask is known where there is no state: servers are asked.
func (r *Replicator) ask(ctx context.Context) (func(digest string) bool, error) {
	var servers []string
	for _, n := range r.Backend.Status().Servers {
		if n.Address != "" {
			servers = append(servers, n.Address)
		}
	}
	c := Dial(servers, r.Fetcher.tls)
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	list, err := c.Artifact.List(ctx, connect.NewRequest(&blixardv1.ArtifactServiceListRequest{}))
	if err != nil {
		return nil, err
	}
	digests := map[string]bool{}
	for _, a := range list.Msg.GetArtifacts() {
		digests[a.GetDigest()] = true
	}
	return func(digest string) bool { return digests[digest] }, nil
}
