// Package vmm decides what a host must do so that what runs equals what was
// placed: Plan(desired, observed).
//
// # The model
//
//	assignments (from the cluster) ──►┐
//	                                  ├─► Unit ──► Plan ──► Actions ──► the real side
//	reports (from the real side)  ───►┘    │                               │
//	     ▲                                 └──► Observation (to the cluster)│
//	     └──────────────────────────────────────────────────────────────────┘
//
// A [Unit] is one VM on this host: what is wanted (an assignment, or nothing),
// what was last seen (a report), and the little that must be remembered between
// the two: which action is under way, how often it failed, when to try again.
// [Unit.Plan] compares and orders the next action, at most one that changes
// anything at a time. It can be called at any moment, as often as one likes.
//
//	           ┌──────────── backoff ───────────┐
//	           ▼                                │
//	Pending ─► Building ─► Starting ─► Running ─┴► Failed
//	                          │           │
//	                          │        │ ▲
//	                          │        ▼ │
//	                          │       Paused
//	                          └► Stopping ◄┘─► Stopped, Deleting
//
// # What Plan promises
//
//   - It starts nothing while anything of the VM is alive, or may be by an order
//     under way; an attempt's number is never used twice.
//   - It starts nothing under a lease whose deadline is not clearly ahead.
//   - An instance that is not assigned here (any more), or of another
//     incarnation, is killed and removed.
//   - A VM that its user stopped stays stopped. One that ends by itself is
//     started again as its policy says, later each time; the end of a lease, and that
//     of a daemon in the middle of a start, is no failure of the VM.
//   - A VM that its user paused is paused as soon as it runs, whatever started it.
//   - A VM is ended for its health only when probes have failed as often in a row as
//     its spec says. One during which this host stood still, or that could not be
//     run, counts for nothing.
//   - What it reports as the instance's lease is never tighter than the truth.
//
// The package is pure: now is an argument, in nanoseconds of BOOTTIME.
package vmm
