# Written by blixard from the spec of a VM: change the spec, not this file.
{
  description = "VM qemu-webserver";

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

    blixard.vms."qemu-webserver" = {
      hypervisor = "qemu";
      vcpus = 1;
      memory = 1024;
      machineId = "db3f57e9-af03-8eb7-a8c3-8b868dfbaf35";
      accounted = true;
      networks = [
        { tap = {
          id = "bxpnldb7kayaxye";
          mac = "aa:fc:47:7b:1a:ed";
          bridge = "br0";
        }; }
      ];
      volumes = [
        { data = {
          path = "www.img";
          size = 512;
          mountPoint = "/var/www";
        }; }
      ];
      modules = [
        inputs.blixard-modules.nixosModules."webserver"
        ./modules/01-inline.nix
      ];
    };
  }; in { inherit (flake) nixosConfigurations packages checks; };
}
