# Interfaces: names and addresses where none are given, taps into bridges, and a
# guest that asks for its address.
{ config, lib, pkgs, ... }:
let
  cfg = config.blixard.vm;
  hostName = config.networking.hostName;
  digits = n: what: builtins.substring 0 n (builtins.hashString "sha256" "blixard ${what} ${hostName}");

  # 02: an address that no manufacturer gives.
  macOf = i: given:
    let d = digits 10 "mac ${toString i}"; in
    if given != null then given
    else "02:" + lib.concatStringsSep ":" (map (k: builtins.substring (2 * k) 2 d) (lib.range 0 4));

  tapOf = i: given: if given != null then given else "bx" + digits 13 "tap ${toString i}";

  interface = i: network:
    if network ? tap then {
      type = "tap";
      id = tapOf i network.tap.id;
      mac = macOf i network.tap.mac;
    } else {
      type = "user";
      id = "user${toString i}";
      mac = macOf i network.user.mac;
    };

  bridged = lib.filter (b: b.bridge != null) (lib.imap0
    (i: network: {
      id = tapOf i (network.tap.id or null);
      bridge = network.tap.bridge or null;
    })
    cfg.networks);
in
{
  _class = "nixos";

  config = {
    microvm.interfaces = lib.imap0 interface cfg.networks;

    # microvm.nix makes the tap and leaves it alone.
    microvm.binScripts.tap-up = lib.mkIf (bridged != [ ]) (lib.mkAfter (lib.concatMapStrings
      ({ id, bridge }: ''
        ${lib.getExe' pkgs.iproute2 "ip"} link set '${id}' master '${bridge}'
      '')
      bridged));

    networking.useDHCP = lib.mkDefault true;

    assertions = [
      {
        assertion = cfg.hypervisor != "qemu" -> ! lib.any (network: network ? user) cfg.networks;
        message = "VM ${hostName}: ${cfg.hypervisor} has no user network; use a tap, or qemu.";
      }
    ];
  };
}
