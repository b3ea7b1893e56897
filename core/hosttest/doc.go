// Package hosttest is the contract of core.Hypervisor as a monitor: it hears what is
// ordered of the real side of one host, and what that says it saw, and tells what does
// not fit. The simulated world's hosts are judged by it at every event, and the real
// runner's in each of its tests, so that what holds over one holds over the other.
//
// # Model
//
//	Node ── Do(vmm.Action) ──► host
//	  ▲                         │
//	  └──── core.Observed ◄─────┘      one Contract hears both, through all lives
//
// It knows the orders of the daemon's life that are not answered, and of each VM's
// directory what was last said.
//
// # What the real side promises
//
//   - The first thing that it says in a life is the inventory, and it says it once.
//   - Every Done answers an order of this life, for the VM of which that was, once. The
//     orders for one VM are answered in their order; but for Build and Probe, which have
//     lanes of their own.
//   - Only a Build gives a runner, only a Snapshot an image, only a Probe says "unknown".
//   - What is alive was ordered to start here, or was found by an inventory. What was said
//     to be down is never alive again, nor is what was killed, nor anything that was
//     started before: (generation, index, attempt) of what lives only grows. But for what
//     was removed, and is started again by a cluster that was restored from a backup.
//   - What is down is not ready, paused, coming or going; what is absent is nothing at all;
//     only what is down has an end, and that stays as it was told, or is forgotten with the
//     daemon.
//   - With which spec an instance was started does not change while it lives.
//   - What comes from another host goes Opening, Listening, Loaded, and is an instance
//     like others only after TakeOver. What was handed over stays so, and is not ready.
//   - What was removed is absent until something is built or started again.
//   - A lapsed epoch is one of which a page was to be extended, what is kept is a list
//     that was ordered, and what it misses is on that list.
//
// # What it does not promise, so a fake may do it
//
// Orders may be answered after any time, or never in this life. What is between two
// reports is not told. After a loss of power, directories may be gone.
package hosttest
