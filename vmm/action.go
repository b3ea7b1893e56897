package vmm

import (
	"fmt"

	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/shim"
)

// Verb is what the VM manager can ask of the real side of a host.
type Verb uint8

const (
	// Build makes everything ready that a start needs, without running
	// anything: fetches artifacts, builds runners. Answered by Done. What it makes
	// may have to be removed again: then the VM is reported Down, with attempt 0,
	// from the beginning of its first Build on. It holds up
	// no other order for the VM, which may be running with an older spec; a newer
	// Build ends it, and so do Kill and Remove.
	Build Verb = iota + 1
	// Start makes the instance run: directory, disks, shim, hypervisor. It is
	// answered by Done as soon as the shim has been spawned or has refused, and
	// the instance's own states follow. Starting what runs is answered Done.
	Start
	// Stop presses the guest's power button; a paused guest, which could not hear
	// it, goes on first. Nothing is promised; the manager has its own deadline and
	// then says Kill.
	Stop
	// Kill ends the instance by SIGKILL of everything that belongs to it.
	Kill
	// Rebind moves a live instance to the lease class of the assignment.
	// Answered by Done; the instance's report then says which it has.
	Rebind
	// Remove deletes the instance's files. It fails while anything of the
	// instance is alive. Without an assignment, files of an older generation are put
	// aside and not deleted: the backup from which the cluster was restored knows
	// nothing of them, and they may be the only copy.
	Remove
	// Extend raises the deadlines of the lease pages of an epoch. Answered only
	// when a page has passed already: by Observed.Lapsed.
	Extend
	// Prepare says which runners to hold ready for VMs that run elsewhere: all of
	// them, so that others are let go. Answered, whenever that changes, by
	// Observed.Prepared.
	Prepare
	// Pause stops the guest where it is: none of its code runs until Resume. What
	// is paused already is answered Done, and so is what has ended.
	Pause
	// Resume lets it go on.
	Resume
	// Probe asks once how the guest is (Action.Health). Answered by Done, within
	// the probe's timeout; it holds up no other order, and none holds it up.
	Probe
	// Receive starts an instance as Start does, but for a guest that comes over from
	// another host: its hypervisor waits for it, and never runs it by itself.
	// Answered as Start is, by Done as soon as the shim has been spawned or has
	// refused; Report.Incoming then says how far it is. That it is Incoming is
	// written down before anything is spawned. From there on, until TakeOver, no
	// order has any of its guest's code run: Resume is refused, and Stop kills.
	// When the stream breaks, or brings what does not fit, the instance ends.
	Receive
	// TakeOver has a loaded guest run. It is ordered only once the cluster has given
	// this instance the right to run. That it is Incoming no more is written down
	// before the guest goes on, so that after a crash between the two the next
	// daemon finds a guest that is Paused, and is ordered to resume it. What has
	// been taken over already is answered Done; one that is not Loaded is an error.
	TakeOver
	// Send has a live instance sent to the peer of its assignment's MigrationOrder,
	// while the guest runs. Answered by Done when that has begun, or was under way
	// already; Report.Outgoing then says how far it is, and how it ended. While it
	// lasts other orders are carried out: a Stop or a Kill ends it first. Sent again
	// after it has failed, or after a daemon's death, it begins anew. One that was
	// handed over is answered Done, and nothing more is done.
	Send
	// Unsend ends a Send. Done without an error says that the guest goes on here, as
	// if it had never been sent, and that it will never be handed over by that Send.
	// Done with one says that it may be handed over, or may have been: the report
	// tells. Where nothing is under way it is answered Done.
	Unsend
	// Keep says which volumes this host has: all of them. Those that are missing are
	// made, those that are too small and that nobody has open grow, those that are to
	// be removed are; others stay as they are. Answered, when that is done and whenever
	// something of it changes, by Observed.Volumes.
	Keep
	// Snapshot keeps what a live guest is, memory and disks of one moment, as
	// Action.Snapshot: the guest is paused for it, and afterwards does what it did
	// before. It is there whole, or not at all. What is there already is answered
	// Done again; Stop, Kill and Remove end one under way, which then fails.
	Snapshot
	// KeepSnapshots says which snapshots to keep: what is here besides is removed.
	// Answered, when nothing of that is left, by Observed.Kept.
	KeepSnapshots
	// Balloon leaves a live guest so much of the memory that it was started with
	// (Report.BootMiB) as the assignment's spec says, and all of it where that is more:
	// its balloon takes what is too much, and gives back what it has. Answered by Done
	// within seconds, with an error while the guest has not that much; the report says
	// what it has. The guest can take back what it has given, whenever it likes.
	Balloon
)

var verbNames = [...]string{"?", "Build", "Start", "Stop", "Kill", "Rebind", "Remove", "Extend", "Prepare", "Pause", "Resume", "Probe", "Receive", "TakeOver", "Send", "Unsend", "Keep", "Snapshot", "KeepSnapshots", "Balloon"}

func (v Verb) String() string {
	if int(v) < len(verbNames) {
		return verbNames[v]
	}
	return fmt.Sprintf("Verb(%d)", uint8(v))
}

// Action is one order of the VM manager. It is carried out at least once, so
// every verb is idempotent; orders for one VM, but for Build and Probe, are carried out in
// the order in which they were given, those of different VMs in any.
type Action struct {
	// ID comes back in Done. Ascending within one life of the daemon.
	ID       uint64
	Verb     Verb
	Instance shim.Instance
	// Assignment is what the cluster wants; nil for Kill and Remove of what is
	// no longer assigned, and for Extend. Its Migration says, for Receive and Send,
	// who the peer is.
	Assignment *blixardv1.Assignment
	// Host is the epoch under which the action is ordered: it names the page.
	Host shim.Host
	// Leases are, for Extend, the deadlines to write, one a page.
	Leases []Lease
	// Preparations are, for Prepare, the runners to hold ready.
	Preparations []*blixardv1.Preparation
	// Health is, for Probe, what to ask.
	Health *blixardv1.Health
	// Volumes are, for Keep, the orders, and Revision is theirs.
	Volumes  []*blixardv1.VolumeOrder
	Revision uint64
	// Snapshot is, for Snapshot, its uid.
	Snapshot string
	// Keep is, for KeepSnapshots, the list.
	Keep *KeepList
	// Restore is, for Start, the snapshot that it starts from: copies of its disks
	// take the place of those that are there, and with Restore.Memory the guest goes
	// on where it was. Until it has, a start that fails puts back what was there.
	Restore *blixardv1.RestoreFrom
}

// Lease is one page of a host's epoch: everything whose lease is Length long.
type Lease struct {
	// Milliseconds; it names the page.
	Length uint32
	// BOOTTIME nanoseconds; it only grows.
	Deadline int64
}

// Liveness is what can be said of an instance's process.
type Liveness uint8

const (
	// Absent: no directory, nothing alive.
	Absent Liveness = iota
	// Down: there is a directory, and nothing of the instance is alive.
	Down
	// Alive: its lock is held, or its cgroup or namespace is not empty.
	Alive
)

func (l Liveness) String() string { return [...]string{"Absent", "Down", "Alive"}[l] }

// Report is what the real side saw of one VM's directory on this host. It is
// the whole truth at one moment, never a difference: a later one replaces it.
type Report struct {
	Instance shim.Instance
	Liveness Liveness
	// Lease that the live instance has; NONE when it is bound by no page.
	Lease blixardv1.LeaseClass
	// LeaseMs is the length of the page that binds it, and Epoch the epoch of
	// that page; 0 for none.
	LeaseMs uint32
	Epoch   uint64
	// RunGeneration of the assignment with which it was started.
	RunGeneration uint32
	// SpecGeneration of that assignment.
	SpecGeneration uint32
	// Ready: the guest was seen to run (the hypervisor answers and is running;
	// for a process: it was started).
	Ready bool
	// Paused: it is kept where it is, and was ready before.
	Paused bool
	// BootMiB is the memory that a live instance was started with, if it has a balloon,
	// and MemoryMiB what its guest had of that when it was last told or asked; 0: that
	// is not known.
	BootMiB, MemoryMiB uint64
	// Warm: a live instance's guest went on from its saved boot, and has not booted.
	Warm bool
	// Restored is RestoreFrom.Index of the newest restore of which the guest may have
	// run: it must not be done again.
	Restored uint64
	// Of an instance that is Down: how it ended. Exit is nil when nobody saw it:
	// its shim was killed.
	Exit *Exit
	// Incoming, of a live instance that was started by Receive and not taken over:
	// none of its guest's code has run here. It is neither Ready nor Paused.
	Incoming Incoming
	// Outgoing is the Send that is under way, or the newest that failed.
	Outgoing Outgoing
	// HandedOver, when not 0, is the migration to which this instance's guest was
	// handed over: it is stopped, its hypervisor would not let it go on by itself,
	// and it is written down, durably, in the VM's directory that this attempt will
	// never run again. All three are so before it is first reported. Then it is
	// neither Ready nor Paused. It stays so,
	// also of an instance that is Down and for every later daemon, until the
	// instance is removed or another attempt is started. Resume, Pause, Send and
	// Unsend are refused or change nothing; Stop kills.
	HandedOver uint64
}

// Incoming says how far an instance is that Receive has started.
type Incoming uint8

const (
	// Opening: its hypervisor does not listen yet.
	Opening Incoming = iota + 1
	// Listening: it can be sent the guest.
	Listening
	// Loaded: the whole guest is there, and TakeOver would have it run.
	Loaded
)

func (i Incoming) String() string { return [...]string{"", "Opening", "Listening", "Loaded"}[i] }

// Outgoing is a live instance on its way to another host. The zero value says that
// there is none: none was ordered, or it was ended, or it was handed over.
type Outgoing struct {
	// Migration is the id of the MigrationOrder.
	Migration uint64
	// Failed: it came to nothing, and the guest goes on here. Message says why.
	Failed  bool
	Message string
	// Of memory. It is reported every two seconds at most: each report is an entry
	// of the cluster's log.
	SentBytes, LeftBytes uint64
	ExpectedDowntimeMs   uint32
}

// Exit is how an instance ended.
type Exit struct {
	// Code is the program's exit code, or 128 + the signal.
	Code int32
	// Reason is one word: Exited, Crashed, Panicked, Lapsed, Interrupted, BootFailed, ...
	Reason string
	// Message is one sentence for people, with the last words of the console
	// where they help.
	Message string
}

// noFault says that an end was this host's doing: it is no failure of the VM, which is
// started again whatever its policy.
func (e *Exit) noFault() bool {
	return e.Reason == "Lapsed" || e.Reason == "Interrupted" && !mutant.On("InterruptedIsFault")
}

// Done says that an action ended. Err is empty when it succeeded; a failed
// Build or Start says what and why in words that reach the user.
type Done struct {
	Action uint64
	UID    string
	Err    string
	// Runner is what a Build of a NixOS VM or a flake gave, if it succeeded; its nodes are
	// empty.
	Runner *blixardv1.Runner
	// Image is what a Snapshot made.
	Image *blixardv1.SnapshotImage
	// Unknown: of a Probe that has an Err: it could not be run, or this host stood
	// still meanwhile, so that it says nothing of the guest.
	Unknown bool
}
