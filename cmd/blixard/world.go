package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/blixard/blixard/core"
	"github.com/blixard/blixard/rpc"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/runner"
	"github.com/blixard/blixard/vmm/runner/artifact"
	"github.com/blixard/blixard/vmm/runner/lease"
	"github.com/blixard/blixard/vmm/runner/nix"
)

// world is the production world around one node:
//
//	  rpc.Peers ──Receive──┐              ┌──► bolt.Disk      Write
//	    clients ──Request──┤   ┌──────┐   ├──► rpc.Peers      Send
//	  bolt.Disk ───Wrote───┼──►│ loop │───┼──► runner.Host    Do
//	runner.Host ──Observed─┤   └──────┘   └──► clients        Reply
//	      clock ───Tick────┘
type world struct {
	clients
	loop  *loop
	inbox *inbox
	log   *slog.Logger
	host  *runner.Host // nil on a node that is no host
	// builder is nil where there is no Nix.
	builder *nix.Builder

	stopTicks chan struct{}
	stopOnce  sync.Once
	cancel    context.CancelFunc // of the replicator
	working   sync.WaitGroup
}

// newWorld opens the node and sets everything going.
func newWorld(d *daemon, id core.Identity, image core.Image, in *inbox) (*world, error) {
	boot, err := lease.BootID()
	if err != nil {
		return nil, err
	}
	cfg := core.Config{Tick: int64(tick), Seed: randomSeed(), BootID: boot}
	node, err := core.Open(cfg, image, readTime(bootClock{}))
	if err != nil {
		return nil, fmt.Errorf("the data directory %s: %w", d.cfg.DataDir, err)
	}
	w := &world{inbox: in, log: d.log, stopTicks: make(chan struct{})}
	env := core.Env{Clock: bootClock{}, Disk: d.disk, Network: d.peers, Clients: &w.clients, Hypervisor: noHost{}}
	fetcher := rpc.NewFetcher(d.tls)
	if id.Host {
		if w.builder, err = d.openBuilder(fetcher); err != nil {
			return nil, err
		}
		if w.host, err = d.openHost(id, in, fetcher, w.builder); err != nil {
			return nil, errors.Join(err, w.closeBuilder())
		}
		env.Hypervisor = w.host
	}
	w.loop = newLoop(node, env, in)
	w.loop.stepped = d.metrics.stepped
	w.loop.removed = func() {
		d.log.Error("this node was removed from the cluster: it ends what it runs, and keeps the files; with an empty data directory it can join as a new node",
			"node", id.ID, "data", d.cfg.DataDir)
	}
	d.peers.Identify(id)
	go w.loop.run()
	go ticks(in, w.stopTicks)
	go func() {
		<-w.loop.done
		if w.loop.err != nil {
			d.fail(w.loop.err)
		}
	}()
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	r := &rpc.Replicator{Backend: d, Blobs: d.store, Fetcher: fetcher, List: d.artifacts, Log: d.log}
	w.working.Go(func() { r.Run(ctx) })
	return w, nil
}

// openBuilder finds Nix; nil where there is none, and none was named.
func (d *daemon) openBuilder(f *rpc.Fetcher) (*nix.Builder, error) {
	cfg := d.cfg.Nix
	timeout, err := cfg.timeout()
	if err != nil {
		return nil, err
	}
	folder := ""
	if cfg.Path != "" {
		folder = filepath.Dir(cfg.Path)
	}
	b, err := nix.Open(nix.Config{
		Dir: filepath.Join(d.cfg.DataDir, "nix"), Path: folder, Timeout: timeout,
		MemoryMiB: cfg.MemoryMib, Jobs: cfg.Jobs, Peer: f.Closure, Log: d.log,
	})
	if errors.Is(err, nix.ErrNoNix) && cfg.Path == "" {
		d.log.Info("this host runs no NixOS VMs", "why", err)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	d.log.Info("Nix is here", "version", b.Version(), "system", b.System())
	return b, nil
}

func (w *world) closeBuilder() error {
	if w.builder == nil {
		return nil
	}
	return w.builder.Close()
}

func (d *daemon) openHost(id core.Identity, in *inbox, f artifact.Fetcher, b *nix.Builder) (*runner.Host, error) {
	devices, err := d.cfg.devices()
	if err != nil {
		return nil, err
	}
	cfg := runner.Config{
		ClusterID: id.ClusterID,
		HostID:    strconv.FormatUint(id.ID, 10),
		StateDir:  filepath.Join(d.cfg.DataDir, "host"),
		RunRoot:   d.cfg.RunDir,
		Store:     d.store,
		Fetcher:   f,
		Observe:   func(o core.Observed) { in.put(o) },
		Log:       d.log,
		Answered:  d.metrics.carriedOut,
		Booted:    d.metrics.booted,
		Capacity:  d.cfg.capacity(),
		Labels:    d.cfg.Labels,
		Devices:   devices,
		Cgroup:    d.cfg.Cgroup,
		Users:     d.cfg.VMUsers,
		Jailer:    d.cfg.Jailer,
		Version:   versionText(),

		AllowPaths: d.cfg.Nix.AllowPaths,
		Passage: func(ctx context.Context, p runner.Passage) (runner.Stream, error) {
			s, err := d.peers.Passage(ctx, rpc.Passage(p))
			if err != nil {
				return nil, err // and no Stream at all
			}
			return s, nil
		},
	}
	if b != nil { // a nil *Builder is no nil Builder
		cfg.Nix = b
	}
	return runner.New(cfg)
}

// artifacts are the digests of what our store holds.
func (d *daemon) artifacts() ([]string, error) {
	all, err := d.store.List()
	var digests []string
	for _, a := range all {
		digests = append(digests, a.Digest)
	}
	return digests, err
}

// stop ends the node: nothing is decided any more.
func (w *world) stop() {
	w.stopOnce.Do(func() {
		w.cancel()
		close(w.stopTicks)
		w.inbox.close()
	})
	<-w.loop.done
	w.working.Wait()
}

// close lets go of the host's VMs, which live on. The node has stopped.
func (w *world) close() {
	if w.host != nil {
		w.host.Close()
	}
	if err := w.closeBuilder(); err != nil {
		w.log.Warn("the builder was not closed", "err", err)
	}
}

// noHost is the hypervisor of a node that is no host: nothing is ever placed there.
type noHost struct{}

func (noHost) Do(a vmm.Action) {
	panic(fmt.Sprintf("%s ordered on a node that is no host", a.Verb))
}

func randomSeed() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:])
}
