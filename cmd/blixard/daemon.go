package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/blixard/blixard/core"
	"github.com/blixard/blixard/core/bolt"
	"github.com/blixard/blixard/rpc"
	"github.com/blixard/blixard/vmm/runner/artifact"
)

// daemon is one life of serve:
//
//	open the disk ─► listen ─► in a cluster? ──yes──► start the node ─► serve ─► stop
//	                              └─no─► serve Status, Init and Join only ─┘
//
// Init and Join write the node's first batch and start it; the process goes on.
type daemon struct {
	cfg    *Config
	log    *slog.Logger
	tls    *rpc.TLS
	store  *artifact.Store
	peers  *rpc.Peers
	server *rpc.Server
	self   core.Identity // what we were told of ourselves; no ids yet

	life  sync.Mutex // starting and stopping
	disk  *bolt.Disk // until the node runs; then the world has it
	ended bool
	world atomic.Pointer[world] // nil: in no cluster

	metrics *metrics

	failed chan error // the first reason why this daemon cannot go on
}

// drain is how long requests may take to finish when we are told to stop.
const drain = 10 * time.Second

func (c *ServeCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	cfg, err := c.config(g)
	if err != nil {
		return err
	}
	log, err := cfg.Log.logger(t.err)
	if err != nil {
		return err
	}
	systemd := newNotifier()
	d, err := newDaemon(cfg, log)
	if err != nil {
		return err
	}
	awake := inhibitSleep(log)
	defer awake()
	listener, err := d.open()
	if err != nil {
		d.close(0)
		return err
	}
	served := make(chan error, 1)
	go func() { served <- d.server.Serve(listener) }()
	log.Info("ready", "name", cfg.Name, "address", d.self.Address, "roles", cfg.Roles, "version", versionText())
	if d.world.Load() == nil {
		log.Info("this node is in no cluster yet: blixard cluster init makes one, blixard cluster join enters one")
	}
	systemd.say("READY=1")

	select {
	case <-ctx.Done():
		log.Info("stopping; VMs go on")
		systemd.say("STOPPING=1")
		return d.close(drain)
	case err = <-d.failed:
	case err = <-served:
		err = fmt.Errorf("the listener ended: %w", err)
	}
	log.Error("this daemon cannot go on; VMs do, as long as their leases", "error", err)
	systemd.say("STOPPING=1")
	d.close(time.Second)
	return err
}

func newDaemon(cfg *Config, log *slog.Logger) (*daemon, error) {
	d := &daemon{cfg: cfg, log: log, failed: make(chan error, 1)}
	d.self = core.Identity{Name: cfg.Name, Server: cfg.is("server"), Host: cfg.is("host")}
	d.metrics = newMetrics(d)
	var err error
	if d.tls, err = rpc.LoadTLS(cfg.TLS.Cert, cfg.TLS.Key, cfg.TLS.CA); err != nil {
		return nil, usagef("%v", err)
	}
	for _, dir := range []string{cfg.DataDir, cfg.Cache, cfg.RunDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, &failure{code: exitError, what: "cannot make " + dir, why: err.Error(),
				next: "run as a user who may, or give --data-dir and --run-dir"}
		}
	}
	return d, nil
}

// open takes the data directory first: of two daemons on it, the second must
// touch nothing else.
func (d *daemon) open() (net.Listener, error) {
	image, in, err := d.openDisk()
	if err != nil {
		return nil, err
	}
	if d.store, err = artifact.Open(filepath.Join(d.cfg.DataDir, "artifacts")); err != nil {
		return nil, err
	}
	listener, err := rpc.Listen(d.cfg.Listen, d.tls)
	if err != nil {
		return nil, listenError(d.cfg.Listen, err)
	}
	d.self.Address = or(d.cfg.Advertise, listener.Addr().String())
	d.peers = rpc.NewPeers(rpc.PeersConfig{TLS: d.tls, Deliver: d.deliver, Log: d.log})
	served := rpc.Config{Metrics: d.metrics.handler, Answered: d.metrics.answered, Opened: d.metrics.opened, Backend: d, Blobs: d.store, Logs: d, Guests: daemonGuests{d}, Closures: d, Disks: d, Arrivals: d, Peers: d.peers, TLS: d.tls, Version: versionText(), Log: d.log}
	if p := findParser(d.cfg.Nix.Path, d.log); p != nil {
		served.CheckVM = p.check
	}
	d.server = rpc.NewServer(served)
	id, known, err := core.ReadIdentity(image)
	if err == nil && known {
		if err = d.matches(id); err == nil {
			err = d.start(id, image, in)
		}
	}
	if err != nil {
		listener.Close()
		return nil, err
	}
	return listener, nil
}

func (d *daemon) openDisk() (core.Image, *inbox, error) {
	in := newInbox()
	disk, image, err := bolt.Open(filepath.Join(d.cfg.DataDir, "blixard.db"), bolt.Options{
		Wrote:  func(w core.Wrote) { in.put(w) },
		Failed: d.fail,
		Took:   d.metrics.wrote,
	})
	if err != nil {
		return image, nil, err
	}
	d.disk = disk
	return image, in, nil
}

// matches refuses a data directory that is another node's.
func (d *daemon) matches(id core.Identity) error {
	what := ""
	switch {
	case id.Name != d.self.Name:
		what = fmt.Sprintf("it belongs to node %s, and this is %s", id.Name, d.self.Name)
	case id.Server != d.self.Server || id.Host != d.self.Host:
		what = fmt.Sprintf("node %s joined with other roles (server %t, host %t)", id.Name, id.Server, id.Host)
	case id.Address != d.self.Address:
		what = fmt.Sprintf("the others know node %s by the address %s, and this is %s", id.Name, id.Address, d.self.Address)
	default:
		return nil
	}
	return &failure{code: exitError, what: fmt.Sprintf("the data directory %s does not fit", d.cfg.DataDir), why: what,
		next: "correct --name, --role, --listen or --advertise, or give this node a data directory of its own by --data-dir"}
}

// start makes the node run. The disk is the world's from now on.
func (d *daemon) start(id core.Identity, image core.Image, in *inbox) error {
	w, err := newWorld(d, id, image, in)
	if err != nil {
		return err
	}
	d.world.Store(w)
	return nil
}

// fail ends the daemon; the first reason counts.
func (d *daemon) fail(err error) {
	select {
	case d.failed <- err:
	default:
	}
}

func (d *daemon) deliver(in core.Input) {
	if w := d.world.Load(); w != nil {
		w.inbox.put(in)
	}
}

// close finishes what clients have asked, and lets go of everything. VMs live on.
func (d *daemon) close(patience time.Duration) error {
	var errs []error
	if d.server != nil {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := d.server.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			errs = append(errs, err)
		}
	}
	d.life.Lock()
	defer d.life.Unlock()
	d.ended = true
	w := d.world.Load()
	if w != nil {
		w.stop()
	}
	if d.peers != nil {
		d.peers.Close()
	}
	if w != nil {
		w.close()
	}
	if d.disk != nil {
		errs = append(errs, d.disk.Close())
	}
	return errors.Join(errs...)
}

func listenError(address string, err error) error {
	f := &failure{code: exitError, what: "cannot listen on " + address, why: err.Error()}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		_, port, _ := net.SplitHostPort(address)
		f.next = fmt.Sprintf("another program has that port (ss -ltnp 'sport = :%s' names it): stop it, or choose another with --listen HOST:PORT", port)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		f.next = "that address is not one of this machine's (ip addr shows them): --listen HOST:PORT"
	case errors.Is(err, syscall.EACCES):
		f.next = "ports below 1024 are for root: choose another with --listen HOST:PORT"
	}
	return f
}
