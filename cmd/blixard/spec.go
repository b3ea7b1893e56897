package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A draft is one VM as its user described it: a spec whose artifacts are still
// words, such as the path of a file.
type draft struct {
	name string
	spec *blixardv1.VMSpec
	refs []ref
}

// ref is one artifact of a draft that has still to be found.
type ref struct {
	field  string // for errors: "kernel", "specs.yaml:4: image.kernel"
	text   string // a path, sha256:DIGEST or a name in the cluster
	base   string // relative paths start here; empty: our working directory
	target *blixardv1.Artifact
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
	s := &blixardv1.VMSpec{
		Vcpus: c.Vcpus, MemoryMib: c.Memory, Priority: c.Priority,
		Labels: c.Label, Require: c.Require,
	}
	d := &draft{name: c.Name, spec: s}
	var err error
	if s.LeaseMs, err = milliseconds("--lease", c.Lease); err != nil {
		return nil, err
	}
	if s.StopGraceMs, err = milliseconds("--stop-grace", c.StopGrace); err != nil {
		return nil, err
	}
	h, err := enumFlag("--hypervisor", c.Hypervisor, s.Hypervisor)
	if err != nil {
		return nil, err
	}
	s.Hypervisor = blixardv1.Hypervisor(h)
	r, err := enumFlag("--restart", c.Restart, s.Restart)
	if err != nil {
		return nil, err
	}
	s.Restart = blixardv1.RestartPolicy(r)
	l, err := enumFlag("--on-host-loss", c.OnHostLoss, s.OnHostLoss)
	if err != nil {
		return nil, err
	}
	s.OnHostLoss = blixardv1.OnHostLoss(l)
	return d, c.source(d)
}

func (c *VMCreateCmd) source(d *draft) error {
	image := c.Kernel != "" || c.Initrd != "" || c.Cmdline != "" || len(c.Disk) > 0
	if c.Process {
		if image {
			return usagef("--process runs a program; it has no kernel, initrd, cmdline or disks")
		}
		if len(c.Argv) == 0 {
			return usagef("--process needs a program after --: vm create %s --process -- /bin/sleep 1000", c.Name)
		}
		d.spec.Source = &blixardv1.VMSpec_Process{Process: &blixardv1.Process{Argv: c.Argv, Env: c.Env}}
		return nil
	}
	if len(c.Argv) > 0 {
		return usagef("unexpected argument %s; a program is run by --process -- PROGRAM", c.Argv[0])
	}
	if len(c.Env) > 0 {
		return usagef("--env is for --process only")
	}
	if c.Kernel == "" {
		return usagef("a VM needs --kernel WHAT (and mostly --initrd or --disk), or --process -- PROGRAM")
	}
	i := &blixardv1.Image{Cmdline: c.Cmdline, Kernel: d.refer("--kernel", c.Kernel, "")}
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
	d.spec.Source = &blixardv1.VMSpec_Image{Image: i}
	return nil
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

func enumFlag(flag, text string, e protoEnum) (int32, error) {
	if text == "" {
		return 0, nil
	}
	n, ok := enumByName(e.Descriptor(), text)
	if !ok {
		return 0, usagef("%s %s: want %s", flag, text, enumNames(e.Descriptor()))
	}
	return n, nil
}

func (r ref) fail(format string, args ...any) error {
	return usagef("%s %s: %s", r.field, r.text, fmt.Sprintf(format, args...))
}
