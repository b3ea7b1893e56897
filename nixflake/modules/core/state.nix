# A profile keeps its state in one folder, and the folder on a volume. Several
# profiles may be used at once, each with its own.
#
#   state { name = "database"; mountPoint = "/var/lib/postgresql"; }
#
# gives the option `volume` and the configuration that goes with it.
{ config, lib }:
{ name, mountPoint, size }:
let
  inherit (lib) mkOption types;
  vm = config.blixard.vm;
  cfg = config.blixard.profiles.${name};

  # The spec's own volumes and shares hold it already.
  places = map (v: if v ? root then "/" else v.data.mountPoint) vm.volumes
    ++ map (s: s.mountPoint) vm.shares;
  holds = place: place != null && (place == "/" || place == mountPoint || lib.hasPrefix "${place}/" mountPoint);
  held = lib.any holds places;
in
{
  option = {
    enable = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Whether the state in `${mountPoint}` is kept on a volume. One is added
        unless the VM has a volume or a share for it, or a root volume. Without,
        each boot begins anew.
      '';
    };
    size = mkOption {
      type = types.ints.positive;
      default = size;
      description = "Size of that volume in MiB.";
    };
    image = mkOption {
      type = types.str;
      default = "${name}.img";
      description = "Its image, in the VM's own folder on the host or an absolute path.";
    };
  };

  config = {
    microvm.volumes = lib.mkIf (cfg.enable && cfg.volume.enable && ! held && ! vm.accounted) [
      {
        inherit mountPoint;
        inherit (cfg.volume) image size;
      }
    ];
    assertions = [
      {
        assertion = cfg.enable && cfg.volume.enable && vm.accounted -> held;
        message = ''
          VM ${config.networking.hostName}: the profile ${name} keeps its state in ${mountPoint}, and the spec has no volume for it. Add
            - data: {path: ${cfg.volume.image}, size_mib: ${toString cfg.volume.size}, mount_point: ${mountPoint}}
          to its volumes, or a root volume, or set blixard.profiles.${name}.volume.enable = false in a module to begin anew at each boot.
        '';
      }
    ];
  };
}
