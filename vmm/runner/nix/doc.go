// Package nix builds the runner of a VM: it turns the files that nixflake
// renders into a store path that holds bin/microvm-run, once, and keeps it from
// being collected for as long as a VM needs it. It knows nothing of VMs running.
//
// # The model
//
//	Order (files, uid) ──► key ──► here already? ── yes ──► hold, and done: no process
//	                                   │ no
//	       built elsewhere (Want)? ────┤
//	         substitute, or copy from a peer ──► root ──► hold
//	                                   │ nobody has it
//	       a place in the queue ──► work directory ──► lock ──► evaluate ──► build
//	                                                    └──────┬──────┘       │
//	                                             memory bound: MemoryMiB     root ──► hold
//
// The key is a hash of what Nix is going to see: every file with the digest of
// its content, the lock, the attribute and the system. No path of this host is
// in it. Orders of one key, given at the same time, are one build; it ends when
// the last who waits for it has gone.
//
// # Files
//
//	DIR/lock                      one builder a directory, and what it left running
//	DIR/work                      a folder for each build under way; swept by the next Open
//	DIR/runners/N/root            link to the store path, registered with Nix as a root
//	DIR/runners/N/runner.json     what it is, the keys that it answers, who holds it
//
// runner.json is replaced as a whole, and written only once the root is there. A
// crash leaves a root without a runner.json, or one that nobody holds: Open
// removes it, and Nix may collect what it kept.
//
// # Processes
//
// Each nix is the child of a keeper, this same program under another name
// (keeper.go), that adopts whatever nix leaves behind: a builder is a session of
// its own, and would outlive the kill of a process group. The keeper ends all of
// it when it is told to, when nix ends, and when the daemon does, however that
// ends.
//
// Evaluation runs apart from the build, because its memory is bounded
// (RLIMIT_AS) and a compiler's is not. With a Nix daemon the builds are that
// daemon's, and its own limits hold.
package nix
