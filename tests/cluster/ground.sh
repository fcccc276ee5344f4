# shellcheck shell=bash disable=SC2034
# What up.sh and down.sh both stand on: where the cluster lives, what "runs" means, how a daemon ends, one at a time.

HOME_OF_CLUSTER=${EM_CLUSTER_HOME:-/tmp/experiment-manager-cluster}
RUN=$HOME_OF_CLUSTER/run        # pid files, sockets, locks
LOG=$HOME_OF_CLUSTER/log
STATE=$HOME_OF_CLUSTER/state    # jobs, spool folders, database
ETC=/etc/slurm                  # compiled into Debian's clients: whoever calls sbatch needs no SLURM_CONF
MARK='# Written by up.sh of experiment-manager'

export LC_ALL=C PATH="/usr/sbin:/usr/bin:/sbin:/bin:$PATH"
trap : PIPE                     # `up.sh | head` must not leave half a cluster

say() { printf 'cluster: %s\n' "$*" 2>/dev/null || true; }

refuse() { # refuse STATUS SENTENCE
    printf 'cluster: %s\n' "$2" >&2
    exit "$1"
}

# A zombie does not run: process 1 of a container may take seconds to reap one.
runs() { # runs PID PROGRAM
    local comm
    [[ -n $1 ]] && comm=$(cat "/proc/$1/comm" 2>/dev/null) && [[ $comm == "$2" ]] &&
        ! grep -q '^State:[[:space:]]*Z' "/proc/$1/status" 2>/dev/null
}

pid_in() { cat "$1" 2>/dev/null || true; }

up() { # up PIDFILE PROGRAM: the process that the file names is alive and is still that program
    runs "$(pid_in "$1")" "$2"
}

end() { # end PIDFILE PROGRAM: TERM, and KILL after 15 seconds
    local pid
    pid=$(pid_in "$1")
    if runs "$pid" "$2"; then
        kill "$pid" 2>/dev/null || true
        for _ in {1..150}; do
            runs "$pid" "$2" || break
            sleep 0.1
        done
        ! runs "$pid" "$2" || kill -KILL "$pid" 2>/dev/null || true    # it may end just now
        say "$2 ($pid) stopped"
    fi
    rm -f "$1"
}

end_slurm() {
    local file
    for file in "$RUN"/slurmd.*.pid; do
        [[ ! -e $file ]] || end "$file" slurmd
    done
    end "$RUN/slurmctld.pid" slurmctld
}

# The lock is held by the process of flock(1), so that no daemon inherits it.
one_at_a_time() { # one_at_a_time SCRIPT ARGUMENTS...
    [[ -z ${CLUSTER_IS_LOCKED:-} ]] || return 0
    mkdir -p "$RUN" "$LOG" "$STATE"
    CLUSTER_IS_LOCKED=yes exec flock --close "$RUN/lock" bash "$@"
}
