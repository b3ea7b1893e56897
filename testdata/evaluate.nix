# What a rendered flake comes to, as data: scripts/nix-matrix compares it with
# testdata/flakes/SPEC/evaluated.json. Everything here is forced, and with the
# last two the whole system and its runner: an assertion that fails, fails here.
dir: name:
let
  flake = builtins.getFlake "path:${dir}";
  nixos = flake.nixosConfigurations.${name};
  c = nixos.config;
  inherit (nixos) lib;
  runner = c.microvm.declaredRunner;
  pick = names: builtins.intersectAttrs (lib.genAttrs names (_: null));
  mounts = lib.filter (m: m != "/nix/store") (map (v: v.mountPoint) (lib.filter (v: v.mountPoint != null) c.microvm.volumes)
    ++ map (s: s.mountPoint) c.microvm.shares);
in
{
  inherit (c.microvm) vcpu mem hypervisor machineId;
  hostName = c.networking.hostName;
  vsock = c.microvm.vsock.cid;
  extraArgs = c.microvm.extraArgsScript;
  interfaces = map (pick [ "type" "id" "mac" ]) c.microvm.interfaces;
  bridges = lib.filter (lib.hasInfix " master ") (map (l: lib.last (lib.splitString "/bin/" l))
    (lib.splitString "\n" (c.microvm.binScripts.tap-up or "")));
  volumes = map (v: pick [ "image" "mountPoint" "autoCreate" "readOnly" "size" ] v) c.microvm.volumes;
  shares = map (pick [ "tag" "source" "mountPoint" "readOnly" "proto" ]) c.microvm.shares;
  mounted = lib.genAttrs mounts (m: pick [ "fsType" "options" "device" ] c.fileSystems.${m});
  firewall = lib.unique (lib.sort lib.lessThan c.networking.firewall.allowedTCPPorts);
  kernel = {
    latest = c.boot.kernelPackages.kernel.version == nixos.pkgs.linuxPackages_latest.kernel.version;
    params = lib.filter (p: ! lib.hasPrefix "loglevel" p && ! lib.hasPrefix "lsm" p && ! lib.hasPrefix "root=" p) c.boot.kernelParams;
  };
  init = c.systemd.services.blixard-init.script or null;
  services = lib.filter (s: c.systemd.services ? ${s} && c.systemd.services.${s}.enable) [
    "nginx" "postgresql" "postgresqlBackup" "podman-web" "prometheus" "prometheus-node-exporter" "grafana" "grafana-secret"
  ];
  nginx = if ! c.services.nginx.enable then null else {
    gzip = c.services.nginx.recommendedGzipSettings;
    roots = lib.mapAttrs (_: h: h.root) c.services.nginx.virtualHosts;
    ports = lib.mapAttrs (_: h: map (l: l.port) h.listen) c.services.nginx.virtualHosts;
  };
  postgresql = if ! c.services.postgresql.enable then null else {
    major = lib.versions.major c.services.postgresql.package.version;
    inherit (c.services.postgresql) enableTCPIP ensureDatabases dataDir;
    inherit (c.services.postgresql.settings) shared_buffers port;
    scram = lib.hasInfix "10.0.0.0/8 scram-sha-256" c.services.postgresql.authentication;
  };
  podman = c.virtualisation.podman.enable;
  prometheus = if ! c.services.prometheus.enable then null else {
    inherit (c.services.prometheus) retentionTime stateDir port;
    jobs = map (j: j.job_name) c.services.prometheus.scrapeConfigs;
  };
  motd = c.users.motd;
  wheel = c.users.users ? guest && lib.elem "wheel" c.users.users.guest.extraGroups;
  checks = builtins.attrNames (flake.checks.x86_64-linux or { });
  inherit (c) warnings;
  runs = builtins.stringLength runner.drvPath > 0;
  packaged = flake.packages.x86_64-linux.${name}.drvPath == runner.drvPath;
}
