package main

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A draft is one VM as its user described it: a spec whose artifacts are still
// words, such as the path of a file.
type draft struct {
	name string
	spec *blixardv1.VMSpec
	refs []ref
	// read is the VM that the spec was made from, when it was.
	read *blixardv1.VM
}

// ref is one artifact of a draft that has still to be found.
type ref struct {
	field  string // for errors: "kernel", "specs.yaml:4: image.kernel"
	text   string // a path, sha256:DIGEST or a name in the cluster
	base   string // relative paths start here; empty: our working directory
	folder bool   // it may be a folder with a flake, which is packed
	most   int64  // bytes; 0: any number
	kernel bool   // a file of ours must be one; what the cluster has, its host looks at
	target *blixardv1.Artifact
}

func (r ref) path() string {
	if filepath.IsAbs(r.text) {
		return r.text
	}
	return filepath.Join(r.base, r.text)
}

func (d *draft) refer(field, text, base string) *blixardv1.Artifact {
	a := &blixardv1.Artifact{}
	d.refs = append(d.refs, ref{field: field, text: text, base: base, target: a})
	return a
}

// draft makes a VM of flags. The cluster checks it completely; only what has
// no words in the API is checked here.
func (c *VMCreateCmd) draft() (*draft, error) {
	if c.Name == "" {
		return nil, usagef("a VM needs a name, or -f FILE")
	}
	d := &draft{name: c.Name, spec: &blixardv1.VMSpec{}}
	if err := c.SpecFlags.change(d, "--restart", c.Restart); err != nil {
		return nil, err
	}
	if err := c.SpecFlags.source(d, c.Argv); err != nil {
		return nil, err
	}
	if d.spec.Source == nil {
		return nil, usagef("a VM needs --flake REF, or --kernel WHAT (and mostly --initrd or --disk), or --process -- PROGRAM, or all of it in a file: -f FILE")
	}
	return d, nil
}

// change sets what flags say of a VM, beside what it boots.
func (c *SpecFlags) change(d *draft, policyFlag, policy string) (err error) {
	s := d.spec
	given(&s.Vcpus, c.Vcpus)
	given(&s.MemoryMib, c.Memory)
	given(&s.Priority, c.Priority)
	given(&s.Warm, c.Warm)
	given(&s.Prebuild, c.Prebuild)
	s.Labels = merge(s.Labels, c.Label)
	s.Require = merge(s.Require, c.Require)
	if c.Lease != nil {
		if s.LeaseMs, err = milliseconds("--lease", *c.Lease); err != nil {
			return err
		}
	}
	if c.StopGrace != nil {
		if s.StopGraceMs, err = milliseconds("--stop-grace", *c.StopGrace); err != nil {
			return err
		}
	}
	if err := c.networks(s); err != nil {
		return err
	}
	if err := c.volumes(s); err != nil {
		return err
	}
	if err := c.devices(s); err != nil {
		return err
	}
	if err := c.shares(s); err != nil {
		return err
	}
	if c.Health != "" {
		if s.Health, err = healthFlag(c.Health, s.Health); err != nil {
			return err
		}
	}
	if err := enumFlag(&s.Hypervisor, "--hypervisor", c.Hypervisor); err != nil {
		return err
	}
	if err := enumFlag(&s.Machine, "--machine", c.Machine); err != nil {
		return err
	}
	if err := enumFlag(&s.Restart, policyFlag, policy); err != nil {
		return err
	}
	if err := enumFlag(&s.OnUpdate, "--on-update", c.OnUpdate); err != nil {
		return err
	}
	return enumFlag(&s.OnHostLoss, "--on-host-loss", c.OnHostLoss)
}

// healthFlag reads a probe; its times are those that were given before.
func healthFlag(text string, old *blixardv1.Health) (*blixardv1.Health, error) {
	h := &blixardv1.Health{}
	if old != nil {
		h = proto.CloneOf(old)
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, usagef("--health %s: %v", text, err)
	}
	var port uint64
	if u.Scheme == "tcp" || u.Scheme == "http" {
		if port, err = strconv.ParseUint(or(u.Port(), map[string]string{"http": "80"}[u.Scheme]), 10, 16); err != nil {
			return nil, usagef("--health %s: want a port, as in %s://127.0.0.1:8080", text, u.Scheme)
		}
	}
	switch {
	case text == "process":
		h.Probe = &blixardv1.Health_Process{Process: &blixardv1.ProcessProbe{}}
	case text == "agent":
		h.Probe = &blixardv1.Health_Agent{Agent: &blixardv1.AgentProbe{}}
	case u.Scheme == "tcp" && u.Path == "":
		h.Probe = &blixardv1.Health_Tcp{Tcp: &blixardv1.TCPProbe{Host: u.Hostname(), Port: uint32(port)}}
	case u.Scheme == "http":
		h.Probe = &blixardv1.Health_Http{Http: &blixardv1.HTTPProbe{Host: u.Hostname(), Port: uint32(port), Path: u.RequestURI()}}
	default:
		return nil, usagef("--health %s: want agent, tcp://HOST:PORT, http://HOST:PORT/PATH or process", text)
	}
	return h, nil
}

func given[T any](field *T, flag *T) {
	if flag != nil {
		*field = *flag
	}
}

func merge(old, more map[string]string) map[string]string {
	if len(more) == 0 {
		return old
	}
	all := maps.Clone(old)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, more)
	return all
}

// source sets what a VM boots, as far as flags say it.
func (c *SpecFlags) source(d *draft, argv []string) error {
	image := c.Kernel != "" || c.Initrd != "" || c.Cmdline != nil || len(c.Disk) > 0
	switch {
	case c.Flake != "" && (image || c.Process):
		return usagef("--flake says what is booted; it has no --kernel, --initrd, --cmdline, --disk or --process beside it")
	case c.Process && image:
		return usagef("--process runs a program; it has no kernel, initrd, cmdline or disks")
	case c.Process && len(argv) == 0:
		return usagef("--process needs a program after --: --process -- /bin/sleep 1000")
	case !c.Process && len(argv) > 0:
		return usagef("unexpected argument %s; a program is run by --process -- PROGRAM", argv[0])
	case !c.Process && len(c.Env) > 0:
		return usagef("--env is for --process only")
	case c.Process:
		d.spec.Source = &blixardv1.VMSpec_Process{Process: &blixardv1.Process{Argv: argv, Env: c.Env}}
	case c.Flake != "":
		return d.flake(c.Flake)
	case image:
		return c.image(d)
	}
	return nil
}

func (c *SpecFlags) image(d *draft) error {
	i := d.spec.GetImage()
	if i == nil {
		if c.Kernel == "" {
			return usagef("--initrd, --cmdline and --disk go with a --kernel")
		}
		i = &blixardv1.Image{}
		d.spec.Source = &blixardv1.VMSpec_Image{Image: i}
	}
	given(&i.Cmdline, c.Cmdline)
	if c.Kernel != "" {
		i.Kernel = d.refer("--kernel", c.Kernel, "")
		d.refs[len(d.refs)-1].kernel = true
	}
	if c.Initrd != "" {
		i.Initrd = d.refer("--initrd", c.Initrd, "")
	}
	for _, text := range c.Disk {
		disk, err := d.disk(text)
		if err != nil {
			return err
		}
		i.Disks = append(i.Disks, disk)
	}
	return nil
}

// networks sets what a VM is plugged into. Ports make a user interface, if there is
// none.
func (c *SpecFlags) networks(s *blixardv1.VMSpec) error {
	if len(c.Network) == 0 && len(c.Port) == 0 {
		return nil
	}
	if len(c.Network) > 0 {
		s.Networks = nil
	}
	for _, text := range c.Network {
		name, address, _ := strings.Cut(text, ",")
		n := &blixardv1.Interface{Kind: &blixardv1.Interface_Network{Network: name}, Address: address}
		if name == userNetwork {
			n.Kind = &blixardv1.Interface_User{User: &blixardv1.UserInterface{}}
		}
		s.Networks = append(s.Networks, n)
	}
	if len(c.Port) == 0 {
		return nil
	}
	i := slices.IndexFunc(s.Networks, func(n *blixardv1.Interface) bool { return n.GetUser() != nil })
	if i < 0 {
		i = len(s.Networks)
		s.Networks = append(s.Networks, &blixardv1.Interface{Kind: &blixardv1.Interface_User{User: &blixardv1.UserInterface{}}})
	}
	s.Networks[i].Ports = nil
	for _, text := range c.Port {
		p, err := parsePort(text)
		if err != nil {
			return usagef("--port %s: %v", text, err)
		}
		s.Networks[i].Ports = append(s.Networks[i].Ports, p)
	}
	return nil
}

// userNetwork is how --network says user: {}.
const userNetwork = "user"

// parsePort reads [ADDRESS:]HOST:GUEST[/tcp|/udp].
func parsePort(text string) (*blixardv1.PortForward, error) {
	p := &blixardv1.PortForward{}
	rest, protocol, said := strings.Cut(text, "/")
	switch {
	case protocol == "udp":
		p.Protocol = blixardv1.Protocol_PROTOCOL_UDP
	case protocol == "tcp":
		p.Protocol = blixardv1.Protocol_PROTOCOL_TCP
	case said:
		return nil, fmt.Errorf("%q is neither tcp nor udp", protocol)
	}
	words := strings.Split(rest, ":")
	if len(words) == 3 {
		p.Address, words = words[0], words[1:]
	}
	if len(words) != 2 {
		return nil, errors.New("want [ADDRESS:]HOST:GUEST[/udp], such as 8080:80")
	}
	for i, to := range []*uint32{&p.HostPort, &p.GuestPort} {
		n, err := strconv.ParseUint(words[i], 10, 16)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("%q is no port", words[i])
		}
		*to = uint32(n)
	}
	return p, nil
}

// flake reads REF[#ATTR] as nix does. What is ours to read is packed; the rest is
// for the hosts to reach.
func (d *draft) flake(text string) error {
	where, attribute, _ := strings.Cut(text, "#")
	f := &blixardv1.Flake{Attribute: attribute}
	d.spec.Source = &blixardv1.VMSpec_Flake{Flake: f}
	path, local := localFlake(where)
	if !local {
		if !strings.Contains(where, ":") {
			next := "give a folder as ./" + where
			if strings.Contains(where, "/") {
				next += ", or github:" + where
			}
			return &failure{code: exitUsage, what: fmt.Sprintf("--flake %s: that names neither a folder nor a place on the net", text), next: next}
		}
		f.From = &blixardv1.Flake_Ref{Ref: where}
		return nil
	}
	a := d.refer("--flake", path, "")
	d.refs[len(d.refs)-1].folder = true
	f.From = &blixardv1.Flake_Packed{Packed: a}
	return nil
}

// localFlake says whether a flake reference means a folder here, and which.
func localFlake(ref string) (string, bool) {
	path, said := strings.CutPrefix(ref, "path:")
	if said || path == "" || path == "." || path == ".." ||
		strings.HasPrefix(path, "./") || strings.HasPrefix(path, "../") || strings.HasPrefix(path, "/") {
		return or(path, "."), true
	}
	return ref, false
}

// disk reads name=N[,source=WHAT][,size=MIB][,ro].
func (d *draft) disk(text string) (*blixardv1.Disk, error) {
	disk := &blixardv1.Disk{}
	for part := range strings.SplitSeq(text, ",") {
		key, value, given := strings.Cut(part, "=")
		switch {
		case key == "ro" && !given:
			disk.ReadOnly = true
		case key == "name" && given:
			disk.Name = value
		case key == "source" && given:
			disk.Source = d.refer("--disk source", value, "")
		case key == "size" && given:
			n, err := strconv.ParseUint(value, 10, 64)
			if err != nil {
				return nil, usagef("--disk %s: size=%s is no number of MiB", text, value)
			}
			disk.SizeMib = n
		default:
			return nil, usagef("--disk %s: %q is none of name=N, source=WHAT, size=MIB, ro", text, part)
		}
	}
	return disk, nil
}

func milliseconds(flag string, d time.Duration) (uint32, error) {
	ms := d.Milliseconds()
	if d < 0 || ms > 1<<32-1 || d != time.Duration(ms)*time.Millisecond {
		return 0, usagef("%s %s: want whole milliseconds, from 1ms to 1193h", flag, d)
	}
	return uint32(ms), nil
}

// enumFlag sets a field that has words of its own, when its flag is given.
func enumFlag[E interface {
	~int32
	protoEnum
}](field *E, flag, text string) error {
	if text == "" {
		return nil
	}
	n, ok := enumByName((*field).Descriptor(), text)
	if !ok {
		return usagef("%s %s: want %s", flag, text, enumNames((*field).Descriptor()))
	}
	*field = E(n)
	return nil
}

func (r ref) fail(format string, args ...any) error {
	return usagef("%s %s: %s", r.field, r.text, fmt.Sprintf(format, args...))
}
