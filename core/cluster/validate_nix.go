package cluster

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// What microvm.nix and its hypervisors cannot do is refused here, when the spec
// is written. Nix would say it too, but minutes later, on another machine, and
// in its own words.
//
// Much of what is said here ends in shell scripts of microvm.nix that quote for
// people, not for enemies. So paths, tags and interface names are spelled in
// the few characters that mean nothing to a shell, to QEMU's commas or to
// systemd. Free text (modules, init, kernel arguments) goes where it is quoted.
const (
	maxNetworks      = 8
	maxVolumes       = 16
	maxShares        = 16
	maxModules       = 64
	maxFlakeModules  = 16
	maxKernelParams  = 64
	maxParamBytes    = 1000 // NixOS adds its own, and x86 takes 2048 in all
	maxInlineBytes   = 256 << 10
	maxInitBytes     = 64 << 10
	maxModuleBytes   = 1 << 20
	maxFlakeBytes    = 64 << 20
	maxFlakeRef      = 2048
	maxHostPath      = 1024
	minVolumeMiB     = 16
	microvmSlots     = 20 // QEMU's microvm machine has 24 in all; it, the store and vsock take some
	qemuHangs        = 2048
	minCID, maxCID   = 3, 1<<32 - 2
	interfaceNameLen = 15
	rootImage        = "root.img"
)

const (
	pathAdvice = "begin it with '/', without '.', '..' or '//', in A-Z a-z 0-9 . _ / + @ -"
	nameAdvice = "use 1 to 64 characters A-Z a-z 0-9 _ - and begin with a letter or '_'"
)

func checkNixos(s *blixardv1.VMSpec) *blixardv1.Error {
	n, field := s.GetNixos(), "spec.nixos"
	h := s.GetHypervisor()
	if h == blixardv1.Hypervisor_HYPERVISOR_UNSPECIFIED {
		h = blixardv1.Hypervisor_HYPERVISOR_CLOUD_HYPERVISOR
	}
	if h == blixardv1.Hypervisor_HYPERVISOR_QEMU && s.GetMemoryMib() == qemuHangs {
		return invalid("spec.memory_mib", "QEMU hangs at exactly 2048 MiB (microvm.nix issue 171)", "use 2047 or 2049, or another hypervisor")
	}
	if h == blixardv1.Hypervisor_HYPERVISOR_QEMU && len(n.GetVolumes())+len(n.GetNetworks()) > microvmSlots {
		return invalid(field, "QEMU's microvm machine has no room for so many volumes and networks", "use at most 20 of them together, or cloud-hypervisor")
	}
	if c := n.GetVsockCid(); c != 0 && (c < minCID || c > maxCID) {
		return invalid(field+".vsock_cid", fmt.Sprintf("%d is not a guest's", c), "use 3 to 4294967294, or 0 for one of its own")
	}
	for _, check := range []func() *blixardv1.Error{
		func() *blixardv1.Error { return checkNetworks(field+".networks", n.GetNetworks()) },
		func() *blixardv1.Error { return checkMounts(field, n) },
		func() *blixardv1.Error { return checkModules(field, n) },
		func() *blixardv1.Error { return checkKernel(field+".kernel", n.GetKernel()) },
		func() *blixardv1.Error { return checkText(field+".init", n.GetInit(), maxInitBytes) },
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func checkNetworks(field string, list []*blixardv1.Network) *blixardv1.Error {
	if len(list) > maxNetworks {
		return invalid(field, fmt.Sprintf("%d networks are too many", len(list)), "use at most 8")
	}
	ids, macs, users := map[string]bool{}, map[string]bool{}, 0
	for i, n := range list {
		at := fmt.Sprintf("%s[%d]", field, i)
		mac := ""
		switch k := n.GetKind().(type) {
		case *blixardv1.Network_Tap:
			id, bridge := k.Tap.GetId(), k.Tap.GetBridge()
			if err := checkInterface(at+".tap.id", id); err != nil {
				return err
			}
			if err := checkInterface(at+".tap.bridge", bridge); err != nil {
				return err
			}
			if id != "" && ids[id] {
				return invalid(at+".tap.id", fmt.Sprintf("another network is %q too", id), "give each its own, or none")
			}
			ids[id], mac, at = true, k.Tap.GetMac(), at+".tap"
		case *blixardv1.Network_User:
			if users++; users > 1 {
				return invalid(at+".user", "a second user network reaches nothing that the first does not", "use one")
			}
			mac, at = k.User.GetMac(), at+".user"
		default:
			return invalid(at, "it is neither a tap nor a user network", "write tap: {} or user: {}")
		}
		if mac == "" {
			continue
		}
		if !unicastMAC(mac) {
			return invalid(at+".mac", fmt.Sprintf("%+q is no address of one interface", mac),
				"write it as 02:00:00:00:00:01, its first byte even, or leave it out")
		}
		if mac = strings.ToLower(mac); macs[mac] {
			return invalid(at+".mac", fmt.Sprintf("another network has %s too", mac), "give each its own, or none")
		}
		macs[mac] = true
	}
	return nil
}

func checkInterface(field, name string) *blixardv1.Error {
	if len(name) > interfaceNameLen {
		return invalid(field, fmt.Sprintf("%q has %d characters", name, len(name)), "Linux takes at most 15 in the name of an interface")
	}
	if r, bad := firstBad(name, func(r rune) bool { return wordRune(r) }); bad || strings.HasPrefix(name, "-") {
		return invalid(field, unfit(name, r, bad)+" is no name of an interface", "use A-Z a-z 0-9 _ - and do not begin with '-'")
	}
	return nil
}

func unicastMAC(s string) bool {
	if len(s) != 17 || strings.Trim(s, "0:") == "" {
		return false
	}
	for i, part := range strings.Split(s, ":") {
		b, err := strconv.ParseUint(part, 16, 8)
		if err != nil || len(part) != 2 || i == 0 && b&1 != 0 {
			return false
		}
	}
	return strings.Count(s, ":") == 5
}

// checkMounts checks volumes and shares: they meet in the guest's tree.
func checkMounts(field string, n *blixardv1.Nixos) *blixardv1.Error {
	if c := len(n.GetVolumes()); c > maxVolumes {
		return invalid(field+".volumes", fmt.Sprintf("%d volumes are too many", c), "use at most 16")
	}
	if c := len(n.GetShares()); c > maxShares {
		return invalid(field+".shares", fmt.Sprintf("%d shares are too many", c), "use at most 16")
	}
	mounts, images, tags, total := map[string]bool{}, map[string]bool{}, map[string]bool{}, uint64(0)
	for i, v := range n.GetVolumes() {
		at := fmt.Sprintf("%s.volumes[%d]", field, i)
		switch k := v.GetKind().(type) {
		case *blixardv1.Volume_Root:
			if mounts["/"] {
				return invalid(at+".root", "another volume is the root too", "use one root, and data for the others")
			}
			mounts["/"] = true
			if err := checkVolumeSize(at+".root", k.Root.GetSizeMib()); err != nil {
				return err
			}
			total += k.Root.GetSizeMib()
		case *blixardv1.Volume_Data:
			at, d := at+".data", k.Data
			if err := checkDataVolume(at, d); err != nil {
				return err
			}
			if images[d.GetPath()] {
				return invalid(at+".path", fmt.Sprintf("another volume is %s too", d.GetPath()), "give each volume its own image")
			}
			images[d.GetPath()] = true
			if m := d.GetMountPoint(); m != "" {
				if err := checkMountPoint(at+".mount_point", m, mounts); err != nil {
					return err
				}
			}
			total += d.GetSizeMib()
		default:
			return invalid(at, "it is neither root nor data", "write root: {size_mib: 1024} or data: {path: db.img, ...}")
		}
	}
	if total > maxDiskMiB {
		return invalid(field+".volumes", fmt.Sprintf("together they are %d MiB, more than 64 TiB", total), "make them smaller; the unit is MiB")
	}
	for i, sh := range n.GetShares() {
		at := fmt.Sprintf("%s.shares[%d]", field, i)
		if err := checkShare(at, sh, tags); err != nil {
			return err
		}
		if err := checkMountPoint(at+".mount_point", sh.GetMountPoint(), mounts); err != nil {
			return err
		}
	}
	return nil
}

func checkVolumeSize(field string, mib uint64) *blixardv1.Error {
	if mib < minVolumeMiB || mib > maxDiskMiB {
		return invalid(field+".size_mib", fmt.Sprintf("%d MiB is out of range", mib), "use 16 to 67108864 MiB; the unit is MiB")
	}
	return nil
}

func checkDataVolume(field string, d *blixardv1.DataVolume) *blixardv1.Error {
	p := d.GetPath()
	if strings.HasPrefix(p, "/") {
		if err := checkPath(field+".path", p); err != nil {
			return err
		}
	} else {
		r, bad := firstBad(p, pathRune)
		stem := strings.TrimSuffix(p, ".img")
		switch {
		case bad, strings.Contains(p, "/"), len(p) > 64, stem == p, stem == "", stem[0] == '.', stem[0] == '-':
			return invalid(field+".path", unfit(p, r, bad)+" is no name of an image",
				"use a name such as db.img in the VM's own folder, or an absolute path")
		case p == rootImage:
			return invalid(field+".path", "root.img is the root volume's", "use another name")
		}
	}
	if d.GetSizeMib() == 0 {
		if !strings.HasPrefix(p, "/") {
			return invalid(field+".size_mib", "the image is in the VM's own folder, and nothing would make it", "give size_mib, or the absolute path of an image that is there")
		}
		return nil
	}
	if d.GetReadOnly() {
		return invalid(field+".read_only", "the volume would be made blank and could never be written", "leave out size_mib and give an image that is there, or let it be written")
	}
	return checkVolumeSize(field, d.GetSizeMib())
}

func checkMountPoint(field, m string, seen map[string]bool) *blixardv1.Error {
	if m == "/" {
		return invalid(field, "/ is the root volume's", "write root: {size_mib: ...}")
	}
	if err := checkPath(field, m); err != nil {
		return err
	}
	for _, own := range []string{"/proc", "/sys", "/dev"} {
		if m == own || strings.HasPrefix(m, own+"/") {
			return invalid(field, m+" is the guest kernel's", "mount it elsewhere")
		}
	}
	if seen[m] {
		return invalid(field, fmt.Sprintf("something else is mounted on %s too", m), "give each volume and share its own place")
	}
	seen[m] = true
	return nil
}

func checkPath(field, p string) *blixardv1.Error {
	if p == "" {
		return invalid(field, "it is empty", pathAdvice)
	}
	if r, bad := firstBad(p, pathRune); bad {
		return invalid(field, fmt.Sprintf("%+q holds %+q", p, r), pathAdvice)
	}
	if p[0] != '/' || p == "/" || path.Clean(p) != p || len(p) > maxHostPath {
		return invalid(field, fmt.Sprintf("%q is no plain absolute path", p), pathAdvice)
	}
	return nil
}

func checkModules(field string, n *blixardv1.Nixos) *blixardv1.Error {
	if c := len(n.GetModules()); c > maxModules {
		return invalid(field+".modules", fmt.Sprintf("%d modules are too many", c), "use at most 64")
	}
	total := 0
	for i, m := range n.GetModules() {
		at := fmt.Sprintf("%s.modules[%d]", field, i)
		switch src := m.GetSource().(type) {
		case *blixardv1.NixosModule_Inline:
			at += ".inline"
			if strings.TrimSpace(src.Inline) == "" {
				return invalid(at, "it is empty", "write a module, such as { services.nginx.enable = true; }")
			}
			if err := checkText(at, src.Inline, maxInlineBytes); err != nil {
				return err
			}
			if total += len(src.Inline); total > maxInlineBytes {
				return invalid(field+".modules", "the inline modules are more than 256 KiB together", "put them into files")
			}
		case *blixardv1.NixosModule_File:
			if err := checkPacked(at+".file", src.File, maxModuleBytes, "1 MiB"); err != nil {
				return err
			}
		case *blixardv1.NixosModule_FlakePart:
			if err := checkModuleName(at+".flake_part", src.FlakePart); err != nil {
				return err
			}
		default:
			return invalid(at, "it says nothing", "give one of inline, file and flake_part")
		}
	}
	if c := len(n.GetFlakeModules()); c > maxFlakeModules {
		return invalid(field+".flake_modules", fmt.Sprintf("%d modules are too many", c), "use at most 16")
	}
	seen := map[string]bool{}
	for i, name := range n.GetFlakeModules() {
		at := fmt.Sprintf("%s.flake_modules[%d]", field, i)
		if err := checkModuleName(at, name); err != nil {
			return err
		}
		if seen[name] {
			return invalid(at, fmt.Sprintf("%s is there twice", name), "name each module once")
		}
		seen[name] = true
	}
	return nil
}

func checkModuleName(field, name string) *blixardv1.Error {
	if r, bad := firstBad(name, wordRune); bad || name == "" || len(name) > 64 || name[0] == '-' || isDigit(name[0]) {
		return invalid(field, unfit(name, r, bad)+" is no name of a module", nameAdvice)
	}
	return nil
}

func checkKernel(field string, k *blixardv1.Kernel) *blixardv1.Error {
	if p := k.GetPackage(); p != "" {
		if err := checkAttribute(field+".package", p, "name kernel packages of nixpkgs, such as linuxPackages_latest"); err != nil {
			return err
		}
	}
	if c := len(k.GetParams()); c > maxKernelParams {
		return invalid(field+".params", fmt.Sprintf("%d arguments are too many", c), "use at most 64")
	}
	size := 0
	for i, p := range k.GetParams() {
		r, bad := firstBad(p, func(r rune) bool { return r > ' ' && r <= '~' && r != '"' && r != '\'' })
		if bad || p == "" {
			return invalid(fmt.Sprintf("%s.params[%d]", field, i), unfit(p, r, bad)+" is no single argument",
				"use printable ASCII without blanks and quotes, one argument an entry")
		}
		size += len(p) + 1
	}
	if size > maxParamBytes {
		return invalid(field+".params", fmt.Sprintf("%d bytes are too long", size), "use at most 1000: the kernel cuts what is longer")
	}
	return nil
}

func checkFlake(s *blixardv1.VMSpec) *blixardv1.Error {
	const field = "spec.flake"
	f := s.GetFlake()
	if a := f.GetAttribute(); a != "" {
		if err := checkAttribute(field+".attribute", a, "name a nixosConfiguration, or a path such as packages.x86_64-linux.web"); err != nil {
			return err
		}
	}
	switch from := f.GetFrom().(type) {
	case *blixardv1.Flake_Ref:
		return checkFlakeRef(field+".ref", from.Ref)
	case *blixardv1.Flake_Packed:
		return checkPacked(field+".packed", from.Packed, maxFlakeBytes, "64 MiB")
	}
	return invalid(field, "nothing says which flake", "give ref, such as github:me/infra, or packed")
}

func checkFlakeRef(field, ref string) *blixardv1.Error {
	const advice = "use a reference that every host can reach, such as github:me/infra or git+https://example.org/infra"
	if r, bad := firstBad(ref, func(r rune) bool { return r > ' ' && r <= '~' && !strings.ContainsRune("\"'`\\#${}<>", r) }); bad {
		return invalid(field, fmt.Sprintf("%+q holds %+q", ref, r), advice+"; what follows '#' belongs into attribute")
	}
	scheme, rest, ok := strings.Cut(ref, ":")
	if !ok || rest == "" || len(ref) > maxFlakeRef || scheme == "" || scheme[0] < 'a' || scheme[0] > 'z' {
		return invalid(field, fmt.Sprintf("%q is no flake reference", ref), advice)
	}
	if scheme == "path" || scheme == "file" || scheme == "flake" || strings.HasSuffix(scheme, "+file") {
		return invalid(field, fmt.Sprintf("%q means something else on each machine", ref), advice+"; a folder of yours is packed: give packed")
	}
	return nil
}

// checkAttribute checks a path of attributes: a.b.c.
func checkAttribute(field, attribute, advice string) *blixardv1.Error {
	for part := range strings.SplitSeq(attribute, ".") {
		if r, bad := firstBad(part, func(r rune) bool { return wordRune(r) || r == '+' }); bad || part == "" || part[0] == '-' || len(attribute) > 256 {
			return invalid(field, unfit(attribute, r, bad)+" is no path of attributes", advice)
		}
	}
	return nil
}

func checkPacked(field string, a *blixardv1.Artifact, most uint64, words string) *blixardv1.Error {
	if err := ValidateArtifact(field, a.GetDigest(), a.GetSize()); err != nil {
		return err
	}
	if a.GetSize() > most {
		return invalid(field+".size", fmt.Sprintf("%d bytes are too many", a.GetSize()), "use at most "+words)
	}
	return nil
}

func checkText(field, text string, most int) *blixardv1.Error {
	switch {
	case len(text) > most:
		return invalid(field, fmt.Sprintf("it is %d bytes long", len(text)), fmt.Sprintf("use at most %d", most))
	case strings.ContainsRune(text, 0):
		return invalid(field, "it holds a NUL byte", "remove it")
	case !utf8.ValidString(text):
		return invalid(field, "it is not UTF-8", "use UTF-8 text")
	}
	return nil
}

// unfit shows a text, and the character that spoils it when it is only one.
func unfit(text string, r rune, bad bool) string {
	if bad {
		return fmt.Sprintf("%+q, with its %+q,", text, r)
	}
	return fmt.Sprintf("%+q", text)
}

func isDigit(b byte) bool { return b >= '0' && b <= '9' }

func wordRune(r rune) bool { return nameRune(r) || r >= 'A' && r <= 'Z' || r == '_' }

func pathRune(r rune) bool { return wordRune(r) || strings.ContainsRune("./+@", r) }

// completeNixos fills in what the user left out of a NixOS system.
func completeNixos(spec *blixardv1.VMSpec) {
	if spec.GetNixos() != nil && spec.Hypervisor == blixardv1.Hypervisor_HYPERVISOR_UNSPECIFIED {
		spec.Hypervisor = blixardv1.Hypervisor_HYPERVISOR_CLOUD_HYPERVISOR
	}
}

// nixosKeeps says whether a NixOS system keeps something on its host that a
// copy elsewhere would miss.
func nixosKeeps(n *blixardv1.Nixos) bool {
	for _, v := range n.GetVolumes() {
		if v.GetRoot() != nil || !v.GetData().GetReadOnly() {
			return true
		}
	}
	return writesShares(n.GetShares())
}

// nixosDiskMiB is the room that its volumes take, once they are full.
func nixosDiskMiB(n *blixardv1.Nixos) (mib uint64) {
	for _, v := range n.GetVolumes() {
		mib += v.GetRoot().GetSizeMib() + v.GetData().GetSizeMib()
	}
	return mib
}

// nixArtifacts are the files that a NixOS system or a flake is built from.
func nixArtifacts(spec *blixardv1.VMSpec) (list []*blixardv1.Artifact) {
	for _, m := range spec.GetNixos().GetModules() {
		if f := m.GetFile(); f != nil {
			list = append(list, f)
		}
	}
	if p := spec.GetFlake().GetPacked(); p != nil {
		list = append(list, p)
	}
	return list
}

// ValidatePins checks where the inputs of NixOS VMs come from. Unlike a user, the
// operator may name a folder of the hosts: it is theirs to keep alike.
func ValidatePins(p *blixardv1.Pins) *blixardv1.Error {
	for _, f := range []struct{ field, ref string }{
		{"pins.nixpkgs", p.GetNixpkgs()}, {"pins.flake_parts", p.GetFlakeParts()},
		{"pins.microvm", p.GetMicrovm()}, {"pins.modules", p.GetModules()},
	} {
		if f.ref == "" {
			continue
		}
		if local, ok := strings.CutPrefix(strings.TrimPrefix(strings.TrimPrefix(f.ref, "git+file://"), "path:"), "/"); ok {
			folder, _, _ := strings.Cut("/"+local, "?")
			if err := checkPath(f.field, folder); err != nil {
				return err
			}
			continue
		}
		if err := checkFlakeRef(f.field, f.ref); err != nil {
			return err
		}
	}
	if p.GetLock() == nil {
		return nil
	}
	return checkPacked("pins.lock", p.Lock, maxModuleBytes, "1 MiB")
}
