package runner

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/blixard/blixard/core"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/runner/nix"
)

// preparing is what this host holds ready for VMs that it does not run. Each
// order has the full list, so the newest alone counts.
type preparing struct {
	stop  context.CancelFunc
	over  chan struct{}
	ready map[string]string // store path by uid, as was last said
}

// prepared is who holds what is prepared for a VM: not the VM, which may be
// placed here and removed again.
const prepared = "prepared."

// prepareAgain is when what could not be had is tried again.
var prepareAgain = 30 * time.Second

// prepare takes a new list. It runs in the grants' queue, and waits for nothing
// but the end of what it was doing before.
func (h *Host) prepare(list []*blixardv1.Preparation) {
	if h.cfg.Nix == nil {
		return
	}
	p := &h.preparing
	before := p.over
	if p.stop != nil {
		p.stop()
	}
	ctx, cancel := context.WithCancel(h.ctx)
	p.stop, p.over = cancel, make(chan struct{})
	over := p.over
	h.wait.Go(func() {
		defer close(over)
		if before != nil {
			<-before
		}
		h.holdReady(ctx, list)
	})
}

func (h *Host) holdReady(ctx context.Context, list []*blixardv1.Preparation) {
	wanted := map[string]*blixardv1.Preparation{}
	for _, p := range list {
		if checkUID(p.GetUid()) == nil && p.GetRunner().GetStorePath() != "" {
			wanted[p.Uid] = p
		}
	}
	have := map[string]string{}
	for name, paths := range h.cfg.Nix.Holding() {
		uid, ours := strings.CutPrefix(name, prepared)
		if !ours {
			continue
		}
		path := wanted[uid].GetRunner().GetStorePath()
		if slices.Contains(paths, path) {
			have[uid] = path
			paths = []string{path}
		} else {
			paths = nil
		}
		h.warn("let go of what was prepared", h.cfg.Nix.Hold(name, paths...))
	}
	for {
		h.sayPrepared(have)
		missing := false
		for uid, p := range wanted {
			if have[uid] != "" {
				continue
			}
			r, err := h.cfg.Nix.Build(ctx, nix.Order{UID: prepared + uid, Name: uid, Want: p.Runner, Addresses: p.Addresses})
			if ctx.Err() != nil {
				return
			}
			if err == nil {
				err = h.cfg.Nix.Hold(prepared+uid, r.StorePath)
			}
			if err != nil {
				h.warn("a runner could not be made ready", err)
				missing = true
				continue
			}
			have[uid] = r.StorePath
			h.sayPrepared(have)
		}
		if !missing {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(prepareAgain):
		}
	}
}

// sayPrepared reports what is ready, when that is not what was last said.
func (h *Host) sayPrepared(have map[string]string) {
	p := &h.preparing
	same := p.ready != nil && len(p.ready) == len(have)
	all := []*blixardv1.Prepared{}
	said := map[string]string{}
	for uid, path := range have {
		said[uid] = path
		same = same && p.ready[uid] == path
		all = append(all, &blixardv1.Prepared{Uid: uid, StorePath: path})
	}
	if same {
		return
	}
	p.ready = said
	slices.SortFunc(all, func(a, b *blixardv1.Prepared) int { return strings.Compare(a.Uid, b.Uid) })
	h.observe(core.Observed{Prepared: all})
}

func (h *Host) warn(what string, err error) {
	if err != nil {
		h.cfg.Log.Warn(what, "err", err)
	}
}
