package runner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/guest"
	"github.com/blixard/blixard/vmm/runner/artifact"
	"github.com/blixard/blixard/vmm/runner/links"
	"github.com/blixard/blixard/vmm/shim"
)

// images is what all hypervisors have in common that boot a kernel directly.
type images struct {
	store   *artifact.Store
	links   *links.Links
	kept    *volumes
	devices []*blixardv1.Device // that this host gives to VMs
	sharer  *sharer
}

const maxCmdline = 2047 // of the kernel, on x86

// needs also checks what only a look at the spec can tell: what has been
// accepted by an older or a newer version of us is still not believed.
func (m images) needs(a *blixardv1.Assignment) ([]*blixardv1.Artifact, error) {
	image := a.GetSpec().GetImage()
	if image == nil {
		return nil, errors.New("this hypervisor boots images, and the spec has none")
	}
	if image.Kernel == nil {
		return nil, errors.New("the image has no kernel")
	}
	for _, c := range []byte(image.Cmdline) {
		if c < ' ' || c == 0x7f {
			return nil, fmt.Errorf("image.cmdline has a control character (%q): a kernel's command line is one line", c)
		}
	}
	if err := m.sharer.check(a.Spec.Shares); err != nil {
		return nil, err
	}
	all := []*blixardv1.Artifact{image.Kernel}
	if image.Initrd != nil {
		all = append(all, image.Initrd)
	}
	seen := map[string]bool{}
	for _, d := range image.Disks {
		if err := checkDisk(d); err != nil {
			return nil, err
		}
		if seen[d.Name] {
			return nil, fmt.Errorf("two disks have the name %s", d.Name)
		}
		seen[d.Name] = true
		if d.Source != nil {
			all = append(all, d.Source)
		}
	}
	return all, nil
}

// KernelHead is how much of a file IsKernel looks at.
const KernelHead = 0x206

// IsKernel says whether a file that begins so is a Linux kernel: a bzImage
// (vmlinuz) or an ELF file (vmlinux).
func IsKernel(head []byte) bool {
	return len(head) >= KernelHead && string(head[0x202:KernelHead]) == "HdrS" || bytes.HasPrefix(head, []byte("\x7fELF"))
}

// build refuses what is no kernel before a guest hangs on it.
func (m images) build(ctx context.Context, a *blixardv1.Assignment, _ io.Writer) (*blixardv1.Runner, error) {
	return nil, m.check(ctx, a.Spec.GetImage().Kernel.Digest)
}

func (m images) check(ctx context.Context, digest string) error {
	f, err := m.store.Open(ctx, digest)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, KernelHead)
	if _, err := io.ReadFull(f, head); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return err
	}
	if IsKernel(head) {
		return nil
	}
	return fmt.Errorf("the artifact %.12s is no Linux kernel: it is neither a bzImage (vmlinuz) nor an ELF file (vmlinux)", digest)
}

// files puts what one start needs where it is needed.
func (m images) files(ctx context.Context, p place, a *blixardv1.Assignment, i shim.Instance) (boot, error) {
	image := a.GetSpec().GetImage()
	b := boot{
		q35:  onQ35(a.Spec),
		name: a.Name, instance: i, vcpus: max(a.Spec.Vcpus, 1), memoryMib: a.Spec.MemoryMib,
		cmdline: image.Cmdline, place: p,
	}
	if b.memoryMib == 0 {
		b.memoryMib = 512
	}
	var err error
	if b.kernel, err = m.store.Path(ctx, image.Kernel.Digest); err != nil {
		return boot{}, err
	}
	if image.Initrd != nil {
		if b.initrd, err = m.store.Path(ctx, image.Initrd.Digest); err != nil {
			return boot{}, err
		}
	}
	comes := a.GetMigration().GetRole() == blixardv1.MigrationRole_MIGRATION_ROLE_TARGET
	if comes { // all that they can hold may come
		if err := roomFor(p.state, image.Disks); err != nil {
			return boot{}, err
		}
	}
	for _, d := range image.Disks {
		store := m.store
		if comes && !d.ReadOnly {
			store = nil
		}
		if err := makeDisk(ctx, store, p.state, d); err != nil {
			return boot{}, err
		}
		made := disk{name: d.Name, path: diskPath(p.state, d.Name), readOnly: d.ReadOnly, format: "raw", rate: d.Limit.GetBytesPerSecond(), ops: d.Limit.GetOpsPerSecond()}
		if st, err := os.Stat(made.path); err == nil {
			made.bytes = st.Size()
		}
		b.disks = append(b.disks, made)
	}
	mounted, err := m.kept.take(i.UID, a.Volumes)
	if err != nil {
		return boot{}, err
	}
	b.disks = append(b.disks, mounted...)
	if b.nics, err = nicsOf(a); err != nil {
		return boot{}, err
	}
	if b.devices, err = given(m.devices, a); err != nil {
		return boot{}, err
	}
	if b.shares, err = m.sharer.shares(p, a.Spec.Shares); err != nil {
		return boot{}, err
	}
	for n := range b.nics {
		if !b.nics[n].user {
			b.nics[n].tap = m.links.Tap(i.UID, n)
		}
	}
	return b, nil
}

// balloon is the memory of a guest that gets a balloon; 0: it gets none. What a PCI
// device writes to must stay where it is.
func (b boot) balloon() uint64 {
	if len(b.devices) > 0 {
		return 0
	}
	return b.memoryMib
}

// clean removes what an attempt before has left: a socket that is there already
// is one that a hypervisor cannot listen on.
func clean(dir string, names ...string) error {
	for _, name := range names {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// kernelFile is where in a VM's directory its unpacked kernel is.
const kernelFile = "vmlinux"

// unpack gives the path of the kernel as ELF, which some hypervisors must have:
// it takes it out of a bzImage.
func unpack(kernel, state string) (string, error) {
	f, err := os.Open(kernel)
	if err != nil {
		return "", err
	}
	defer f.Close()
	head := make([]byte, 4)
	if _, err := io.ReadFull(f, head); err == nil && string(head) == "\x7fELF" {
		return kernel, nil
	}
	packed, err := os.ReadFile(kernel)
	if err != nil {
		return "", err
	}
	elf, err := guest.Vmlinux(packed)
	if err != nil {
		return "", fmt.Errorf("this hypervisor boots ELF kernels only: %w; give it a vmlinux", err)
	}
	path := filepath.Join(state, kernelFile)
	tmp := path + ".new"
	if err := os.WriteFile(tmp, elf, 0o600); err != nil {
		return "", err
	}
	return path, os.Rename(tmp, path)
}

// elfFiles is files for a hypervisor that boots ELF kernels only.
func (m images) elfFiles(ctx context.Context, p place, a *blixardv1.Assignment, i shim.Instance) (boot, error) {
	b, err := m.files(ctx, p, a, i)
	if err == nil {
		b.kernel, err = unpack(b.kernel, p.state)
	}
	return b, err
}

// commandLine is the kernel's: the hypervisor's words, ours, and the user's last,
// so that those count.
func (b boot) commandLine(words ...string) (string, error) {
	for _, w := range []string{"blixard.name=" + b.name, "blixard.uid=" + b.instance.UID} {
		if strings.ContainsFunc(w, func(r rune) bool { return r <= ' ' || r == '"' || r == 0x7f }) {
			return "", fmt.Errorf("%.100q cannot stand in a kernel's command line", w)
		}
		words = append(words, w)
	}
	words = append(words, fmt.Sprintf("blixard.attempt=%d", b.instance.Attempt))
	for _, n := range b.nics {
		words = append(words, n.words.Words(b.name)...)
	}
	if b.cmdline != "" {
		words = append(words, b.cmdline)
	}
	line := strings.Join(words, " ")
	if len(line) > maxCmdline {
		return "", fmt.Errorf("the kernel's command line has %d bytes with what we must add, and the kernel reads %d: shorten image.cmdline", len(line), maxCmdline)
	}
	return line, nil
}
