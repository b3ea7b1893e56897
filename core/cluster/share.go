package cluster

import (
	"fmt"
	"path"
	"slices"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Shares are folders of a host that a guest sees live. Which folders a guest may
// have is for the host to say, in its facts; where a link leads, only the runner sees.

const (
	maxImageShares = 8
	// QEMU's microvm has places for 24 virtio devices, and two are taken; the balloon,
	// a third, goes where there is none left for it.
	microvmDevices = 22
)

// checkShares checks those of an image; checkMounts has those of a NixOS system.
func checkShares(s *blixardv1.VMSpec) *blixardv1.Error {
	list := s.GetShares()
	const field = "spec.shares"
	switch {
	case len(list) == 0:
		return nil
	case s.GetImage() == nil:
		return invalid(field, "these shares are given to VMs of an image, and the spec has none", "leave them out; a NixOS VM has nixos.shares, a flake its own (microvm.shares)")
	case len(list) > maxImageShares:
		return invalid(field, fmt.Sprintf("%d shares are too many", len(list)), fmt.Sprintf("use at most %d", maxImageShares))
	}
	if n := len(s.GetImage().GetDisks()) + len(s.GetVolumes()) + len(s.GetNetworks()) + len(list); n > microvmDevices && s.GetMachine() != blixardv1.Machine_MACHINE_Q35 {
		return invalid(field, fmt.Sprintf("with its disks, volumes and networks it has %d devices, more than QEMU's microvm has places for", n), fmt.Sprintf("use at most %d together, or machine: q35", microvmDevices))
	}
	tags := map[string]bool{}
	for i, sh := range list {
		at := fmt.Sprintf("%s[%d]", field, i)
		if err := checkShare(at, sh, tags); err != nil {
			return err
		}
		if sh.GetMountPoint() != "" {
			return invalid(at+".mount_point", "nobody mounts it in the guest of an image", "leave it out; the guest mounts it itself: mount -t virtiofs "+sh.GetTag()+" "+sh.GetMountPoint())
		}
	}
	return nil
}

// checkShare checks one, and that its tag is not among tags.
func checkShare(at string, sh *blixardv1.Share, tags map[string]bool) *blixardv1.Error {
	tag := sh.GetTag()
	if r, bad := firstBad(tag, wordRune); bad || tag == "" || len(tag) > 36 || tag[0] == '-' {
		return invalid(at+".tag", unfit(tag, r, bad)+" is no tag", "use 1 to 36 characters A-Z a-z 0-9 _ - and do not begin with '-'")
	}
	if tags[tag] {
		return invalid(at+".tag", fmt.Sprintf("another share is %q too", tag), "give each share its own tag")
	}
	tags[tag] = true
	return checkPath(at+".source", sh.GetSource())
}

// folders are those of its host that a spec names.
func folders(spec *blixardv1.VMSpec) (list []string) {
	for _, s := range slices.Concat(spec.GetShares(), spec.GetNixos().GetShares()) {
		list = append(list, s.Source)
	}
	for _, v := range spec.GetNixos().GetVolumes() {
		if p := v.GetData().GetPath(); path.IsAbs(p) {
			list = append(list, p)
		}
	}
	return list
}

// writesShares says whether a guest leaves something in a folder of its host that a
// copy elsewhere would miss.
func writesShares(list []*blixardv1.Share) bool {
	return slices.ContainsFunc(list, func(s *blixardv1.Share) bool { return !s.ReadOnly })
}
