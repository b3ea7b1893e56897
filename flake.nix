{
  description = "Blixard: one machine out of many, for microVMs";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs = { self, nixpkgs }:
    let
      systems = [ "x86_64-linux" "aarch64-linux" ];
      each = f: nixpkgs.lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});
    in
    {
      packages = each (pkgs: {
        default = pkgs.buildGoModule {
          pname = "blixard";
          version = self.shortRev or "dirty";
          src = self;
          # Changes with go.sum; nix prints the right one when it is stale.
          vendorHash = pkgs.lib.fakeHash;
          subPackages = [ "cmd/blixard" "cmd/blixard-shim" "cmd/blixard-sim" ];
          env.CGO_ENABLED = 0;
        };
      });

      # Everything that scripts/test and scripts/demo need.
      devShells = each (pkgs: {
        default = pkgs.mkShell {
          packages = [ pkgs.go pkgs.just pkgs.qemu pkgs.dpkg pkgs.shellcheck ];
        };
      });
    };
}
