// Package shimproc is the shim as a process: it carries out what [shim.Machine]
// decides. It is a package, and not only a command, so that a daemon can be its
// own shim where no blixard-shim is installed beside it (see package shims).
//
// The process is one thread that waits in poll(2): for the daemons' socket, for
// the program's end, and for the time to look at the page. It forks from that
// thread and never leaves it, because PDEATHSIG follows the thread that forked.
//
// With a PID namespace there is one more process, the namespace's init: this
// same binary as `blixard-shim -init`. It starts the program only after the
// shim has told it to go, which a dead shim cannot: between the fork and the
// moment PDEATHSIG stands there is no gap. It passes signals on, reaps, and
// reports the program's end; when it ends, the kernel kills all the rest.
//
// Around a program that needs others (a tap made before it, a virtiofsd beside
// it) that init carries out the steps: see steps.go.
//
// A folder of the host is shown to the guest by a virtiofsd beside it, for which
// `blixard-shim -share` prepares what it may see: see share.go. A program that
// changes its root directory is started by `blixard-shim -jail`, which makes that
// directory: see jail.go.
//
// A cgroup alone does not hold a program that forks: nobody kills it when the
// shim dies. It lets the shim and the daemon find and kill what is left.
package shimproc

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"

	"github.com/blixard/blixard/vmm/shim"
)

// Name is what the process is called: argv[0].
const Name = "blixard-shim"

const usage = "usage: " + Name + " -dir VMDIR [-ready FD]\n"

// Main runs a shim, or a namespace's init, and gives its exit code. It must be
// called from main.main.
func Main(args []string) int {
	runtime.LockOSThread()
	// A shim keeps next to nothing: collect early, and on one processor.
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(10)
	if len(args) > 0 && args[0] == initFlag {
		return initMain(args[1:])
	}
	if len(args) > 0 && args[0] == shareFlag {
		return shareMain(args[1:])
	}
	if len(args) > 0 && args[0] == jailFlag {
		return jailMain(args[1:])
	}
	dir, ready := "", -1
	for len(args) > 0 {
		if len(args) < 2 {
			return trouble(shim.CodeUsage, usage)
		}
		switch args[0] {
		case "-dir":
			dir = args[1]
		case "-ready":
			fd, err := strconv.Atoi(args[1])
			if err != nil || fd < 3 {
				return trouble(shim.CodeUsage, usage)
			}
			ready = fd
		default:
			return trouble(shim.CodeUsage, usage)
		}
		args = args[2:]
	}
	if dir == "" {
		return trouble(shim.CodeUsage, usage)
	}
	return newProcess(dir, ready).run()
}

func trouble(code int, text string) int {
	os.Stderr.WriteString(text)
	return code
}
