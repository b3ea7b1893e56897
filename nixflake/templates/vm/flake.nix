{
  description = "A microVM";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
    flake-parts.url = "github:hercules-ci/flake-parts";
    flake-parts.inputs.nixpkgs-lib.follows = "nixpkgs";
    microvm.url = "github:microvm-nix/microvm.nix";
    microvm.inputs.nixpkgs.follows = "nixpkgs";
    blixard.url = "github:blixard/blixard";
    blixard.inputs.nixpkgs.follows = "nixpkgs";
  };

  # nix run .#web starts it here; blixard vm create web --flake . on a cluster.
  outputs = inputs: inputs.flake-parts.lib.mkFlake { inherit inputs; } {
    systems = [ "x86_64-linux" "aarch64-linux" ];
    imports = [ inputs.blixard.flakeModules.default ];

    blixard.vms.web = {
      hypervisor = "qemu";
      memory = 1024;
      networks = [ { user = { }; } ];
      modules = [
        inputs.blixard.nixosModules.webserver
        {
          users.users.root.initialPassword = "";
        }
      ];
    };
  };
}
