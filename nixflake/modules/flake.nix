# The modules as a flake of their own. It has no inputs: nothing to lock, and
# nothing to follow. The daemon writes this folder beside each flake it renders;
# blixard's own flake exports the same.
{
  description = "Blixard's modules: VMs in a flake, and profiles for them";

  outputs = _: rec {
    flakeModules.default = ./flake-module.nix;
    flakeModules.checks = ./checks-module.nix;
    flakeModule = flakeModules.default;

    nixosModules = {
      # Parts of a guest. flake-module.nix uses the first three by itself.
      microvm = ./core/microvm.nix;
      networking = ./core/networking.nix;
      storage = ./core/storage.nix;
      webserver = ./profiles/webserver.nix;
      database = ./profiles/database.nix;
      container = ./profiles/container.nix;
      monitoring = ./profiles/monitoring.nix;
      # A host: services.blixard.
      blixard = ./host/blixard.nix;
    };
  };
}
