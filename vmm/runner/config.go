package runner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/blixard/blixard/core"
	"github.com/blixard/blixard/core/schedule"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/runner/artifact"
	"github.com/blixard/blixard/vmm/runner/nix"
	"github.com/blixard/blixard/vmm/runner/shims"
)

// Config is what a Host is told.
type Config struct {
	// ClusterID and HostID are the identity of this host: they choose the run
	// directory. HostID is the one in shim.Host.ID.
	ClusterID, HostID string
	// StateDir is on a disk, and this daemon's own.
	StateDir string
	// RunRoot is on tmpfs, and the same for all daemons of this machine; empty:
	// DefaultRunRoot.
	RunRoot string
	// Store has the artifacts; Fetcher brings what it lacks, and may be nil.
	Store   *artifact.Store
	Fetcher artifact.Fetcher
	// Observe takes what was seen, one call after the other. It may block for
	// a while; nothing is lost meanwhile, and no VM waits.
	Observe func(core.Observed)
	// Answered hears of every order of a VM that was answered, how ("ok", "failed",
	// or "overtaken" by a later one) and how long after it was taken up; nil: nobody
	// wants to know. Booted hears, likewise, of every guest that was seen to run, how
	// long after its Start was taken up.
	Answered func(order vmm.Verb, result string, took time.Duration)
	Booted   func(h blixardv1.Hypervisor, took time.Duration)
	// Log takes what is of use to operators only; nil: nowhere.
	Log *slog.Logger

	// Capacity replaces what was found; a field that is 0 does not.
	Capacity *blixardv1.Resources
	// Labels of this host.
	Labels map[string]string
	// Devices that it gives to VMs, each once. Those that cannot be given away are
	// logged, and not reported.
	Devices []*blixardv1.Device
	// Version of the daemon.
	Version string
	// Hypervisors that may be used, of those found; empty: all.
	Hypervisors []blixardv1.Hypervisor
	// Programs are where hypervisors are; those that are not there are looked for
	// in PATH, under the names that they usually have.
	Programs map[blixardv1.Hypervisor]string
	// NoKVM emulates even where KVM is usable.
	NoKVM bool
	// Nix builds what NixOS VMs and flakes run; nil: this host runs none.
	Nix Builder
	// AllowPaths are folders of this host in which VMs' shares, and a NixOS VM's
	// absolute volumes, may be.
	AllowPaths []string
	// Passage connects to the host that a guest goes to, which has admitted it (Admit)
	// when there is no error; nil: guests are not moved while they run.
	Passage func(context.Context, Passage) (Stream, error)
	// Cgroup is the folder of a cgroup2 file system in which VMs get cgroups of their
	// own; empty: found, where there is one that is ours to divide; "none": they get
	// none.
	Cgroup string
	// Virtiofsd serves shares of images; empty: where distributions have it.
	Virtiofsd string
	// Users are those that the hypervisors of images run as, when the daemon is root:
	// FIRST-LAST, or the name of one; empty: the daemon's own.
	Users string
	// Jailer is the program that Firecracker of images runs in; empty: the one in PATH,
	// when it can be used; "none": it runs without. One that is named must be of use.
	Jailer string
	// Spawner starts the shims.
	Spawner shims.Spawner
}

// Builder is nix.Builder, or a fake of it.
type Builder interface {
	Build(context.Context, nix.Order) (*blixardv1.Runner, error)
	Hold(uid string, paths ...string) error
	Holding() map[string][]string
}

// DefaultRunRoot is where run directories are, unless told otherwise.
func DefaultRunRoot() string {
	if os.Geteuid() == 0 {
		return "/run/blixard"
	}
	if d := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(d) {
		return filepath.Join(d, "blixard")
	}
	return "/tmp/blixard-" + strconv.Itoa(os.Geteuid())
}

func (c *Config) validate() error {
	switch {
	case c.ClusterID == "" || c.HostID == "":
		return errors.New("runner: a host needs the ids of its cluster and of itself")
	case !filepath.IsAbs(c.StateDir):
		return errors.New("runner: the state directory must be an absolute path")
	case c.Store == nil || c.Observe == nil:
		return errors.New("runner: a host needs an artifact store and somebody to report to")
	}
	if c.RunRoot == "" {
		c.RunRoot = DefaultRunRoot()
	}
	if !filepath.IsAbs(c.RunRoot) {
		return errors.New("runner: the run directory must be an absolute path")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

func (c *Config) allows(h blixardv1.Hypervisor) bool {
	if len(c.Hypervisors) == 0 {
		return true
	}
	for _, allowed := range c.Hypervisors {
		if allowed == h {
			return true
		}
	}
	return false
}

// allowsPath says whether a guest may have what is at a path of the host.
func (c *Config) allowsPath(path string) bool {
	return schedule.Within(path, c.AllowPaths)
}

func (c *Config) forbidden(what, path string) error {
	may := "this host allows none"
	if len(c.AllowPaths) > 0 {
		may = "this host allows " + strings.Join(c.AllowPaths, ", ")
	}
	return fmt.Errorf("%s is %s on the host, which its guests may not have: %s. Its operator adds folders by --allow-path, or nix.allow_paths in the daemon's configuration", what, path, may)
}
