package sim

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Clients are people and scripts. Each does one thing at a time, through any
// server. When no answer comes it asks another server, with the same request id;
// after a few attempts it gives up, and the outcome stays unknown for ever. It
// writes down when it first asked, when it was answered, and what.

// Verb is what a client can do.
type Verb uint8

// What a client can do.
const (
	Create Verb = iota + 1
	Get
	List
	StaleGet
	Start
	Stop
	Restart
	Delete
	Update
	Rollback
	PauseVM
	ResumeVM
	MoveVM   // live, to wherever it fits
	StayVM   // ends that
	LeaveVM  // offline
	Revert   // restores the VM's snapshot
	CloneVM  // from another's
	Restored // what a backup has: nobody asks for it
	AddMember
	Cordon
	Uncordon
	Drain
	Restore
	RemoveMember
	LoseMember
	SetSettings
	Readmit
	Announce // a file that VMs may need: the name is what it holds
	AddNetwork
	AddVolume // the name is vol0:1024
	GrowVolume
	DropVolume
	TakeSnapshot // of a VM
	DropSnapshot
	BackUp    // of the VM's snapshot, with memory
	BringBack // what was backed up of that VM
)

var verbNames = [...]string{
	"?", "Create", "Get", "List", "StaleGet", "Start", "Stop", "Restart", "Delete", "Update", "Rollback", "PauseVM", "ResumeVM", "MoveVM", "StayVM", "LeaveVM", "Revert", "CloneVM", "Restored", "AddMember", "Cordon", "Uncordon",
	"Drain", "Restore", "RemoveMember", "LoseMember", "SetSettings", "Readmit", "Announce", "AddNetwork", "AddVolume", "GrowVolume", "DropVolume", "TakeSnapshot", "DropSnapshot", "BackUp", "BringBack",
}

func (v Verb) String() string { return verbNames[v] }

func (v Verb) reads() bool { return v == Get || v == List || v == StaleGet }

// Operation is one line of a client's history.
type Operation struct {
	Client int
	Verb   Verb
	Name   string
	Spec   *blixardv1.VMSpec

	Settings *blixardv1.Settings // of SetSettings

	Call int64
	// Return is 0 while the operation is open, and for ever when it is unknown.
	Return  int64
	Unknown bool
	machine *Machine // of AddMember
	drain   *blixardv1.DrainOp
	archive *archive // of BringBack
	brought string   // the uid under which that is brought
	key     string   // principal and request id of a mutation

	// What came of it.
	Error    *blixardv1.Error
	VM       *blixardv1.VM // of a VM's operation; nil when there is none
	Node     *blixardv1.Node
	Snapshot *blixardv1.VMSnapshot
	VMs      []*blixardv1.VM // of a List
	Revision uint64
}

func (o *Operation) String() string {
	s := begun{o}.String()
	switch {
	case o.Return == 0 && !o.Unknown:
		return s
	case o.Unknown:
		return s + " -> unknown"
	case o.Error != nil:
		return s + " -> " + o.Error.GetCode().String() + ": " + o.Error.GetMessage()
	case o.Verb == List:
		return s + fmt.Sprintf(" -> %d VMs at %d", len(o.VMs), o.Revision)
	case o.VM != nil:
		return s + fmt.Sprintf(" -> uid %s run %t/%d paused %t spec %d deleting %t at %d", o.VM.Uid, o.VM.Run, o.VM.RunGeneration, o.VM.Paused, o.VM.SpecGeneration, o.VM.Deleting, o.Revision)
	}
	return s + fmt.Sprintf(" -> none at %d", o.Revision)
}

// begun is an operation as it was when it began.
type begun struct{ op *Operation }

func (b begun) String() string {
	return fmt.Sprintf("client %d: %s %s", b.op.Client, b.op.Verb, b.op.Name)
}

type client struct {
	index    int
	w        *World
	choice   *rand.Rand // what it wants, and when
	snaps    *rand.Rand // of snapshots
	moves    *rand.Rand // of live moves
	warms    *rand.Rand // of warm starts
	backs    *rand.Rand // of backups
	luck     rand.PCG   // of the operation under way, so that leaving one out changes no other
	rand     *rand.Rand // draws from luck
	touched  string     // the VM of which it last wanted something else
	wishes   []Ask      // for when it is no longer busy
	skew     int64
	lastUUID int64
	op       *Operation
	asking   *ask
	attempts int
	server   int    // asked last
	attempt  uint64 // ascending over everything; an answer to an old one is not heard
	delivery bool   // some attempt may have reached a server
	random   bool   // goes on by itself
	volumes  bool   // looks after volumes, and nothing else
	done     func(*Operation)
}

// ask is one attempt of a client at one server.
type ask struct {
	client  *client
	attempt uint64
	server  *Machine
	request core.Request
	list    bool
	brings  *archive       // goes on with it once the request is answered
	ready   bool           // what it brings was ready before it was asked
	heard   func(*outcome) // of one that is no operation
}

const (
	attemptPatience = 4 * time.Second
	bytesPatience   = 20 * time.Second // where bytes come, too
	mostAttempts    = 6
	// remembered is the shortest time for which an answer is kept: the shortest
	// window that settings may have, on the fastest clock.
	remembered = int64(time.Minute * 10 / 11)
)

func (w *World) newClient(random bool) *client {
	c := w.person(len(w.clients), fmt.Sprintf("client%d", len(w.clients)))
	c.random = random
	w.clients = append(w.clients, c)
	return c
}

// person is a client with a stream of its own.
func (w *World) person(index int, name string) *client {
	c := &client{index: index, w: w}
	c.choice, c.rand = w.chance.stream(name), rand.New(&c.luck)
	c.snaps, c.moves = w.chance.stream(name+" snapshots"), w.chance.stream(name+" moves")
	c.warms, c.backs = w.chance.stream(name+" warm starts"), w.chance.stream(name+" backups")
	c.skew = between(c.choice, -time.Hour, time.Hour)
	return c
}

// think waits a while and does the next thing; in a story, what is written.
func (c *client) think() {
	if c.w.cfg.Script != nil {
		if len(c.wishes) > 0 && c.w.phase == safety {
			next := c.wishes[0]
			c.wishes = c.wishes[1:]
			next.strike(c.w)
		}
		return
	}
	after := tail(c.choice, c.w.mix.Think, 20*c.w.mix.Think)
	c.w.push(event{at: c.w.now + after, kind: evClient, ref: c})
}

func (c *client) next() {
	if c.w.phase != safety || !c.random || c.op != nil {
		return
	}
	if c.volumes {
		c.nextVolume()
		return
	}
	m := c.w.mix
	name := fmt.Sprintf("vm%d", c.choice.IntN(m.Names))
	if maybe(c.choice, m.Fickle) && c.touched != "" {
		name = c.touched
	}
	op := &Operation{Verb: drawVerb(c.choice), Name: name}
	if maybe(c.choice, m.Renews) {
		op.Verb = Update
	}
	if op.Verb == MoveVM || op.Verb == StayVM { // only images can go live
		op.Name = fmt.Sprintf("vm%d", 1+4*c.choice.IntN(2))
	}
	if isImage(name, m.Files) && maybe(c.snaps, m.Snapshots) {
		op.Verb = pick(c.snaps, TakeSnapshot, TakeSnapshot, TakeSnapshot, DropSnapshot, DropSnapshot, Revert, Revert, CloneVM)
		if maybe(c.backs, m.Backups) {
			op.Verb = pick(c.backs, BackUp, BringBack, BringBack, CloneVM)
		}
		op.Verb = c.w.hearsay.first(op.Verb, name)
	}
	if startsWarm(name, m) && maybe(c.warms, 0.6) {
		op.Verb = c.w.hearsay.first(Restart, name)
	}
	if m.Files > 0 && maybe(c.moves, m.Moves) {
		op.Verb, op.Name = MoveVM, fmt.Sprintf("vm%d", 1+4*c.moves.IntN(2)+c.moves.IntN(3)/2) // a third are Nix's
		switch c.moves.IntN(8) {
		case 0:
			op.Verb = StayVM
		case 1:
			op.Verb = LeaveVM
		}
		op.Verb = c.w.hearsay.first(op.Verb, op.Name)
	}
	if !op.Verb.reads() {
		c.touched = op.Name
	}
	if op.Verb == Create || op.Verb == Update {
		op.Spec = drawSpec(c.choice, c.index, op.Name, c.w.settings.GetLeaseMs(), c.w.mix)
		if m.Moves > 0 && c.moves.IntN(3) > 0 { // what it has nothing of on its host can go live
			op.Spec.Devices, op.Spec.Volumes = nil, nil
		}
		if m.Backups > 0 && c.backs.IntN(4) > 0 { // nor are there snapshots of another
			op.Spec.Devices, op.Spec.Volumes, op.Spec.Shares = nil, nil, nil
		}
		if m.Moves > 0 {
			movesNix(op.Spec, name)
		}
	}
	c.w.decided(Ask{c.index, op.Verb, op.Name, op.Spec})
	c.begin(op, nil)
}

func drawVerb(r *rand.Rand) Verb {
	x := r.IntN(100)
	for _, v := range []struct {
		verb   Verb
		weight int
	}{{Create, 24}, {Get, 14}, {MoveVM, 3}, {StayVM, 1}, {PauseVM, 3}, {ResumeVM, 3}, {List, 3}, {StaleGet, 5}, {Start, 8}, {Stop, 8}, {Restart, 5}, {Delete, 11}, {Update, 9}, {Rollback, 3}} {
		if x -= v.weight; x < 0 {
			return v.verb
		}
	}
	return Get
}

// movesNix has what Nix builds for some VMs be a QEMU, which can be moved live, and
// write a disk of its own for half of these. It is told by their names, as what boots is.
func movesNix(s *blixardv1.VMSpec, name string) {
	n := s.GetNixos()
	if n == nil || (name[len(name)-1]-'0')%4 != 2 {
		return
	}
	s.Hypervisor = blixardv1.Hypervisor_HYPERVISOR_QEMU
	if s.MemoryMib == 2048 { // microvm.nix's QEMU hangs at just that
		s.MemoryMib--
	}
	s.OnHostLoss = blixardv1.OnHostLoss_ON_HOST_LOSS_REPLACE // nothing is on its host that it would wait for
	if name[len(name)-1] == '2' {
		s.OnHostLoss = blixardv1.OnHostLoss_ON_HOST_LOSS_WAIT
		n.Volumes = []*blixardv1.Volume{{Kind: &blixardv1.Volume_Data{Data: &blixardv1.DataVolume{Path: "a.img", SizeMib: 64}}}}
	}
}

// theNetwork is there in worlds with files, and images are plugged into it.
const theNetwork = "lan"

// theDevice is a kind of device that some hosts have a few of.
const theDevice = "gpu"

// drawImage draws a VM that boots the first file, with interfaces on the network,
// and with ports and devices of its host, which others may have.
func drawImage(r *rand.Rand, s *blixardv1.VMSpec) {
	s.Source = &blixardv1.VMSpec_Image{Image: &blixardv1.Image{
		Kernel: fileOf(fileName(0)), Disks: []*blixardv1.Disk{{Name: "data", SizeMib: 64}}, // which every update keeps
	}}
	s.Hypervisor = blixardv1.Hypervisor_HYPERVISOR_QEMU
	for range r.IntN(3) {
		s.Networks = append(s.Networks, &blixardv1.Interface{Kind: &blixardv1.Interface_Network{Network: theNetwork}})
	}
	if r.IntN(3) == 0 {
		s.Devices = append(s.Devices, &blixardv1.DeviceRequest{Kind: theDevice, Count: uint32(1 + r.IntN(2))})
	}
	if r.IntN(4) > 0 { // most serve something, and on one of two ports
		port := &blixardv1.PortForward{HostPort: uint32(8000 + r.IntN(2)), GuestPort: 80}
		s.Networks = append(s.Networks, &blixardv1.Interface{
			Kind: &blixardv1.Interface_User{User: &blixardv1.UserInterface{}}, Ports: []*blixardv1.PortForward{port},
		})
	}
}

// isImage says that a VM of that name is one that boots a file.
func isImage(name string, files int) bool { return files > 0 && (name[len(name)-1]-'0')%4 == 1 }

// A VM has one snapshot at a time.
func snapshotName(vm string) string { return "snap-" + vm }

// originOf is the VM of whose snapshot one may be cloned.
func originOf(vm string) string {
	if vm == "vm1" {
		return "vm5"
	}
	return "vm1"
}

// drawSpec of a VM. What boots it is told by its name: an update changes nothing
// about that.
func drawSpec(r *rand.Rand, client int, name string, lease uint32, mix *Mix) *blixardv1.VMSpec {
	files := mix.Files
	s := &blixardv1.VMSpec{
		Vcpus: uint32(1 + r.IntN(2)), MemoryMib: uint64(256 << r.IntN(4)),
		Source:      &blixardv1.VMSpec_Process{Process: &blixardv1.Process{Argv: []string{"/bin/vm"}}},
		Restart:     blixardv1.RestartPolicy_RESTART_POLICY_ALWAYS,
		OnHostLoss:  pick(r, blixardv1.OnHostLoss_ON_HOST_LOSS_REPLACE, blixardv1.OnHostLoss_ON_HOST_LOSS_REPLACE, blixardv1.OnHostLoss_ON_HOST_LOSS_WAIT),
		StopGraceMs: uint32(between(r, 1, 6)) * 1000,
		Priority:    int32(r.IntN(3)),
		Hypervisor:  blixardv1.Hypervisor_HYPERVISOR_PROCESS,
		Labels:      map[string]string{"a": "1", "b": "2", "client": fmt.Sprint(client)},
		Require:     nil,
	}
	if name[len(name)-1]%2 == 0 {
		a := r.IntN(3)
		modules := []*blixardv1.NixosModule{{Source: &blixardv1.NixosModule_Inline{Inline: fmt.Sprintf("{ a = %d; }", a)}}}
		if files > 0 {
			modules = append(modules, fileModule(a%files))
		}
		s.Source = &blixardv1.VMSpec_Nixos{Nixos: &blixardv1.Nixos{Modules: modules}}
		s.Hypervisor = blixardv1.Hypervisor_HYPERVISOR_CLOUD_HYPERVISOR
		s.Prebuild = uint32(r.IntN(3))
	}
	if isImage(name, files) {
		drawImage(r, s)
	}
	if r.IntN(3) == 0 {
		s.Health = &blixardv1.Health{
			Probe:         &blixardv1.Health_Tcp{Tcp: &blixardv1.TCPProbe{Host: "10.0.0.1", Port: 80}},
			StartPeriodMs: uint32(1 + r.IntN(5000)), IntervalMs: uint32(between(r, 1000, 5000)), TimeoutMs: uint32(between(r, 100, 1000)),
			HealthyThreshold: uint32(1 + r.IntN(2)), UnhealthyThreshold: uint32(1 + r.IntN(3)),
		}
	}
	s.OnUpdate = pick(r, blixardv1.OnUpdate_ON_UPDATE_NEXT_START, blixardv1.OnUpdate_ON_UPDATE_RESTART)
	mark := r.Uint64()
	s.Labels["revision"] = fmt.Sprint(mark) // no two specs are equal
	drawVolumes(s, mark, mix.Volumes)
	drawShares(s, mark, mix.Shares)
	drawWarm(s, name, mark, mix)
	switch r.IntN(10) {
	case 0, 1:
		s.Restart = blixardv1.RestartPolicy_RESTART_POLICY_NEVER
	case 2, 3:
		s.Restart = blixardv1.RestartPolicy_RESTART_POLICY_ON_FAILURE
	case 4:
		s.LeaseMs = lease + uint32(r.IntN(10))*1000
	}
	return s
}

// fileOf is an uploaded file, by what it holds.
func fileOf(holds string) *blixardv1.Artifact {
	sum := sha256.Sum256([]byte(holds))
	return &blixardv1.Artifact{Digest: hex.EncodeToString(sum[:]), Size: uint64(len(holds))}
}

func fileName(i int) string { return fmt.Sprintf("{ file = %d; }", i) }

func fileModule(i int) *blixardv1.NixosModule {
	return &blixardv1.NixosModule{Source: &blixardv1.NixosModule_File{File: fileOf(fileName(i))}}
}

// begin starts an operation; done, if any, is called with its end.
func (c *client) begin(op *Operation, done func(*Operation)) {
	op.Client, op.Call = c.index, c.w.now
	if op.Verb == LoseMember {
		c.w.givenUp[op.Name] = true
	}
	c.luck.Seed(c.w.cfg.Seed, mix(uint64(c.w.now)^uint64(c.index)<<56))
	c.op, c.done, c.attempts, c.delivery = op, done, 0, false
	c.w.history = append(c.w.history, op)
	c.w.keep(nil, begun{op})
	if op.Verb == BringBack && op.archive == nil {
		op.archive = c.w.hearsay.archives[op.Name]
	}
	c.asking = &ask{client: c, request: c.request(op), list: op.Verb == List, brings: op.archive}
	c.try()
}

func (c *client) request(op *Operation) core.Request {
	in := core.Request{Timeout: int64(attemptPatience)}
	cmd := &blixardv1.Command{}
	switch op.Verb {
	case StaleGet:
		in.Stale, in.VM = true, op.Name
		return in
	case Get:
		in.VM = op.Name
		return in
	case List, BackUp:
		return in
	case Create:
		cmd.Op = &blixardv1.Command_CreateVm{CreateVm: &blixardv1.CreateVMOp{Name: op.Name, Spec: op.Spec}}
	case Delete:
		cmd.Op = &blixardv1.Command_DeleteVm{DeleteVm: &blixardv1.DeleteVMOp{Name: op.Name}}
	case Update:
		cmd.Op = &blixardv1.Command_UpdateVm{UpdateVm: &blixardv1.UpdateVMOp{Name: op.Name, Spec: op.Spec}}
	case Rollback:
		cmd.Op = &blixardv1.Command_RollbackVm{RollbackVm: &blixardv1.RollbackVMOp{Name: op.Name}}
	case Start, Stop, Restart:
		cmd.Op = &blixardv1.Command_Power{Power: &blixardv1.PowerOp{Name: op.Name, Run: op.Verb != Stop, Restart: op.Verb == Restart}}
	case PauseVM, ResumeVM:
		cmd.Op = &blixardv1.Command_Pause{Pause: &blixardv1.PauseOp{Name: op.Name, Paused: op.Verb == PauseVM}}
	case MoveVM:
		cmd.Op = &blixardv1.Command_MigrateVm{MigrateVm: &blixardv1.MigrateVMOp{Name: op.Name, TimeoutMs: 60_000}}
	case LeaveVM:
		cmd.Op = &blixardv1.Command_MigrateVm{MigrateVm: &blixardv1.MigrateVMOp{Name: op.Name, Offline: true}}
	case StayVM:
		cmd.Op = &blixardv1.Command_CancelMigration{CancelMigration: &blixardv1.CancelMigrationOp{Name: op.Name}}
	case TakeSnapshot:
		cmd.Op = &blixardv1.Command_CreateSnapshot{CreateSnapshot: &blixardv1.CreateSnapshotOp{Name: snapshotName(op.Name), Vm: op.Name}}
	case DropSnapshot:
		cmd.Op = &blixardv1.Command_DeleteSnapshot{DeleteSnapshot: &blixardv1.DeleteSnapshotOp{Name: snapshotName(op.Name)}}
	case BringBack:
		cmd = op.archive.command(op.Name)
	case Revert:
		cmd.Op = &blixardv1.Command_RestoreSnapshot{RestoreSnapshot: &blixardv1.RestoreSnapshotOp{Name: snapshotName(op.Name)}}
	case CloneVM:
		cmd.Op = &blixardv1.Command_CloneSnapshot{CloneSnapshot: &blixardv1.CloneSnapshotOp{
			Name: snapshotName(originOf(op.Name)), Vm: op.Name, Memory: op.Name == "vm5",
		}}
	case Cordon, Uncordon:
		cmd.Op = &blixardv1.Command_Cordon{Cordon: &blixardv1.CordonOp{Name: op.Name, Cordoned: op.Verb == Cordon}}
	case Drain:
		cmd.Op = &blixardv1.Command_Drain{Drain: op.drain}
	case Restore:
		cmd.Op = &blixardv1.Command_RestoreNode{RestoreNode: &blixardv1.RestoreNodeOp{Name: op.Name}}
	case RemoveMember, LoseMember:
		cmd.Op = &blixardv1.Command_RemoveNode{RemoveNode: &blixardv1.RemoveNodeOp{Name: op.Name, Lost: op.Verb == LoseMember}}
	case SetSettings:
		cmd.Op = &blixardv1.Command_SetSettings{SetSettings: &blixardv1.SetSettingsOp{Settings: op.Settings}}
	case Readmit:
		m := op.machine
		cmd.Op = &blixardv1.Command_Readmit{Readmit: &blixardv1.ReadmitOp{NodeId: m.id, Generation: c.w.generation - 1, Node: &blixardv1.AddNodeOp{
			Name: m.called, Address: m.address(), Server: m.Server, Host: m.Host, Level: m.level,
		}}}
	case Announce:
		f := fileOf(op.Name)
		cmd.Op = &blixardv1.Command_Announce{Announce: &blixardv1.AnnounceOp{Digest: f.Digest, Size: f.Size, NodeId: 1}}
	case AddNetwork:
		cmd.Op = &blixardv1.Command_CreateNetwork{CreateNetwork: &blixardv1.CreateNetworkOp{Name: op.Name, Spec: &blixardv1.NetworkSpec{Cidr: "10.0.0.0/16"}}}
	case AddVolume:
		name, mib := sized(op.Name)
		cmd.Op = &blixardv1.Command_CreateVolume{CreateVolume: &blixardv1.CreateVolumeOp{Name: name, Spec: &blixardv1.VolumeSpec{SizeMib: mib}}}
	case GrowVolume:
		name, mib := sized(op.Name)
		cmd.Op = &blixardv1.Command_GrowVolume{GrowVolume: &blixardv1.GrowVolumeOp{Name: name, SizeMib: mib}}
	case DropVolume:
		cmd.Op = &blixardv1.Command_DeleteVolume{DeleteVolume: &blixardv1.DeleteVolumeOp{Name: op.Name}}
	case AddMember:
		m := op.machine
		if m == nil {
			m = c.w.byName(op.Name)
		}
		cmd.Op = &blixardv1.Command_AddNode{AddNode: &blixardv1.AddNodeOp{
			Name: op.Name, Address: m.address(), Server: m.Server, Host: m.Host, Level: m.level,
		}}
	}
	c.seal(cmd)
	in.Command = cmd
	op.key = cmd.Principal + "\x00" + cmd.RequestId
	return in
}

// seal makes a command a new request of the client.
func (c *client) seal(cmd *blixardv1.Command) {
	sum := sha256.Sum256(blixardv1.Encode(cmd))
	cmd.PayloadHash, cmd.RequestId, cmd.Principal = sum[:], c.uuid(), fmt.Sprintf("client-%d", c.index)
}

// uuid is a UUIDv7 by the client's own clock.
func (c *client) uuid() string {
	ms := max(c.lastUUID+1, (epoch+c.w.now+c.skew)/int64(time.Millisecond))
	c.lastUUID = ms
	r := c.rand.Uint64()
	return fmt.Sprintf("%08x-%04x-7%03x-8%03x-%012x", ms>>16, ms&0xffff, r&0xfff, r>>12&0xfff, r>>24&0xffffffff)
}

// try asks some server.
func (c *client) try() {
	w := c.w
	tired := c.attempts >= mostAttempts || c.attempts > 0 && maybe(c.rand, 0.1)
	if !c.random { // the operator insists
		tired = w.now-c.op.Call > int64(time.Minute)
	}
	if tired {
		c.end(nil)
		return
	}
	c.attempts++
	w.attempts++
	c.attempt = w.attempts
	a := *c.asking
	a.attempt, a.ready = c.attempt, w.judges.snapshots.ready(w, c.op)
	servers := w.voters()
	if c.attempts == 1 {
		c.server = c.rand.IntN(len(servers))
	}
	c.server++ // one that did not help is left for the next
	a.server = servers[c.server%len(servers)]
	w.push(event{at: w.now + between(c.rand, 100*time.Microsecond, 2*time.Millisecond), kind: evAsk, ref: &a})
	if hangs, ok := w.mishap("Disconnect", a.server.place(), w.mix.Disconnect, 0, time.Second); ok {
		w.push(event{at: w.now + int64(hangs), kind: evGiveUp, n: c.attempt, ref: c})
	}
	patience := attemptPatience
	if c.op.Verb == BackUp || c.op.Verb == BringBack {
		patience = bytesPatience
	}
	w.push(event{at: w.now + int64(patience) + between(c.rand, 0, time.Second), kind: evGiveUp, n: c.attempt, ref: c})
}

// asked: the request is at the server's door.
func (w *World) asked(a *ask) {
	d := a.server.daemon
	if d == nil {
		w.answered(a, nil) // connection refused
		return
	}
	a.client.delivery = true
	w.atOnce(event{kind: evRequest, m: a.server, life: d.life, ref: a})
}

// clientLost: the server died with the request.
func (w *World) clientLost(r *request) {
	if r.ended {
		return
	}
	w.answered(r.ask, nil)
}

// outcome is what a client hears. Nothing at all: the connection broke.
type outcome struct {
	ask   *ask
	reply *core.Reply
}

func (w *World) answered(a *ask, r *core.Reply) {
	after := between(a.client.rand, 100*time.Microsecond, 2*time.Millisecond)
	w.push(event{at: w.now + after, kind: evAnswer, ref: &outcome{a, r}})
}

func (w *World) answer(m *Machine, q *request, r core.Reply) {
	if up := r.Response.GetSnapshot(); q.ask.brings != nil && up != nil && m.daemon != nil {
		m.daemon.brings(q.ask, up)
		return
	}
	switch {
	case r.View != nil:
		w.judges.states.seen(w, m, r.View)
	case r.One != nil && m.daemon != nil: // of the state that the node has now, unless it has just died
		w.judges.states.seen(w, m, m.daemon.node.State())
	}
	w.answered(q.ask, &r)
}

// heard: an answer is at the client.
func (c *client) heard(o *outcome) {
	if o.ask.heard != nil {
		o.ask.heard(o)
		return
	}
	if c.op == nil || o.ask.attempt != c.attempt {
		return
	}
	r := o.reply
	again := r == nil || r.Error != nil || r.Response.GetError().GetCode() == blixardv1.ErrorCode_ERROR_CODE_NO_QUORUM ||
		r.Response.GetError().GetCode() == blixardv1.ErrorCode_ERROR_CODE_SHUTTING_DOWN
	if again {
		c.attempt = 0
		c.w.push(event{at: c.w.now + between(c.rand, 50*time.Millisecond, time.Second), kind: evGiveUp, n: 0, ref: c})
		return
	}
	if c.op.Verb == BackUp {
		c.fetches(o)
		return
	}
	w, op := c.w, c.op
	if o.ask.ready && r.Response.GetError() != nil && w.judges.snapshots.ready(w, op) {
		w.fail("a retry gets the first answer", "%v: it was brought as %s, which is ready, and is answered: %v", op, op.brought, r.Response.Error)
	}
	c.end(r)
}

// gaveUp: the attempt took too long, or it is time for another.
func (c *client) gaveUp(attempt uint64) {
	if c.op != nil && c.attempt == attempt {
		c.try()
	}
}

// end writes down what came of the operation.
func (c *client) end(r *core.Reply) {
	op, w := c.op, c.w
	c.op, c.attempt = nil, 0
	w.trace.fold(uint64(op.Verb))
	if r == nil || r.Response.GetError().GetCode() == blixardv1.ErrorCode_ERROR_CODE_REQUEST_ID_EXPIRED {
		op.Unknown = true
		w.fired("Unknown")
		if r != nil && w.now-op.Call < remembered {
			w.fail("a retry gets the first answer", "%v: its request id has expired after %v", op, time.Duration(w.now-op.Call))
		}
	} else {
		op.Return = w.now
		op.take(r)
		w.trace.fold(op.Revision)
	}
	w.hearsay.learn(op)
	w.keep(nil, op)
	if c.done != nil {
		c.done(op)
	}
	if c.random {
		c.think()
	}
}

func (op *Operation) take(r *core.Reply) {
	switch {
	case r.View != nil && op.Verb == List:
		op.Revision = r.View.Revision()
		r.View.VMs("", func(vm *blixardv1.VM) bool {
			op.VMs = append(op.VMs, vm)
			return true
		})
	case r.View != nil:
		op.Revision = r.View.Revision()
	case r.One != nil:
		op.Revision, op.VM = r.One.Revision, r.One.VM
	default:
		op.Error, op.Revision = r.Response.GetError(), r.Response.GetRevision()
		op.VM, op.Node, op.Snapshot = r.Response.GetVm(), r.Response.GetNode(), r.Response.GetSnapshot()
	}
	if op.VM != nil {
		op.VM = proto.CloneOf(op.VM)
	}
}
