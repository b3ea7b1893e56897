# Written by blixard from the spec of a VM: change the spec, not this file.
{
  description = "VM fc-networks";

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

    blixard.vms."fc-networks" = {
      hypervisor = "firecracker";
      vcpus = 1;
      memory = 512;
      machineId = "db3f57e9-af03-8eb7-a8c3-8b868dfbaf35";
      vsockCid = 4242;
      accounted = true;
      networks = [
        { tap = {
          id = "bxpnldb7kayaxye";
          mac = "aa:fc:47:7b:1a:ed";
          bridge = "br0";
        }; }
        { tap = {
          id = "tap-b";
          mac = "02:00:00:00:00:0B";
        }; }
      ];
    };
  }; in { inherit (flake) nixosConfigurations packages checks; };
}
