# Volumes and shares.
{ config, lib, ... }:
let
  cfg = config.blixard.vm;
  hostName = config.networking.hostName;

  volume = v:
    if v ? root then {
      image = "root.img";
      mountPoint = "/";
      inherit (v.root) size;
    } else {
      image = v.data.path;
      inherit (v.data) mountPoint readOnly;
      autoCreate = v.data.size != null;
      size = if v.data.size != null then v.data.size else 0;
    };
  volumes = map volume cfg.volumes;

  readOnly = lib.filter (v: v.data.readOnly or false && v.data.mountPoint or null != null) cfg.volumes;
  images = lib.sort lib.lessThan (map (v: v.image) config.microvm.volumes);
  mounts = map (v: v.mountPoint) (lib.filter (v: v.mountPoint != null) volumes) ++ map (s: s.mountPoint) cfg.shares;
in
{
  _class = "nixos";

  config = {
    microvm.volumes = volumes;

    microvm.shares = map
      (s: {
        inherit (s) tag source mountPoint readOnly;
        proto = "virtiofs";
      })
      cfg.shares;

    fileSystems = lib.listToAttrs (map
      (v: lib.nameValuePair v.data.mountPoint { options = [ "ro" "noload" ]; })
      readOnly
    ++ map
      (s: lib.nameValuePair s.mountPoint { options = [ "ro" ]; })
      (lib.filter (s: s.readOnly) cfg.shares));

    assertions = [
      {
        assertion = cfg.hypervisor == "firecracker" -> cfg.shares == [ ];
        message = "VM ${hostName}: Firecracker cannot share a folder of its host; use a volume, or another hypervisor.";
      }
      {
        assertion = lib.allUnique mounts;
        message = "VM ${hostName}: two volumes or shares are mounted in one place.";
      }
      {
        assertion = cfg.accounted -> images == lib.sort lib.lessThan (map (v: v.image) volumes);
        message = "VM ${hostName}: a module adds to microvm.volumes, and placement would not know; add the volume to the VM's spec.";
      }
    ];
  };
}
