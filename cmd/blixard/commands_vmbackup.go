package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/rpc"
)

func (c *VMBackupCmd) Run(g *Globals, t *terminal, ctx *runContext) (err error) {
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	s.allow(buildPatience)
	if c.Memory || c.Snapshot != "" {
		return c.withMemory(g, t, s)
	}
	vm, err := s.still(c.Name)
	if errors.Is(err, errRuns) && c.Pause {
		if err = s.paused(c.Name, true); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.paused(c.Name, false)) }()
		vm, err = s.still(c.Name)
	}
	if err != nil {
		return err
	}
	image := vm.GetSpec().GetImage()
	if image == nil {
		return &failure{code: exitConflict, what: fmt.Sprintf("VM %s cannot be backed up", c.Name), why: "it boots no image", next: "copy what it holds from within"}
	}
	f, err := c.create()
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := s.backupVM(vm, f); err != nil {
		return err
	}
	now, err := s.still(c.Name)
	if err != nil || now.GetUid() != vm.GetUid() || now.GetStatus().GetAttempt() != vm.GetStatus().GetAttempt() || now.GetSpecGeneration() != vm.GetSpecGeneration() {
		return errors.Join(&failure{code: exitConflict, what: "the backup is of no use", why: "the VM was started, resumed or changed meanwhile", next: "begin again"}, err)
	}
	head, err := c.keep(f)
	if err != nil {
		return err
	}
	if g.Output == "json" || g.Output == "yaml" {
		return s.show(g, head, nil)
	}
	fmt.Fprintf(t.out, "%s is VM %s with %s.\n", c.File, head.GetName(), howMany(len(head.GetDisks()), "disk"))
	if head.GetPaused() {
		fmt.Fprintln(t.out, "It was paused: its disks are as after a loss of power.")
	}
	return nil
}

// create makes the file beside the one that it will be.
func (c *VMBackupCmd) create() (*os.File, error) {
	f, err := os.CreateTemp(filepath.Dir(c.File), filepath.Base(c.File)+".*")
	if err != nil {
		return nil, &failure{code: exitError, what: "cannot write the backup", why: err.Error(), next: "name a file in a directory that you may write to"}
	}
	return f, nil
}

// keep reads what was written again, whole, and gives it its name.
func (c *VMBackupCmd) keep(f *os.File) (*blixardv1.VMBackupHeader, error) {
	if err := f.Sync(); err != nil {
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	head, err := checkVMBackup(f)
	if err == nil {
		err = errors.Join(f.Close(), os.Rename(f.Name(), c.File))
	}
	return head, err
}

var errRuns = errors.New("it runs")

// still gives a VM that writes nothing as things stand.
func (s *session) still(name string) (*blixardv1.VM, error) {
	r, err := s.VM.Get(s.ctx, connect.NewRequest(&blixardv1.GetRequest{Name: name}))
	if err != nil {
		return nil, err
	}
	vm := r.Msg.GetVm()
	switch p := vm.GetStatus().GetPhase(); {
	case p == blixardv1.Phase_PHASE_STOPPED && !vm.GetRun(), p == blixardv1.Phase_PHASE_PAUSED && vm.GetPaused():
		return vm, nil
	}
	return nil, errors.Join(&failure{code: exitConflict, what: fmt.Sprintf("VM %s is %s", name, phaseText(vm)),
		why:  "what it writes while its disks are copied would be there in part",
		next: fmt.Sprintf("blixard vm stop %s, or give --pause, which stops it where it is for as long as that takes", name)}, errRuns)
}

// paused pauses a VM, or lets it go on, and waits until it is so.
func (s *session) paused(name string, pause bool) error {
	return s.change(func(id string) error {
		var vm *blixardv1.VM
		done := resumed
		if pause {
			r, err := s.VM.Pause(s.ctx, connect.NewRequest(&blixardv1.PauseRequest{RequestId: id, Name: name}))
			if err != nil {
				return err
			}
			vm, done = r.Msg.GetVm(), paused
		} else {
			r, err := s.VM.Resume(s.ctx, connect.NewRequest(&blixardv1.ResumeRequest{RequestId: id + "", Name: name}))
			if err != nil {
				return err
			}
			vm = r.Msg.GetVm()
		}
		_, _, err := s.await(name, vm.GetUid(), map[bool]string{true: "pause", false: "resume"}[pause], done)
		return err
	})
}

func (s *session) backupVM(vm *blixardv1.VM, to io.Writer) error {
	status, err := s.Cluster.Status(s.ctx, connect.NewRequest(&blixardv1.StatusRequest{}))
	if err != nil {
		return err
	}
	image := vm.GetSpec().GetImage()
	h := &blixardv1.VMBackupHeader{
		Name: vm.GetName(), Uid: vm.GetUid(), ClusterId: status.Msg.GetClusterId(), Spec: vm.GetSpec(), CreateTime: timestamppb.Now(),
		Version: versionText(), Artifacts: []*blixardv1.Artifact{image.GetKernel()}, Paused: vm.GetPaused(),
	}
	if image.GetInitrd() != nil {
		h.Artifacts = append(h.Artifacts, image.GetInitrd())
	}
	var reads []*blixardv1.VolumeServiceReadRequest
	for _, d := range image.GetDisks() {
		h.Disks = append(h.Disks, &blixardv1.BackupDisk{Disk: d.GetName()})
		reads = append(reads, &blixardv1.VolumeServiceReadRequest{Vm: vm.GetName(), Disk: d.GetName()})
	}
	for _, m := range vm.GetSpec().GetVolumes() {
		h.Disks = append(h.Disks, &blixardv1.BackupDisk{Disk: m.GetDisk(), Volume: m.GetVolume()})
		reads = append(reads, &blixardv1.VolumeServiceReadRequest{Name: m.GetVolume()})
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
	for i, r := range reads {
		if err := s.readDisk(r, w); err != nil {
			return fmt.Errorf("disk %s: %w", h.Disks[i].GetDisk(), err)
		}
	}
	return w.end()
}

func (s *session) download(a *blixardv1.Artifact, w *backupWriter) error {
	stream, err := s.Artifact.Download(s.ctx, connect.NewRequest(&blixardv1.DownloadRequest{Digest: a.GetDigest()}))
	if err != nil {
		return err
	}
	defer stream.Close()
	n := uint64(0)
	for stream.Receive() {
		b := stream.Msg().GetData()
		n += uint64(len(b))
		if err := w.message(&blixardv1.VMBackupPart{Part: &blixardv1.VMBackupPart_Artifact{Artifact: b}}); err != nil {
			return err
		}
	}
	if err := stream.Err(); err != nil {
		return err
	}
	if n != a.GetSize() {
		return fmt.Errorf("%d bytes of %s came, and it has %d", n, a.GetDigest(), a.GetSize())
	}
	return nil
}

func (s *session) readDisk(r *blixardv1.VolumeServiceReadRequest, w *backupWriter) error {
	stream, err := s.Volume.Read(s.ctx, connect.NewRequest(r))
	if err != nil {
		return err
	}
	defer stream.Close()
	return allParts(stream, w.disk)
}

// allParts writes down what a stream of a disk's, or a snapshot's, brings, and fails when
// its end does not come.
func allParts[T any, P interface {
	*T
	GetData() *blixardv1.VolumeData
}](stream *connect.ServerStreamForClient[T], write func(*blixardv1.VolumeData) error) error {
	ended := false
	for stream.Receive() {
		p := P(stream.Msg()).GetData()
		if p.GetPart() == nil {
			continue
		}
		ended = p.GetEnd() != nil
		if err := write(p); err != nil {
			return err
		}
	}
	if err := stream.Err(); err != nil {
		return err
	}
	if !ended {
		return errors.New("it was cut off")
	}
	return nil
}

func (c *VMRestoreCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	f, err := os.Open(c.File)
	if err != nil {
		return &failure{code: exitUsage, what: "cannot read the backup", why: err.Error(), next: "name a file that 'blixard vm backup' has written"}
	}
	defer f.Close()
	head, err := checkVMBackup(f)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return &failure{code: exitUsage, what: "cannot restore " + c.File, why: err.Error(), next: "name a file that 'blixard vm backup' has written, whole"}
	}
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	s.allow(buildPatience)
	name := or(c.Name, head.GetName())
	b, err := newBackupReader(f)
	if err != nil {
		return err
	}
	for _, a := range head.GetArtifacts() {
		if err := s.upload(a, b); err != nil {
			return err
		}
	}
	if head.GetMemory() != nil && c.Memory {
		return c.goOn(s, name, head, b)
	}
	spec, volumes := restoredSpec(name, head)
	host, made := c.Host, []string(nil)
	for i, v := range volumes {
		is, err := s.writeDisk(v, head.GetDisks()[i].GetDisk(), host, spec, b)
		if err != nil {
			s.takeBack(made)
			return err
		}
		made, host = append(made, v), is.GetNode()
	}
	return s.change(func(id string) error {
		r, err := s.VM.Create(s.ctx, connect.NewRequest(&blixardv1.CreateRequest{RequestId: id, Name: name, Spec: spec}))
		if err != nil {
			s.takeBack(made)
			return err
		}
		vm, node := r.Msg.GetVm(), ""
		if g.Wait {
			if vm, node, err = s.await(name, vm.GetUid(), "restore", running(vm, placed)); err != nil {
				return err
			}
		}
		return s.showVM(vm, node)
	})
}

// restoredSpec is the spec of a restored VM, whose disks are volumes, and what those
// are called.
func restoredSpec(name string, h *blixardv1.VMBackupHeader) (*blixardv1.VMSpec, []string) {
	spec := proto.CloneOf(h.GetSpec())
	readOnly := map[string]bool{}
	for _, d := range spec.GetImage().GetDisks() {
		readOnly[d.GetName()] = d.GetReadOnly()
	}
	for _, m := range spec.GetVolumes() {
		readOnly[m.GetDisk()] = m.GetReadOnly()
	}
	if i := spec.GetImage(); i != nil {
		i.Disks = slices.DeleteFunc(i.Disks, func(d *blixardv1.Disk) bool {
			return slices.ContainsFunc(h.GetDisks(), func(b *blixardv1.BackupDisk) bool { return b.GetDisk() == d.GetName() })
		})
	}
	spec.Volumes = nil
	var names []string
	for _, d := range h.GetDisks() {
		v := name[:min(len(name), 42)] + "-" + d.GetDisk()
		spec.Volumes = append(spec.Volumes, &blixardv1.VolumeMount{Volume: v, Disk: d.GetDisk(), ReadOnly: readOnly[d.GetDisk()]})
		names = append(names, v)
	}
	if len(names) > 0 {
		spec.OnHostLoss = blixardv1.OnHostLoss_ON_HOST_LOSS_WAIT
	}
	return spec, names
}

// after is time to clean up, whatever became of the command.
func (s *session) after() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(s.ctx), 10*time.Second)
}

// takeBack deletes volumes of a restore that came to nothing.
func (s *session) takeBack(names []string) {
	ctx, cancel := s.after()
	defer cancel()
	for _, n := range names {
		if _, err := s.Volume.Delete(ctx, connect.NewRequest(&blixardv1.VolumeServiceDeleteRequest{RequestId: rpc.NewRequestID(), Name: n})); err != nil {
			fmt.Fprintf(s.err, "volume %s is left: blixard volume delete %s\n", n, n)
		}
	}
}

// upload brings the next artifact of a backup to the cluster.
func (s *session) upload(a *blixardv1.Artifact, b *backupReader) error {
	f, err := os.CreateTemp("", "blixard-restore-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	for n := uint64(0); n < a.GetSize(); {
		p, err := b.next()
		if err != nil {
			return err
		}
		if _, err := f.Write(p.GetArtifact()); err != nil || len(p.GetArtifact()) == 0 {
			return errors.Join(err, errVMBackup)
		}
		n += uint64(len(p.GetArtifact()))
	}
	_, err = s.Upload(s.ctx, &blixardv1.UploadHeader{Digest: a.GetDigest(), Size: a.GetSize()}, f)
	return err
}

// writeDisk makes the next disk of a backup a volume.
func (s *session) writeDisk(name, disk, host string, beside *blixardv1.VMSpec, b *backupReader) (*blixardv1.ClusterVolume, error) {
	vm := proto.CloneOf(beside)
	vm.Volumes = nil
	opts := &blixardv1.VolumeServiceWriteOptions{RequestId: rpc.NewRequestID(), Name: name, Host: host, Beside: vm}
	stream := s.Volume.Write(s.ctx)
	for ended := false; !ended; {
		data, err := b.nextOf(disk)
		if err != nil {
			return nil, err
		}
		ended = data.GetEnd() != nil
		if stream.Send(&blixardv1.VolumeServiceWriteRequest{Options: opts, Data: data}) != nil {
			break // the answer says why
		}
		opts = nil
	}
	r, err := stream.CloseAndReceive()
	if err != nil {
		return nil, err
	}
	return r.Msg.GetVolume(), nil
}
