package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/runner"
)

// ServeCmd is serve's flags. Each may be in the file, in the environment, or
// here; the later wins. TLS is given by the global flags.
type ServeCmd struct {
	Config    string            `short:"c" env:"BLIXARD_CONFIG" placeholder:"FILE" help:"A TOML file."`
	Name      string            `env:"BLIXARD_NAME" help:"The node's name (the host's)."`
	DataDir   string            `env:"BLIXARD_DATA_DIR" placeholder:"DIR" help:"What must outlive a reboot (/var/lib/blixard)."`
	RunDir    string            `env:"BLIXARD_RUN_DIR" placeholder:"DIR" help:"Sockets and what runs now; a short path, in memory (/run/blixard)."`
	Cache     string            `env:"BLIXARD_CACHE_DIR" placeholder:"DIR" help:"What can be made again (DATA_DIR/cache)."`
	Listen    string            `env:"BLIXARD_LISTEN" placeholder:"HOST:PORT" help:"Where to listen (127.0.0.1:7946); beyond loopback only with TLS."`
	Advertise string            `env:"BLIXARD_ADVERTISE" placeholder:"HOST:PORT" help:"Where others reach us (the same)."`
	Role      []string          `env:"BLIXARD_ROLES" placeholder:"ROLE" help:"server, host, or both (the default)."`
	Vcpus     uint32            `env:"BLIXARD_VCPUS" help:"Offer so many vcpus (all)."`
	Memory    uint64            `env:"BLIXARD_MEMORY_MIB" placeholder:"MIB" help:"Offer so much memory (all but a reserve)."`
	Disk      uint64            `env:"BLIXARD_DISK_MIB" placeholder:"MIB" help:"Offer so much disk (what is free)."`
	Label     map[string]string `env:"BLIXARD_LABELS" mapsep:"," placeholder:"KEY=VALUE" help:"A label that VMs can require. May be repeated."`
	Device    []string          `env:"BLIXARD_DEVICES" placeholder:"KIND=ADDRESS" help:"A PCI device that VMs can have (gpu=0000:65:00.0); it must be bound to vfio-pci. May be repeated."`
	Cgroup    string            `env:"BLIXARD_CGROUP" placeholder:"DIR" help:"Where VMs get cgroups of their own (what systemd delegates, or the root); none for none."`
	VMUsers   string            `name:"vm-users" env:"BLIXARD_VM_USERS" placeholder:"FIRST-LAST" help:"Users that the hypervisors of images run as, one a VM, or the name of one for all (the daemon's own)."`
	Jailer    string            `env:"BLIXARD_JAILER" placeholder:"FILE" help:"Firecracker's jailer (the one in PATH, when the daemon is root and has --vm-users); none for none."`
	Nix       string            `env:"BLIXARD_NIX" placeholder:"FILE" help:"The nix program that builds NixOS VMs (the one in PATH, if any)."`
	AllowPath []string          `env:"BLIXARD_ALLOW_PATHS" placeholder:"DIR" help:"A folder of this host in which VMs' shares may be (none). May be repeated."`
	LogLevel  string            `env:"BLIXARD_LOG_LEVEL" placeholder:"LEVEL" help:"debug, info, warn or error (info)."`
	LogFormat string            `env:"BLIXARD_LOG_FORMAT" placeholder:"FORMAT" help:"text or json (text)."`
}

// Config is everything that a daemon is told on this machine. What the nodes
// must agree on is not here: it is in the replicated state.
type Config struct {
	// Name of the node: [a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?. It is given to the
	// cluster at init or join, and cannot be changed after that.
	Name string `toml:"name"`
	// DataDir keeps the database, the artifacts and the VMs' disks.
	DataDir string `toml:"data_dir"`
	// RunDir keeps the VMs' sockets, locks and lease pages. At most 60 bytes.
	RunDir string `toml:"run_dir"`
	// Cache keeps what can be made again.
	Cache string `toml:"cache"`
	// Listen and Advertise are HOST:PORT.
	Listen    string `toml:"listen"`
	Advertise string `toml:"advertise"`
	// Roles are server and host.
	Roles    []string          `toml:"roles"`
	TLS      TLSConfig         `toml:"tls"`
	Capacity CapacityConfig    `toml:"capacity"`
	Labels   map[string]string `toml:"labels"`
	// Devices are the PCI addresses of devices that VMs can have, by their kinds:
	// gpu = ["0000:65:00.0"]. They must be bound to vfio-pci.
	Devices map[string][]string `toml:"devices"`
	// Cgroup is a folder of a cgroup2 file system in which no process is, and in which
	// VMs get cgroups of their own; empty: what systemd has delegated, or the root;
	// none: they get none.
	Cgroup string `toml:"cgroup"`
	// VMUsers are those that the hypervisors of images run as, when the daemon is root:
	// FIRST-LAST, ids that are nobody's, of which each VM has one; or the name of one
	// user. Empty: the daemon's own.
	VMUsers string `toml:"vm_users"`
	// Jailer is the program that Firecracker of images runs in, which needs VMUsers; empty:
	// the one in PATH, when it can be used; none: Firecracker runs without. A daemon that
	// cannot use the one that is named does not start.
	Jailer string    `toml:"jailer"`
	Nix    NixConfig `toml:"nix"`
	Log    LogConfig `toml:"log"`
}

// NixConfig says how NixOS VMs are built on this host.
type NixConfig struct {
	// Path is the nix program, with its others (nix-store) beside it; empty: the
	// one in PATH. Where there is none, the host runs no NixOS VMs.
	Path string `toml:"path"`
	// Jobs is how many are built at once; 0: one for every 2 GiB of memory and
	// every two CPUs, whichever are fewer.
	Jobs int `toml:"jobs"`
	// Timeout bounds one build, such as "30m"; empty: an hour.
	Timeout string `toml:"timeout"`
	// MemoryMib bounds one evaluation; 0: 4096.
	MemoryMib uint64 `toml:"memory_mib"`
	// AllowPaths are folders of this host in which VMs' shares, and a NixOS VM's
	// volumes with an absolute path, may be. Empty: none.
	AllowPaths []string `toml:"allow_paths"`
}

// TLSConfig names three PEM files; all or none.
type TLSConfig struct {
	Cert string `toml:"cert"`
	Key  string `toml:"key"`
	CA   string `toml:"ca"`
}

// CapacityConfig replaces what the host found of itself; 0 leaves it.
type CapacityConfig struct {
	Vcpus     uint32 `toml:"vcpus"`
	MemoryMib uint64 `toml:"memory_mib"`
	DiskMib   uint64 `toml:"disk_mib"`
}

type LogConfig struct {
	Level  string `toml:"level"`
	Format string `toml:"format"`
}

// config is the file, then the environment and the flags (which kong has merged),
// then the defaults.
func (c *ServeCmd) config(g *Globals) (*Config, error) {
	cfg := &Config{}
	if c.Config != "" {
		b, err := os.ReadFile(c.Config)
		if err != nil {
			return nil, usagef("configuration: %v", err)
		}
		if err := parseConfig(b, cfg); err != nil {
			return nil, usagef("configuration: %s: %v", c.Config, err)
		}
	}
	set(&cfg.Name, c.Name)
	set(&cfg.DataDir, c.DataDir)
	set(&cfg.RunDir, c.RunDir)
	set(&cfg.Cache, c.Cache)
	set(&cfg.Listen, c.Listen)
	set(&cfg.Advertise, c.Advertise)
	set(&cfg.TLS.Cert, g.TLSCert)
	set(&cfg.TLS.Key, g.TLSKey)
	set(&cfg.TLS.CA, g.TLSCA)
	set(&cfg.Capacity.Vcpus, c.Vcpus)
	set(&cfg.Capacity.MemoryMib, c.Memory)
	set(&cfg.Capacity.DiskMib, c.Disk)
	set(&cfg.Cgroup, c.Cgroup)
	set(&cfg.VMUsers, c.VMUsers)
	set(&cfg.Jailer, c.Jailer)
	set(&cfg.Nix.Path, c.Nix)
	set(&cfg.Log.Level, c.LogLevel)
	set(&cfg.Log.Format, c.LogFormat)
	if len(c.Role) > 0 {
		cfg.Roles = c.Role
	}
	if len(c.Label) > 0 {
		labels := maps.Clone(cfg.Labels)
		if labels == nil {
			labels = map[string]string{}
		}
		maps.Copy(labels, c.Label)
		cfg.Labels = labels
	}
	for _, d := range c.Device {
		kind, address, _ := strings.Cut(d, "=")
		if cfg.Devices == nil {
			cfg.Devices = map[string][]string{}
		}
		if !slices.Contains(cfg.Devices[kind], address) {
			cfg.Devices[kind] = append(cfg.Devices[kind], address)
		}
	}
	for _, p := range c.AllowPath {
		if !slices.Contains(cfg.Nix.AllowPaths, p) {
			cfg.Nix.AllowPaths = append(cfg.Nix.AllowPaths, p)
		}
	}
	if err := cfg.defaults(); err != nil {
		return nil, err
	}
	return cfg, cfg.validate()
}

func set[T comparable](field *T, v T) {
	var zero T
	if v != zero {
		*field = v
	}
}

func parseConfig(b []byte, cfg *Config) error {
	err := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields().Decode(cfg)
	var strict *toml.StrictMissingError
	var syntax *toml.DecodeError
	switch {
	case errors.As(err, &strict):
		var s []string
		for _, e := range strict.Errors {
			line, _ := e.Position()
			s = append(s, fmt.Sprintf("line %d: unknown key %s", line, strings.Join(e.Key(), ".")))
		}
		return errors.New(strings.Join(s, "; "))
	case errors.As(err, &syntax):
		line, column := syntax.Position()
		return fmt.Errorf("line %d, column %d: %s", line, column, strings.TrimPrefix(syntax.Error(), "toml: "))
	}
	return err
}

func (c *Config) defaults() (err error) {
	if c.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return usagef("this machine has no name (%v): give --name", err)
		}
		host, _, _ = strings.Cut(strings.ToLower(host), ".")
		c.Name = host
	}
	c.DataDir = or(c.DataDir, "/var/lib/blixard")
	c.RunDir = or(c.RunDir, runner.DefaultRunRoot())
	for _, d := range []*string{&c.DataDir, &c.RunDir, &c.Nix.Path} {
		if *d == "" {
			continue // no Nix is named
		}
		if *d, err = filepath.Abs(*d); err != nil {
			return err
		}
	}
	c.Cache = or(c.Cache, filepath.Join(c.DataDir, "cache"))
	c.Listen = or(c.Listen, "127.0.0.1:"+defaultPort)
	c.Log.Level = or(c.Log.Level, "info")
	c.Log.Format = or(c.Log.Format, "text")
	if len(c.Roles) == 0 {
		c.Roles = []string{"server", "host"}
	}
	return nil
}

var nodeName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// maxRunDir leaves room for an instance's directory and its socket in the 107
// bytes that a Unix socket's path may have.
const maxRunDir = 60

func (c *Config) validate() error {
	if !nodeName.MatchString(c.Name) {
		return usagef("name %q: want 1 to 63 of a-z, 0-9 and -, with no - at either end; --name sets it", c.Name)
	}
	if len(c.RunDir) > maxRunDir {
		return usagef("run_dir %s has %d bytes, and sockets leave room for %d: choose a shorter one", c.RunDir, len(c.RunDir), maxRunDir)
	}
	for _, r := range c.Roles {
		if r != "server" && r != "host" {
			return usagef("role %q: want server or host", r)
		}
	}
	for key, a := range map[string]string{"listen": c.Listen, "advertise": c.Advertise} {
		if a == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(a); err != nil {
			return usagef("%s %q: %v; want HOST:PORT", key, a, err)
		}
	}
	if host, _, _ := net.SplitHostPort(c.Listen); c.Advertise == "" {
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			return usagef("listen %q is every address of this machine: --advertise HOST:PORT must say which one others use", c.Listen)
		}
	}
	if n := len(slices.DeleteFunc([]string{c.TLS.Cert, c.TLS.Key, c.TLS.CA}, func(s string) bool { return s == "" })); n != 0 && n != 3 {
		return usagef("tls: cert, key and ca go together; %d of them are given", n)
	}
	if _, err := c.devices(); err != nil {
		return err
	}
	if c.Cgroup != "" && c.Cgroup != "none" && !filepath.IsAbs(c.Cgroup) {
		return usagef("cgroup %q: want a folder below /sys/fs/cgroup, or none", c.Cgroup)
	}
	if err := c.Nix.validate(); err != nil {
		return err
	}
	if _, err := c.Log.logger(io.Discard); err != nil {
		return err
	}
	return nil
}

// devices are those that VMs can have, in the order of their kinds.
func (c *Config) devices() (list []*blixardv1.Device, err error) {
	seen := map[string]string{}
	for _, kind := range slices.Sorted(maps.Keys(c.Devices)) {
		for _, address := range c.Devices[kind] {
			d := &blixardv1.Device{Kind: kind, Address: strings.ToLower(address)}
			if why := cluster.ValidateDevice(d); why != nil {
				return nil, usagef("device %s=%s: %s; %s", kind, address, why.Message, why.Advice)
			}
			if other, twice := seen[d.Address]; twice {
				return nil, usagef("device %s=%s: it is a %s already", kind, address, other)
			}
			seen[d.Address] = kind
			list = append(list, d)
		}
	}
	if len(list) > cluster.MaxDevices {
		return nil, usagef("%d devices are too many: a host gives at most %d", len(list), cluster.MaxDevices)
	}
	return list, nil
}

// maxAllowPaths bounds what the cluster knows of a host's folders.
const maxAllowPaths = 64

func (c *NixConfig) validate() error {
	if c.Path != "" && findParser(c.Path, nil) == nil {
		return usagef("nix.path %s: there is no nix-instantiate beside it; name the nix program of an installed Nix, or leave it out for the one in PATH", c.Path)
	}
	if _, err := c.timeout(); err != nil || c.Jobs < 0 {
		return usagef("nix.timeout %q, nix.jobs %d: want a time such as 30m, and a number above 0", c.Timeout, c.Jobs)
	}
	if n := len(c.AllowPaths); n > maxAllowPaths {
		return usagef("nix.allow_paths: %d folders are too many; want at most %d", n, maxAllowPaths)
	}
	for _, p := range c.AllowPaths {
		if !filepath.IsAbs(p) {
			return usagef("--allow-path (nix.allow_paths): %q is no absolute path", p)
		}
	}
	return nil
}

func (c *NixConfig) timeout() (time.Duration, error) {
	if c.Timeout == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(c.Timeout)
	if err == nil && d <= 0 {
		err = errors.New("no time at all")
	}
	return d, err
}

func (c *Config) is(role string) bool { return slices.Contains(c.Roles, role) }

func (c *Config) capacity() *blixardv1.Resources {
	return &blixardv1.Resources{Vcpus: c.Capacity.Vcpus, MemoryMib: c.Capacity.MemoryMib, DiskMib: c.Capacity.DiskMib}
}

func (c LogConfig) logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		return nil, usagef("log level %q: want debug, info, warn or error", c.Level)
	}
	o := &slog.HandlerOptions{Level: level}
	switch c.Format {
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return nil, usagef("log format %q: want text or json", c.Format)
}
