package cluster

import (
	"fmt"
	"strings"

	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A host whose machine is lost for good is given up by a person's word. The word
// stands for what no window can show: that an instance without any lease has
// ended with its machine. It stands for nothing else. What has a lease is
// released only when the window of that lease has passed, as ever; and whoever
// is still heard of is not lost, whatever anybody says.

// mayLose refuses to give up a host that may still be granted leases, or on
// which something lives under a lease that may not have ended.
func (s *State) mayLose(n *blixardv1.Node) *blixardv1.Response {
	h := n.GetHost()
	if h == nil || h.Epoch == 0 || mutant.On("LostAtOnce") {
		return nil
	}
	const code = blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION
	again := "then give the same command again"
	if h.EpochState == blixardv1.EpochState_EPOCH_STATE_ACTIVE {
		if !h.Suspect {
			return refuse(code, fmt.Sprintf("%s is not lost: it is heard of", n.Name),
				"turn its machine off and wait until 'blixard node list' says that it is fenced, "+again+"; a node that can still be asked goes by 'blixard cluster remove' without --lost")
		}
		return refuse(code, fmt.Sprintf("%s was heard of too lately: what runs there may still have a lease", n.Name),
			fmt.Sprintf("wait until 'blixard node list' says that it is fenced, at most %s after it was last heard of; %s", windowText(s.WindowOf(n, false)), again))
	}
	var long []string
	s.Placed(n.Id, func(vm *blixardv1.VM) bool {
		if l := at(vm, n.Id).Lease; l == blixardv1.LeaseClass_LEASE_CLASS_LONG && !s.gone(n, l) {
			long = append(long, vm.Name)
		}
		return true
	})
	if len(long) > 0 && !mutant.On("LostUnderLongLease") {
		return refuse(code, fmt.Sprintf("%s may still run %s, under the long lease", n.Name, some(long)),
			fmt.Sprintf("wait until the lease has surely ended, at most %s after the host was last heard of; %s", windowText(s.WindowOf(n, true)), again))
	}
	return nil
}

// windowText is a window, of nanoseconds, in words.
func windowText(window int64) string {
	seconds := window/1e9 + 1
	if seconds > 600 {
		return fmt.Sprintf("%d minutes", seconds/60+1)
	}
	return fmt.Sprintf("%d seconds", seconds)
}

// some names a few and counts the rest.
func some(names []string) string {
	const most = 5
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// lose releases everything that is placed on a host. A VM that waits for its host
// waits for what its disks hold there. Giving up the host does not say that its
// owner wants it without: it is left stopped, and its owner's start says so. The
// node is the caller's own copy, and is not stored here.
func (s *State) lose(e *entry, n *blixardv1.Node) {
	s.event(e, "NodeLost", "", n.Name, "its machine is off and will never return, says whoever removed it")
	var placed []*blixardv1.VM
	s.Placed(n.Id, func(vm *blixardv1.VM) bool {
		placed = append(placed, vm)
		return true
	})
	for _, vm := range placed {
		why := "its host " + n.Name + " was lost for good"
		if moving(vm) {
			vm = copyVM(vm)
			s.abandon(e, vm, n, why)
		}
		if other(vm, n.Id) {
			s.releaseOther(e, copyVM(vm), n, why)
			continue
		}
		if !vm.Deleting && vm.Spec.GetOnHostLoss() == blixardv1.OnHostLoss_ON_HOST_LOSS_WAIT {
			vm = clone(vm)
			vm.Run, vm.Paused = mutant.On("LostStartsAnew"), false
			why += ", with what its disks held; 'blixard vm start " + vm.Name + "' starts it elsewhere, with new disks"
		}
		s.release(e, vm, n, why)
	}
	s.loseVolumes(e, n)
}
