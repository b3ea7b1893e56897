# Written by blixard from the spec of a VM: change the spec, not this file.
{
  description = "VM ch-volumes";

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

    blixard.vms."ch-volumes" = {
      hypervisor = "cloud-hypervisor";
      vcpus = 3;
      memory = 768;
      machineId = "db3f57e9-af03-8eb7-a8c3-8b868dfbaf35";
      vsockCid = 1812485215;
      accounted = true;
      volumes = [
        { root.size = 2048; }
        { data = {
          path = "a.img";
          size = 64;
          mountPoint = "/srv/a";
        }; }
        { data = {
          path = "/srv/images/golden.raw";
          readOnly = true;
          mountPoint = "/srv/golden";
        }; }
        { data = {
          path = "spare.img";
          size = 128;
        }; }
      ];
    };
  }; in { inherit (flake) nixosConfigurations packages checks; };
}
