# No nixpkgs: the tools are the machine's.
set -eu
PATH=/usr/bin:/bin
mkdir -p "$out/bin" "$out/share/microvm"
echo qemu >"$out/share/microvm/hypervisor"
