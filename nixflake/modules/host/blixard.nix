# A NixOS host of a blixard cluster: the daemon as a service.
#
#   imports = [ inputs.blixard.nixosModules.blixard ];
#   services.blixard = { enable = true; settings.name = "alpha"; };
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption mkEnableOption types literalExpression;
  cfg = config.services.blixard;
  toml = pkgs.formats.toml { };
in
{
  _class = "nixos";

  options.services.blixard = {
    enable = mkEnableOption "blixard, which makes one machine out of many for microVMs";

    package = mkOption {
      type = types.package;
      default = pkgs.blixard;
      defaultText = literalExpression "pkgs.blixard";
      description = "The blixard package. `blixard`'s own flake sets it to its own.";
    };

    settings = mkOption {
      type = types.submodule {
        freeformType = toml.type;
        options = {
          name = mkOption {
            type = types.strMatching "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?";
            default = config.networking.hostName;
            defaultText = literalExpression "config.networking.hostName";
            description = "The node's name. It cannot be changed once it is in a cluster.";
          };
          listen = mkOption {
            type = types.str;
            default = "127.0.0.1:7946";
            description = "Where to listen. Beyond loopback only with TLS.";
          };
        };
      };
      default = { };
      example = literalExpression ''
        {
          listen = "0.0.0.0:7946";
          tls = { cert = "/run/keys/node.pem"; key = "/run/keys/node-key.pem"; ca = "/run/keys/ca.pem"; };
        }
      '';
      description = "The daemon's configuration file, as `blixard serve --help` tells. It lands in the store: keys are named in it, not written.";
    };

    user = mkOption {
      type = types.str;
      default = "microvm";
      description = "Who runs the daemon and the VMs. microvm.nix gives taps to `microvm`.";
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Whether the firewall opens the port of `settings.listen`.";
    };
  };

  config = lib.mkIf cfg.enable {
    users.users.${cfg.user} = {
      isSystemUser = true;
      group = "kvm";
      description = "blixard and its microVMs";
    };
    users.groups.kvm = { };

    boot.kernelModules = [ "tun" "vhost_net" ];
    nix.settings.experimental-features = [ "nix-command" "flakes" ];
    # What another host built is copied from it: its word is taken, and not a
    # signature. So this user can do with the store what root can.
    nix.settings.trusted-users = [ cfg.user ];

    networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall [
      (lib.toInt (lib.last (lib.splitString ":" cfg.settings.listen)))
    ];

    systemd.services.blixard = {
      description = "blixard";
      documentation = [ "https://github.com/blixard/blixard" ];
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      # The scripts of a runner use these, and a build is a child of the daemon.
      path = [ config.nix.package pkgs.coreutils pkgs.gnused pkgs.gnugrep pkgs.iproute2 pkgs.kmod pkgs.systemd pkgs.git ];
      serviceConfig = {
        Type = "notify";
        NotifyAccess = "main";
        ExecStart = "${lib.getExe' cfg.package "blixard"} serve --config ${toml.generate "blixard.toml" cfg.settings}";
        User = cfg.user;
        Group = "kvm";
        Restart = "always";
        RestartSec = 1;

        # VMs outlive the daemon: only its own process ends with the service,
        # and the kernel's choice of a victim does not end the rest.
        KillMode = "process";
        OOMPolicy = "continue";
        # Each VM has a cgroup of its own beside ours, with bounds. A scope of its own
        # would be systemd's to give, which takes a right that this user does not have.
        Delegate = true;
        DelegateSubgroup = "daemon";
        TasksMax = "infinity";
        LimitNOFILE = 1048576;
        LimitMEMLOCK = "infinity";
        OOMScoreAdjust = -500;

        StateDirectory = "blixard";
        StateDirectoryMode = "0750";
        CacheDirectory = "blixard";
        RuntimeDirectory = "blixard";
        RuntimeDirectoryPreserve = true;
        UMask = "0027";

        # Taps are made and plugged into bridges.
        AmbientCapabilities = [ "CAP_NET_ADMIN" ];
        CapabilityBoundingSet = [ "CAP_NET_ADMIN" ];
        NoNewPrivileges = true;
        ProtectSystem = "strict";
        ProtectHome = true;
        PrivateTmp = true;
        ProtectClock = true;
        ProtectHostname = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        RestrictSUIDSGID = true;
        RestrictRealtime = true;
        LockPersonality = true;
        SystemCallArchitectures = "native";
        RestrictAddressFamilies = [ "AF_UNIX" "AF_INET" "AF_INET6" "AF_NETLINK" "AF_VSOCK" ];
        DevicePolicy = "closed";
        DeviceAllow = [ "/dev/kvm rw" "/dev/net/tun rw" "/dev/vhost-net rw" "/dev/vhost-vsock rw" ];
      };
    };
  };
}
