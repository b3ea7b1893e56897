package runner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
)

// built is what of Nix's a VM has: all of it is kept from being collected until
// the VM is removed here. For people, booted and current are links in the VM's
// directory, too.
type built struct {
	vmm.Runners
	// Up: what booted has set up on the host outside of the instance's processes
	// is to be taken down once it is dead.
	Up bool `json:"up,omitempty"`
}

// of is what was built for the spec of a generation, if it is what was last.
func (b *built) of(generation uint32) string {
	if b == nil {
		return ""
	}
	return b.Of(generation)
}

// have says that a path was built for a generation.
func (b *built) have(path string, generation uint32) *built {
	n := built{}
	if b != nil {
		n = *b
	}
	n.Runners = n.Have(path, generation)
	return &n
}

// boot says that an attempt is about to be started with what was built for it.
func (b *built) boot(a *blixardv1.Assignment) *built {
	n := built{}
	if b != nil {
		n = *b
	}
	n.Runners, n.Up = n.Boot(a.GetRunner().GetStorePath(), a.SpecGeneration), true
	return &n
}

// hold has Nix keep what the VM has, and no more; and links it.
func (v *vm) hold() {
	if v.h.cfg.Nix == nil || v.rec != nil && v.rec.Nix == nil {
		return // what cannot be told is kept as it is
	}
	var err error
	if v.rec == nil {
		err = v.h.cfg.Nix.Hold(v.uid)
	} else {
		err = errors.Join(v.h.cfg.Nix.Hold(v.uid, v.rec.Nix.Paths()...),
			link(v.at.state, "booted", v.rec.Nix.Booted), link(v.at.state, "current", v.rec.Nix.Current))
	}
	if err != nil {
		v.h.cfg.Log.Warn("what was built for a VM may be collected, or is kept too long", "uid", v.uid, "err", err)
	}
}

// link makes a symbolic link, in place of the one that is there.
func link(dir, name, to string) error {
	path := filepath.Join(dir, name)
	if at, err := os.Readlink(path); err == nil && at == to || to == "" {
		return nil
	}
	tmp := path + ".new"
	_ = os.Remove(tmp)
	return errors.Join(os.Symlink(to, tmp), os.Rename(tmp, path))
}

const downPatience = 20 * time.Second

// takeDown takes down what was set up on the host for an instance, when nothing
// of it is alive any more: its taps, and once what the booted runner has made.
// Both scripts do no harm when there is nothing to take down.
func (v *vm) takeDown() {
	v.h.volumes.drop(v.uid)
	if v.rec != nil && v.rec.Plugs > 0 {
		if err := v.h.links.Unplug(v.uid); err != nil {
			v.h.cfg.Log.Warn("a VM is still plugged into its networks: that is done again when it is started or removed", "vm", v.rec.Instance, "err", err)
		}
	}
	if v.rec == nil || v.rec.Nix == nil || !v.rec.Nix.Up {
		return
	}
	for _, name := range []string{"tap-down", "macvtap-down"} {
		program := filepath.Join(v.rec.Nix.Booted, "bin", name)
		if _, err := os.Stat(program); err != nil {
			continue
		}
		if err := v.script(program); err != nil {
			v.h.cfg.Log.Info("an interface of a VM was not taken down", "vm", v.rec.Instance, "err", err)
		}
		if v.h.ctx.Err() != nil {
			return // cut short: the next daemon does it again
		}
	}
	n := *v.rec.Nix
	n.Up = false
	v.rec.Nix = &n
	v.note()
}

// script runs a program of a runner on the host, as ourselves.
func (v *vm) script(program string) error {
	ctx, cancel := context.WithTimeout(v.h.ctx, downPatience)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, program)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = []string{runnerPath}, machineDir(v.at), &out, &out
	if _, err := os.Stat(cmd.Dir); err != nil {
		cmd.Dir = "/"
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, lastLines(out.String(), 3, 300))
	}
	return nil
}
