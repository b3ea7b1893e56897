// Command blixard-shim owns one VM process: it starts it, reports its exit, and
// is killed by the kernel, with the VM, when the host's lease has passed.
//
//	blixard-shim -dir VMDIR
//
// VMDIR/start.json says what to start. Exit codes: 0 the VM ran and ended, 1
// trouble, 2 usage, 3 the directory is locked, 4 no good lease page, 5 the
// deadline has passed, 6 no good start.json, 7 the VM could not be executed. But
// for 1, 2 and 3, VMDIR/exit.json says more.
package main

import (
	"os"
	"runtime"

	"github.com/blixard/blixard/vmm/runner/shimproc"
)

// PDEATHSIG follows the thread that forks: main keeps the first one.
func init() { runtime.LockOSThread() }

func main() { os.Exit(shimproc.Main(os.Args[1:])) }
