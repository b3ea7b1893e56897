package nixflake

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Systems are the platforms that each flake has its VM for.
var Systems = []string{"x86_64-linux", "aarch64-linux"}

// ErrSource says that a spec is not one that Nix builds.
var ErrSource = errors.New("nixflake: the spec has neither spec.nixos nor spec.flake")

// File is one file of a flake. It has either a text or a digest.
type File struct {
	// Path is relative, with slashes, and clean.
	Path string
	Text string
	// Digest names the artifact whose content belongs here.
	Digest string
	// Unpack says that the artifact is a packed folder (Unpack), and Path the
	// folder it belongs into.
	Unpack bool
}

// VM is what is rendered: a spec that core/cluster has accepted, and whose it is.
type VM struct {
	Name string
	// UID is what the identity is derived from.
	UID  string
	Spec *blixardv1.VMSpec
}

// Pins say where the inputs of every flake come from. The operator sets them
// once for the fleet; what is empty has the default.
type Pins struct {
	// Nixpkgs, FlakeParts and Microvm are flake references.
	Nixpkgs    string
	FlakeParts string
	Microvm    string
	// Modules is a flake reference for blixard-modules. Empty: the modules of
	// this binary, written beside flake.nix.
	Modules string
	// Lock is a flake.lock with just these inputs; empty: whoever builds locks.
	Lock string
}

// The inputs when nobody pins them.
const (
	DefaultNixpkgs    = "github:NixOS/nixpkgs/nixos-unstable"
	DefaultFlakeParts = "github:hercules-ci/flake-parts"
	DefaultMicrovm    = "github:microvm-nix/microvm.nix"
)

// Render gives the files of the flake that builds a VM. The runner is its
// packages.SYSTEM.NAME. The cluster's id keys what is derived from the uid.
func Render(cluster string, vm VM, pins Pins) ([]File, error) {
	if err := check("the name", vm.Name); err != nil {
		return nil, err
	}
	var files []File
	var err error
	switch vm.Spec.GetSource().(type) {
	case *blixardv1.VMSpec_Nixos:
		files, err = renderNixos(cluster, vm, pins)
	case *blixardv1.VMSpec_Flake:
		return renderFlake(vm)
	default:
		return nil, ErrSource
	}
	if err != nil {
		return nil, err
	}
	if pins.Modules == "" {
		files = append(files, modulesBeside...)
	}
	if pins.Lock != "" {
		files = append(files, File{Path: "flake.lock", Text: pins.Lock})
	}
	return files, nil
}

// text is Nix in the making. Ours goes through line, the user's through str and
// its friends; the first that cannot be written is kept, and ends it all.
type text struct {
	strings.Builder
	err error
}

func (t *text) line(s string) { t.WriteString(s); t.WriteByte('\n') }

func (t *text) checked(what, s string) bool {
	if err := check(what, s); err != nil && t.err == nil {
		t.err = err
	}
	return t.err == nil
}

// set writes a line that gives an attribute a string.
func (t *text) set(indent, name, value string) {
	if t.checked(name, value) {
		t.line(indent + name + " = " + quote(value) + ";")
	}
}

func (t *text) setNumber(indent, name string, value uint64) {
	t.line(indent + name + " = " + strconv.FormatUint(value, 10) + ";")
}

func (t *text) setTrue(indent, name string, value bool) {
	if value {
		t.line(indent + name + " = true;")
	}
}

const modulesHead = "# The modules as a flake of their own."

const head = "# Written by blixard from the spec of a VM: change the spec, not this file.\n"

// Written says whether a flake.nix is one of ours, which may be written anew.
func Written(flake []byte) bool {
	return strings.HasPrefix(string(flake), head) || strings.HasPrefix(string(flake), modulesHead)
}

func renderNixos(cluster string, vm VM, pins Pins) ([]File, error) {
	t := &text{}
	n := vm.Spec.GetNixos()
	t.WriteString(head)
	t.line("{")
	t.set("  ", "description", "VM "+vm.Name)
	t.line("")
	t.line("  inputs = {")
	t.set("    ", "nixpkgs.url", cmp.Or(pins.Nixpkgs, DefaultNixpkgs))
	t.set("    ", "flake-parts.url", cmp.Or(pins.FlakeParts, DefaultFlakeParts))
	t.line(`    flake-parts.inputs.nixpkgs-lib.follows = "nixpkgs";`)
	t.set("    ", "microvm.url", cmp.Or(pins.Microvm, DefaultMicrovm))
	t.line(`    microvm.inputs.nixpkgs.follows = "nixpkgs";`)
	// Only microvm.nix's graphics want it, from a server of its own: anything will do.
	t.line(`    microvm.inputs.spectrum.follows = "nixpkgs";`)
	t.set("    ", "blixard-modules.url", cmp.Or(pins.Modules, "path:./"+ModulesDir))
	t.line("  };")
	t.line("")
	// The names of the outputs are said without a look at the inputs: Nix 2.26
	// comes to a locked path:./ input by way of them, and would turn in circles.
	t.line("  outputs = inputs: let flake = inputs.flake-parts.lib.mkFlake { inherit inputs; } {")
	t.line(`    systems = [ "` + strings.Join(Systems, `" "`) + `" ];`)
	t.line("    imports = [")
	t.line("      inputs.blixard-modules.flakeModules.default")
	for _, name := range n.GetFlakeModules() {
		if t.checked("flake_modules", name) {
			t.line("      inputs.blixard-modules.flakeModules." + quote(name))
		}
	}
	t.line("    ];")
	t.line("")
	t.line("    blixard.vms." + quote(vm.Name) + " = {")
	h, err := hypervisor(vm.Spec)
	if err != nil {
		return nil, err
	}
	t.set("      ", "hypervisor", h)
	t.setNumber("      ", "vcpus", uint64(cmp.Or(vm.Spec.GetVcpus(), 1)))
	t.setNumber("      ", "memory", cmp.Or(vm.Spec.GetMemoryMib(), 512))
	id := Identify(cluster, vm.UID)
	t.set("      ", "machineId", id.MachineID())
	// QEMU needs vhost_vsock on the host for it; the others make a socket.
	if c := n.GetVsockCid(); c != 0 {
		t.setNumber("      ", "vsockCid", uint64(c))
	} else if h != "qemu" {
		t.setNumber("      ", "vsockCid", uint64(id.VsockCID()))
	}
	t.line("      accounted = true;")
	t.networks(id, n.GetNetworks())
	t.volumes(n.GetVolumes())
	t.shares(n.GetShares())
	t.kernel(n.GetKernel())
	if n.GetInit() != "" && t.checked("init", n.GetInit()) {
		t.line("      init = " + indented(n.GetInit(), "      ") + ";")
	}
	modules := t.modules(n.GetModules())
	t.line("    };")
	t.line("  }; in { inherit (flake) nixosConfigurations packages checks; };")
	t.line("}")
	if t.err != nil {
		return nil, t.err
	}
	return append([]File{{Path: "flake.nix", Text: t.String()}}, modules...), nil
}

func hypervisor(s *blixardv1.VMSpec) (string, error) {
	switch s.GetHypervisor() {
	case blixardv1.Hypervisor_HYPERVISOR_UNSPECIFIED, blixardv1.Hypervisor_HYPERVISOR_CLOUD_HYPERVISOR:
		return "cloud-hypervisor", nil
	case blixardv1.Hypervisor_HYPERVISOR_FIRECRACKER:
		return "firecracker", nil
	case blixardv1.Hypervisor_HYPERVISOR_QEMU:
		return "qemu", nil
	}
	return "", fmt.Errorf("nixflake: %s runs no NixOS system; use cloud-hypervisor, firecracker or qemu", s.GetHypervisor())
}

const (
	item  = "        "
	inner = "          "
)

func (t *text) networks(id Identity, list []*blixardv1.Network) {
	if len(list) == 0 {
		return
	}
	t.line("      networks = [")
	for i, n := range list {
		switch k := n.GetKind().(type) {
		case *blixardv1.Network_Tap:
			t.line(item + "{ tap = {")
			t.set(inner, "id", cmp.Or(k.Tap.GetId(), id.TapID(i)))
			t.set(inner, "mac", cmp.Or(k.Tap.GetMac(), id.MAC(i)))
			if b := k.Tap.GetBridge(); b != "" {
				t.set(inner, "bridge", b)
			}
		default:
			t.line(item + "{ user = {")
			t.set(inner, "mac", cmp.Or(n.GetUser().GetMac(), id.MAC(i)))
		}
		t.line(item + "}; }")
	}
	t.line("      ];")
}

func (t *text) volumes(list []*blixardv1.Volume) {
	if len(list) == 0 {
		return
	}
	t.line("      volumes = [")
	for _, v := range list {
		switch k := v.GetKind().(type) {
		case *blixardv1.Volume_Data:
			t.line(item + "{ data = {")
			t.set(inner, "path", k.Data.GetPath())
			if m := k.Data.GetSizeMib(); m != 0 {
				t.setNumber(inner, "size", m)
			}
			t.setTrue(inner, "readOnly", k.Data.GetReadOnly())
			if m := k.Data.GetMountPoint(); m != "" {
				t.set(inner, "mountPoint", m)
			}
			t.line(item + "}; }")
		default:
			t.line(item + "{ root.size = " + strconv.FormatUint(v.GetRoot().GetSizeMib(), 10) + "; }")
		}
	}
	t.line("      ];")
}

func (t *text) shares(list []*blixardv1.Share) {
	if len(list) == 0 {
		return
	}
	t.line("      shares = [")
	for _, s := range list {
		t.line(item + "{")
		t.set(inner, "tag", s.GetTag())
		t.set(inner, "source", s.GetSource())
		t.set(inner, "mountPoint", s.GetMountPoint())
		t.setTrue(inner, "readOnly", s.GetReadOnly())
		t.line(item + "}")
	}
	t.line("      ];")
}

func (t *text) kernel(k *blixardv1.Kernel) {
	if p := k.GetPackage(); p != "" {
		t.set("      ", "kernel.package", p)
	}
	if len(k.GetParams()) == 0 {
		return
	}
	t.line("      kernel.params = [")
	for _, p := range k.GetParams() {
		if t.checked("kernel.params", p) {
			t.line(item + quote(p))
		}
	}
	t.line("      ];")
}

// modules names each module in the VM, and returns the files that they are in.
func (t *text) modules(list []*blixardv1.NixosModule) (files []File) {
	if len(list) == 0 {
		return nil
	}
	t.line("      modules = [")
	for i, m := range list {
		switch src := m.GetSource().(type) {
		case *blixardv1.NixosModule_FlakePart:
			if t.checked("flake_part", src.FlakePart) {
				t.line(item + "inputs.blixard-modules.nixosModules." + quote(src.FlakePart))
			}
		case *blixardv1.NixosModule_File:
			path := fmt.Sprintf("modules/%02d-file.nix", i)
			files = append(files, File{Path: path, Digest: src.File.GetDigest()})
			t.line(item + "./" + path)
		default:
			if !t.checked("inline", m.GetInline()) {
				return nil
			}
			path := fmt.Sprintf("modules/%02d-inline.nix", i)
			files = append(files, File{Path: path, Text: m.GetInline()})
			t.line(item + "./" + path)
		}
	}
	t.line("      ];")
	return files
}

// InlineModules are the files in which the user writes code. Whoever has Nix
// parses them before a spec is accepted: nix-instantiate --parse FILE.
func InlineModules(files []File) (list []File) {
	for _, f := range files {
		if strings.HasPrefix(f.Path, "modules/") && strings.HasSuffix(f.Path, "-inline.nix") {
			list = append(list, f)
		}
	}
	return list
}
