package cluster

import (
	"fmt"
	"slices"

	"github.com/blixard/blixard/core/hypervisor"
	"github.com/blixard/blixard/core/schedule"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

var (
	qcow2     = hypervisor.Of(blixardv1.Capability_CAPABILITY_QCOW2)
	wantQcow2 = schedule.Want{Bit: uint64(qcow2), Name: hypervisor.Name(blixardv1.Capability_CAPABILITY_QCOW2)}
)

// ValidateVolume checks what a volume is to be, and returns nil or the first thing
// that is wrong with it.
func ValidateVolume(name string, spec *blixardv1.VolumeSpec) *blixardv1.Error {
	if err := ValidateName(name); err != nil {
		return err
	}
	switch n := spec.GetSizeMib(); {
	case n == 0:
		return invalid("spec.size_mib", "it is 0", "say how large the volume is, in MiB")
	case n > maxDiskMiB:
		return invalid("spec.size_mib", fmt.Sprintf("%d MiB are more than 64 TiB", n), "make it smaller; the unit is MiB")
	}
	if _, known := blixardv1.VolumeFormat_name[int32(spec.GetFormat())]; !known {
		return invalid("spec.format", fmt.Sprintf("%d means nothing here", spec.GetFormat()), "use VOLUME_FORMAT_RAW or VOLUME_FORMAT_QCOW2")
	}
	return nil
}

// diskOf is the name under which a VM sees a volume.
func diskOf(m *blixardv1.VolumeMount) string {
	if m.GetDisk() == "" {
		return m.GetVolume()
	}
	return m.GetDisk()
}

func checkVolumes(s *blixardv1.VMSpec) *blixardv1.Error {
	list := s.GetVolumes()
	if len(list) == 0 {
		return nil
	}
	own := s.GetImage().GetDisks()
	switch {
	case s.GetImage() == nil && nixBuilt(s):
		return invalid("spec.volumes", "what Nix builds names its volumes itself", "use spec.nixos.volumes, or the flake's microvm.volumes")
	case s.GetImage() == nil:
		return invalid("spec.volumes", "only an image has disks", "leave it out")
	case len(list)+len(own) > maxDisks:
		return invalid("spec.volumes", fmt.Sprintf("%d disks are too many", len(list)+len(own)), "use at most 16, its own included")
	case s.GetOnHostLoss() == blixardv1.OnHostLoss_ON_HOST_LOSS_REPLACE:
		return invalid("spec.on_host_loss", "a VM with volumes runs only where they are", "use ON_HOST_LOSS_WAIT, or leave it out")
	}
	for i, m := range list {
		field := fmt.Sprintf("spec.volumes[%d]", i)
		if err := ValidateName(m.GetVolume()); err != nil {
			err.Field = field + ".volume"
			return err
		}
		if err := checkDiskLimit(field, m.GetLimit()); err != nil {
			return err
		}
		const advice = "say with disk what the guest sees it as: 1 to 20 lower-case letters a-z, digits and '-'"
		if n := len(diskOf(m)); n > 20 {
			return invalid(field+".disk", fmt.Sprintf("%q is %d bytes long", diskOf(m), n), advice)
		}
		if r, bad := firstBad(diskOf(m), nameRune); bad {
			return invalid(field+".disk", fmt.Sprintf("%q holds %+q", diskOf(m), r), advice)
		}
		before := list[:i]
		if slices.ContainsFunc(before, func(o *blixardv1.VolumeMount) bool { return o.GetVolume() == m.GetVolume() }) {
			return invalid(field+".volume", fmt.Sprintf("%q is there twice", m.GetVolume()), "name it once")
		}
		if slices.ContainsFunc(before, func(o *blixardv1.VolumeMount) bool { return diskOf(o) == diskOf(m) }) ||
			slices.ContainsFunc(own, func(d *blixardv1.Disk) bool { return d.GetName() == diskOf(m) }) {
			return invalid(field+".disk", fmt.Sprintf("another disk is called %q too", diskOf(m)), "give each disk its own name")
		}
	}
	return nil
}
