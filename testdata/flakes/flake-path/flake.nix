# Written by blixard from the spec of a VM: change the spec, not this file.
{
  description = "VM path";

  inputs.source.url = "git+https://example.org/infra";

  outputs = { source, ... }:
    let
      name = "packages.x86_64-linux.web-1";
      path = [
        "packages"
        "x86_64-linux"
        "web-1"
      ];
      at = path: set:
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
    in
    {
      packages.x86_64-linux."path" = runner "x86_64-linux";
      packages.aarch64-linux."path" = runner "aarch64-linux";
    };
}
