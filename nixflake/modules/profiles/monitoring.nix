# Monitoring: Prometheus, and Grafana that knows it.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption mkDefault types;
  cfg = config.blixard.profiles.monitoring;
  state = import ../core/state.nix { inherit config lib; } {
    name = "monitoring";
    mountPoint = "/var/lib/monitoring";
    size = 4096;
  };
  secret = "/var/lib/monitoring/grafana-secret";
in
{
  _class = "nixos";

  options.blixard.profiles.monitoring = {
    enable = mkOption {
      type = types.bool;
      default = true;
      description = "Whether the profile does anything.";
    };
    targets = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "10.0.0.2:9100" ];
      description = "host:port of what is scraped, beside the VM itself.";
    };
    retention = mkOption {
      type = types.str;
      default = "15d";
      description = "How long samples are kept.";
    };
    prometheusPort = mkOption {
      type = types.port;
      default = 9090;
      description = "Port of Prometheus.";
    };
    grafanaPort = mkOption {
      type = types.port;
      default = 3000;
      description = "Port of Grafana. Its first login is admin, admin.";
    };
    openFirewall = mkOption {
      type = types.bool;
      default = true;
      description = "Whether the firewall lets both through.";
    };
    volume = state.option;
  };

  config = lib.mkMerge [
    state.config
    (lib.mkIf cfg.enable {
      services.prometheus = {
        enable = mkDefault true;
        port = mkDefault cfg.prometheusPort;
        retentionTime = mkDefault cfg.retention;
        stateDir = mkDefault "monitoring/prometheus";
        exporters.node.enable = mkDefault true;
        scrapeConfigs = [
          {
            job_name = "self";
            static_configs = [ { targets = [ "127.0.0.1:${toString config.services.prometheus.exporters.node.port}" ]; } ];
          }
        ] ++ lib.optional (cfg.targets != [ ]) {
          job_name = "targets";
          static_configs = [ { inherit (cfg) targets; } ];
        };
      };

      services.grafana = {
        enable = mkDefault true;
        dataDir = mkDefault "/var/lib/monitoring/grafana";
        settings = {
          server.http_addr = mkDefault "0.0.0.0";
          server.http_port = mkDefault cfg.grafanaPort;
          analytics.reporting_enabled = mkDefault false;
          # Made at the first boot, below: never in the store.
          security.secret_key = mkDefault "$__file{${secret}}";
        };
        provision.enable = mkDefault true;
        provision.datasources.settings.datasources = [
          {
            name = "Prometheus";
            type = "prometheus";
            url = "http://127.0.0.1:${toString config.services.prometheus.port}";
            isDefault = true;
          }
        ];
      };

      systemd.tmpfiles.rules = [ "d /var/lib/monitoring 0755 root root -" ];
      systemd.services.grafana-secret = {
        description = "Grafana's secret key, made once";
        requiredBy = [ "grafana.service" ];
        before = [ "grafana.service" ];
        unitConfig = {
          RequiresMountsFor = "/var/lib/monitoring";
          ConditionPathExists = "!${secret}";
        };
        serviceConfig.Type = "oneshot";
        script = ''
          umask 077
          ${lib.getExe' pkgs.coreutils "head"} -c 32 /dev/urandom | ${lib.getExe' pkgs.coreutils "base64"} > ${secret}.new
          ${lib.getExe' pkgs.coreutils "chown"} grafana ${secret}.new
          ${lib.getExe' pkgs.coreutils "mv"} ${secret}.new ${secret}
        '';
      };

      networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall [ cfg.prometheusPort cfg.grafanaPort ];
    })
  ];
}
