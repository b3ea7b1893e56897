package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"github.com/blixard/blixard/nixflake"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/runner/nix"
	"github.com/blixard/blixard/vmm/shim"
)

// nixDriver runs what Nix built: a runner of microvm.nix, whatever hypervisor it
// has chosen. It does what microvm.nix's own host module has systemd do, with the
// shim and its steps in systemd's place:
//
//	tap-up, macvtap-up, pci-setup    as root, each where the runner has it
//	virtiofsd-run                    as root, until its sockets are there
//	microvm-run                      as the user microvm, in the VM's folder
//	microvm-shutdown                 on Stop, of the runner that was booted
//	tap-down, macvtap-down           when nothing of it is alive: see takeDown
//
// The folder is "vm" in the VM's state directory; relative volumes are in it. It
// is not that directory itself, for it belongs to the user that the hypervisor
// runs as, and what is ours must not.
type nixDriver struct {
	h       *Host
	builder Builder    // nil: to watch only
	user    *shim.User // nil: as ourselves
}

// runnerPath is where scripts look for programs that they do not name by a store
// path: on NixOS, and elsewhere.
const runnerPath = "PATH=/run/wrappers/bin:/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func machineDir(p place) string { return filepath.Join(p.state, "vm") }

// microvmUser is who microvm.nix lets hypervisors run as.
func (h *Host) microvmUser() *shim.User {
	log := func(why any) {
		h.cfg.Log.Info("hypervisors of NixOS VMs run as the daemon's own user", "why", why)
	}
	if os.Geteuid() != 0 {
		log("it is not root")
		return nil
	}
	u, err := user.Lookup("microvm")
	if err != nil {
		log(err)
		return nil
	}
	group := u.Gid
	if g, err := user.LookupGroup("kvm"); err == nil {
		group = g.Gid
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(group, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		log(err)
		return nil
	}
	found := &shim.User{UID: uint32(uid), GID: uint32(gid)}
	if ids, err := u.GroupIds(); err == nil {
		for _, id := range ids {
			if n, err := strconv.ParseUint(id, 10, 32); err == nil {
				found.Groups = append(found.Groups, uint32(n))
			}
		}
	}
	return found
}

func (n *nixDriver) needs(a *blixardv1.Assignment) ([]*blixardv1.Artifact, error) {
	spec := a.GetSpec()
	for _, v := range spec.GetNixos().GetVolumes() {
		if p := v.GetData().GetPath(); filepath.IsAbs(p) && !n.h.cfg.allowsPath(p) {
			return nil, n.h.cfg.forbidden("the volume", p)
		}
	}
	for _, s := range spec.GetNixos().GetShares() {
		if !n.h.cfg.allowsPath(s.Source) {
			return nil, n.h.cfg.forbidden("the share "+s.Tag, s.Source)
		}
	}
	var all []*blixardv1.Artifact
	for _, m := range spec.GetNixos().GetModules() {
		if f := m.GetFile(); f != nil {
			all = append(all, f)
		}
	}
	if p := spec.GetFlake().GetPacked(); p != nil {
		all = append(all, p)
	}
	if l := a.GetPins().GetLock(); l != nil && spec.GetNixos() != nil {
		all = append(all, l)
	}
	return all, nil
}

func (n *nixDriver) build(ctx context.Context, a *blixardv1.Assignment, log io.Writer) (*blixardv1.Runner, error) {
	open := func(digest string) (io.ReadCloser, error) { return n.h.cfg.Store.Open(ctx, digest) }
	pins := nixflake.Pins{
		Nixpkgs: a.Pins.GetNixpkgs(), FlakeParts: a.Pins.GetFlakeParts(), Microvm: a.Pins.GetMicrovm(), Modules: a.Pins.GetModules(),
	}
	if l := a.Pins.GetLock(); l != nil && a.Spec.GetNixos() != nil {
		f, err := open(l.Digest)
		if err != nil {
			return nil, err
		}
		text, err := io.ReadAll(f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("read the pinned flake.lock: %w", err)
		}
		pins.Lock = string(text)
	}
	files, err := nixflake.Render(n.h.cfg.ClusterID, nixflake.VM{Name: a.Name, UID: a.Uid, Spec: a.Spec}, pins)
	if err != nil {
		return nil, err
	}
	runner, err := n.builder.Build(ctx, nix.Order{
		UID: a.Uid, Name: a.Name, Files: files, Open: open, Fresh: a.Fresh,
		Want: a.Runner, Addresses: a.RunnerAddresses, Log: log,
	})
	if err != nil {
		return nil, err
	}
	return runner, n.checkShares(runner.StorePath)
}

// checkShares looks at what the runner itself says that it shares: a module, or a
// flake of the user's, may say more than the spec. The store is everybody's.
func (n *nixDriver) checkShares(runner string) error {
	for _, tag := range shareTags(runner) {
		source, err := nix.Fact(runner, "virtiofs", tag, "source")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if source != "" && source != filepath.Dir(runner) && filepath.IsAbs(source) && !n.h.cfg.allowsPath(source) {
			return n.h.cfg.forbidden("the share "+tag, source)
		}
	}
	return nil
}

func shareTags(runner string) (tags []string) {
	list, _ := os.ReadDir(filepath.Join(runner, "share", "microvm", "virtiofs"))
	for _, e := range list {
		tags = append(tags, e.Name())
	}
	return tags
}

func (n *nixDriver) prepare(_ context.Context, p place, a *blixardv1.Assignment, i shim.Instance) (command, error) {
	if !n.h.holds && a.Lease == blixardv1.LeaseClass_LEASE_CLASS_SHORT {
		// A runner is scripts, which fork; see process.
		return command{}, errors.New("this host cannot hold what a runner forks (it has no PID namespaces for us): it waits until the cluster knows")
	}
	dir, runner := machineDir(p), a.Runner.StorePath
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return command{}, err
	}
	if n.user != nil {
		if err := os.Chown(dir, int(n.user.UID), int(n.user.GID)); err != nil {
			return command{}, err
		}
	}
	script := func(name string) []string {
		path := filepath.Join(runner, "bin", name)
		if _, err := os.Stat(path); err != nil {
			return nil
		}
		return []string{path}
	}
	steps := &shim.Steps{Stop: script("microvm-shutdown")}
	for _, name := range []string{"tap-up", "macvtap-up", "pci-setup"} {
		if argv := script(name); argv != nil {
			steps.Before = append(steps.Before, argv)
		}
	}
	if argv := script("virtiofsd-run"); argv != nil {
		steps.Beside = shim.Programs{argv}
		for _, tag := range shareTags(runner) {
			s, err := nix.Fact(runner, "virtiofs", tag, "socket")
			if err != nil {
				return command{}, err
			}
			steps.Sockets = append(steps.Sockets, s)
		}
	}
	c := command{
		argv: []string{filepath.Join(runner, "bin", "microvm-run")},
		// Of the daemon's own environment nothing: NOTIFY_SOCKET least of all.
		env: []string{runnerPath, "BLIXARD_NAME=" + a.Name, "BLIXARD_UID=" + i.UID, fmt.Sprintf("BLIXARD_ATTEMPT=%d", i.Attempt)},
		dir: dir, output: p.console, pidNamespace: n.h.holds, user: n.user, steps: steps,
	}
	return c, n.askable(p, &c, runner)
}
