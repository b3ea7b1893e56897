package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/blixard/blixard/core"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/runner/cgroup"
	"github.com/blixard/blixard/vmm/runner/console"
	"github.com/blixard/blixard/vmm/runner/lease"
	"github.com/blixard/blixard/vmm/runner/links"
)

// Host carries out the VM manager's orders on this machine: it implements
// core.Hypervisor.
type Host struct {
	cfg      Config
	at       layout
	guard    *guard
	boot     string // the kernel's boot id
	drivers  map[blixardv1.Hypervisor]driver
	versions map[blixardv1.Hypervisor]string
	devices  []*blixardv1.Device // that it gives to VMs
	sharer   *sharer
	nix      *nixDriver // nil: there is no Nix here
	holds    bool       // PID namespaces can be had
	// accelerates: KVM is of use.
	accelerates bool
	links       *links.Links
	cgroups     *cgroup.Tree // nil: there are none for us
	users       *users       // nil: hypervisors run as we do
	jailer      *jailer      // nil: Firecracker runs without
	agents      agents
	typing      typing

	ctx    context.Context // ends when the host is closed
	cancel context.CancelFunc
	wait   sync.WaitGroup

	out    *queue // observations, one after the other
	grants *queue // the leases'
	leases leases

	preparing preparing
	volumes   *volumes
	snapshots snapshots
	boots     boots

	mu     sync.Mutex
	closed bool
	vms    map[string]*vm // by uid
}

var _ core.Hypervisor = (*Host)(nil)

// New takes the host over: it excludes other daemons of the same identity, finds
// out what this machine can do, takes up whatever is alive, and reports all of it
// as its first observation.
func New(cfg Config) (*Host, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	boot, err := lease.BootID()
	if err != nil {
		return nil, err
	}
	h := &Host{cfg: cfg, at: newLayout(&cfg), boot: boot, vms: map[string]*vm{}, out: newQueue(), grants: newQueue()}
	if h.guard, err = h.at.guard(cfg.ClusterID, cfg.HostID); err != nil {
		return nil, err
	}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.links = links.New(cfg.RunRoot, cfg.ClusterID+" "+cfg.HostID)
	h.volumes = newVolumes(cfg.StateDir, h.at.trash(), h.observe, h.warn)
	h.leases = leases{dir: h.at.leases(), pages: map[string]*lease.Page{}, log: cfg.Log}
	if err := h.open(); err != nil {
		h.cancel()
		if h.cgroups != nil {
			h.cgroups.Close()
		}
		h.guard.release()
		return nil, err
	}
	return h, nil
}

func (h *Host) open() error {
	if err := h.at.make(h.boot); err != nil {
		return fmt.Errorf("make the host's directories: %w", err)
	}
	kept, err := h.volumes.begin()
	if err != nil {
		return fmt.Errorf("look at the volumes: %w", err)
	}
	facts, err := h.discover()
	if err != nil {
		return err
	}
	found, err := h.inventory()
	if err != nil {
		return err
	}
	var uids []string
	for _, v := range found {
		uids = append(uids, v.uid)
	}
	h.warn("links of VMs that are gone were not all removed", h.links.Sweep(uids))
	if h.cgroups != nil {
		h.warn("cgroups of VMs that are gone were not all removed", h.cgroups.Sweep(uids))
	}
	h.warn("what an earlier daemon left of snapshots was not all removed", h.clearSnapshots())
	h.warn("saved boots of VMs that are gone were not all removed", h.boots.begin(h.at.boots(), h.boot, uids))
	pages, err := h.leases.held()
	if err != nil {
		return err
	}
	if h.cgroups != nil { // there may be many, and they are in nobody's way
		h.wait.Go(func() { h.warn("cgroups of daemons that are gone were not all removed", h.cgroups.SweepOthers(h.ctx)) })
	}
	h.wait.Go(h.out.run)
	h.wait.Go(h.grants.run)
	h.wait.Go(func() { h.every(tendEvery, h.trim) })
	h.wait.Go(h.volumes.q.run)
	h.wait.Go(func() { h.every(volumeAgain, func() { h.volumes.q.put(h.volumes.again) }) }) // what failed for a volume
	h.letGo(found)
	var reports []vmm.Report
	for _, v := range found {
		reports = append(reports, v.report())
		h.vms[v.uid] = v
	}
	h.observe(core.Observed{Inventory: true, Reports: reports, Facts: facts, Pages: pages, Volumes: kept})
	for _, v := range found {
		h.wait.Go(v.q.run)
		v.q.put(v.resume)
	}
	return nil
}

// letGo lets go of what was built for VMs of which nothing is here, and holds
// what the others have. What was prepared is for the next list to say.
func (h *Host) letGo(found []*vm) {
	if h.cfg.Nix == nil {
		return
	}
	here := map[string]bool{}
	for _, v := range found {
		here[v.uid] = true
		v.hold()
	}
	for uid := range h.cfg.Nix.Holding() {
		if !here[uid] && !strings.HasPrefix(uid, prepared) {
			h.warn("let go of what was built", h.cfg.Nix.Hold(uid))
		}
	}
}

// observe never waits.
func (h *Host) observe(o core.Observed) { h.out.put(func() { h.cfg.Observe(o) }) }

// Do carries out an order. It never waits: what comes of it is observed.
func (h *Host) Do(a vmm.Action) {
	if a.Verb == vmm.Extend {
		h.grants.put(func() {
			if h.leases.extend(a.Host, a.Leases) {
				h.observe(core.Observed{Lapsed: a.Host.Epoch})
			}
		})
		return
	}
	if a.Verb == vmm.Prepare {
		h.grants.put(func() { h.prepare(a.Preparations) })
		return
	}
	if a.Verb == vmm.Keep {
		h.volumes.q.put(func() { h.volumes.keep(a.Volumes, a.Revision) })
		return
	}
	if a.Verb == vmm.KeepSnapshots {
		h.grants.put(func() { h.keepSnapshots(a.Keep) })
		return
	}
	if err := checkUID(a.Instance.UID); err != nil {
		h.observe(core.Observed{Done: []vmm.Done{{Action: a.ID, UID: a.Instance.UID, Err: err.Error()}}})
		return
	}
	if a.Verb == vmm.Probe {
		h.mu.Lock()
		defer h.mu.Unlock()
		if !h.closed {
			h.wait.Go(func() { h.probe(a) })
		}
		return
	}
	// The pages that were ordered before this are there before it is done.
	extended := make(chan struct{})
	h.grants.put(func() { close(extended) })
	for !h.vm(a.Instance.UID, func(v *vm) bool {
		v.overtake(a.Verb)
		return v.q.put(func() {
			select {
			case <-extended:
			case <-h.ctx.Done():
				return
			}
			v.do(a)
		})
	}) {
	}
}

// vm calls f with the VM, which it makes if need be. It says whether that
// worked: it does not while a VM is being forgotten.
func (h *Host) vm(uid string, f func(*vm) bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return true
	}
	v := h.vms[uid]
	if v == nil {
		v = h.newVM(uid)
		h.vms[uid] = v
		h.wait.Go(v.q.run)
	}
	if f(v) {
		return true
	}
	delete(h.vms, uid)
	return false
}

// forget drops a VM of which nothing is left, unless something waits for it.
func (h *Host) forget(v *vm) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.vms[v.uid] == v && v.q.closeIfIdle() {
		delete(h.vms, v.uid)
	}
}

// Logs reads the console log of a VM on this host, over all its attempts: the
// last tail bytes, or all that is kept when tail is 0. With follow it goes on
// until ctx ends, the VM is removed, or the reader is closed.
func (h *Host) Logs(ctx context.Context, uid string, follow bool, tail uint64) (io.ReadCloser, error) {
	if err := checkUID(uid); err != nil {
		return nil, err
	}
	r, err := console.Open(ctx, h.at.console(uid), follow, tail)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: VM %s has not been started on this host", ErrNoLog, uid)
	}
	return r, err
}

// BuildLogs reads the log of a VM's newest build on this host. With follow it
// goes on until that build has ended.
func (h *Host) BuildLogs(ctx context.Context, uid string, follow bool, tail uint64) (io.ReadCloser, error) {
	if err := checkUID(uid); err != nil {
		return nil, err
	}
	h.mu.Lock()
	v := h.vms[uid]
	h.mu.Unlock()
	done := v.building() // looked at before the log, which must not be one that has ended meanwhile
	r, err := console.Open(ctx, h.at.build(uid), follow, tail)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: nothing was built for VM %s on this host", ErrNoLog, uid)
	}
	if err != nil {
		return nil, err
	}
	r.Until(done)
	return r, nil
}

// ErrNoLog says that there is nothing to read yet.
var ErrNoLog = errors.New("no log")

// Close ends the host's work and disturbs no VM: the next Host takes them up.
func (h *Host) Close() {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return
	}
	h.closed = true
	vms := maps.Clone(h.vms)
	h.mu.Unlock()
	h.cancel()
	for _, v := range vms {
		v.q.close()
	}
	h.grants.close()
	h.volumes.q.close()
	h.out.close()
	h.wait.Wait()
	for _, v := range vms {
		v.drop()
	}
	h.agents.close()
	h.typing.close()
	h.leases.close()
	if h.cgroups != nil {
		h.cgroups.Close()
	}
	h.guard.release()
}

const tendEvery = 2 * time.Second

// every does something now and then, while the host lives.
func (h *Host) every(while time.Duration, do func()) {
	tick := time.NewTicker(while)
	defer tick.Stop()
	for {
		select {
		case <-h.ctx.Done():
			return
		case <-tick.C:
			do()
		}
	}
}

// trim keeps the logs within their bounds.
func (h *Host) trim() {
	for _, p := range h.places() {
		err := errors.Join(console.Trim(p.console, console.Keep), console.Trim(filepath.Join(p.state, buildLogFile), console.Keep),
			console.Trim(p.run+"/"+qemuLog, 1<<20), console.Trim(p.run+"/"+vmmLog, 1<<20))
		if err != nil {
			h.cfg.Log.Warn("a log was not trimmed", "err", err)
		}
	}
}

func (h *Host) places() (all []place) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, v := range h.vms {
		all = append(all, v.at)
	}
	return all
}
