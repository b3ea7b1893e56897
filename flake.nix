{
  description = "Blixard: one machine out of many, for microVMs";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs = { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [ "x86_64-linux" "aarch64-linux" ];
      each = f: lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});

      # The modules are a flake of their own, which needs nothing of this one.
      modules = (import ./nixflake/modules/flake.nix).outputs { };

      blixard = { buildGoModule }: buildGoModule {
        pname = "blixard";
        version = self.shortRev or "dirty";
        src = self;
        # Changes with go.sum (go mod vendor -o DIR && nix hash path DIR); nix prints
        # the right one when it is stale.
        vendorHash = "sha256-mB3CMFqdEnSIjI1iSgIMoNTBFsOqjBecOTFan9h/4lM=";
        subPackages = [ "cmd/blixard" "cmd/blixard-shim" "cmd/blixard-sim" ];
        env.CGO_ENABLED = 0;
        meta = {
          description = "One machine out of many, for microVMs";
          homepage = "https://github.com/blixard/blixard";
          mainProgram = "blixard";
          platforms = systems;
        };
      };
    in
    {
      packages = each (pkgs: { default = pkgs.callPackage blixard { }; });

      overlays.default = final: _: { blixard = final.callPackage blixard { }; };

      # Everything that scripts/test and scripts/demo need.
      devShells = each (pkgs: {
        default = pkgs.mkShell {
          packages = [ pkgs.go pkgs.just pkgs.qemu pkgs.dpkg pkgs.shellcheck pkgs.nix ];
        };
      });

      # For people's own flakes, with or without our daemon: docs/modules.md.
      inherit (modules) flakeModule flakeModules;
      nixosModules = modules.nixosModules // {
        blixard = { pkgs, lib, ... }: {
          imports = [ modules.nixosModules.blixard ];
          services.blixard.package = lib.mkDefault self.packages.${pkgs.stdenv.hostPlatform.system}.default;
        };
      };

      templates = {
        default = self.templates.vm;
        vm = {
          path = ./nixflake/templates/vm;
          description = "A microVM with a web server";
        };
        host = {
          path = ./nixflake/templates/host;
          description = "A NixOS host of a blixard cluster";
        };
      };

      checks = each (pkgs: {
        # A host with the daemon, as far as its unit.
        host =
          let
            host = lib.nixosSystem {
              modules = [
                self.nixosModules.blixard
                {
                  nixpkgs.hostPlatform = pkgs.stdenv.hostPlatform.system;
                  networking.hostName = "alpha";
                  system.stateVersion = "25.11";
                  services.blixard.enable = true;
                }
              ];
            };
          in
          pkgs.writeText "blixard.service" host.config.systemd.units."blixard.service".text;
      });
    };
}
