# A database: PostgreSQL, sized for the VM.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption mkDefault types;
  cfg = config.blixard.profiles.database;
  state = import ../core/state.nix { inherit config lib; } {
    name = "database";
    mountPoint = "/var/lib/postgresql";
    size = 4096;
  };
  memory = config.blixard.vm.memory;
in
{
  _class = "nixos";

  options.blixard.profiles.database = {
    enable = mkOption {
      type = types.bool;
      default = true;
      description = "Whether the profile does anything.";
    };
    package = mkOption {
      type = types.nullOr types.package;
      default = null;
      defaultText = lib.literalExpression "null, which follows system.stateVersion";
      example = lib.literalExpression "pkgs.postgresql_17";
      description = "Which PostgreSQL. Its data belongs to one major version.";
    };
    databases = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "app" ];
      description = "Databases that are made, each with an owner of the same name.";
    };
    port = mkOption {
      type = types.port;
      default = 5432;
      description = "Port of the server.";
    };
    allowedNetworks = mkOption {
      type = types.listOf types.str;
      default = [ "10.0.0.0/8" "172.16.0.0/12" "192.168.0.0/16" "fd00::/8" ];
      description = ''
        Who may log in over the network, with a password (SCRAM). With an empty
        list the server listens to the guest alone.
      '';
    };
    openFirewall = mkOption {
      type = types.bool;
      default = true;
      description = "Whether the firewall lets `allowedNetworks` through to the server.";
    };
    backup = mkOption {
      type = types.bool;
      default = false;
      description = "Whether all databases are dumped each night, to `backup` beside the data.";
    };
    volume = state.option;
  };

  config = lib.mkMerge [
    state.config
    (lib.mkIf cfg.enable {
      services.postgresql = {
        enable = mkDefault true;
        package = lib.mkIf (cfg.package != null) cfg.package;
        enableTCPIP = mkDefault (cfg.allowedNetworks != [ ]);
        ensureDatabases = cfg.databases;
        ensureUsers = map (name: { inherit name; ensureDBOwnership = true; }) cfg.databases;
        authentication = lib.concatMapStrings (net: "host all all ${net} scram-sha-256\n") cfg.allowedNetworks;
        settings = {
          port = mkDefault cfg.port;
          password_encryption = mkDefault "scram-sha-256";
          # The manual's rule of thumb.
          shared_buffers = mkDefault "${toString (lib.max 32 (memory / 4))}MB";
          effective_cache_size = mkDefault "${toString (lib.max 64 (memory / 2))}MB";
        };
      };

      services.postgresqlBackup = lib.mkIf cfg.backup {
        enable = mkDefault true;
        location = mkDefault "/var/lib/postgresql/backup";
      };

      networking.firewall.allowedTCPPorts = lib.mkIf (cfg.openFirewall && cfg.allowedNetworks != [ ]) [ cfg.port ];
    })
  ];
}
