# No nixpkgs: the tools are the machine's.
set -eu
PATH=/usr/bin:/bin
. "$here"
echo "building version ${version:-0}"
while [ -n "${gate:-}" ] && [ ! -e "$gate" ]; do sleep 0.1; done
mkdir -p "$out/bin" "$out/share/microvm"
echo qemu >"$out/share/microvm/hypervisor"
for script in "$scripts"/*; do
    name=$(basename "$script")
    { echo '#!/bin/sh'; cat "$here" "$script"; } >"$out/bin/$name"
    chmod +x "$out/bin/$name"
done
# microvm.nix makes that script where the hypervisor has a socket.
[ "${boots:-yes}" = yes ] || rm "$out/bin/microvm-shutdown"
