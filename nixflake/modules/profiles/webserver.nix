# A web server: nginx, with a folder of files to serve.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption mkDefault types;
  cfg = config.blixard.profiles.webserver;
  state = import ../core/state.nix { inherit config lib; } {
    name = "webserver";
    mountPoint = "/var/www";
    size = 1024;
  };
in
{
  _class = "nixos";

  options.blixard.profiles.webserver = {
    enable = mkOption {
      type = types.bool;
      default = true;
      description = "Whether the profile does anything.";
    };
    hostName = mkOption {
      type = types.str;
      default = "localhost";
      example = "example.org";
      description = "Name of the virtual host, which also answers to any other name.";
    };
    root = mkOption {
      type = types.path;
      default = "/var/www/html";
      description = "Folder that is served.";
    };
    port = mkOption {
      type = types.port;
      default = 80;
      description = "Port of plain HTTP.";
    };
    tls = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether to serve HTTPS on port 443 too, with a certificate from Let's
        Encrypt for `hostName`. `security.acme` wants your consent and an
        address.
      '';
    };
    openFirewall = mkOption {
      type = types.bool;
      default = true;
      description = "Whether the firewall lets requests in.";
    };
    volume = state.option;
  };

  config = lib.mkMerge [
    state.config
    (lib.mkIf cfg.enable {
      services.nginx = {
        enable = mkDefault true;
        recommendedGzipSettings = mkDefault true;
        recommendedOptimisation = mkDefault true;
        recommendedProxySettings = mkDefault true;
        recommendedTlsSettings = mkDefault true;
        virtualHosts.${cfg.hostName} = {
          default = mkDefault true;
          root = mkDefault cfg.root;
          enableACME = mkDefault cfg.tls;
          addSSL = mkDefault cfg.tls;
          listen = mkDefault (
            [ { addr = "0.0.0.0"; inherit (cfg) port; } { addr = "[::]"; inherit (cfg) port; } ]
            ++ lib.optionals cfg.tls [ { addr = "0.0.0.0"; port = 443; ssl = true; } { addr = "[::]"; port = 443; ssl = true; } ]
          );
        };
      };

      # A fresh volume is empty, and not nginx's.
      systemd.tmpfiles.rules = [
        "d /var/www 0755 root root -"
        "d ${cfg.root} 0755 nginx nginx -"
      ];

      networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall ([ cfg.port ] ++ lib.optional cfg.tls 443);
    })
  ];
}
