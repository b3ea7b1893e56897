package sim

import (
	"slices"
	"time"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A Story is a world in which only what is told goes wrong. What it waits for in
// vain is a failure like any other, and ends it.
type Story struct {
	*World
	stuck func() // does not return
}

// Tell founds a cluster, tells a story in it, and says what became of that. With
// a nil Mix nothing goes wrong but what is told.
func Tell(cfg Config, tell func(*Story)) Result {
	cfg.Seed = max(cfg.Seed, 1)
	return New(cfg).tell(tell)
}

func (w *World) tell(tell func(*Story)) (r Result) {
	defer w.Close()
	type over struct{}
	defer func() {
		if p := recover(); p != nil && p != any(over{}) {
			panic(p)
		}
		r = w.Result()
	}()
	s := &Story{w, func() { panic(over{}) }}
	s.Begin()
	tell(s)
	return r
}

// Begin founds the cluster; from then on faults may strike.
func (s *Story) Begin() {
	s.Found()
	s.phase = safety
	s.goOn()
}

func (s *Story) goOn() {
	if s.failure != nil {
		s.stuck()
	}
}

// Fail ends the story with a promise that was not kept.
func (s *Story) Fail(promise, format string, args ...any) {
	s.fail(promise, format, args...)
	s.stuck()
}

// Order is what a person does, and what must succeed.
func (s *Story) Order(verb Verb, name string, spec *blixardv1.VMSpec) *Operation {
	op := s.Do(&Operation{Verb: verb, Name: name, Spec: spec})
	s.goOn()
	if op.Unknown || op.Error != nil {
		s.Fail("a story goes on", "%v: %v", op, op.Error)
	}
	return op
}

// Ask is what another person wants, and is not waited for: the end of it is in
// the operation once it has come.
func (w *World) Ask(verb Verb, name string, spec *blixardv1.VMSpec) *Operation {
	op := &Operation{Verb: verb, Name: name, Spec: spec}
	w.newClient(false).begin(op, nil)
	return op
}

// Ended says that somebody heard the end of an operation, or gave up.
func (o *Operation) Ended() bool { return o.Return != 0 || o.Unknown }

// Until waits for something, and fails when it does not come.
func (s *Story) Until(what string, d time.Duration, cond func() bool) {
	ok := s.RunUntil(d, cond)
	s.goOn()
	if !ok {
		s.Fail("a story goes on", "%v later not yet: %s\n%s", d, what, s.describeNodes())
	}
}

// Pass lets time pass, in which nothing may fail.
func (s *Story) Pass(d time.Duration) {
	s.RunFor(d)
	s.goOn()
}

// View is what the leader knows; nil when nobody leads.
func (w *World) View() *cluster.State {
	if l := w.Leader(); l != nil {
		return l.daemon.node.View()
	}
	return nil
}

// Running says where a VM runs and is reported so; an empty uid: it does not.
func (w *World) Running(name string) (uid string, host *Machine) {
	v := w.View()
	if v == nil {
		return "", nil
	}
	vm := v.VM(name)
	if vm == nil || vm.Status.GetPhase() != blixardv1.Phase_PHASE_RUNNING || vm.Placement == nil {
		return "", nil
	}
	host = w.byID(vm.Placement.NodeId)
	if n, where := w.Live(vm.Uid); n != 1 || where[0] != host.Name {
		return "", nil
	}
	return vm.Uid, host
}

// Runs waits until a VM runs and is reported so, and says where.
func (s *Story) Runs(name string) (uid string, host *Machine) {
	s.Until(name+" runs", 2*time.Minute, func() bool {
		uid, host = s.Running(name)
		return uid != ""
	})
	return uid, host
}

// Another is the first machine that is none of those.
func (w *World) Another(than ...*Machine) *Machine {
	for _, m := range w.machines {
		if !isOf(m, than) {
			return m
		}
	}
	return nil
}

func isOf(m *Machine, list []*Machine) bool {
	for _, o := range list {
		if m == o {
			return true
		}
	}
	return false
}

// Machines are all there are, n1 first.
func (w *World) Machines() []*Machine { return w.machines }

// Now is how long the world has been there.
func (w *World) Now() time.Duration { return time.Duration(w.now) }

// ReplaceVM asks for a VM that is placed elsewhere when its host is lost.
func ReplaceVM() *blixardv1.VMSpec {
	return &blixardv1.VMSpec{
		Vcpus: 1, MemoryMib: 256, Hypervisor: blixardv1.Hypervisor_HYPERVISOR_PROCESS,
		Source:     &blixardv1.VMSpec_Process{Process: &blixardv1.Process{Argv: []string{"/bin/vm"}}},
		OnHostLoss: blixardv1.OnHostLoss_ON_HOST_LOSS_REPLACE,
	}
}

// WaitVM asks for a VM that waits for its host.
func WaitVM() *blixardv1.VMSpec {
	s := ReplaceVM()
	s.OnHostLoss = blixardv1.OnHostLoss_ON_HOST_LOSS_WAIT
	return s
}

// ImageVM asks for a VM that boots a file that was uploaded, and can go live.
func ImageVM() *blixardv1.VMSpec {
	s := ReplaceVM()
	s.Hypervisor = blixardv1.Hypervisor_HYPERVISOR_QEMU
	s.Source = &blixardv1.VMSpec_Image{Image: &blixardv1.Image{
		Kernel: fileOf(fileName(0)), Disks: []*blixardv1.Disk{{Name: "data", SizeMib: 64}},
	}}
	return s
}

// SharingVM is an ImageVM that sees a folder of its host.
func SharingVM() *blixardv1.VMSpec {
	s := ImageVM()
	s.Restart = blixardv1.RestartPolicy_RESTART_POLICY_ALWAYS
	s.Shares = []*blixardv1.Share{{Tag: "data", Source: "/srv/data", ReadOnly: true}}
	return s
}

// WarmVM is an image that starts from its saved boot, and once only.
func WarmVM() *blixardv1.VMSpec {
	s := ImageVM()
	s.GetImage().Disks = nil
	s.Restart, s.Warm = blixardv1.RestartPolicy_RESTART_POLICY_NEVER, true
	return s
}

// Booted says that a machine has the saved boot of a VM.
func (m *Machine) Booted(name string) bool {
	v := m.w.View()
	return v != nil && m.booted[v.VM(name).GetUid()] != nil
}

// Bringing is the machine whose daemon brings an archive to a host.
func (w *World) Bringing() *Machine {
	for _, m := range w.machines {
		if m.daemon != nil && len(m.daemon.uploads) > 0 {
			return m
		}
	}
	return nil
}

// Snapshot is that of a VM; nil for none, or while nobody leads.
func (w *World) Snapshot(name string) *blixardv1.VMSnapshot {
	if v := w.View(); v != nil {
		return v.Snapshot(snapshotName(name))
	}
	return nil
}

// Dropped has the snapshot of a VM deleted, and waits until it is gone.
func (s *Story) Dropped(name string) {
	s.Order(DropSnapshot, name, nil)
	s.Until("its snapshot is gone", time.Minute, func() bool { return s.View() != nil && s.Snapshot(name) == nil })
}

// Untold says that a VM runs which has gone on from its saved boot, and does not know yet
// who it is.
func (w *World) Untold(name string) bool {
	v := w.View()
	return v != nil && slices.ContainsFunc(w.running[v.VM(name).GetUid()], func(g *guest) bool { return g.untold })
}

// VolumeVM is an ImageVM with a volume, beside its own disk.
func VolumeVM() *blixardv1.VMSpec {
	s := ImageVM()
	s.Volumes = []*blixardv1.VolumeMount{{Volume: theVolumes[0]}}
	s.OnHostLoss = blixardv1.OnHostLoss_ON_HOST_LOSS_WAIT
	return s
}

// AVolume makes the volume of a VolumeVM.
func (s *Story) AVolume() { s.Order(AddVolume, theVolumes[0]+":1024", nil) }

// HasVolume waits until the volume of a VolumeVM is ready.
func (s *Story) HasVolume() {
	s.Until("its volume is ready", time.Minute, func() bool {
		v := s.View()
		return v != nil && v.Volume(theVolumes[0]).GetStatus().GetPhase() == blixardv1.VolumePhase_VOLUME_PHASE_READY
	})
}

// Moves begins a live move of a VM that runs.
func (s *Story) Moves(name string) (from *Machine) {
	_, from = s.Runs(name)
	s.Order(MoveVM, name, nil)
	return from
}

// Uploaded makes the file that an ImageVM boots known.
func (s *Story) Uploaded() { s.Order(Announce, fileName(0), nil) }

// Memory is which boot the guest of a VM goes on from; 0: none runs.
func (w *World) Memory(name string) uint64 {
	if v := w.View(); v != nil {
		for _, g := range w.running[v.VM(name).GetUid()] {
			return g.memory
		}
	}
	return 0
}

// Move is the last move of a VM; nil for none, or while nobody leads.
func (w *World) Move(name string) *blixardv1.Migration {
	if v := w.View(); v != nil {
		return v.VM(name).GetMigration()
	}
	return nil
}

// Targeted is the machine where a VM that is in a move has no right to run.
func (w *World) Targeted(name string) *Machine { return w.byID(w.Move(name).GetOther().GetNodeId()) }

// Befalls has a mishap happen to the next thing of its kind on a machine.
func (s *Story) Befalls(m *Machine, name string) { s.BefallsIn(m, name, 0) }

// BefallsIn is the same of one that has a length.
func (s *Story) BefallsIn(m *Machine, name string, d time.Duration) {
	s.Strike(Mishap{Name: name, At: m.place(), For: d})
}

// HandedOver says that a machine has handed a VM over.
func (m *Machine) HandedOver(name string) (handed bool) {
	uid := ""
	if v := m.w.View(); v != nil {
		uid = v.VM(name).GetUid()
	}
	d, ok := m.dirs.Get(uid)
	return ok && d.handedOver != 0
}

// KillVM kills what a machine has of a VM.
func (m *Machine) KillVM(name string) {
	if v := m.w.View(); v != nil {
		if d, ok := m.dirs.Get(v.VM(name).GetUid()); ok {
			d.sweep()
		}
	}
}

// NixVM asks for a VM that Nix builds, of a file that was uploaded.
func NixVM() *blixardv1.VMSpec {
	s := ReplaceVM()
	s.Hypervisor = blixardv1.Hypervisor_HYPERVISOR_CLOUD_HYPERVISOR
	s.Source = &blixardv1.VMSpec_Nixos{Nixos: &blixardv1.Nixos{Modules: []*blixardv1.NixosModule{fileModule(0)}}}
	return s
}

// RoamingNixVM is such a VM that can go live, with a disk of its own.
func RoamingNixVM() *blixardv1.VMSpec {
	s := NixVM()
	movesNix(s, "vm2")
	return s
}

// Deadline is the furthest that any lease page of the machine goes.
func (m *Machine) Deadline() (d uint64) {
	for _, p := range m.pages {
		d = max(d, p.Deadline)
	}
	return d
}

// Rate is how fast the machine's clock is, in this boot.
func (m *Machine) Rate() float64 { return m.clock.rate }

// Term is the leader's; 0 without one.
func (w *World) Term() uint64 {
	if l := w.Leader(); l != nil {
		return l.daemon.node.Status().Term
	}
	return 0
}

// Applied is the newest entry that a server has applied; 0 without a daemon.
func (m *Machine) Applied() uint64 {
	if m.daemon == nil {
		return 0
	}
	return m.daemon.node.Status().Applied
}

// N is the machine's number, as faults name it.
func (m *Machine) N() N { return N(m.Index) }
