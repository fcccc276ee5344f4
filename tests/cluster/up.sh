#!/usr/bin/env bash
# Starts a real SLURM cluster on this machine (Debian, root, no systemd), or completes one that runs already.
#
#   up.sh                        with accounting: slurmdbd, and MariaDB behind it
#   up.sh --no-accounting        as most small clusters are: sacct has no answer
#   up.sh --status               tells what runs; 0 when everything does
#   up.sh --install-only         the packages, and no more
#   up.sh --start-slurmd NODE    only the daemon of that node, with the configuration that is there
#
# The knobs are the EM_CLUSTER_* of configuration.sh. They count for one call: a later call without them
# restarts slurmctld and the slurmds with the defaults. Running jobs survive that.
# Ends with 1 when something failed, 2 when it cannot work here, 3 when there is a cluster that is not ours.
set -euo pipefail
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck source=tests/cluster/ground.sh
source "$here/ground.sh"
# shellcheck source=tests/cluster/configuration.sh
source "$here/configuration.sh"

ACCOUNTING=yes
only=''
node_to_start=''

read_arguments() {
    while (($#)); do
        case $1 in
        --no-accounting) ACCOUNTING=no ;;
        --status | --install-only) only=${1#--} ;;
        --start-slurmd) only=start-slurmd node_to_start=${2:?--start-slurmd needs a node} && shift ;;
        *) refuse 2 "up.sh does not know the argument $1." ;;
        esac
        shift
    done
}

status() {
    local all=0 node
    line() {
        if up "$2" "${1% *}"; then echo "$1: up, pid $(pid_in "$2")"; else echo "$1: down" && all=1; fi
    }
    if munge_answers; then echo "munged: up"; else echo "munged: down" && all=1; fi
    if [[ $ACCOUNTING == yes ]]; then
        line mariadbd "$RUN/mariadb/mariadbd.pid"
        line slurmdbd "$RUN/slurmdbd.pid"
    fi
    line slurmctld "$RUN/slurmctld.pid"
    for node in $(nodes); do
        line "slurmd $node" "$RUN/slurmd.$node.pid"
    done
    return $all
}

# ------------------------------------------------------------------ what is not ours stays as it is

way_out='set EM_CLUSTER_USE_EXISTING=1 to run the tests on it'

refuse_a_foreign_configuration() {
    local conf
    [[ ${SLURM_CONF:-$ETC/slurm.conf} == "$ETC/slurm.conf" ]] ||
        refuse 3 "SLURM_CONF names another cluster, $SLURM_CONF; unset it, or $way_out."
    for conf in "$ETC"/slurm.conf "$ETC"/slurmdbd.conf; do
        [[ ! -e $conf ]] || [[ $(head -n 1 "$conf") == "$MARK"* ]] ||
            refuse 3 "$conf was not written by this script, so there may be a cluster; move it away, or $way_out."
    done
}

# One in a network of its own, as in a container or of debian.sh, meets nobody here.
shares_our_network() { # shares_our_network PID
    [[ $(readlink "/proc/$1/ns/net") == "$(readlink /proc/self/ns/net)" ]]
}

refuse_a_foreign_slurmctld() {
    local comm pid
    for comm in /proc/[0-9]*/comm; do
        pid=${comm//[^0-9]/}
        if runs "$pid" slurmctld && [[ $pid != "$(pid_in "$RUN/slurmctld.pid")" ]] && shares_our_network "$pid"; then
            refuse 3 "process $pid is a slurmctld that was not started by this script; stop it, or $way_out."
        fi
    done
}

# ------------------------------------------------------------------ packages

install_packages() {
    local wanted=(munge slurmctld slurmd slurm-client slurm-wlm-basic-plugins) installed package missing=()
    [[ $ACCOUNTING == no ]] || wanted+=(slurmdbd mariadb-server)
    [[ $ACCOUNTING == no || ${EM_CLUSTER_SLURM:-} == 20.11 ]] || wanted+=(slurm-wlm-mysql-plugin)    # a basic one then
    installed=$(dpkg-query -W -f '${Package}:${db:Status-Status}\n' "${wanted[@]}" 2>/dev/null || true)
    for package in "${wanted[@]}"; do
        grep -qx "$package:installed" <<<"$installed" || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    command -v apt-get >/dev/null || refuse 2 "there is no apt-get here to install ${missing[*]} with."
    if ! (without_services; from_debian "${missing[@]}") </dev/null >"$LOG/apt.log" 2>&1; then
        tail -n 15 "$LOG/apt.log" >&2
        refuse 1 "the packages could not be installed; all of it is in $LOG/apt.log."
    fi
    say "installed ${missing[*]}"
}

from_debian() {
    export DEBIAN_FRONTEND=noninteractive
    local install=(apt-get install -y -q --no-install-recommends -o Dpkg::Use-Pty=0
        -o DPkg::Lock::Timeout=300 "$@")
    compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null || apt-get update -q
    "${install[@]}" || { apt-get update -q && "${install[@]}"; }    # lists that are too old name files that are gone
}

# Debian starts what it installs; a policy forbids it. Called in a subshell, whose end takes the policy away again.
without_services() {
    policy=/usr/sbin/policy-rc.d
    [[ ! -e $policy ]] || return 0
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
}

# ------------------------------------------------------------------ configuration

make_folders() {
    local node
    mkdir -p "$STATE/slurmctld"
    for node in $(nodes); do mkdir -p "$STATE/slurmd.$node"; done
    chown slurm:slurm "$RUN" "$LOG" "$STATE/slurmctld"    # slurmctld and slurmdbd write as slurm
    chmod 755 "$HOME_OF_CLUSTER" "$RUN" "$LOG" "$STATE"
    [[ -e $RUN/tests.lock ]] || install -m 666 /dev/null "$RUN/tests.lock"    # whoever tests takes turns
}

# The daemons end before the files change: who is interrupted in between leaves nothing that runs on old settings.
configure() {
    local new=$STATE/configuration file same=yes
    decide_on_cgroups
    make_gpus
    mkdir -p "$new" "$ETC"
    slurm_conf >"$new/slurm.conf"
    gres_conf >"$new/gres.conf"
    cgroup_conf >"$new/cgroup.conf"
    for file in slurm.conf gres.conf cgroup.conf; do
        cmp -s "$new/$file" "$ETC/$file" || same=no
    done
    if [[ $same == no ]]; then
        end_slurm
        install -m 644 "$new"/{slurm,gres,cgroup}.conf "$ETC"
    fi
    [[ $ACCOUNTING == no ]] || install_slurmdbd_conf
}

install_slurmdbd_conf() {
    slurmdbd_conf | cmp -s - "$ETC/slurmdbd.conf" && return
    end "$RUN/slurmdbd.pid" slurmdbd
    install -o slurm -g slurm -m 600 <(slurmdbd_conf) "$ETC/slurmdbd.conf"
}

# ------------------------------------------------------------------ daemons

# A daemon gets a clean environment and the default signals: jobs inherit what it ignores.
daemon() { # daemon NAME COMMAND...
    local name=$1
    shift
    (cd / && env -i --default-signal "PATH=$PATH" LC_ALL=C setsid --fork "$@") </dev/null >>"$LOG/$name.out" 2>&1
}

await() { # await SECONDS WHAT COMMAND...
    local deadline=$((SECONDS + $1)) what=$2 answer
    shift 2
    until answer=$("$@" 2>&1); do
        ((SECONDS < deadline)) || refuse 1 "$what does not answer, look into $LOG: $answer"
        sleep 0.05
    done
}

munge_answers() { munge -n 2>/dev/null | unmunge >/dev/null 2>&1; }

start_munged() {
    ! munge_answers || return 0
    local key=/etc/munge/munge.key
    mkdir -p /etc/munge /run/munge /var/lib/munge /var/log/munge
    [[ -s $key ]] || head -c 1024 /dev/urandom >"$key"
    chown munge:munge /etc/munge "$key" /run/munge /var/lib/munge /var/log/munge
    chmod 700 /etc/munge
    chmod 400 "$key"
    chmod 755 /run/munge
    daemon munged runuser -u munge -- /usr/sbin/munged
    await 10 munged munge_answers
    cp /run/munge/munged.pid "$RUN/munged.pid"
    say "munged started"
}

sql() { mariadb --no-defaults -u root -S "$RUN/mariadb/socket"; }
sql_answers() { sql <<<'select 1'; }

start_mariadbd() {
    local data=$STATE/mariadb run=$RUN/mariadb
    ! up "$run/mariadbd.pid" mariadbd || return 0
    mkdir -p "$data" "$run"
    chown mysql:mysql "$data" "$run"
    if [[ ! -d $data/mysql ]]; then
        mariadb-install-db --no-defaults --user=mysql --datadir="$data" --auth-root-authentication-method=socket \
            --skip-test-db --innodb-log-file-size=16M >"$LOG/mariadb-install.log" 2>&1
    fi
    daemon mariadbd /usr/sbin/mariadbd --no-defaults --user=mysql --datadir="$data" --socket="$run/socket" \
        --pid-file="$run/mariadbd.pid" --bind-address=127.0.0.1 --port=$SQL_PORT --skip-name-resolve --skip-log-bin \
        --innodb-buffer-pool-size=128M --innodb-log-file-size=16M --innodb-lock-wait-timeout=900 \
        --innodb-flush-log-at-trx-commit=0 --performance-schema=OFF
    await 60 mariadbd sql_answers
    sql <<SQL
CREATE DATABASE IF NOT EXISTS slurm_accounting;
CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY '$SQL_PASSWORD';
GRANT ALL ON slurm_accounting.* TO 'slurm'@'127.0.0.1';
SQL
    say "mariadbd started"
}

start_slurmdbd() {
    ! up "$RUN/slurmdbd.pid" slurmdbd || return 0
    rm -f "$RUN/slurmdbd.pid"
    daemon slurmdbd /usr/sbin/slurmdbd
    await 30 slurmdbd timeout 5 sacctmgr -n show cluster
    say "slurmdbd started"
}

# sacctmgr is slow, so a file beside the database remembers who is in it.
register_users() {
    local user present=() known=$STATE/mariadb.users
    for user in $USERS; do
        ! id "$user" >/dev/null 2>&1 || present+=("$user")
    done
    [[ $(cat "$known" 2>/dev/null) != "${present[*]}" ]] || return 0
    add() { sacctmgr -iQ add "$@" >/dev/null 2>&1 || true; }    # what is there already counts as an error
    add cluster experiments
    add account test cluster=experiments description=test organization=test
    for user in "${present[@]}"; do
        add user "$user" account=test cluster=experiments defaultaccount=test
        [[ -n $(sacctmgr -nP show assoc "user=$user" cluster=experiments format=user) ]] ||
            refuse 1 "sacctmgr did not add the user $user."
    done
    echo "${present[*]}" >"$known"
}

start_slurmctld() {
    ! up "$RUN/slurmctld.pid" slurmctld || return 0
    rm -f "$RUN/slurmctld.pid"
    daemon slurmctld /usr/sbin/slurmctld
    await 30 slurmctld timeout 5 scontrol ping
    say "slurmctld started"
}

start_slurmd() { # start_slurmd NODE
    local file=$RUN/slurmd.$1.pid
    ! up "$file" slurmd || return 0
    rm -f "$file"
    daemon "slurmd.$1" /usr/sbin/slurmd -N "$1"
    await 15 "slurmd of $1" test -s "$file"
    say "slurmd of $1 started"
}

node_is_ready() { # node_is_ready NODE
    local state
    state=$(sinfo -h -N -n "$1" -p main -o %t)
    case $state in
    idle | mix | alloc | comp) return 0 ;;
    down* | drain* | drng*) scontrol update "nodename=$1" state=resume || true ;;
    esac
    echo "$1 is $state"
    return 1
}

# ------------------------------------------------------------------ all of it

main() {
    local node
    refuse_a_foreign_slurmctld
    install_packages
    [[ $only != install-only ]] || return 0
    if [[ $only == start-slurmd ]]; then
        start_slurmd "$node_to_start"
        await 60 "node $node_to_start" node_is_ready "$node_to_start"
        return
    fi
    make_folders
    configure
    start_munged
    if [[ $ACCOUNTING == yes ]]; then
        start_mariadbd
        start_slurmdbd
        register_users
    fi
    start_slurmctld
    for node in $(nodes); do start_slurmd "$node"; done
    for node in $(nodes); do await 60 "node $node" node_is_ready "$node"; done
    say "ready in $HOME_OF_CLUSTER (nodes $NODES, accounting $ACCOUNTING, cgroup $CGROUP)"
}

read_arguments "$@"
if [[ $only == status ]]; then
    status
    exit
fi
[[ $(id -u) == 0 ]] || refuse 2 "only root can start a cluster; one that runs can be used by everybody."
refuse_unknown_knobs
refuse_a_foreign_configuration
one_at_a_time "${BASH_SOURCE[0]}" "$@"
main
