// Package cluster is the replicated state, and Apply, the only way it changes.
//
// # The model
//
//	log entry ──► Apply ──► records ──► indexes (derived)
//	                 │          └─────► changes (to the disk), hash
//	                 └──► Response (to the client, and kept under its request id)
//
// A [State] is one ordered table of immutable records: VMs by name, nodes by
// id, artifacts by digest, remembered requests, events. Freezing it costs
// nothing, so whoever reads a lot reads a frozen copy. Every replica that has
// applied the same entries has the same records, the same [State.Hash] and gives
// the same answers: Apply never asks what time it is, and draws no lots.
//
// # Never two copies
//
// An instance is (uid, incarnation, attempt). From the entry that places it, it
// counts as possibly running, and everything it holds stays held. Three things
// release it, and nothing else does:
//
//   - its host's report, in the host's present epoch, that it has taken the
//     removal and that nothing of the instance is alive (report.go);
//   - the fence of that epoch, for an instance whose lease is SHORT (fence.go);
//   - a person's word that the host's machine is lost for good, after the fence
//     that its lease asks for; of what has no lease, after any fence (lost.go).
//
// Placement.lease is the loosest bound under which the instance may be living,
// so it is loosened before the host is told, and tightened after the host has
// acknowledged. That is how a cluster of one host, where nothing binds, can
// grow: its VMs can be fenced only once each of them has a deadline.
//
// # Files
//
// apply.go is the switch; state.go the table; index.go what is derived; then a
// file per noun: vm.go, placement.go, host.go, report.go, fence.go, member.go,
// lost.go, volume.go, artifact.go, dedupe.go, event.go; validate.go says what a spec may be, and
// explain.go why a VM is where it is.
package cluster
