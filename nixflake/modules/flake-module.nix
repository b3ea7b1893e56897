# A flake-parts module: VMs under `blixard.vms` become nixosConfigurations and
# packages. It needs no daemon of ours:
#
#   imports = [ inputs.blixard.flakeModules.default ];
#   blixard.vms.web = {
#     memory = 1024;
#     networks = [ { tap.bridge = "br0"; } ];
#     modules = [ inputs.blixard.nixosModules.webserver ];
#   };
#
# and `nix run .#web` starts it.
{ config, lib, inputs, ... }:
let
  inherit (lib) mkOption types literalExpression;
  cfg = config.blixard;

  vm = types.submodule {
    options = import ./core/options.nix { inherit lib; } // {
      system = mkOption {
        type = types.str;
        default = if config.systems == [ ] then "x86_64-linux" else builtins.head config.systems;
        defaultText = literalExpression "the first of systems";
        example = "aarch64-linux";
        description = ''
          Platform of `nixosConfigurations.<name>`. `packages` has the VM for
          every platform of the flake.
        '';
      };
      modules = mkOption {
        type = types.listOf types.deferredModule;
        default = [ ];
        example = literalExpression "[ ./web.nix inputs.blixard.nixosModules.webserver ]";
        description = "NixOS modules of the guest.";
      };
    };
  };

  build = system: name: v: cfg.nixpkgs.lib.nixosSystem {
    modules = [
      cfg.microvm.nixosModules.microvm
      ./core/microvm.nix
      ./core/networking.nix
      ./core/storage.nix
      {
        _file = "blixard.vms.${name}";
        nixpkgs.hostPlatform = lib.mkDefault system;
        networking.hostName = lib.mkDefault name;
        blixard.vm = removeAttrs v [ "system" "modules" ];
      }
    ] ++ v.modules;
  };
in
{
  _class = "flake";

  options.blixard = {
    vms = mkOption {
      type = types.attrsOf vm;
      default = { };
      description = "Virtual machines. Each becomes `nixosConfigurations.<name>` and `packages.<system>.<name>`.";
    };
    nixpkgs = mkOption {
      type = types.raw;
      default = inputs.nixpkgs or (throw "blixard.vms needs an input named nixpkgs, or blixard.nixpkgs");
      defaultText = literalExpression "inputs.nixpkgs";
      description = "The nixpkgs flake that guests are built with.";
    };
    microvm = mkOption {
      type = types.raw;
      default = inputs.microvm or (throw "blixard.vms needs an input named microvm (github:microvm-nix/microvm.nix), or blixard.microvm");
      defaultText = literalExpression "inputs.microvm";
      description = "The microvm.nix flake.";
    };
  };

  config = {
    flake.nixosConfigurations = lib.mapAttrs (name: v: build v.system name v) cfg.vms;

    perSystem = { system, ... }: {
      packages = lib.mapAttrs
        (name: v:
          (if system == v.system then config.flake.nixosConfigurations.${name} else build system name v)
            .config.microvm.declaredRunner)
        cfg.vms;
    };
  };
}
