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
# One share, or none.
if [ -n "${share:-}" ]; then
    mkdir -p "$out/share/microvm/virtiofs/data"
    echo share.sock >"$out/share/microvm/virtiofs/data/socket"
    echo "$share" >"$out/share/microvm/virtiofs/data/source"
else
    rm "$out/bin/virtiofsd-run"
fi
# microvm.nix makes that script where the hypervisor has a socket.
if [ "${boots:-yes}" = no ]; then
    rm "$out/bin/microvm-shutdown"
    sed -i 's/\${BLIXARD_QEMU_ARGS:-}//' "$out/bin/microvm-run" # nobody takes it
fi
