# Written by blixard from the spec of a VM: change the spec, not this file.
{
  description = "VM ch-modules";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
    flake-parts.url = "github:hercules-ci/flake-parts";
    flake-parts.inputs.nixpkgs-lib.follows = "nixpkgs";
    microvm.url = "github:microvm-nix/microvm.nix";
    microvm.inputs.nixpkgs.follows = "nixpkgs";
    microvm.inputs.spectrum.follows = "nixpkgs";
    blixard-modules.url = "path:./blixard-modules";
  };

  outputs = inputs: let flake = inputs.flake-parts.lib.mkFlake { inherit inputs; } {
    systems = [ "x86_64-linux" "aarch64-linux" ];
    imports = [
      inputs.blixard-modules.flakeModules.default
    ];

    blixard.vms."ch-modules" = {
      hypervisor = "cloud-hypervisor";
      vcpus = 1;
      memory = 512;
      machineId = "db3f57e9-af03-8eb7-a8c3-8b868dfbaf35";
      vsockCid = 1812485215;
      accounted = true;
      kernel.params = [
        "a=\${b}"
        "x=\\\\y"
      ];
      init = ''
        ''\  echo "it's ''${HOME}" > '/run/a b'
        echo ''\'''\'''${x}''\'''\' "''${builtins.readFile ./x}"''\t''$''$ \n é
      '';
      modules = [
        ./modules/00-inline.nix
        ./modules/01-file.nix
        ./modules/02-inline.nix
      ];
    };
  }; in { inherit (flake) nixosConfigurations packages checks; };
}
