// Package sim is the simulated world: a whole cluster on one thread, from one
// seed, with faults and with judges.
//
// # The model
//
// A [World] is a queue of events in the order of (time, number). It pops one,
// folds it into the trace hash, and carries it out; that may push others. There
// is nothing else: no goroutine, no clock, and no choice that does not come from
// the seed.
//
//	          chance (one seed, named streams)
//	             │
//	queue ──► World ──► Machine ──► Daemon ──► core.Node      the same code
//	  ▲          │         ├──────► shimProc ─► shim.Machine   as production
//	  └──────────┤         ├──────► guest
//	             │         ├──────► Disk, clock, lease pages
//	             ├──► network, clients, faults
//	             └──► judges
//
// What decides is the production's own: [core.Node], which composes Raft, the
// replicated state, leases and the VM manager, and [shim.Machine]. What is
// simulated is what they decide about: disks, networks, clocks, processes, the
// kernel's timers, and people.
//
// A run passes through phases: the cluster is founded and grows as it does in
// production; then faults strike while clients work; then all is healed; then
// the world must come to rest within a stated time. Judges look at every event
// and once more at the end.
//
// # What each part promises
//
// A fake is worth what it may break and what it may not. Each says so at the
// head of its file: disk.go, network.go, clock.go, process.go, hypervisor.go.
// docs/simulation.md gathers what is assumed and not checked.
//
// # One at a time
//
// etcd's Raft draws its election timeouts from crypto/rand.Reader, a variable of
// the whole process. A World replaces it, so only one can live in a process;
// many seeds run as many processes (cmd/blixard-sim).
package sim
