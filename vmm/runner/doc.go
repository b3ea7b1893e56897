// Package runner is the real side of the VM manager: it carries out what
// vmm.Plan orders on this host, and says what it sees.
//
// # The model
//
//	Do(action) ──► queue of one VM ──► its goroutine ──► shim ──► QEMU, a program
//	                                        │               ▲
//	Observe(...) ◄── one goroutine ◄────────┘               │ deadline
//	Do(Extend) ──► queue of the leases ──► pages ───────────┘
//
// Every VM has one goroutine, so its orders are carried out in the order in which
// they were given, and a VM that hangs holds up no other. What happens to a VM
// (its guest is up, its shim has ended) is put into the same queue. So the state
// of a VM is touched by its goroutine alone, and there are no locks around it.
//
// Nothing that lives belongs to the daemon. A [Host] that is closed, or killed,
// disturbs no VM; the next one finds everything again in two directories and
// reports all of it in its first observation:
//
//	RUN = RUNROOT/<cluster and host, hashed>     on tmpfs; never copied with the data
//	RUN/host.lock                one daemon for one host identity
//	RUN/boot, RUN/kvm.json       of which boot all this is; whether KVM is of use
//	RUN/leases/*.lease           the lease pages, see package lease
//	RUN/v/<uid, hashed>/         a VM's run directory, see package vmdir, and in it
//	    qmp con agent            QEMU's sockets
//	    qemu.log                 what QEMU itself had to say
//	    api vmm.log              the same of cloud-hypervisor and of Firecracker
//	    events                   what cloud-hypervisor's event monitor tells
//	    config.json              Firecracker's configuration
//	    jail                     its root directory, to itself alone: see jail.go
//	STATE/vms/<uid>/instance.json   who it is, what binds it, how it last ended
//	STATE/vms/<uid>/disks/*.raw     its own copies
//	STATE/vms/<uid>/vmlinux         its kernel, where that had to be unpacked
//	STATE/vms/<uid>/console.log     what it said, over all attempts
//	STATE/volumes/<uid>/            a volume of the cluster: see volumes.go
//	STATE/boots/                    what warm VMs start from: see warm.go
//	STATE/trash/                    what a Remove has not deleted yet
//	STATE/left/UID.TIME/            files of a VM that a restored cluster does not know here
//
// What bounds a VM is in the cgroups: see package cgroup.
//
// RUN does not depend on STATE: a daemon on a copy of the data directory finds
// the same locks, and the guard turns it away.
//
// # Alive and dead
//
// What runs is what its lock, its process and its cgroup say (shims.Dead), never
// what a file of ours says. instance.json only adds what those cannot know: which
// lease class a page stands for, and how an attempt ended of which the shim could
// not say it.
//
// # Drivers
//
// A driver knows one kind of hypervisor: which artifacts it needs, what to
// execute, how to tell that the guest is up, how to ask it to stop or to stand
// still, and what its end means. QEMU, cloud-hypervisor and Firecracker boot
// images (image.go); what Nix built brings any of them with it (nix.go); a
// program (process.go) has no isolation at all. Whatever a hypervisor is asked
// over its socket goes through control.go, whoever started it. TestConformance
// tells the same stories of all of them; package fakevmm plays those that need
// KVM where there is none.
package runner
