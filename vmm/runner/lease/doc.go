// Package lease is the real side of lease pages: small files that a daemon
// extends and that shims map. See [shim.Page] for what they hold.
//
// A page belongs on tmpfs: then it cannot outlive the boot it is about, and no
// slow disk stands between a grant and its effect. (On a disk it would still be
// safe: the boot id in it is checked.) Daemons open it one after the other; no
// state of a page is in a daemon's memory.
//
// All times are CLOCK_BOOTTIME in ns, which goes on while the host sleeps. Go's
// own clock and timers do not, and have no place here.
package lease
