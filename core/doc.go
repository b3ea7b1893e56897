// Package core is one node: inputs in, outputs out. Raft, the replicated state,
// the lease and the VM manager, composed into one deterministic machine.
//
// # The turn
//
//	           ┌──────────────────────── Node ────────────────────────┐
//	Tick       │   server (a Raft voter)           host (runs VMs)    │   Write
//	Receive    │  ┌───────────────────────┐      ┌─────────────────┐  │   Messages
//	Request  ──►  │ raft ► Apply ► replies │      │ Units ► Plan    │  ├─► Actions
//	Wrote      │  │ leader: fences, grants│ Sync │ leases, reports │  │   Replies
//	Observed   │  └───────────────────────┘◄────►└─────────────────┘  │
//	           └──────────────────────────────────────────────────────┘
//
// Everything that happens to a node is an [Input], everything it wants done an
// [Output]; both are plain data. [Node.Step] never blocks, takes no lock, starts
// no goroutine and reads no clock. Production is a loop over an inbox, the
// simulator a loop over a heap; nothing else differs.
//
// A node is a server, a host, or both. Even where it is both, the two parts
// speak only by the messages that they would exchange over the network: Sync up,
// Grant down. The host part trusts no state of its own server.
//
// # One disk transaction a turn
//
// At most one batch is under way. While it is, Raft is stepped and ticked, but
// its Ready waits: what piles up meanwhile goes into the next batch, which is
// what makes commits cheap under load. A batch carries entries and hard state,
// and a bounded piece of the applied state with the index that it belongs to,
// so that a restart loads the state and replays only the tail. What must not
// leave before the batch is durable (a vote, an acknowledgement, an answer)
// stays inside until Wrote. A leader's appends go out at once (Ongaro's thesis,
// 10.2.1).
//
// # Files
//
// env.go, input.go and output.go are the words; node.go is Step; disk.go is what
// the disk holds and log.go how it is written; server.go is Raft and Apply,
// request.go the clients, round.go proofs of leadership, leader.go the duties of
// a leader, granter.go its side of the lease, host.go the host's, and counts.go what they count.
package core
