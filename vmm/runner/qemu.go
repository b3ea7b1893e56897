package runner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/runner/artifact"
	"github.com/blixard/blixard/vmm/shim"
)

// qemu boots images on the machine "microvm".
type qemu struct {
	machine machine
	store   *artifact.Store
	log     func(msg string, args ...any)
	warn    func(msg string, args ...any)
}

const maxCmdline = 2047 // of the kernel, on x86

// needs also checks what only a look at the spec can tell: what has been
// accepted by an older or a newer version of us is still not believed.
func (q *qemu) needs(a *blixardv1.Assignment) ([]*blixardv1.Artifact, error) {
	image := a.GetSpec().GetImage()
	if image == nil {
		return nil, errors.New("QEMU boots images, and the spec has none")
	}
	if image.Kernel == nil {
		return nil, errors.New("the image has no kernel")
	}
	for _, c := range []byte(image.Cmdline) {
		if c < ' ' || c == 0x7f {
			return nil, fmt.Errorf("image.cmdline has a control character (%q): a kernel's command line is one line", c)
		}
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

// build refuses what is no kernel before a guest hangs on it.
func (q *qemu) build(ctx context.Context, a *blixardv1.Assignment, _ io.Writer) (*blixardv1.Runner, error) {
	return nil, q.check(ctx, a.Spec.GetImage().Kernel.Digest)
}

func (q *qemu) check(ctx context.Context, digest string) error {
	f, err := q.store.Open(ctx, digest)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, 0x206)
	if _, err := io.ReadFull(f, head); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return err
	}
	if string(head[0x202:]) == "HdrS" || bytes.HasPrefix(head, []byte("\x7fELF")) {
		return nil
	}
	return fmt.Errorf("the artifact %.12s is no Linux kernel: it is neither a bzImage (vmlinuz) nor an ELF file (vmlinux)", digest)
}

func (q *qemu) prepare(ctx context.Context, p place, a *blixardv1.Assignment, i shim.Instance) (command, error) {
	image := a.GetSpec().GetImage()
	b := boot{
		name: a.Name, instance: i, vcpus: max(a.Spec.Vcpus, 1), memoryMib: a.Spec.MemoryMib,
		cmdline: image.Cmdline, place: p,
	}
	if b.memoryMib == 0 {
		b.memoryMib = 512
	}
	var err error
	if b.kernel, err = q.store.Path(ctx, image.Kernel.Digest); err != nil {
		return command{}, err
	}
	if image.Initrd != nil {
		if b.initrd, err = q.store.Path(ctx, image.Initrd.Digest); err != nil {
			return command{}, err
		}
	}
	for _, d := range image.Disks {
		if err := makeDisk(ctx, q.store, p.state, d); err != nil {
			return command{}, err
		}
		b.disks = append(b.disks, disk{d.Name, diskPath(p.state, d.Name), d.ReadOnly})
	}
	argv, err := q.machine.argv(b)
	if err != nil {
		return command{}, err
	}
	// What an attempt before this one left.
	for _, name := range []string{qmpSocket, consoleSocket, agentSocket, qemuLog} {
		if err := os.Remove(filepath.Join(p.run, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return command{}, err
		}
	}
	return command{argv: argv, env: []string{"PATH=/usr/bin:/bin"}, dir: p.run, output: filepath.Join(p.run, qemuLog)}, nil
}

func (q *qemu) lastWords(p place) string { return tail(filepath.Join(p.run, qemuLog), 3, 600) }

func (q *qemu) follow(p place, tell func(paused bool)) session {
	ctx, cancel := context.WithCancel(context.Background())
	s := &qemuSession{q: q, place: p, tell: tell, cancel: cancel, done: make(chan struct{}), moved: make(chan struct{}, 1)}
	go s.watch(ctx)
	return s
}

const qmpPatience = 3 * time.Second
