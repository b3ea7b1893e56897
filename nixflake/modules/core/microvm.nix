# The VM itself: blixard.vm said in microvm.nix's words.
{ config, lib, options, pkgs, ... }:
let
  cfg = config.blixard.vm;
  hostName = config.networking.hostName;
  hash = builtins.hashString "sha256";
  part = from: len: builtins.substring from len (hash "blixard machine ${hostName}");

  # Three bytes of a hash: an address from 16 to 16777231, clear of the reserved
  # ones. Here names are all we have; the daemon gives each VM one of its own.
  cid = 16 + (builtins.fromTOML "n = 0x${builtins.substring 0 6 (hash "blixard vsock ${hostName}")}").n;

  kernelPackages =
    if builtins.isString cfg.kernel.package then
      lib.attrByPath (lib.splitString "." cfg.kernel.package)
        (throw "VM ${hostName}: nixpkgs has no kernel packages ${cfg.kernel.package}; linuxPackages and linuxPackages_latest are some")
        pkgs
    else
      cfg.kernel.package;
in
{
  _class = "nixos";

  options.blixard.vm = import ./options.nix { inherit lib; };

  config = {
    microvm = {
      inherit (cfg) hypervisor;
      vcpu = cfg.vcpus;
      mem = cfg.memory;
      # Never null: then microvm.nix would run a program while it evaluates.
      machineId =
        if cfg.machineId != null then cfg.machineId
        else "${part 0 8}-${part 8 4}-8${part 12 3}-8${part 15 3}-${part 18 12}";
      vsock.cid = lib.mkDefault (
        if cfg.vsockCid != null then cfg.vsockCid
        else if cfg.hypervisor == "qemu" then null
        else cid
      );
    } // lib.optionalAttrs (options.microvm ? extraArgsScript) {
      # The daemon starts QEMU with more than was known when it was built: a socket of
      # its own to ask on, and on the host that a guest moves to, that it waits for it.
      extraArgsScript = lib.mkIf (cfg.hypervisor == "qemu")
        (lib.mkDefault ''printf %s "''${BLIXARD_QEMU_ARGS:-}"'');
    };

    boot.kernelPackages = lib.mkIf (cfg.kernel.package != null) kernelPackages;
    boot.kernelParams = cfg.kernel.params;

    systemd.services.blixard-init = lib.mkIf (cfg.init != "") {
      description = "Script of the VM's spec";
      wantedBy = [ "multi-user.target" ];
      after = [ "network.target" ];
      script = cfg.init;
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
      };
    };

    # A guest has no state of an older NixOS to be compatible with, until it has
    # volumes: so one release for all, and yours when you set it.
    system.stateVersion = lib.mkDefault "25.11";

    assertions = [
      {
        assertion = cfg.hypervisor == "qemu" -> cfg.memory != 2048;
        message = "VM ${hostName}: QEMU hangs at exactly 2048 MiB; use 2047 or 2049.";
      }
      {
        assertion = cfg.hypervisor == "firecracker" -> cfg.vcpus <= 32;
        message = "VM ${hostName}: Firecracker takes at most 32 vcpus, not ${toString cfg.vcpus}.";
      }
      {
        assertion = cfg.accounted ->
          config.microvm.mem == cfg.memory
          && config.microvm.vcpu == cfg.vcpus
          && config.microvm.hypervisor == cfg.hypervisor
          && config.microvm.hotplugMem == 0;
        message = "VM ${hostName}: a module changes microvm.mem, vcpu, hypervisor or hotplugMem, by which it was placed; say it in the VM's spec.";
      }
    ];
  };
}
