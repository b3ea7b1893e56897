# A host of containers: podman, which also answers to docker.
{ config, lib, ... }:
let
  inherit (lib) mkOption mkDefault types;
  cfg = config.blixard.profiles.container;
  state = import ../core/state.nix { inherit config lib; } {
    name = "container";
    mountPoint = "/var/lib/containers";
    size = 8192;
  };
in
{
  _class = "nixos";

  options.blixard.profiles.container = {
    enable = mkOption {
      type = types.bool;
      default = true;
      description = "Whether the profile does anything.";
    };
    containers = mkOption {
      type = types.attrsOf types.raw;
      default = { };
      example = lib.literalExpression ''
        { web = { image = "docker.io/library/nginx"; ports = [ "8080:80" ]; }; }
      '';
      description = ''
        Containers that run at boot, as in
        `virtualisation.oci-containers.containers`.
      '';
    };
    ports = mkOption {
      type = types.listOf types.port;
      default = [ ];
      example = [ 8080 ];
      description = "TCP ports that the firewall opens for them.";
    };
    volume = state.option;
  };

  config = lib.mkMerge [
    state.config
    (lib.mkIf cfg.enable {
      virtualisation.podman = {
        enable = mkDefault true;
        dockerCompat = mkDefault true;
        defaultNetwork.settings.dns_enabled = mkDefault true;
        autoPrune.enable = mkDefault true;
      };
      virtualisation.oci-containers = {
        backend = mkDefault "podman";
        inherit (cfg) containers;
      };
      networking.firewall.allowedTCPPorts = cfg.ports;
    })
  ];
}
