# What a VM can be told: the options of `blixard.vms.<name>` in a flake and of
# `blixard.vm` in a NixOS guest, declared once. A function of lib, because two
# module systems use it.
{ lib }:
let
  inherit (lib) mkOption types literalExpression;

  # These end in shell scripts of microvm.nix, which quotes for people.
  plain = what: pattern: types.strMatching pattern // { description = what; };
  absolutePath = plain "absolute path in A-Z a-z 0-9 . _ / + @ -" "/[A-Za-z0-9._/+@-]+";
  imagePath = plain "name of an image, or an absolute path" "(/[A-Za-z0-9._/+@-]+|[A-Za-z0-9_+@][A-Za-z0-9._+@-]*)";
  word = plain "letters, digits, _ and -" "[A-Za-z0-9_][A-Za-z0-9_-]*";
  interfaceName = plain "name of an interface, at most 15 characters" "[A-Za-z0-9_][A-Za-z0-9_-]{0,14}";
  macAddress = plain "MAC address" "([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}";

  submodule = options: types.submodule { inherit options; };

  mac = mkOption {
    type = types.nullOr macAddress;
    default = null;
    example = "02:00:00:00:00:01";
    description = "MAC address of the guest's interface. Null: derived from the VM's name.";
  };
in
{
  hypervisor = mkOption {
    type = types.enum [ "cloud-hypervisor" "firecracker" "qemu" ];
    default = "cloud-hypervisor";
    description = ''
      What runs the VM. Firecracker has no shares, and only QEMU has user
      networks.
    '';
  };

  vcpus = mkOption {
    type = types.ints.between 1 256;
    default = 1;
    description = "Number of virtual processors.";
  };

  memory = mkOption {
    type = types.ints.positive;
    default = 512;
    description = "Memory in MiB. QEMU hangs at exactly 2048.";
  };

  networks = mkOption {
    type = types.listOf (types.attrTag {
      tap = mkOption {
        description = "An interface of the host that the guest's end is plugged into.";
        type = submodule {
          id = mkOption {
            type = types.nullOr interfaceName;
            default = null;
            description = "Its name on the host. Null: derived from the VM's name.";
          };
          bridge = mkOption {
            type = types.nullOr interfaceName;
            default = null;
            example = "br0";
            description = "The host's bridge that it is attached to.";
          };
          inherit mac;
        };
      };
      user = mkOption {
        description = "The way out through QEMU's own NAT. Nothing comes in.";
        type = submodule { inherit mac; };
      };
    });
    default = [ ];
    example = literalExpression ''[ { tap.bridge = "br0"; } ]'';
    description = "Network interfaces, each a `tap` or a `user`.";
  };

  volumes = mkOption {
    type = types.listOf (types.attrTag {
      root = mkOption {
        description = "Holds `/`. Without one, `/` is a tmpfs and forgets.";
        type = submodule {
          size = mkOption {
            type = types.ints.positive;
            example = 4096;
            description = "Size in MiB. Not changed once the volume is there.";
          };
        };
      };
      data = mkOption {
        description = "Another disk.";
        type = submodule {
          path = mkOption {
            type = imagePath;
            example = "db.img";
            description = "The image: a name in the VM's own folder on the host, or an absolute path.";
          };
          size = mkOption {
            type = types.nullOr types.ints.positive;
            default = null;
            example = 1024;
            description = ''
              Size in MiB: an image that is not there is made, and formatted
              with ext4. Null: it must be there.
            '';
          };
          readOnly = mkOption {
            type = types.bool;
            default = false;
            description = "Whether the guest may only read it.";
          };
          mountPoint = mkOption {
            type = types.nullOr absolutePath;
            default = null;
            example = "/var/lib/postgresql";
            description = "Where the guest mounts it. Null: nowhere.";
          };
        };
      };
    });
    default = [ ];
    example = literalExpression ''
      [
        { root.size = 4096; }
        { data = { path = "db.img"; size = 1024; mountPoint = "/var/lib/postgresql"; }; }
      ]
    '';
    description = "Disks that outlive a restart, each a `root` or a `data`.";
  };

  shares = mkOption {
    type = types.listOf (submodule {
      tag = mkOption {
        type = word;
        example = "src";
        description = "Its name, unique in the VM.";
      };
      source = mkOption {
        type = absolutePath;
        example = "/srv/src";
        description = "The folder on the host.";
      };
      mountPoint = mkOption {
        type = absolutePath;
        example = "/src";
        description = "Where the guest mounts it.";
      };
      readOnly = mkOption {
        type = types.bool;
        default = false;
        description = "Whether the guest may only read it.";
      };
    });
    default = [ ];
    description = "Folders of the host that the guest sees live, by virtiofs. Not with Firecracker.";
  };

  kernel = {
    package = mkOption {
      type = types.nullOr (types.either types.str types.raw);
      default = null;
      example = "linuxPackages_latest";
      description = ''
        Kernel packages: an attribute path in nixpkgs, or the set itself. Null:
        what `boot.kernelPackages` says.
      '';
    };
    params = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "quiet" ];
      description = "Kernel arguments, added to those of NixOS.";
    };
  };

  init = mkOption {
    type = types.lines;
    default = "";
    example = "echo hello > /run/greeting";
    description = ''
      A shell script that the guest runs as root at each boot, as
      `blixard-init.service`.
    '';
  };

  vsockCid = mkOption {
    type = types.nullOr (types.ints.between 3 4294967294);
    default = null;
    description = ''
      The guest's vsock address, unique on its host. Null: derived from the VM's
      name where it costs nothing, none with QEMU, which needs vhost_vsock for
      it.
    '';
  };

  machineId = mkOption {
    type = types.nullOr (plain "UUID" "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}");
    default = null;
    example = "a67472e5-570e-8c8a-b18c-ae3c77701050";
    description = "The guest's machine id. Null: derived from its name.";
  };

  accounted = mkOption {
    type = types.bool;
    default = false;
    description = ''
      Whether somebody counts what this VM may use by the options above, as
      blixard's placement does. Then nothing else in the configuration can
      change its processors, its memory or its disks.
    '';
  };
}
