package nixflake

import (
	"cmp"
	"strings"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// SourceDir is where a packed flake is unpacked.
const SourceDir = "source"

// renderFlake gives a flake with one input, the user's, that finds the VM in
// it. So a flake of one's own is locked once and built like any other, and its
// reference is data, which no command line parses.
func renderFlake(vm VM) ([]File, error) {
	t := &text{}
	f := vm.Spec.GetFlake()
	files := []File{{Path: "flake.nix"}}
	t.WriteString(head)
	t.line("{")
	t.set("  ", "description", "VM "+vm.Name)
	t.line("")
	switch from := f.GetFrom().(type) {
	case *blixardv1.Flake_Ref:
		t.set("  ", "inputs.source.url", from.Ref)
	default:
		t.line(`  inputs.source.url = "path:./` + SourceDir + `";`)
		files = append(files, File{Path: SourceDir, Digest: f.GetPacked().GetDigest(), Unpack: true})
	}
	t.line("")
	t.line("  outputs = { source, ... }:")
	t.line("    let")
	t.set("      ", "name", cmp.Or(f.GetAttribute(), vm.Name))
	t.line("      path = [")
	if strings.Contains(f.GetAttribute(), ".") {
		for part := range strings.SplitSeq(f.GetAttribute(), ".") {
			if t.checked("attribute", part) {
				t.line(item + quote(part))
			}
		}
	}
	t.line("      ];")
	t.WriteString(findRunner)
	t.line("    in")
	t.line("    {")
	for _, s := range Systems {
		t.line("      packages." + s + "." + quote(vm.Name) + ` = runner "` + s + `";`)
	}
	t.line("    };")
	t.line("}")
	if t.err != nil {
		return nil, t.err
	}
	files[0].Text = t.String()
	return files, nil
}

// findRunner looks where people put their VMs: a package, which is then the
// runner itself, or a NixOS configuration that microvm.nix is part of. The latter gets
// what core/microvm.nix gives the VMs of specs, unless its owner has said otherwise.
const findRunner = `      at = path: set:
        if path == [ ] then set
        else if set ? ${builtins.head path} then at (builtins.tail path) set.${builtins.head path}
        else null;
      # QEMU takes what the daemon adds, so that its guests can move while they run.
      adds = { config, lib, options, ... }: {
        config = lib.optionalAttrs (options ? microvm.extraArgsScript) {
          microvm.extraArgsScript = lib.mkIf (config.microvm.hypervisor == "qemu")
            (lib.mkDefault ''printf %s "''${BLIXARD_QEMU_ARGS:-}"'');
        };
      };
      taught = found: if found ? extendModules then found.extendModules { modules = [ adds ]; } else found;
      runnerIn = found:
        if found ? config.microvm.declaredRunner then found.config.microvm.declaredRunner
        else if found.type or null == "derivation" then found
        else null;
      runnerOf = found: if found == null then null else runnerIn (taught found);
      first = list:
        if list == [ ] then null
        else if builtins.head list != null then builtins.head list
        else first (builtins.tail list);
      runner = system:
        let
          found = first (map (p: runnerOf (at p source)) (
            if path != [ ] then [ path ]
            else [ [ "packages" system name ] [ "nixosConfigurations" name ] ]
          ));
        in
        if found != null then found
        else throw "the flake has no microVM ${name} for ${system}: neither packages.${system}.${name} is a runner nor nixosConfigurations.${name} a system with microvm.nix";
`
