# A flake-parts module: every VM is a check of the flake, so that
# `nix flake check` builds their runners.
{ config, lib, ... }:
let
  inherit (config.blixard) vms;
in
{
  _class = "flake";

  config.perSystem = { self', ... }: {
    checks = lib.mapAttrs' (name: _: lib.nameValuePair "vm-${name}" self'.packages.${name}) vms;
  };
}
