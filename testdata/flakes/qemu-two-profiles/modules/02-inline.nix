{ lib, ... }:
{
  services.postgresql.enableTCPIP = false;
  blixard.profiles.database.openFirewall = false;
  networking.firewall.allowedTCPPorts = lib.mkForce [ 443 ];
  services.nginx.virtualHosts.localhost.root = "/srv/site";
}
