{
  description = "A NixOS host of a blixard cluster";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
    blixard.url = "github:blixard/blixard";
    blixard.inputs.nixpkgs.follows = "nixpkgs";
  };

  outputs = inputs: {
    nixosConfigurations.alpha = inputs.nixpkgs.lib.nixosSystem {
      modules = [
        inputs.blixard.nixosModules.blixard
        # Yours: disks, boot loader, network.
        # ./hardware-configuration.nix
        {
          nixpkgs.hostPlatform = "x86_64-linux";
          networking.hostName = "alpha";
          system.stateVersion = "25.11";

          services.blixard = {
            enable = true;
            # Beyond loopback it takes certificates: blixard's README tells how.
            settings.listen = "127.0.0.1:7946";
          };
        }
      ];
    };
  };
}
