// Package shims is the daemon's side of its shims: it starts them, finds them
// again after a restart, and asks things of them. See [shim] for what a shim is,
// and [vmdir] for the directory that a daemon and a shim share.
//
// # Where the shim comes from
//
// The first of these that is there: $BLIXARD_SHIM; blixard-shim beside our own
// executable; ../libexec/blixard/blixard-shim from there; and, so that a single
// copied file works too, our own executable run as "blixard-shim". For that
// last one the daemon's main must begin with
//
//	if shims.Called() {
//		os.Exit(shims.Main())
//	}
//
// It costs memory: the daemon's text and the init of all its packages. Install
// both commands.
//
// # What a daemon may believe
//
// A lock that is held says that something of the VM lives. A free lock, an empty
// cgroup and a dead process say together that nothing does ([Dead]). An exit.json
// says how it went; none, with a dead directory, that the shim was killed: at its
// deadline, or by hand. A shim that is there but does not answer is stopped or
// starved: it still ends at its deadline.
package shims
