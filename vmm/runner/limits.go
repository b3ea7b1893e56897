package runner

import (
	"fmt"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/runner/cgroup"
)

// What a VM may take of its host, besides what it was given: a hypervisor needs
// memory and threads of its own. The bounds are against what went wrong, a guest
// that broke into its hypervisor, say, and not against a busy guest; so they are
// generous, and placement does not know of them.
const (
	overheadMib = 256  // of the hypervisor, and of what runs beside it
	emulatedMib = 1024 // of QEMU's translated code, when it emulates: at most so much
	overCPU     = 50   // hundredths of a CPU, for what its other threads do
	vmTasks     = 1024 // threads and processes, besides the vcpus
	ourTasks    = 4096 // of a program, which may be anything
)

// limitsOf are the bounds of a VM.
func limitsOf(a *blixardv1.Assignment, emulates bool) cgroup.Limits {
	memory, cpus := a.GetSpec().GetMemoryMib(), uint64(max(a.GetSpec().GetVcpus(), 1))
	if memory == 0 {
		memory = 512
	}
	memory += overheadMib
	if emulates {
		memory += emulatedMib
	}
	l := cgroup.Limits{MemoryBytes: memory << 20, CPUs: cpus*100 + overCPU, Weight: cpus * 100, Processes: cpus + vmTasks}
	if a.GetSpec().GetProcess() != nil {
		l.Processes = ourTasks
	}
	return l
}

// isolate finds out what can be put between VMs and this host.
func (h *Host) isolate() (found *blixardv1.Isolation, err error) {
	found = new(blixardv1.Isolation)
	if h.cfg.Cgroup == "none" {
		found.BoundsWhy = "cgroups are not wanted"
	} else if h.cgroups, err = cgroup.Open(h.cfg.Cgroup, h.cfg.ClusterID+" "+h.cfg.HostID); err != nil {
		if h.cfg.Cgroup != "" {
			return nil, fmt.Errorf("cgroups for VMs: %w", err)
		}
		found.BoundsWhy = err.Error()
	} else {
		found.Bounds = h.cgroups.Bounds
		if h.cgroups.Lacks != nil {
			found.BoundsWhy = h.cgroups.Lacks.Error()
		}
		if h.cfg.Spawner.Cgroup == "" {
			h.cfg.Spawner.Cgroup = h.cgroups.Shims()
		}
	}
	if found.UsersWhy, err = h.findUsers(); err != nil {
		return nil, err
	}
	if h.users != nil {
		found.Users = h.users.text
	}
	if found.BoundsWhy != "" {
		h.cfg.Log.Info("what VMs take of this host is not all bounded", "bounds", found.Bounds, "why", found.BoundsWhy)
	}
	return found, nil
}

// cgroup makes the VM's, and gives the path of this attempt's; "": there is none.
func (v *vm) cgroup(a vmm.Action) (string, error) {
	if v.h.cgroups == nil {
		return "", nil
	}
	i := a.Instance
	attempt := fmt.Sprintf("%d.%d.%d", i.Generation, i.Index, i.Attempt)
	return v.h.cgroups.Prepare(v.uid, attempt, limitsOf(a.Assignment, !v.h.accelerates))
}

func (v *vm) leaveCgroup() error {
	if v.h.cgroups == nil {
		return nil
	}
	return v.h.cgroups.Remove(v.uid)
}

// starved says that the kernel ended the newest attempt for want of memory.
func (v *vm) starved() bool { return v.h.cgroups != nil && v.h.cgroups.Starved(v.uid) }

const starvedText = "it wanted more memory than its spec has and its hypervisor may need, and was ended for that (memory.max of its cgroup): give it more (vm update --memory)"
