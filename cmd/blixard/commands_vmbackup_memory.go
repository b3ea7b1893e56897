package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/blixard/blixard/core/hypervisor"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/rpc"
)

// A backup with memory is a snapshot in a file: its own, that is taken for it, or one
// that is there. Restored, it is a snapshot again, on a host that can go on with it,
// until the VM that is made of it runs.

// stamped names a snapshot after what it is for.
func stamped(what, vm string) string {
	s := time.Now().UTC().Format("-20060102-150405")
	name := what + "-" + vm
	return name[:min(len(name), 63-len(s))] + s
}

func (c *VMBackupCmd) withMemory(g *Globals, t *terminal, s *session) (err error) {
	name := c.Snapshot
	if name == "" {
		name = stamped("backup", c.Name)
		if err := s.takeSnapshot(name, c.Name); err != nil {
			return c.orPause(s, err)
		}
		defer func() { err = errors.Join(err, s.dropSnapshot(name)) }()
	}
	f, err := c.create()
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := s.backupSnapshot(name, c.Name, f); err != nil {
		return err
	}
	head, err := c.keep(f)
	if err != nil {
		return err
	}
	if g.Output == "json" || g.Output == "yaml" {
		return s.show(g, head, nil)
	}
	m := head.GetMemory()
	fmt.Fprintf(t.out, "%s is VM %s with its memory and %s.\n", c.File, head.GetName(), howMany(len(head.GetDisks()), "disk"))
	fmt.Fprintf(t.out, "Only %s %s goes on with it, on %s.\n", hypervisor.NameOf(m.GetHypervisor()), m.GetVersion(), m.GetMachine())
	return nil
}

// orPause offers the backup that can be had of an image of which no snapshot can be taken.
func (c *VMBackupCmd) orPause(s *session, err error) error {
	f := *asFailure(err)
	if connect.CodeOf(err) != connect.CodeFailedPrecondition || f.next != "" {
		return err
	}
	r, gone := s.VM.Get(s.ctx, connect.NewRequest(&blixardv1.GetRequest{Name: c.Name}))
	if gone != nil || r.Msg.GetVm().GetSpec().GetImage() == nil || r.Msg.GetVm().GetDeleting() {
		return err
	}
	f.next = fmt.Sprintf("'blixard vm backup --pause %s %s' takes its disks and volumes, without the memory", c.Name, c.File)
	return &f
}

func (s *session) takeSnapshot(name, vm string) error {
	return s.change(func(id string) error {
		r, err := s.Snapshot.Create(s.ctx, connect.NewRequest(&blixardv1.SnapshotServiceCreateRequest{RequestId: id, Name: name, Vm: vm}))
		if err != nil {
			return err
		}
		p, err := s.awaitSnapshot(r.Msg.GetSnapshot(), "backup", blixardv1.SnapshotState_SNAPSHOT_STATE_CREATING)
		if err == nil && p.GetState() != blixardv1.SnapshotState_SNAPSHOT_STATE_READY {
			err = &failure{code: exitError, what: "no snapshot of the VM " + vm + " was taken", why: cmp.Or(p.GetMessage(), "it is gone"), next: "see 'blixard vm get " + vm + "', and try again"}
		}
		if err != nil {
			return errors.Join(err, s.dropSnapshot(name))
		}
		return nil
	})
}

// dropSnapshot deletes a snapshot that was made on the way.
func (s *session) dropSnapshot(name string) error {
	ctx, cancel := s.after()
	defer cancel()
	_, err := s.Snapshot.Delete(ctx, connect.NewRequest(&blixardv1.SnapshotServiceDeleteRequest{RequestId: rpc.NewRequestID(), Name: name}))
	if err != nil && connect.CodeOf(err) != connect.CodeNotFound {
		fmt.Fprintf(s.err, "snapshot %s is left: blixard snapshot delete %s\n", name, name)
		return err
	}
	return nil
}

func (s *session) backupSnapshot(name, vm string, to *os.File) error {
	status, err := s.Cluster.Status(s.ctx, connect.NewRequest(&blixardv1.StatusRequest{}))
	if err != nil {
		return err
	}
	stream, err := s.Snapshot.Read(s.ctx, connect.NewRequest(&blixardv1.SnapshotServiceReadRequest{Name: name}))
	if err != nil {
		return err
	}
	defer stream.Close()
	if !stream.Receive() {
		return cmp.Or(stream.Err(), error(errVMBackup))
	}
	p := stream.Msg().GetSnapshot()
	if p.GetVm() != vm {
		return &failure{code: exitUsage, what: fmt.Sprintf("the snapshot %s is of the VM %s", name, p.GetVm()), next: "'blixard snapshot list " + vm + "' shows those of " + vm}
	}
	image := p.GetSpec().GetImage()
	h := &blixardv1.VMBackupHeader{
		Name: vm, Uid: p.GetVmUid(), ClusterId: status.Msg.GetClusterId(), Spec: p.GetSpec(), CreateTime: timestamppb.Now(), Version: versionText(),
		Memory: &blixardv1.BackupMemory{
			Hypervisor: p.GetHypervisor(), Version: p.GetImage().GetVersion(), Machine: p.GetImage().GetMachine(),
			SpecGeneration: p.GetSpecGeneration(), SizeBytes: p.GetImage().GetSizeBytes(),
		},
	}
	for _, a := range []*blixardv1.Artifact{image.GetKernel(), image.GetInitrd()} {
		if a != nil {
			h.Artifacts = append(h.Artifacts, a)
		}
	}
	for _, d := range image.GetDisks() {
		if d.GetSource() != nil {
			h.Artifacts = append(h.Artifacts, d.GetSource())
		}
		if !d.GetReadOnly() {
			h.Disks = append(h.Disks, &blixardv1.BackupDisk{Disk: d.GetName()})
		}
	}
	// As the snapshot's files come.
	slices.SortFunc(h.Disks, func(a, b *blixardv1.BackupDisk) int { return cmp.Compare(a.Disk+".raw", b.Disk+".raw") })
	need := p.GetImage().GetSizeBytes()
	for _, a := range h.Artifacts {
		need += a.GetSize()
	}
	if err := roomFor(to, need); err != nil {
		return err
	}
	w, err := newBackupWriter(to, h)
	if err != nil {
		return err
	}
	for _, a := range h.Artifacts {
		if err := s.download(a, w); err != nil {
			return err
		}
	}
	if err := allParts(stream, w.file); err != nil {
		return err
	}
	return w.end()
}

// roomFor refuses to begin what the disk of a file has no room for.
func roomFor(f *os.File, need uint64) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return err
	}
	if free := st.Bavail * uint64(st.Bsize); free < need {
		return &failure{code: exitError, what: "no space for the backup", why: fmt.Sprintf("it takes about %d MiB, and %d MiB are free there", need>>20, free>>20), next: "name a file on another disk"}
	}
	return nil
}

// goOn makes a VM that goes on with the memory of a backup.
func (c *VMRestoreCmd) goOn(s *session, name string, h *blixardv1.VMBackupHeader, b *backupReader) error {
	snapshot := stamped("restore", name)
	if err := s.writeSnapshot(snapshot, name, c.Host, h, b); err != nil {
		return c.orBoot(err)
	}
	done := func(err error) error { return errors.Join(err, s.dropSnapshot(snapshot)) }
	return s.change(func(id string) error {
		r, err := s.Snapshot.Clone(s.ctx, connect.NewRequest(&blixardv1.SnapshotServiceCloneRequest{RequestId: id, Name: snapshot, Vm: name, Memory: true}))
		if err != nil {
			return done(c.orBoot(err))
		}
		vm := r.Msg.GetVm()
		if !s.g.Wait {
			fmt.Fprintf(s.err, "once it runs: blixard snapshot delete %s\n", snapshot)
			return s.restored(vm, "restore")
		}
		if err := s.restored(vm, "restore"); err != nil {
			var f *failure
			if errors.As(err, &f) && f.code == exitError {
				f.next = fmt.Sprintf("it is tried again; 'blixard vm delete %s', 'blixard snapshot delete %s' and 'blixard vm restore --no-memory %s' boot it from its disks", name, snapshot, c.File)
			}
			return err
		}
		return done(nil)
	})
}

// orBoot offers what can be had without the memory, where things refuse it.
func (c *VMRestoreCmd) orBoot(err error) error {
	if connect.CodeOf(err) != connect.CodeFailedPrecondition {
		return err
	}
	f := *asFailure(err)
	f.next = "'blixard vm restore --no-memory " + c.File + "' boots it from its disks, wherever there is room"
	return &f
}

func (s *session) writeSnapshot(name, vm, host string, h *blixardv1.VMBackupHeader, b *backupReader) error {
	m := h.GetMemory()
	opts := &blixardv1.SnapshotServiceWriteOptions{RequestId: rpc.NewRequestID(), Name: name, Host: host, Snapshot: &blixardv1.VMSnapshot{
		Vm: vm, Spec: h.GetSpec(), Hypervisor: m.GetHypervisor(), Image: &blixardv1.SnapshotImage{Version: m.GetVersion(), Machine: m.GetMachine()},
	}}
	stream := s.Snapshot.Write(s.ctx)
	for {
		p, err := b.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil && p.GetFile() == nil {
			err = errVMBackup
		}
		if err != nil {
			return err
		}
		if stream.Send(&blixardv1.SnapshotServiceWriteRequest{Options: opts, Data: p.GetFile()}) != nil {
			break // the answer says why
		}
		opts = nil
	}
	_, err := stream.CloseAndReceive()
	return err
}
