package cluster

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// setSettings changes the constants of a cluster that runs. A lease that is made
// longer counts as long at once. One that is made shorter is told to the hosts, and
// counts VM by VM, when its host says that the VM lives under it.
func (s *State) setSettings(e *entry, op *blixardv1.SetSettingsOp) *blixardv1.Response {
	old := s.meta.Settings
	next, err := MergeSettings(old, op.Settings)
	if err != nil {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, err.Error(), "")
	}
	if proto.Equal(old, next) {
		return settingsResponse(old)
	}
	if resp := s.mayNotSettle(next); resp != nil {
		return resp
	}
	s.meta.Settings = next
	if next.VcpuOvercommitMilli != old.VcpuOvercommitMilli {
		s.rekeyHosts(old)
		s.freed()
	}
	s.event(e, "SettingsChanged", "", "", "%s", changedSettings(old, next))
	s.retarget(e)
	return settingsResponse(next)
}

// MergeSettings puts what is given over the old ones, and says what of it is out
// of range.
func MergeSettings(old, given *blixardv1.Settings) (*blixardv1.Settings, error) {
	if l := given.GetLevel(); l != 0 && l != old.GetLevel() {
		return nil, fmt.Errorf("level is %d, and nobody sets it: it rises when every member's binary knows more", l)
	}
	next := clone(old)
	proto.Merge(next, given)
	next.Level = min(next.Level, Level) // that of a newer release is out of our range, and not ours to judge
	next, err := CompleteSettings(next)
	if next != nil {
		next.Level = old.GetLevel()
	}
	return next, err
}

// mayNotSettle refuses settings under which what is there could not be.
func (s *State) mayNotSettle(next *blixardv1.Settings) *blixardv1.Response {
	var short, full []string
	s.VMs("", func(vm *blixardv1.VM) bool {
		if l := vm.Spec.GetLeaseMs(); l != 0 && l < 3*next.RenewMs {
			short = append(short, vm.Name)
		}
		return true
	})
	if len(short) > 0 {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION,
			fmt.Sprintf("%s has a lease of its own, which is less than three times the time between renewals (%s)", some(short), msText(next.RenewMs)),
			"give it a longer lease first (vm update --lease), or have the cluster renew more often (--renew)")
	}
	s.Nodes(func(n *blixardv1.Node) bool {
		h := loadOf(n, uint64(next.VcpuOvercommitMilli))
		if n.Host != nil && h.Used.MilliCPU > h.Capacity.MilliCPU && next.VcpuOvercommitMilli < s.meta.Settings.GetVcpuOvercommitMilli() {
			full = append(full, n.Name)
		}
		return true
	})
	if len(full) > 0 {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION,
			fmt.Sprintf("more vcpus are placed on %s than an overcommit of %.3g allows", some(full), float64(next.VcpuOvercommitMilli)/1000),
			"move or delete VMs there first")
	}
	return nil
}

// rekeyHosts puts the hosts in the order that the present settings give.
func (s *State) rekeyHosts(old *blixardv1.Settings) {
	s.Nodes(func(n *blixardv1.Node) bool {
		if schedulable(n) {
			was, is := loadOf(n, uint64(old.VcpuOvercommitMilli)), loadOf(n, s.overcommit())
			s.hosts.Delete(was.Key())
			s.hosts.Set(is.Key(), n.Id)
		}
		return true
	})
}

// changedSettings says what is different.
func changedSettings(old, next *blixardv1.Settings) string {
	var list []string
	for _, f := range settingsOf(next) {
		if was := *f.of(old); was != *f.value {
			list = append(list, fmt.Sprintf("%s %s, was %s", f.name, f.text(*f.value), f.text(was)))
		}
	}
	return strings.Join(list, "; ")
}

func settingsResponse(s *blixardv1.Settings) *blixardv1.Response {
	return &blixardv1.Response{Result: &blixardv1.Response_Settings{Settings: s}}
}
