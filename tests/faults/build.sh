#!/usr/bin/env bash
# Compiles the library that injects faults to the path that is named; as root on Debian it installs gcc where there is none.
# Ends with 2, after one sentence, where there is no compiler and none can be installed.
set -euo pipefail
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
target=${1:?the path of the library}

compiler() { command -v cc || command -v gcc; }

install_compiler() {
    local install=(apt-get install -y -q --no-install-recommends -o Dpkg::Use-Pty=0 gcc libc6-dev)
    [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null || return 1
    export DEBIAN_FRONTEND=noninteractive
    { "${install[@]}" || { apt-get update -q && "${install[@]}"; }; } >"$target.log" 2>&1
}

if ! compiler >/dev/null && ! install_compiler; then
    echo "faults need a C compiler, and there is no cc and no gcc here, and no root and apt-get to install one" >&2
    exit 2
fi
"$(compiler)" -O1 -Wall -shared -fPIC -o "$target.$$" "$here/inject.c" -ldl -lpthread
mv "$target.$$" "$target"
