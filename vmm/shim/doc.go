// Package shim is the small machine that owns one VM process: it starts the
// VM, reports its exit, and kills it at its deadline.
//
// # The model
//
// A host may run a VM only while it holds a lease. The daemon writes what the
// lease is worth into a page: a small file in memory with one deadline, on
// CLOCK_BOOTTIME, that only grows, and never after it has passed. One tiny
// process per VM, the shim, stands between the page and the VM. It does not
// trust itself to be running at the deadline, so the kernel holds the sword:
//
//	lock the VM's directory      a second shim ends here, having touched nothing
//	read the page                D
//	arm the kernel's timer at D  SIGKILL to the shim, running or stopped
//	read the page again          still good, and still before D?
//	fork                         the VM dies with the shim
//
// From then on the shim reads the page now and then, and moves the timer when
// the page has grown. When the shim dies, for whatever reason, so does the VM:
// by PDEATHSIG, and by the end of its PID namespace if it has one.
//
// The daemon is no part of this. It can be killed, restarted and upgraded; the
// VM lives as long as somebody extends the page in time.
//
// # The rules
//
// With D the armed deadline (0: nothing binds), for every step at time now:
//
//	fork        =>  page = none, or armed at D and now < D
//	arm(D')     =>  D = 0 or now < D; D' read from a good page with now < D'
//	D # 0 and now >= D  =>  no fork, no arm, ever again
//	one fork in a life
//
// [Machine] keeps them. It is data in, data out: it reads no clock, opens no
// file and starts no process, and its state is a plain struct, so that the
// simulator runs this very code. What it wants done is an [Output]; what
// happened comes back as an [Input].
//
// # What is assumed
//
//   - BOOTTIME runs at 0.9 to 1.1 of real time, and the host does not sleep past
//     a deadline (a timer fires when it wakes; the guest ran no code meanwhile,
//     but it may run some before the kill lands).
//   - K (5 s) after a SIGKILL no guest code runs.
//   - The page and the directory are written by the daemon's user only.
//   - The program given is the VM: it does not become setuid or gain file
//     capabilities on exec, which would clear PDEATHSIG. A program that forks
//     must be held by a PID namespace.
//
// # Files
//
// instance.go names what runs and where; page.go is the lease page, whose
// layout is frozen; start.go is the order to start; exit.go is the report of
// the end; machine.go is the machine; message.go is what daemon and shim say to
// each other.
package shim
