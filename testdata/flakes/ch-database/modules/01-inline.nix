{ pkgs, ... }:
{
  blixard.profiles.database = {
    package = pkgs.postgresql_17;
    databases = [ "app" ];
    backup = true;
  };
  services.postgresql.settings.shared_buffers = "512MB";
}
