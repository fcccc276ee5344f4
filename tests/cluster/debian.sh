#!/usr/bin/env bash
# Runs a command where SLURM has another version: in a Debian of its own, with this clone in it under the same path, and
# with namespaces of its own for mounts, network, processes, names and cgroups, so that it meets no other cluster.
#
#   debian.sh 24.11 python -m pytest tests/cluster/test_client.py
#   debian.sh newest                 a shell
#   debian.sh 20.11 --install-only   the Debian with its packages, and no more; without it the first call makes them
#
# The versions are those of `suites` below. `python` is of an environment in there that has this clone and what it needs.
# Whatever is started in there, the cluster of up.sh too, ends with the command. Its Debians lie in EM_CLUSTER_DEBIAN, 1.6 GB
# each, and come from EM_CLUSTER_MIRROR, which is that of the machine. Needs root, Debian's packages and PyPI.
# Ends with the status of the command; 1 when the Debian could not be made, 2 when it cannot work here.
set -euo pipefail
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck source=tests/cluster/ground.sh
source "$here/ground.sh"

CLONE=$(readlink -f "$here/../..")
CONTROLLERS='cpu cpuacct cpuset memory devices freezer blkio pids'    # of cgroup v1, where the machine has them
ENVIRONMENT=/opt/experiment-manager                                   # inside: the virtual environment

suites() { # suites VERSION: the Debian, and the one that its SLURM is taken from
    case $1 in
    20.11) echo bookworm bullseye ;;    # whose own Python is too old for us
    22.05) echo bookworm bookworm ;;
    24.11) echo trixie trixie ;;
    newest) echo trixie sid ;;    # whose own Python is newer than some of what the tests need
    *) refuse 2 "there is no SLURM $1 to be had here; there are 20.11, 22.05, 24.11 and newest." ;;
    esac
}

# ------------------------------------------------------------------ the Debian and its packages; by the network of the machine

usual_mirror() { # where this machine gets its packages
    local found
    found=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | tr -d ' ') || true
    head -n 1 <<<"${found:-http://deb.debian.org/debian}"
}

make_root() {
    local log=$ROOT.log
    [[ ! -e $ROOT/.packages ]] || return 0
    mkdir -p "$ROOT"
    command -v debootstrap >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y -q debootstrap >"$log" 2>&1 ||
        refuse 2 "debootstrap is needed, and apt-get could not bring it: $log"
    if [[ ! -e $ROOT/.debian ]]; then
        say "Debian $SUITE from $MIRROR into $ROOT"
        debootstrap --variant=minbase "$SUITE" "$ROOT" "$MIRROR" >"$log" 2>&1 || refuse 1 "debootstrap failed: $log"
        touch "$ROOT/.debian"
    fi
    say "packages for SLURM $VERSION, from $SLURM_SUITE"
    cp /etc/resolv.conf "$ROOT/etc/resolv.conf"
    sources
    # Release files of sid expire within days, and a mirror may lag behind; their signature is checked all the same.
    echo 'Acquire::Check-Valid-Until "false";' >"$ROOT/etc/apt/apt.conf.d/mirror"
    with_root machine bash -ec "export DEBIAN_FRONTEND=noninteractive; printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod 755 /usr/sbin/policy-rc.d    # what is installed is not started
        apt-get update -q; apt-get install -y -q --no-install-recommends ca-certificates git make less procps iproute2 \
            python3 python3-venv
        git config --system --add safe.directory '*'
        $here/up.sh --install-only" >>"$log" 2>&1 || refuse 1 "the packages could not be installed: $log"
    touch "$ROOT/.packages"
}

# SLURM itself comes from its suite, with hwloc, of which newer ones want a newer one.
sources() {
    local suite
    for suite in $(printf '%s\n' "$SUITE" "$SLURM_SUITE" | sort -u); do
        echo "deb $MIRROR $suite main"
    done >"$ROOT/etc/apt/sources.list"
    [[ $SUITE != "$SLURM_SUITE" ]] || return 0
    printf '%s\n' 'Package: *' "Pin: release n=$SLURM_SUITE" 'Pin-Priority: 100' '' \
        'Package: slurm* libslurm* libhwloc*' "Pin: release n=$SLURM_SUITE" 'Pin-Priority: 1001' >"$ROOT/etc/apt/preferences"
}

make_environment() {
    local log=$ROOT.pip.log stamp
    stamp="$CLONE $(sha256sum <"$CLONE/pyproject.toml")"
    [[ $(cat "$ROOT/.environment" 2>/dev/null) != "$stamp" ]] || return 0
    say "what the tests need, into $ENVIRONMENT of it"
    [[ ! -e ${PIP_CERT:-} ]] || cp "$PIP_CERT" "$ROOT/etc/ssl/pip.pem"
    with_root machine bash -ec "! test -e /etc/ssl/pip.pem || export PIP_CERT=/etc/ssl/pip.pem
        python3 -m venv $ENVIRONMENT
        $ENVIRONMENT/bin/python -m pip install --quiet --disable-pip-version-check --editable '$CLONE[dev]'
        $ENVIRONMENT/bin/python -m pip install --quiet --disable-pip-version-check --no-deps hydra-optuna-sweeper" \
        >"$log" 2>&1 || refuse 1 "pip failed: $log"
    echo "$stamp" >"$ROOT/.environment"
}

# ------------------------------------------------------------------ namespaces

# The first process of the namespaces. A shell that waits for a command reaps what others leave behind.
first_process() { # first_process NETWORK ROOT CLONE CONTROLLERS COMMAND...
    local network=$1 root=$2 clone=$3 controller status=0
    read -ra controllers <<<"$4"
    shift 4
    mount --make-rprivate /
    mount --bind "$root" "$root"
    mount -t proc proc "$root/proc"
    mount -t tmpfs -o mode=755 tmpfs "$root/run"
    mkdir -p "$root/dev/pts" "$root/dev/shm" "$root/run/lock" "$root$clone"
    mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
    ln -sfn pts/ptmx "$root/dev/ptmx"
    mount --bind "$clone" "$root$clone"
    if [[ $network == own ]]; then
        mount -t sysfs sysfs "$root/sys"
        mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
        for controller in "${controllers[@]}"; do
            [[ -d /sys/fs/cgroup/$controller ]] || continue
            mkdir "$root/sys/fs/cgroup/$controller"
            mount -t cgroup -o "$controller" cgroup "$root/sys/fs/cgroup/$controller"
        done
        hostname cluster
        ip link set lo up
        ip address add 10.77.0.1/32 dev lo    # SLURM resolves no name where there is no address but the loopback's
    fi
    chroot "$root" "$@" || status=$?
    [[ $network != own ]] || chroot "$root" "$clone/tests/cluster/down.sh" >/dev/null || true
    exit "$status"
}

# In the Debian, with the machine's network, to install, or with its own; with a clean environment and the default signals.
with_root() { # with_root machine|own COMMAND...
    local network=$1 kinds=(--mount --pid) knobs=()
    shift
    [[ $network == machine ]] || kinds+=(--uts --ipc --net --cgroup)
    mapfile -t knobs < <(env | grep '^EM_CLUSTER_')
    unshare "${kinds[@]}" --fork --kill-child bash -ec "$(declare -f first_process); first_process \"\$@\"" _ \
        "$network" "$ROOT" "$CLONE" "$CONTROLLERS" /usr/bin/env -i --default-signal --chdir="$CLONE" \
        PATH="$ENVIRONMENT/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" HOME=/root USER=root LOGNAME=root SHELL=/bin/bash \
        LANG=C.UTF-8 TERM="${TERM:-dumb}" "${knobs[@]}" EM_CLUSTER_SLURM="$VERSION" "$@"
}

# Whoever is in a cgroup when its namespace is made finds that cgroup as the root.
enter_cgroups() {
    local controller folder setting
    for controller in $CONTROLLERS; do
        folder=/sys/fs/cgroup/$controller/$NAME
        [[ -d /sys/fs/cgroup/$controller ]] && mkdir -p "$folder" 2>/dev/null || continue
        if [[ $controller == cpuset ]]; then    # an empty one takes no process
            for setting in cpus mems; do cat "$folder/../cpuset.$setting" >"$folder/cpuset.$setting"; done
        fi
        echo "$BASHPID" >"$folder/cgroup.procs"
    done
}

leave_no_cgroups() {
    local controller
    for controller in $CONTROLLERS; do
        find "/sys/fs/cgroup/$controller/$NAME" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done
}

# ------------------------------------------------------------------ all of it

main() {
    local status=0
    mkdir -p "$ROOT"
    exec {lock}>"$ROOT.lock"    # no process in there inherits it
    flock --nonblock "$lock" || { say "waiting until the other call for SLURM $VERSION has ended" && flock "$lock"; }
    make_root {lock}>&-
    make_environment {lock}>&-
    [[ $1 != --install-only ]] || return 0
    rm -f "$ROOT$RUN"/*.pid "$ROOT$RUN"/*/*.pid    # of processes that are gone with their namespaces
    printf '127.0.0.1 localhost cluster\n' >"$ROOT/etc/hosts"
    (enter_cgroups && with_root own "$@") {lock}>&- || status=$?
    leave_no_cgroups
    return "$status"
}

VERSION=${1:?debian.sh needs a version, as in: debian.sh 24.11 python -m pytest tests/cluster}
shift
(($#)) || set -- bash
read -r SUITE SLURM_SUITE < <(suites "$VERSION") || exit 2
[[ $(id -u) == 0 ]] || refuse 2 "only root can make a Debian with namespaces of its own."
NAME=experiment-manager-$VERSION
ROOT=${EM_CLUSTER_DEBIAN:-/var/tmp/experiment-manager-debian}/$VERSION
MIRROR=${EM_CLUSTER_MIRROR:-$(usual_mirror)}
main "$@"
