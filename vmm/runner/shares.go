package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/runner/shimproc"
	"github.com/blixard/blixard/vmm/shim"
)

// A share of an image is a folder of this host that a virtiofsd serves to the
// hypervisor over a vhost-user socket:
//
//	init ─┬─ virtiofsd      as root, one a share: its files are the host's
//	      └─ QEMU           as the VM's user; its memory is virtiofsd's to see
//
// Both are steps of one shim, in one PID namespace and one cgroup, so none outlives
// the other by more than the VM's end: a guest whose virtiofsd has ended would wait for it
// for ever, so that is the VM's end, too, and its restart policy's to answer. What virtiofsd may see at all is prepared by
// `blixard-shim -share`.

// sharer serves folders.
type sharer struct {
	cfg     *Config
	program string
	rust    bool // the newer virtiofsd, which has other options
}

// share is one of a boot.
type share struct {
	tag, socket string
	step        []string
}

// virtiofsdPlaces are where distributions have it.
var virtiofsdPlaces = []string{"virtiofsd", "/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd"}

// findSharer says why this host cannot share folders with VMs of images.
func (h *Host) findSharer() (*sharer, error) {
	switch {
	case os.Geteuid() != 0:
		return nil, errors.New("the daemon is not root, which virtiofsd must be")
	case !h.holds:
		return nil, errors.New("the daemon cannot make PID namespaces, which hold virtiofsd")
	}
	places := virtiofsdPlaces
	if h.cfg.Virtiofsd != "" {
		places = []string{h.cfg.Virtiofsd}
	}
	s := &sharer{cfg: &h.cfg}
	for _, p := range places {
		found, err := exec.LookPath(p)
		if err != nil {
			continue
		}
		if s.program, err = filepath.Abs(found); err == nil {
			break
		}
	}
	if s.program == "" {
		return nil, fmt.Errorf("there is no %s: install virtiofsd and restart the daemon", strings.Join(places, ", "))
	}
	ctx, cancel := context.WithTimeout(h.ctx, versionPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.program, "--version")
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s --version: %w", s.program, err)
	}
	s.rust = !strings.HasPrefix(string(out), "virtiofsd version") // as QEMU's own says it
	h.cfg.Log.Info("folders can be shared with VMs of images", "program", s.program, "version", versionIn(string(out)))
	return s, nil
}

// check refuses a folder that guests may not have, as its path says.
func (s *sharer) check(list []*blixardv1.Share) error {
	for _, sh := range list {
		if !s.cfg.allowsPath(sh.Source) {
			return s.cfg.forbidden("the share "+sh.Tag, sh.Source)
		}
	}
	return nil
}

// shares are those of a boot, each with its place in the VM's run directory.
func (s *sharer) shares(p place, list []*blixardv1.Share) (all []share, err error) {
	if len(list) == 0 {
		return nil, nil
	}
	if s.program == "" {
		return nil, errors.New("this host cannot share its folders with VMs of images: 'blixard node get' says why")
	}
	for i, sh := range list {
		source, err := s.source(sh)
		if err != nil {
			return nil, err
		}
		made := share{tag: sh.Tag, socket: filepath.Join(p.run, fmt.Sprintf("fs%d", i))}
		at := filepath.Join(p.run, fmt.Sprintf("fs%d.d", i))
		if err := os.Mkdir(at, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
		made.step = shimproc.ShareStep(source, at, made.socket, sh.ReadOnly, p.user, s.server(at)...)
		all = append(all, made)
	}
	return all, nil
}

// source is the folder itself: a link in a folder that is allowed leads out of it only
// to another that is. Links that come between this look and the mount are not followed.
func (s *sharer) source(sh *blixardv1.Share) (string, error) {
	source, err := filepath.EvalSymlinks(sh.Source)
	if err != nil {
		return "", fmt.Errorf("the share %s: %w: make the folder on this host, or name another", sh.Tag, err)
	}
	real := *s.cfg
	real.AllowPaths = nil
	for _, a := range s.cfg.AllowPaths {
		if a, err := filepath.EvalSymlinks(a); err == nil {
			real.AllowPaths = append(real.AllowPaths, a)
		}
	}
	if !real.allowsPath(source) {
		return "", real.forbidden("the share "+sh.Tag, source)
	}
	if st, err := os.Stat(source); err != nil || !st.IsDir() {
		return "", errors.Join(fmt.Errorf("the share %s: %s is no folder", sh.Tag, source), err)
	}
	return source, nil
}

// server is what serves a folder on its descriptor 3.
func (s *sharer) server(folder string) []string {
	if s.rust {
		return []string{s.program, "--shared-dir", folder, "--fd=3", "--log-level", "error"}
	}
	return []string{s.program, "-f", "--fd=3", "-o", "source=" + folder + ",log_level=err"}
}

// beside has a command run with what serves its shares.
func (b boot) beside(c command) command {
	if len(b.shares) == 0 {
		return c
	}
	c.pidNamespace, c.shape, c.steps = true, "", new(shim.Steps) // what is open in a share stays here
	for _, s := range b.shares {
		c.steps.Beside = append(c.steps.Beside, s.step)
		c.steps.Sockets = append(c.steps.Sockets, s.socket)
	}
	return c
}
